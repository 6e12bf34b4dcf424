"""ZOO: Carlini and Wagner's loss minimised one coordinate at a time, with derivatives from two scores each."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._minimum import closer, minimize, only_balls, unfound
from jrobust.attacks._multiple import Multiple, advanced, unsearched
from jrobust.attacks._queries import Phase, at_once, by_scores
from jrobust.sets._base import clamp
from jrobust.typing import Array, Float, Point

_LOOK, _PLUS, _MINUS = range(3)


class CoordinateState(NamedTuple):
    """The iterate, Adam's moments and counts of each coordinate, the one in turn, the multiple, the closest violation."""

    phase: Array
    z: Point
    mean: Point
    square: Point
    epochs: Point
    at: Array
    up: Float[Array, ""]
    multiple: Multiple
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point


def _init(multiple: Any, key: Any, f: Objective, s: Any) -> CoordinateState:
    del key, f
    x, none = s.center, jnp.asarray(0, jnp.int32)
    zero = jnp.zeros_like(x)
    return CoordinateState(
        phase=none,
        z=x,
        mean=zero,
        square=zero,
        epochs=zero,
        at=none,
        up=jnp.zeros((), x.dtype),
        multiple=unsearched(multiple, x.dtype),
        **unfound(s),
    )


def _itself(key: Any, state: CoordinateState, s: Any) -> Point:
    del key, s
    return state.z


def _looked(key: Any, state: CoordinateState, s: Any, z: Point, margin: Array) -> CoordinateState:
    del z, margin
    return _turn(key, state, s)


def _turn(key: Any, state: CoordinateState, s: Any) -> CoordinateState:
    """A random coordinate's turn."""
    return state._replace(
        at=jax.random.randint(key, (), 0, s.center.size, jnp.int32), phase=jnp.asarray(_PLUS, jnp.int32)
    )


def _beside(width: Any, key: Any, state: CoordinateState, s: Any, *, sign: int) -> Point:
    del key, s
    return state.z.ravel().at[state.at].add(sign * width).reshape(state.z.shape)


def _one_side(key: Any, state: CoordinateState, s: Any, z: Point, margin: Array) -> CoordinateState:
    del key, s, z
    up = margin.astype(state.up.dtype)
    multiple = state.multiple._replace(hit=state.multiple.hit | violated(up))
    return state._replace(up=up, multiple=multiple, phase=jnp.asarray(_MINUS, jnp.int32))


def _both_sides(
    step: Any,
    width: Any,
    key: Any,
    state: CoordinateState,
    s: Any,
    z: Point,
    margin: Array,
    *,
    pairs: int,
    searches: int,
) -> CoordinateState:
    """One coordinate's step of Adam; at the end of a search another multiple, from the example again."""
    del z
    at, (_, lo, hi) = state.at, s.params
    down = margin.astype(state.up.dtype)
    m = state.multiple._replace(hit=state.multiple.hit | violated(down))
    penalty = m.value * (jnp.maximum(-state.up, 0.0) - jnp.maximum(-down, 0.0)) / (2 * width)
    slope = 2 * (state.z - s.center).ravel()[at] + jnp.where(jnp.isfinite(penalty), penalty, 0.0)
    epoch = state.epochs.ravel()[at] + 1
    mean = 0.9 * state.mean.ravel()[at] + 0.1 * slope
    square = 0.999 * state.square.ravel()[at] + 0.001 * slope**2
    move = step * mean / (1 - 0.9**epoch) / (jnp.sqrt(square / (1 - 0.999**epoch)) + 1e-8)

    def put(a: Array, entry: Array) -> Array:
        return a.ravel().at[at].set(entry.astype(a.dtype)).reshape(a.shape)

    m, ends = advanced(m, jnp.asarray(False), steps=pairs, searches=searches)
    z = clamp(put(state.z, state.z.ravel()[at] - move), lo, hi)
    new = state._replace(
        z=jnp.where(ends, s.center, z),
        mean=jnp.where(ends, 0.0, put(state.mean, mean)),
        square=jnp.where(ends, 0.0, put(state.square, square)),
        epochs=jnp.where(ends, 0.0, put(state.epochs, epoch)),
        multiple=m,
    )
    return _turn(key, new, s)


def _record(state: CoordinateState, z: Point, value: Float[Array, ""], s: Any) -> CoordinateState:
    """Every query is a candidate that lies in the clip: a point beside the iterate may stick out of it."""
    _, lo, hi = s.params
    return closer(state, z, jnp.where(jnp.all(z == clamp(z, lo, hi)), value, -jnp.inf), s)


def _for_set(
    step: Any, width: Any, multiple: Any, kind: str, classes: int, *, queries: int, searches: int
) -> Algorithm:
    del classes
    only_balls(kind, ("l2",), "zoo")
    pairs = max((queries - 1) // (2 * searches), 1)
    phases = (
        Phase(bind(_itself), bind(_looked)),
        Phase(bind(_beside, width, sign=1), bind(_one_side)),
        Phase(bind(_beside, width, sign=-1), bind(_both_sides, step, width, pairs=pairs, searches=searches)),
    )
    return by_scores(bind(_init, multiple), phases, record=_record, own=False)


def zoo(
    *,
    queries: int = 100_000,
    searches: int = 9,
    step: Any = 0.01,
    width: Any = 1e-4,
    multiple: Any = 0.01,
    name: str = "zoo",
) -> RadiusOracle:
    """Zeroth-order optimisation: squared distance plus a multiple of the margin, by coordinate-wise Adam from differences of scores.

    Args:
      queries: forward passes at most, >= 1 (structure); two a coordinate's step.
      searches: how many multiples are tried, with an equal share of the queries each, >= 1 (structure): ten times larger until one
        succeeds, then by bisection; of ten or more the last takes the smallest that was enough.
      step: of Adam, in the units of the input; traced.
      width: of the central differences, in the units of the input; traced.
      multiple: the first one, > 0; traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``. `jr.attacks.within` makes it an attack on one set. The model is never
      differentiated; ``info["forwards"]`` are the queries.

    Raises:
      ValueError: no queries, no searches.

    Guarantee: an upper bound of the radius, attained at ``witness``, one of the queries.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z[0] - 0.2), 0)
    >>> found = zoo(queries=1000, searches=5).solve(jax.random.key(0), f, jr.sets.l2(0.0, clip=(0, 1)), jnp.array([0.5]))
    >>> print(bool(0.3 <= found.value < 0.35))
    True

    References:
      Chen, Zhang, Sharma, Yi & Hsieh, ZOO: zeroth order optimization based black-box attacks to deep neural networks without training
      substitute models, AISec 2017.
    Deviations:
      One coordinate a step, as in the paper's algorithm (its code moves 128 at a time), in the input's own coordinates clipped to the
      box; no reduced resolution, no importance sampling. Adam only: the Newton form divides by second differences, which float32
      does not carry at this width.
    """
    check_count(queries, "queries", "zoo")
    check_count(searches, "searches", "zoo")
    choose = bind(_for_set, step, width, multiple, queries=queries, searches=searches)
    return minimize(choose, queries, until=bind(at_once), name=f"{name}-{queries}")
