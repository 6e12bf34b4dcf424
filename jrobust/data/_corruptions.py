"""The released arrays of corruption benchmarks: one .npy a corruption, read as memory maps."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jrobust._checks import check_count


class Corrupted(NamedTuple):
    """One corruption of a released data set.

    Attributes:
      name: of its file.
      x: uint8 [severities, N, H, W, C]; a memory map, severity 1 first.
      y: int32 labels [N].
    """

    name: str
    x: np.ndarray
    y: np.ndarray

    def at(self, severity: int) -> np.ndarray:
        """The images [N, H, W, C] of one severity, 1 first; still on disk."""
        if not (isinstance(severity, int) and 1 <= severity <= len(self.x)):
            raise ValueError(f"{self.name}: severity is an int in 1..{len(self.x)}, got {severity!r}")
        return self.x[severity - 1]


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} is damaged, truncated or no .npy of numbers ({error})") from error


def corruptions(
    directory: str | os.PathLike[str], name: str | Sequence[str] | None = None, *, severities: int = 5
) -> dict[str, Corrupted]:
    """The official arrays of CIFAR-10-C or CIFAR-100-C (or of that layout).

    ``NAME.npy`` holds the severities one after the other, ``labels.npy`` the labels.

    Nothing is downloaded or unpickled, and images stay on disk until they are read.

    Args:
      directory: where the files lie, unpacked.
      name: of one corruption, or of several; None: all files there are.
      severities: how many each file holds.

    Returns:
      By name; ``jr.data.unit`` of a batch puts it in [0, 1].

    Raises:
      FileNotFoundError: no such directory, corruption or ``labels.npy`` (what there is instead is named).
      ValueError: a truncated or damaged file, other dtypes or lengths, labels that differ from severity to severity.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.save(folder + "/fog.npy", np.zeros((10, 4, 4, 3), np.uint8)); np.save(folder + "/labels.npy", np.tile([3, 5], 5))
    >>> fog = corruptions(folder, "fog")["fog"]
    >>> fog.at(5).shape, fog.y.tolist()
    ((2, 4, 4, 3), [3, 5])
    """
    check_count(severities, "severities", "corruptions")
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"corruptions: there is no directory {os.fspath(directory)!r}")
    there = sorted(p.stem for p in folder.glob("*.npy") if p.stem != "labels")
    names = there if name is None else [name] if isinstance(name, str) else list(name)
    missing = [n for n in names if n not in there]
    if missing or not names:
        raise FileNotFoundError(
            f"corruptions: {os.fspath(directory)} has no {', '.join(f'{n}.npy' for n in missing) or 'corruption'}; "
            f"it holds {', '.join(there) or 'none'}"
        )
    if not (folder / "labels.npy").is_file():
        raise FileNotFoundError(f"corruptions: {os.fspath(directory)} has no labels.npy")
    labels = _map(folder / "labels.npy")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise ValueError(f"labels.npy must hold integers [N], got {labels.dtype} {labels.shape}")
    return {n: _one(n, _map(folder / f"{n}.npy"), np.asarray(labels, np.int32), severities) for n in names}


def _one(name: str, images: np.ndarray, labels: np.ndarray, severities: int) -> Corrupted:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{name}.npy must hold uint8 images [N, H, W, C], got {images.dtype} {images.shape}")
    n, rest = divmod(len(images), severities)
    if rest or n == 0:
        raise ValueError(
            f"{name}.npy holds {len(images)} images, which are not {severities} severities of equally many"
        )
    if len(labels) not in (n, len(images)):
        raise ValueError(f"{name}.npy holds {len(images)} images, but labels.npy {len(labels)} labels")
    y = labels.reshape(-1, n)
    if (y != y[0]).any():
        raise ValueError(
            f"labels.npy: the labels differ from severity to severity of {name}, {severities} of {n} images"
        )
    return Corrupted(name, images.reshape(severities, n, *images.shape[1:]), y[0])
