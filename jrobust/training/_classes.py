"""What each class was like on average in the epoch before: a memory for losses that treat classes differently."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._tree import stop_gradient
from jrobust.typing import Array, Float, Int


class ClassMeans(NamedTuple):
    """``means[y]`` of the last epoch, sums and counts of this one, and how many batches were seen in all."""

    means: Float[Array, "K ..."]
    sums: Float[Array, "K ..."]
    counts: Float[Array, " K"]
    batches: Int[Array, ""]


def class_means(first: Float[Array, "K ..."]) -> ClassMeans:
    """A memory that holds ``first`` until an epoch is over."""
    return ClassMeans(first, jnp.zeros_like(first), jnp.zeros(first.shape[0]), jnp.zeros((), jnp.int32))


def remembered(memory: ClassMeans, values: Float[Array, "B ..."], y: Int[Array, " B"], epoch: int) -> ClassMeans:
    """The memory after one more batch; after ``epoch`` of them the means are renewed, of the classes that were seen.

    >>> memory = class_means(jnp.zeros(2))
    >>> for right in (1.0, 0.0):
    ...     memory = remembered(memory, jnp.array([right, 1.0]), jnp.array([0, 1]), 2)
    >>> print(memory.means)
    [0.5 1. ]
    """
    seen = jax.nn.one_hot(y, memory.counts.shape[0], dtype=memory.sums.dtype)
    sums = memory.sums + jnp.tensordot(seen.T, stop_gradient(values), 1)
    counts, batches = memory.counts + jnp.sum(seen, 0), memory.batches + 1
    over = batches % epoch == 0
    n = counts.reshape(-1, *[1] * (sums.ndim - 1))
    means = jnp.where(n > 0, sums / jnp.maximum(n, 1.0), memory.means)
    nothing = jnp.where(over, 0.0, 1.0)
    return ClassMeans(jnp.where(over, means, memory.means), nothing * sums, nothing * counts, batches)


def check_epoch(classes: Any, epoch: Any, by: str) -> None:
    """Raise unless there are classes, and batches in an epoch."""
    if not (isinstance(classes, int) and classes >= 2 and isinstance(epoch, int) and epoch >= 1):
        raise ValueError(f"{by}: classes is an int >= 2 and epoch an int >= 1, got {classes!r} and {epoch!r}")
