"""The released arrays of corruption benchmarks, read as memory maps: one .npy a corruption, or a folder of MNIST-C."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

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


def _map(path: Path, title: str | None = None) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{title or path.name} is damaged, truncated or no .npy of numbers ({error})") from error


def _wanted(directory: Any, name: str | Sequence[str] | None, there: Sequence[str], suffix: str) -> list[str]:
    """The corruptions that were asked for, all of them there."""
    names = list(there) if name is None else [name] if isinstance(name, str) else list(name)
    missing = [n for n in names if n not in there]
    if missing or not names:
        raise FileNotFoundError(
            f"corruptions: {os.fspath(directory)} has no {', '.join(n + suffix for n in missing) or 'corruption'}; "
            f"it holds {', '.join(there) or 'none'}"
        )
    return names


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
    names = _wanted(directory, name, there, ".npy")
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


def mnist_corruptions(
    directory: str | os.PathLike[str],
    name: str | Sequence[str] | None = None,
    *,
    split: Literal["test", "train"] = "test",
) -> dict[str, Corrupted]:
    """The official arrays of MNIST-C (or of that layout): a folder a corruption, of ``test_images.npy`` and ``test_labels.npy``.

    Nothing is downloaded or unpickled, and images stay on disk until they are read.

    Args:
      directory: where the folders lie, unpacked.
      name: of one corruption, or of several; None: all folders that hold images of the split.
      split: test or train.

    Returns:
      By name, each of one severity; images [N, H, W] are given a channel.

    Raises:
      FileNotFoundError: no such directory, corruption or labels (what there is instead is named).
      ValueError: a truncated or damaged file, other shapes, dtypes or lengths.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "stripe").mkdir()
    >>> np.save(folder / "stripe" / "test_images.npy", np.zeros((2, 28, 28, 1), np.uint8))
    >>> np.save(folder / "stripe" / "test_labels.npy", [7, 2])
    >>> stripe = mnist_corruptions(folder)["stripe"]
    >>> stripe.at(1).shape, stripe.y.tolist()
    ((2, 28, 28, 1), [7, 2])

    References:
      Mu & Gilmer, MNIST-C: a robustness benchmark for computer vision, 2019.
    """
    if split not in ("test", "train"):
        raise ValueError(f"mnist_corruptions: split is 'test' or 'train', got {split!r}")
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"corruptions: there is no directory {os.fspath(directory)!r}")
    there = sorted(p.parent.name for p in folder.glob(f"*/{split}_images.npy"))
    return {n: _folder(folder / n, split) for n in _wanted(directory, name, there, f"/{split}_images.npy")}


def _folder(folder: Path, split: str) -> Corrupted:
    titles = [f"{folder.name}/{split}_{what}.npy" for what in ("images", "labels")]
    if not (folder / f"{split}_labels.npy").is_file():
        raise FileNotFoundError(f"corruptions: there is no {titles[1]}")
    images, labels = (_map(folder / Path(title).name, title) for title in titles)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) == 0:
        raise ValueError(f"{titles[0]} must hold uint8 images [N, H, W, C], got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(f"{titles[1]} must hold {len(images)} integer labels, got {labels.dtype} {labels.shape}")
    x = images if images.ndim == 4 else images[..., None]
    return Corrupted(folder.name, x[None], np.asarray(labels, np.int32))
