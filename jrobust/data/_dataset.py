"""What a data set is here: four arrays and the names of the classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jrobust.typing import Int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels of both splits, on the host.

    Attributes:
      name: what it was loaded as.
      train_x: float32 in [0, 1], [N, H, W, C] (or uint8 in 0..255 where it was loaded with ``raw=True``).
      train_y: int32 [N], in 0..K-1.
      test_x: like ``train_x``; a split that was not asked for has length 0.
      test_y: like ``train_y``.
      names: K class names.
    """

    name: str
    train_x: np.ndarray
    train_y: Int[np.ndarray, " n"]
    test_x: np.ndarray
    test_y: Int[np.ndarray, " m"]
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train_x.shape[1:]

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of the training images, in [0, 1] units: for a model's normaliser."""
        if not len(self.train_x):
            raise ValueError(f"{self.name} was loaded without its training split")
        scale = 255.0 if self.train_x.dtype == np.uint8 else 1.0
        axes = tuple(range(self.train_x.ndim - 1))
        mean = self.train_x.mean(axes, dtype=np.float64) / scale
        std = self.train_x.std(axes, dtype=np.float64) / scale
        return tuple(mean.tolist()), tuple(std.tolist())


def arrays(
    x: Any,
    y: Any,
    test_x: Any = None,
    test_y: Any = None,
    *,
    names: Sequence[str] | None = None,
    name: str = "arrays",
    raw: bool = False,
) -> Dataset:
    """A data set of your own arrays, checked.

    Args:
      x: images [N, ...], float in [0, 1] or uint8 in 0..255 (which is divided by 255).
      y: integer labels [N].
      test_x: the same for the test split; without it that split is empty.
      test_y: labels of the test split.
      names: class names; without them the classes are 0..max(y).
      name: for tables and error messages.
      raw: keep uint8 images as uint8 (a quarter of the memory); apply `unit` to a batch inside jit.

    Raises:
      ValueError: lengths differ, values lie outside the range (which index, which value), labels are not integers >= 0.

    >>> arrays(np.zeros((4, 2, 2, 1)), [0, 1, 2, 1]).classes
    3
    """
    if (test_x is None) != (test_y is None):
        raise ValueError(f"{name}: give test_x and test_y together")
    train_x, train_y = _images(x, f"{name}: x", raw), _labels(y, f"{name}: y")
    if test_x is None:
        test_x, test_y = train_x[:0], train_y[:0]
    else:
        test_x, test_y = _images(test_x, f"{name}: test_x", raw), _labels(test_y, f"{name}: test_y")
    for images, labels, split in ((train_x, train_y, "train"), (test_x, test_y, "test")):
        if len(images) != len(labels):
            raise ValueError(f"{name}: the {split} split has {len(images)} images but {len(labels)} labels")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(f"{name}: train images have shape {train_x.shape[1:]}, test images {test_x.shape[1:]}")
    most = max((int(labels.max()) for labels in (train_y, test_y) if len(labels)), default=-1)
    names = tuple(str(k) for k in range(most + 1)) if names is None else tuple(names)
    if most >= len(names):
        raise ValueError(f"{name}: label {most} has no name; {len(names)} names were given")
    return Dataset(name, train_x, train_y, test_x, test_y, names)


def _images(x: Any, what: str, raw: bool) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim < 2:
        raise ValueError(f"{what} has shape {x.shape}; images are [N, H, W, C] (or vectors [N, D])")
    if x.dtype == np.uint8:
        return x if raw else x.astype(np.float32) / np.float32(255)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{what} has dtype {x.dtype}; images are float in [0, 1] or uint8 in 0..255")
    inside = (x >= 0) & (x <= 1)  # False for NaN as well
    if not inside.all():
        index = tuple(int(i) for i in np.argwhere(~inside)[0])
        raise ValueError(
            f"{what}[{', '.join(map(str, index))}] is {x[index]}; float images lie in [0, 1]: divide by 255 first?"
        )
    return x.astype(np.float32)


def _labels(y: Any, what: str) -> np.ndarray:
    y = np.asarray(y)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{what} has shape {y.shape} and dtype {y.dtype}; labels are integers [N]")
    if len(y) and y.min() < 0:
        raise ValueError(f"{what}[{int(y.argmin())}] is {int(y.min())}; labels are >= 0")
    return y.astype(np.int32)
