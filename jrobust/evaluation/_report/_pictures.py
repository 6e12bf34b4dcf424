"""Examples and their witnesses as small PNG images, pixel by pixel."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from jrobust.evaluation._report._blocks import Picture, Table
from jrobust.evaluation._report._sections import Gallery


def png(image: np.ndarray) -> str:
    """A data URI of an image [H, W, C] in [0, 1]: grey where C is 1, colour where it is 3, else the mean of the channels.

    >>> png(np.zeros((2, 2, 1)))[:22]
    'data:image/png;base64,'
    """
    image = np.clip(np.nan_to_num(np.asarray(image, np.float64)), 0, 1)
    if image.shape[-1] not in (1, 3):
        image = image.mean(-1, keepdims=True)
    height, width, channels = image.shape
    lines = np.round(255 * image).astype(np.uint8).reshape(height, width * channels)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()  # filter 0 before every line
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


def gallery(g: Gallery, names: Sequence[str] = (), most: int = 8) -> Table:
    """Rows: clean, witness, their difference (amplified so that its largest entry is visible), with the predictions."""
    m = min(most, len(g.clean))
    clean, witness = (_images(np.asarray(a[:m], np.float64)) for a in (g.clean, g.witness))
    difference = witness - clean
    largest = float(np.abs(difference).max(initial=0.0))
    gain = 0.5 / largest if largest > 0 else 1.0
    name = lambda k: str(names[k]) if 0 <= k < len(names) else f"{k}"  # noqa: E731
    rows = []
    for kind, images, said in (("clean", clean, g.before), ("witness", witness, g.after)):
        pictures = (Picture(png(images[j]), name(said[j]), bool(said[j] != g.label[j])) for j in range(m))
        rows.append((kind, *pictures))
    rows.append((f"difference x{gain:.1f}", *(Picture(png(_signed(gain * difference[j]))) for j in range(m))))
    return Table(
        ("", *(name(k) if len(names) else f"class {k}" for k in np.asarray(g.label[:m]).tolist())), tuple(rows)
    )


def _images(a: np.ndarray) -> np.ndarray:
    """[M, H, W, C]; flat examples are one line of pixels."""
    if a.ndim == 2:
        return a[:, None, :, None]
    return a[..., None] if a.ndim == 3 else a


def _signed(d: np.ndarray) -> np.ndarray:
    """Of one channel blue where it fell and red where it rose; of several the change around grey."""
    if d.shape[-1] == 3:
        return 0.5 + d
    d = np.clip(2 * d.mean(-1), -1, 1)
    rise, fall = np.maximum(d, 0)[..., None], np.maximum(-d, 0)[..., None]
    white, red, blue = np.ones(3), np.array([0.75, 0.22, 0.17]), np.array([0.2, 0.4, 0.67])
    return white - rise * (white - red) - fall * (white - blue)
