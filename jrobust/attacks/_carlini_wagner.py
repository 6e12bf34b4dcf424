"""Carlini and Wagner's L2 attack: distance plus a multiple of the margin, minimised in coordinates that cannot leave the box."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective, largest
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._minimum import adam, closer, closest, minimize, only_balls, unfound
from jrobust.attacks._state import climb
from jrobust.typing import Array, Float, Point

_INSIDE = 1 - 1e-6
_LARGE = 1e9


class PenaltyState(NamedTuple):
    """The iterate and its coordinates, Adam's moments, the closest violation, and this search: its multiple, bounds and progress."""

    z: Point
    w: Point
    mean: Point
    square: Point
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    multiple: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    hit: Array
    before: Float[Array, ""]
    count: Array
    search: Array
    done: Array


def _box(s: Any, w: Array) -> Array:
    """The point of coordinates ``w``: any real numbers give a point of the clip."""
    _, lo, hi = s.params
    if lo is None or hi is None:
        return jnp.clip(w, lo, hi)
    return jnp.clip(lo + (hi - lo) * (jnp.tanh(w) / _INSIDE + 1) / 2, lo, hi)


def _coordinates(s: Any) -> Array:
    """Those of the example."""
    _, lo, hi = s.params
    if lo is None or hi is None:
        return s.center
    return jnp.arctanh(jnp.clip(2 * (s.center - lo) / (hi - lo) - 1, -1, 1) * _INSIDE)


def _init(multiple: Any, key: Any, f: Objective, s: Any) -> PenaltyState:
    del key, f
    w = _coordinates(s)
    zero, number, none = jnp.zeros_like(w), jnp.zeros((), w.dtype), jnp.asarray(0, jnp.int32)
    return PenaltyState(
        z=s.center,
        w=w,
        mean=zero,
        square=zero,
        multiple=number + multiple,
        low=number,
        high=number + 10 * _LARGE,
        hit=jnp.asarray(False),
        before=number + jnp.inf,
        count=none,
        search=none,
        done=jnp.asarray(False),
        **unfound(s),
    )


def _step(
    step: Any, confidence: Any, key: Any, state: PenaltyState, f: Objective, s: Any, *, steps: int, searches: int
) -> PenaltyState:
    del key
    x = s.center
    value, _, g = climb(f, largest, state.z)
    state = closer(state, state.z, value, s)
    short = jnp.maximum(confidence - value, 0.0)
    loss = jnp.sum((state.z - x) ** 2) + state.multiple * short
    check = state.count % max(-(-steps // 10), 1) == 0
    stalled = check & ~(loss <= 0.9999 * state.before)
    hit = state.hit | (violated(value) & (value >= confidence))
    # one step of Adam in the coordinates
    _, pull = jax.vjp(lambda w: _box(s, w), state.w)
    (slope,) = pull(2 * (state.z - x) - jnp.where(short > 0, state.multiple, 0.0) * g)
    i = state.count + 1
    mean, square, direction, metric = adam(state.mean, state.square, slope, i)
    w = state.w - step * direction / metric
    # the end of a search: halve the interval of multiples, or grow the multiple while nothing was found
    ends = stalled | (i >= steps)
    low = jnp.where(ends & ~hit, jnp.maximum(state.low, state.multiple), state.low)
    high = jnp.where(ends & hit, jnp.minimum(state.high, state.multiple), state.high)
    following = jnp.where(high < _LARGE, 0.5 * (low + high), 10 * state.multiple)
    if searches >= 10:
        following = jnp.where(state.search == searches - 2, high, following)
    search = state.search + ends
    w = jnp.where(ends, _coordinates(s), w)
    return state._replace(
        z=jnp.where(ends, x, _box(s, w)),
        w=w,
        mean=jnp.where(ends, 0.0, mean),
        square=jnp.where(ends, 0.0, square),
        multiple=jnp.where(ends, following, state.multiple),
        low=low,
        high=high,
        hit=hit & ~ends,
        before=jnp.where(ends, jnp.inf, jnp.where(check, loss, state.before)),
        count=jnp.where(ends, 0, i),
        search=search,
        done=search >= searches,
    )


def _finished(state: PenaltyState) -> Array:
    return state.done | (state.radius == 0)


def _for_set(
    step: Any, confidence: Any, multiple: Any, kind: str, classes: int, *, steps: int, searches: int
) -> Algorithm:
    del classes
    only_balls(kind, ("l2",), "carlini_wagner")
    stepping = bind(_step, step, confidence, steps=steps, searches=searches)
    return Algorithm(bind(_init, multiple), stepping, bind(closest))


def carlini_wagner(
    *,
    steps: int = 10_000,
    searches: int = 9,
    step: Any = 0.01,
    multiple: Any = 0.001,
    confidence: Any = 0.0,
    name: str = "carlini_wagner",
) -> RadiusOracle:
    """Carlini and Wagner's L2 attack: Adam on squared distance plus a multiple of the margin, and a search for the multiple.

    Args:
      steps: gradient steps of one search, >= 1 (structure); a search ends early where the loss no longer falls (looked at ten times).
      searches: how many multiples are tried, >= 1 (structure): ten times larger until one succeeds, then by bisection.
      step: of Adam, in the coordinates of the box (the input's own without a clip); traced. Radii far below one step in every entry
        take a smaller one: there a search is given up at its first look.
      multiple: the first one, > 0; traced.
      confidence: the margin that a search wants to reach, >= 0; traced. The witness is the closest violation, of whatever margin.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``. `jr.attacks.within` makes it an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z[0] - 0.2), 0)
    >>> attack = carlini_wagner(steps=100, searches=6, step=0.05)
    >>> found = attack.solve(jax.random.key(0), f, jr.sets.l2(0.0, clip=(0, 1)), jnp.array([0.5]))
    >>> print(bool(0.3 <= found.value < 0.33))
    True

    References:
      Carlini & Wagner, Towards evaluating the robustness of neural networks, IEEE S&P 2017.
    Deviations:
      Without a clip it works in the input's own coordinates. Early abort is judged for each example. The last point of a search
      is evaluated in the last search only.
    """
    if not (isinstance(searches, int) and searches >= 1 and isinstance(steps, int) and steps >= 1):
        raise ValueError(f"carlini_wagner: steps and searches must be ints >= 1, got {steps!r} and {searches!r}")
    choose = bind(_for_set, step, confidence, multiple, steps=steps, searches=searches)
    return minimize(choose, steps * searches, until=bind(_finished), name=f"{name}-{searches}x{steps}")
