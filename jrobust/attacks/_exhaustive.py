"""Attacks that only look: every point of a grid, or random points. For sets of few numbers, where first-order ones get stuck."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._iterate import Algorithm, iterate
from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle
from jrobust._tree import bind
from jrobust.attacks._state import broken, keep, kept, nothing
from jrobust.typing import Array, Float, Point

_MOST = 1_000_000


class _Looks(NamedTuple):
    """How many points were looked at, how many there are, and the worst of them."""

    count: Array
    total: Array
    value: Float[Array, ""]
    witness: Point


def _nothing(total: int, s: Any) -> _Looks:
    return _Looks(jnp.asarray(0, jnp.int32), jnp.asarray(total, jnp.int32), nothing(s.center), s.center)


def _look(state: _Looks, f: Objective, z: Point) -> _Looks:
    return keep(state, z, f.value(f.outputs(z)))._replace(count=state.count + 1)


def _no_draw(key: Any, f: Objective, s: Any, *, samples: int) -> _Looks:
    del key, f
    return _nothing(samples, s)


def _draw(key: Any, state: _Looks, f: Objective, s: Any) -> _Looks:
    return _look(state, f, s.sample(key))


def sampling(*, samples: int = 10, early_stop: bool = False) -> Oracle:
    """The worst of some random points of the set; any set that can be sampled. No gradients.

    Args:
      samples: how many, and forward passes, >= 1 (structure).
      early_stop: stop each example at its first violation. Not for `worst_case`.

    Returns:
      An `Oracle` of side "lower".

    Guarantee: a lower bound, attained at ``witness``, which lies in the set.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: -jnp.abs(z - 0.3)[None])
    >>> print(sampling(samples=200).solve(jax.random.key(0), f, jr.sets.box(-1.0, 1.0)(jnp.zeros(()))).value > -0.05)
    True

    References:
      Engstrom et al., Exploring the landscape of spatial robustness, ICML 2019 (the worst of 10).
    """
    check_count(samples, "samples", "sampling")
    algorithm = Algorithm(bind(_no_draw, samples=samples), _draw, kept, step_cost=(1, 0), best_cost=(0, 0))
    return iterate(algorithm, samples, until=broken if early_stop else None, name=f"sampling-{samples}")


# -- A grid --------------------------------------------------------------------------------------------------------------


def _boxed(s: Any) -> list[bool]:
    """Which of the arrays of a point of the set the grid runs over: of a product those in boxes, else all."""
    if s.geometry.name == "product":
        return [moves for part in s.params for moves in _boxed(part)]
    return [s.geometry.name == "box"] * len(jax.tree.leaves(s.center))


def _counts(s: Any, points: int | tuple[int, ...]) -> tuple[list[bool], np.ndarray]:
    """Which arrays move, and the points of each of their entries."""
    leaves = jax.tree.leaves(s.center)
    moves = _boxed(s) if s.geometry.name == "product" else [True] * len(leaves)
    entries = sum(jnp.size(leaf) for leaf, moved in zip(leaves, moves, strict=True) if moved)
    if not entries:
        raise ValueError("grid runs over boxes, of which this product has none")
    if isinstance(points, tuple) and len(points) != entries:
        raise ValueError(
            f"grid: points={points} are {len(points)}, one an entry that moves; this set has {entries} of them"
        )
    return moves, np.broadcast_to(np.asarray(points), (entries,))


def _size(s: Any, points: int | tuple[int, ...]) -> int:
    _, counts = _counts(s, points)
    total = math.prod(counts.tolist())
    if total > _MOST:
        raise ValueError(
            f"grid: points={points} for each of {len(counts)} entries are more than {_MOST:,} in all; take fewer, or "
            "jr.attacks.sampling"
        )
    return total


def _at(index: Array, s: Any, points: int | tuple[int, ...]) -> Point:
    """The point of this number of the grid, the last entry running fastest; an entry of one point stays where it is."""
    moves, counts = _counts(s, points)
    strides = np.append(np.cumprod(counts[::-1])[::-1][1:], 1)
    share = (index // strides % counts) / np.maximum(counts - 1, 1)
    leaves, treedef = jax.tree.flatten(s.center)
    lo, hi = (jax.tree.leaves(end) for end in s.hull())
    first = 0
    for i, moved in enumerate(moves):
        if moved:
            last = first + leaves[i].size
            t, one = (a[first:last].reshape(leaves[i].shape) for a in (share, counts == 1))
            z = (1 - t) * lo[i] + t * hi[i]
            leaves[i], first = jnp.where(one, leaves[i], z).astype(leaves[i].dtype), last
    return s.project(treedef.unflatten(leaves))


def _no_point(key: Any, f: Objective, s: Any, *, points: int | tuple[int, ...]) -> _Looks:
    del key, f
    return _nothing(_size(s, points), s)


def _next(key: Any, state: _Looks, f: Objective, s: Any, *, points: int | tuple[int, ...]) -> _Looks:
    del key
    return _look(state, f, _at(state.count, s, points))


def _over(state: _Looks) -> Array:
    return broken(state) | (state.count == state.total)


def _everywhere(algorithm: Algorithm, key: Any, f: Objective, s: Any, *, points: int | tuple[int, ...]) -> Bound:
    return iterate(algorithm, _size(s, points)).solve(key, f, s)  # how many entries there are, only the set knows


def grid(*, points: int | tuple[int, ...] = 5, early_stop: bool = False) -> Oracle:
    """The worst point of a grid over the set's bounding box: exhaustive where a set has a few numbers. No gradients.

    Of a product it runs over the entries in boxes (`jr.sets.box`), together; what lies in other sets stays at its centre.

    Args:
      points: how many for each entry, >= 1, both ends included (structure); or a tuple, one an entry. One point is the centre's own
        value. At most a million in all.
      early_stop: stop each example at its first violation. Not for `worst_case`.

    Returns:
      An `Oracle` of side "lower"; ``info["forwards"]`` is the size of the grid, or where it stopped.

    Raises:
      ValueError: no points; when it runs, too large a grid, or a tuple of another length.

    Guarantee: a lower bound, attained at ``witness``, which lies in the set (a point of the grid outside is projected).

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: -jnp.abs(z - jnp.array([0.5, -1.0])).sum(keepdims=True))
    >>> bound = grid(points=5).solve(jax.random.key(0), f, jr.sets.box(-1.0, 1.0)(jnp.zeros(2)))
    >>> print(abs(bound.value), bound.witness, bound.info["forwards"])
    0.0 [ 0.5 -1. ] 25

    References:
      Engstrom et al., Exploring the landscape of spatial robustness, ICML 2019 (31 angles by 5 x 5 shifts in the authors' code).
    Deviations:
      The largest violation is kept, theirs is the misclassified point of largest cross-entropy: the same points are broken.
    """
    each = points if isinstance(points, tuple) else (points,)
    if not each:
        raise ValueError("grid: points must be an int >= 1, or a tuple of them, got ()")
    for count in each:
        check_count(count, "points", "grid")
    init, step = bind(_no_point, points=points), bind(_next, points=points)
    algorithm = Algorithm(init, step, bind(kept), step_cost=(1, 0), best_cost=(0, 0))
    name = f"grid-{'x'.join(map(str, each))}"
    if early_stop:
        return iterate(algorithm, _MOST, until=_over, name=name)
    return Oracle("lower", bind(_everywhere, algorithm, points=points), name=name)
