"""Attacks that only look: every point of a grid, random points, each value of one part. Where first-order ones get stuck."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._iterate import Algorithm, iterate
from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle, require
from jrobust._tree import bind
from jrobust.attacks._state import broken, keep, kept, nothing
from jrobust.sets import Set, point
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


# -- One part of a product, value by value ---------------------------------------------------------------------------------


class _Turns(NamedTuple):
    """How many values were tried, the worst point of all, and the passes that they took."""

    count: Array
    value: Float[Array, ""]
    witness: Point
    forwards: Array
    backwards: Array


def _no_turn(key: Any, f: Objective, s: Any) -> _Turns:
    del key, f
    none = jnp.asarray(0, jnp.int32)
    return _Turns(none, nothing(s.center), s.center, none, none)


def _turn(attack: Oracle, values: Array, key: Any, state: _Turns, f: Objective, s: Any, *, part: int) -> _Turns:
    if s.geometry.name != "product" or not -len(s.params) <= part < len(s.params):
        raise ValueError(f"each: there is no part {part} in this set, {s.geometry.name}; it works on products")
    at = part % len(s.params)
    value = jnp.broadcast_to(values[state.count], s.center[at].shape).astype(s.center[at].dtype)
    parts = (*s.params[:at], point()(value), *s.params[at + 1 :])
    bound = attack.solve(key, f, Set(tuple(p.center for p in parts), parts, s.geometry))
    more = (jnp.asarray(bound.info[k], jnp.int32) for k in ("forwards", "backwards"))
    forwards, backwards = (a + b for a, b in zip((state.forwards, state.backwards), more, strict=True))
    return keep(state, bound.witness, bound.value)._replace(
        count=state.count + 1, forwards=forwards, backwards=backwards
    )


def _spent(state: _Turns) -> tuple[Array, Array]:
    return state.forwards, state.backwards


def each(attack: Oracle, *, part: int, values: Any, early_stop: bool = False) -> Oracle:
    """The attack once for each value of one part of a product, that part held there: exhaustive in what has no gradient.

    The order of `jr.transforms.any_order` is the part ``part=1, values=range(720)`` of six transforms.

    Args:
      attack: an oracle of side "lower", for the other parts.
      part: which entry of the product.
      values: [n], each of them for all entries of the part; in its set. Traced, their number is structure.
      early_stop: stop each example at its first violation. Not for `worst_case`.

    Returns:
      An `Oracle` of side "lower".

    Raises:
      ValueError: no values, an oracle of another side; no product, or one without this part (when it runs).

    Guarantee: a lower bound, attained at ``witness``, which lies in the set where the values do.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jnp.where(jnp.floor(z[0]) == 3, z[1], -1.0)[None])
    >>> s = jr.sets.product(jr.sets.box(0.0, 4.0), jr.sets.box(0.0, 1.0))((jnp.zeros(()), jnp.zeros(())))
    >>> print(each(jr.attacks.pgd(steps=5), part=0, values=range(4)).solve(jax.random.key(0), f, s).value)
    1.0
    """
    require(("lower",), attack, by="each")
    values = jnp.asarray(values, jnp.result_type(float))
    if values.ndim != 1 or not len(values):
        raise ValueError(f"each: values must be numbers [n], n >= 1, got shape {values.shape}")
    step = bind(_turn, attack, values, part=part)
    algorithm = Algorithm(_no_turn, step, kept, step_cost=(0, 0), best_cost=(0, 0), spent=_spent)
    name = f"{attack.name} for each of {len(values)}"
    return iterate(algorithm, len(values), until=broken if early_stop else None, name=name)
