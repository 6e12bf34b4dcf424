"""Data sets by name: digits inside scikit-learn's wheel, anything prepared by tensorflow_datasets."""

import difflib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jrobust.data._dataset import Dataset, arrays

_USUAL = ("digits", "mnist", "fashion_mnist", "kmnist", "svhn_cropped", "cifar10", "cifar100")


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "all",
    raw: bool = False,
) -> Dataset:
    """Load a data set by name.

    ``digits`` (8x8 greys, 1,442 train and 355 test images) comes with scikit-learn and needs no download: the split
    takes every fifth image of each class for the test. Every other name is an image classification set prepared by
    tensorflow_datasets in a format with random access (array_record), read without TensorFlow and never downloaded.

    Args:
      name: ``digits`` or a tensorflow_datasets name such as ``mnist``, ``cifar10``.
      data_dir: the tensorflow_datasets directory; ``$TFDS_DATA_DIR`` if not given.
      split: all, train or test: which split to decode; the other one has length 0.
      raw: keep uint8 images as uint8; apply `unit` to a batch inside jit. (``digits`` is float32 always.)

    Raises:
      ValueError: an unknown name (the nearest is suggested), or images that differ in size.
      FileNotFoundError: no directory to look in.
      ImportError: a package of an extra is missing.

    >>> data = load("digits")
    >>> data.train_x.shape, data.test_x.shape, data.classes
    ((1442, 8, 8, 1), (355, 8, 8, 1), 10)
    """
    if split not in ("all", "train", "test"):
        raise ValueError(f"split is all, train or test, not {split!r}")
    if name == "digits":
        return _digits(split)
    folder = data_dir if data_dir is not None else os.environ.get("TFDS_DATA_DIR")
    if folder is None:
        if name not in _USUAL:
            raise ValueError(_unknown(name, _USUAL, "without a data directory only digits is there"))
        raise FileNotFoundError(
            f"{name} is read from a tensorflow_datasets directory: give data_dir (--data-dir) or set $TFDS_DATA_DIR. "
            "digits needs none."
        )
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{name}: there is no data directory {os.fspath(folder)!r} (data_dir, or $TFDS_DATA_DIR)"
        )
    there = sorted(entry.name for entry in Path(folder).iterdir() if entry.is_dir())
    if name.split("/")[0].split(":")[0] not in there:
        raise ValueError(
            _unknown(name, ["digits", *there], f"{os.fspath(folder)} holds {', '.join(there) or 'nothing'}")
        )
    return _tfds(name, os.fspath(folder), split, raw)


def _unknown(name: str, known: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return f"unknown data set {name!r}{f': did you mean {near[0]!r}?' if near else ''} ({where})"


def _digits(split: str) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits comes with scikit-learn: pip install 'jrobust[cli]' (or scikit-learn)") from error
    x, y = load_digits(return_X_y=True)
    x, y = (x.reshape(-1, 8, 8, 1) / 16).astype(np.float32), y.astype(np.int32)
    rank = np.zeros(len(y), int)  # of an image within its class
    for label in range(10):
        rank[y == label] = np.arange((y == label).sum())
    test, none = rank % 5 == 4, np.zeros(len(y), bool)
    train, test = (none if split == "test" else ~test), (none if split == "train" else test)
    return arrays(x[train], y[train], x[test], y[test], names=[str(k) for k in range(10)], name="digits")


def _tfds(name: str, folder: str, split: str, raw: bool) -> Dataset:
    try:
        import array_record  # noqa: F401  # pyright: ignore
        import PIL  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f"{name} is read with tensorflow-datasets ({error}): pip install 'jrobust[data]'") from error

    info: Any = tfds.builder(name, data_dir=folder).info
    features: dict[str, Any] = dict(info.features)
    image, label = (info.supervised_keys or ("image", "label"))[:2]
    if (
        type(features.get(image)) is not tfds.features.Image
        or type(features.get(label)) is not tfds.features.ClassLabel
    ):
        raise ValueError(f"{name} is not an image classification set: its features are {', '.join(features)}")
    channels, names = features[image].shape[-1], tuple(features[label].names)
    test = next((s for s in ("test", "validation") if s in info.splits), None)
    if test is None or "train" not in info.splits:
        raise ValueError(
            f"{name} has the splits {', '.join(info.splits)}; a train and a test (or validation) split are needed"
        )

    def read(tfds_split: str) -> tuple[np.ndarray, np.ndarray]:
        source: Any = tfds.data_source(
            name, split=tfds_split, data_dir=folder, download=False, decoders={image: tfds.decode.SkipDecoding()}
        )
        records = source.__getitems__(range(len(source)))
        decoded = [_decode(record[image], channels) for record in records]
        shapes = {pixels.shape for pixels in decoded}
        if len(shapes) > 1:
            raise ValueError(f"{name}: images differ in size ({len(shapes)} sizes); resize them and use jr.data.arrays")
        return np.stack(decoded), np.asarray([record[label] for record in records], np.int32)

    train = read("train") if split != "test" else None
    held_out = read(test) if split != "train" else tuple(part[:0] for part in train)  # pyright: ignore
    train = train or tuple(part[:0] for part in held_out)
    return arrays(*train, *held_out, names=names, name=name, raw=raw)


def _decode(encoded: bytes, channels: int | None) -> np.ndarray:
    from PIL import Image

    # Naming the two formats that tfds writes halves the cost: Pillow probes all it knows otherwise.
    pixels = np.asarray(Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels, 3, -1) if channels == 3 and pixels.shape[-1] == 1 else pixels
