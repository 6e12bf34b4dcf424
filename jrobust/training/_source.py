"""Where the examples of a training come from: arrays on the device, or a grain pipeline on the host. One order for both."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_batch, check_inside, check_labels
from jrobust._placement import Placement
from jrobust.data import unit
from jrobust.typing import Array, Int


@partial(jax.jit, static_argnums=2)
def epoch_order(key: Any, epoch: Any, n: int) -> Int[Array, " n"]:
    """The order of the examples in an epoch, from the key of the training. A sort: once an epoch, not in every call."""
    return jax.random.permutation(jax.random.fold_in(jax.random.split(key)[0], epoch), n)


@dataclasses.dataclass(frozen=True)
class Position:
    """How the steps lie in the data.

    Attributes:
      n: examples; ``batch_size``: how many of them a step takes; ``length``: steps in a chunk; ``chunks``: in an epoch.
      drawn: further examples of a step, from another source.
    """

    n: int
    batch_size: int
    length: int
    chunks: int
    drawn: int = 0

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.length * self.chunks


class Resident:
    """Arrays that lie on the device, whole; batches are taken out of them within the compiled program.

    Of ``extra``, a share of each batch is drawn at random.
    """

    def __init__(self, x: Any, y: Any, box: tuple[Any, Any] | None, extra: Any = None, share: int | float = 0) -> None:
        self.x, self.y = _arrays(x, y, box)
        self.n, self.extra, self.share = len(self.y), None, share
        if extra is None:
            return
        if not 0 <= share < 1:
            raise ValueError(f"share lies in [0, 1), got {share}")
        if not (isinstance(extra, tuple) and len(extra) == 2):
            raise ValueError("extra is a pair (x, y) of further examples and their labels")
        self.extra = _arrays(*extra, box)
        if self.extra[0].shape[1:] != self.x.shape[1:]:
            raise ValueError(f"extra holds examples of shape {self.extra[0].shape[1:]}, x of shape {self.x.shape[1:]}")

    def drawn(self, batch_size: int) -> int:
        """How many of a batch come from the other source."""
        return 0 if self.extra is None else round(self.share * batch_size)

    def first(self) -> tuple[Any, int, int]:
        """Shape and dtype of an example, the largest label, and the largest index."""
        labels = self.y if self.extra is None else np.append(self.y, self.extra[1].max())
        last = self.n - 1 + (0 if self.extra is None else len(self.extra[1]))
        return jax.ShapeDtypeStruct(self.x.shape[1:], jnp.result_type(self.x)), int(labels.max()), last

    def chunks(self, position: Position, start: int, key: Any, place: Placement) -> Iterator[Any]:
        """What each compiled call is given, from step ``start`` on: the same arrays, and the order of its epoch."""
        data = place.everywhere(jax.tree.map(jnp.asarray, (self.x, self.y, self.extra)))
        order = lru_cache(1)(lambda epoch: place.everywhere(epoch_order(key, epoch, self.n)))
        for step in count(start, position.length):
            yield (*data, order(step // position.per_epoch))

    def batches(self, position: Position, given: Any) -> Callable[..., Any]:
        """``(step, which of the chunk, key) -> (x, y, index)``, under the trace; x as `unit` makes it."""
        x, y, extra, order = given
        size = position.batch_size

        def batch(step: Any, i: Any, key: Any) -> tuple[Array, Array, Array]:
            del i
            index = jax.lax.dynamic_slice(order, (step % position.per_epoch * size,), (size,))
            taken = unit(x[index]), y[index], index
            if extra is None:
                return taken
            others = jax.random.randint(jax.random.fold_in(key, position.drawn), (position.drawn,), 0, len(extra[1]))
            more = unit(extra[0][others]), extra[1][others], self.n + others
            return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), taken, more)

        return batch


class Streamed:
    """A grain ``MapDataset`` of ``(x, y)`` pairs on the host: threads read ahead, a chunk at a time goes to the device."""

    def __init__(self, dataset: Any, box: tuple[Any, Any] | None) -> None:
        self.dataset, self.box, self.n = dataset, box, len(dataset)
        if not self.n:
            raise ValueError("the dataset is empty")
        pair = dataset[0]
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(
                f"a dataset of fit gives (x, y) pairs, this one gives {type(pair).__name__}; dataset.map(lambda e: (e['image'], "
                "e['label'])) makes them"
            )
        x, self.label = np.asarray(pair[0]), int(pair[1])
        _arrays(x[None], np.asarray([self.label]), box)
        self.struct = jax.ShapeDtypeStruct(x.shape, x.dtype)

    def first(self) -> tuple[Any, int, int]:
        """Shape and dtype of an example, the label of the first, and the largest index."""
        return self.struct, self.label, self.n - 1

    def chunks(self, position: Position, start: int, key: Any, place: Placement) -> Iterator[Any]:
        """What each compiled call is given, from step ``start`` on: its batches, stacked. This process reads its own rows alone."""
        import grain

        rows = place.rows(position.batch_size)
        source = grain.MapDataset.source(_InOrder(self.dataset, position, key, rows))
        stacked = source.batch(len(rows)).batch(position.length)[start // position.length :]
        for x, y, index in stacked.to_iter_dataset():
            _arrays(x.reshape(-1, *x.shape[2:]), y.reshape(-1), self.box)
            yield place.rows_of_chunk((x, y.astype(np.int32), index), position.batch_size)

    def drawn(self, batch_size: int) -> int:
        """None: grain mixes sources itself."""
        del batch_size
        return 0

    def batches(self, position: Position, given: Any) -> Callable[..., Any]:
        """``(step, which of the chunk, key) -> (x, y, index)``, under the trace; x as `unit` makes it."""
        del position
        x, y, index = given
        return lambda step, i, key: (unit(x[i]), y[i], index[i])


class _InOrder:
    """The examples as the training wants them, one after another, without end."""

    def __init__(self, dataset: Any, position: Position, key: Any, rows: np.ndarray) -> None:
        self.dataset, self.position, self.rows = dataset, position, rows
        self.order = lru_cache(2)(lambda epoch: np.asarray(epoch_order(key, epoch, position.n)))

    def __len__(self) -> int:
        # grain wants an end; no training gets there
        return (2**62 // len(self.rows) // self.position.length) * len(self.rows) * self.position.length

    def __getitem__(self, index: int) -> tuple[Any, Any, np.int32]:
        step, row = divmod(int(index), len(self.rows))
        epoch, step = divmod(step, self.position.per_epoch)
        where = int(self.order(epoch)[step * self.position.batch_size + self.rows[row]])
        x, y = self.dataset[where]
        return np.asarray(x), np.asarray(y), np.int32(where)


def source(x: Any, y: Any, box: tuple[Any, Any] | None, extra: Any, share: int | float) -> Resident | Streamed:
    """The data of `fit`: arrays, or a grain dataset."""
    if hasattr(x, "to_iter_dataset"):
        if y is not None:
            raise TypeError("a grain dataset gives (x, y) pairs itself: y is None then")
        if extra is not None:
            raise TypeError("extra goes with arrays; grain.MapDataset.mix joins datasets")
        return Streamed(x, box)
    if y is None:
        raise TypeError("fit takes labels y with arrays x; only a grain.MapDataset of (x, y) pairs brings its own")
    return Resident(x, y, box, extra, share)


def _arrays(x: Any, y: Any, box: tuple[Any, Any] | None) -> tuple[Any, np.ndarray]:
    """Examples and labels, once they are what `evaluate` would take (bytes too)."""
    x = x if hasattr(x, "shape") and hasattr(x, "dtype") else np.asarray(x)
    if x.dtype == np.uint8 and x.ndim:
        n = len(x)
    else:
        n = check_batch(x)
        for start in range(0, n, 1024):
            check_inside(np.asarray(x[start : start + 1024]), start, *(box or ()))
    if n == 0:
        raise ValueError("there are no examples")
    y = check_labels(y, n)
    if y.min(initial=0) < 0:
        raise ValueError(f"y[{y.argmin()}] = {y.min()} is out of range: labels are 0..K-1")
    return x, y
