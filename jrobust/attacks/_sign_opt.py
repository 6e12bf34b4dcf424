"""Sign-OPT: the distance to the boundary as a function of the direction, descended by the signs of its changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._decision import (
    FINEST,
    START,
    beginning,
    decision_based,
    inside,
    noise,
    search,
    to,
    unstarted,
    within_share,
)
from jrobust.attacks._minimum import unit
from jrobust.attacks._queries import Phase
from jrobust.typing import Array, Float, Point

_SIGNS, _LINE, _REFINE = 2, 3, 4
_TRIES = 15  # of the line search, either way
_SHRINK = 0.99
_SMALLEST = 1e-5  # of the smoothing: less does not change a unit direction in float32


class DirectionState(NamedTuple):
    """Starts and searches; the best direction and its distance; the sum of signs; the line search; the closest violation."""

    phase: Array
    count: Array
    far: Point
    low: Float[Array, ""]
    high: Float[Array, ""]
    theta: Point
    reach: Float[Array, ""]
    tried: Array
    slope: Point
    step: Float[Array, ""]
    smoothing: Float[Array, ""]
    best: Point
    least: Float[Array, ""]
    shrinking: Array
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point


def _init(step: Any, smoothing: Any, key: Any, f: Objective, s: Any) -> DirectionState:
    del key, f
    zero, number = jnp.zeros_like(s.center), jnp.zeros((), s.center.dtype)
    return DirectionState(
        theta=zero,
        reach=number + jnp.inf,
        tried=jnp.asarray(0, jnp.int32),
        slope=zero,
        step=number + step,
        smoothing=number + smoothing,
        best=zero,
        least=number,
        shrinking=jnp.asarray(False),
        **unstarted(s),
    )


def _along(s: Any, direction: Point, reach: Array) -> Point:
    return inside(s, s.center + reach * direction)


# -- The first direction: the best of several random ones -----------------------------------------------------------------


def _first(key: Any, state: DirectionState, s: Any) -> Point:
    """The example itself, then random points; once a distance is known, points at that distance."""
    far = noise(key, state.tried, s)
    shorter = _along(s, unit(far - s.center), jnp.where(jnp.isfinite(state.reach), state.reach, 0.0))
    far = where(jnp.isfinite(state.reach), shorter, far)
    return where(state.tried > 0, far, s.center)


def _first_learnt(key: Any, state: DirectionState, s: Any, z: Point, hit: Array, *, starts: int) -> DirectionState:
    del key, s
    state = state._replace(tried=state.tried + 1)
    return where(hit, search(state, z), _next_start(state, starts=starts))


def _next_start(state: DirectionState, *, starts: int) -> DirectionState:
    """Another random direction, or the descent: the example itself was the first of those tried."""
    enough = (state.tried > starts) & jnp.isfinite(state.reach)
    return where(enough, _descend(state), to(START, state))


def _reached(key: Any, state: DirectionState, s: Any, near: Point, *, starts: int) -> DirectionState:
    del key
    d = near - s.center
    reach = s.distance(near).astype(state.reach.dtype)
    better = reach < state.reach
    state = state._replace(theta=where(better, unit(d), state.theta), reach=jnp.where(better, reach, state.reach))
    return _next_start(state, starts=starts)


def _descend(state: DirectionState) -> DirectionState:
    return to(_SIGNS, state, slope=jnp.zeros_like(state.slope))


# -- The slope, from signs ------------------------------------------------------------------------------------------------


def _aside(key: Any, state: DirectionState, s: Any) -> Point:
    """At the same distance in a direction a little aside: a violation there means that the boundary has come closer."""
    u = unit(jax.random.normal(key, s.center.shape, s.center.dtype))
    return _along(s, unit(state.theta + state.smoothing * u), state.reach)


def _signed(key: Any, state: DirectionState, s: Any, z: Point, hit: Array, *, samples: int) -> DirectionState:
    del z
    u = unit(jax.random.normal(key, s.center.shape, s.center.dtype))
    state = state._replace(slope=state.slope + jnp.where(hit, -u, u) / samples, count=state.count + 1)
    line = to(_LINE, state, best=state.theta, least=state.reach, shrinking=jnp.asarray(False))
    return where(state.count >= samples, line, state)


# -- The line search ------------------------------------------------------------------------------------------------------


def _trial(state: DirectionState) -> Point:
    return unit(state.theta - state.step * state.slope)


def _line(key: Any, state: DirectionState, s: Any) -> Point:
    """The trial direction at the least distance so far: only a violation there is an improvement."""
    del key
    return _along(s, _trial(state), state.least)


def _lined(key: Any, state: DirectionState, s: Any, z: Point, hit: Array) -> DirectionState:
    del key, s, z
    measuring = state._replace(
        phase=jnp.asarray(_REFINE, jnp.int32), low=-jnp.ones_like(state.low), high=state.least.astype(state.high.dtype)
    )
    return where(hit, measuring, _no_better(state))


def _no_better(state: DirectionState) -> DirectionState:
    """Growing steps end here; if none of them was an improvement, shrinking ones follow, until the first that is."""
    ends = (state.least < state.reach) | (state.shrinking & (state.count >= _TRIES))
    grown = state._replace(step=jnp.where(state.shrinking, state.step, 2 * state.step))
    smaller = to(
        _LINE, state, step=jnp.where(state.shrinking, 0.25, 0.5) * state.step, shrinking=jnp.ones_like(state.shrinking)
    )._replace(count=jnp.where(state.shrinking, state.count + 1, 1))
    return where(ends, _moved(grown), smaller)


def _better(state: DirectionState, direction: Point) -> DirectionState:
    """The trial is the best direction: a growing step grows on, a shrinking one was enough."""
    count, least = state.count + 1, state.high.astype(state.least.dtype)
    state = to(_LINE, state, best=direction, least=least)._replace(count=count)
    grown = state._replace(step=2 * state.step)
    return where(state.shrinking, _moved(state), where(count >= _TRIES, _moved(grown), grown))


def _middle(state: DirectionState) -> Array:
    """Shorter by a hundredth while no end below is known, then half-way."""
    return jnp.where(state.low < 0, _SHRINK * state.high, 0.5 * (state.low + state.high))


def _refine(key: Any, state: DirectionState, s: Any) -> Point:
    del key
    return _along(s, _trial(state), _middle(state))


def _refined(key: Any, state: DirectionState, s: Any, z: Point, hit: Array) -> DirectionState:
    del key, s, z
    at = _middle(state)
    low, high = jnp.where(hit, state.low, at), jnp.where(hit, at, state.high)
    state = state._replace(low=low, high=high)
    narrow = (low >= 0) & (high - low <= jnp.maximum(state.smoothing / 500, FINEST * high))
    ended = where(high < state.least, _better(state, _trial(state)), _no_better(state))
    return where(narrow, ended, state)


def _moved(state: DirectionState) -> DirectionState:
    """The end of a line: on from the best direction it saw. Where steps have become tiny, with less smoothing."""
    stuck = state.step < 1e-4
    smoothing = jnp.where(stuck, jnp.maximum(0.1 * state.smoothing, _SMALLEST), state.smoothing)
    return _descend(
        state._replace(
            theta=state.best,
            reach=state.least,
            step=jnp.where(stuck, 1.0, state.step).astype(state.step.dtype),
            smoothing=smoothing.astype(state.smoothing.dtype),
        )
    )


def _phases(kind: str, *, starts: int, samples: int) -> tuple[Phase, ...]:
    _, searching = beginning(bind(within_share, 1e-3), bind(_reached, starts=starts), kind="l2")  # by lines
    return (
        Phase(bind(_first), bind(_first_learnt, starts=starts)),
        searching,
        Phase(bind(_aside), bind(_signed, samples=samples)),
        Phase(bind(_line), bind(_lined)),
        Phase(bind(_refine), bind(_refined)),
    )


def sign_opt(
    *,
    queries: int = 20_000,
    starts: int = 100,
    samples: int = 200,
    step: Any = 0.2,
    smoothing: Any = 0.001,
    name: str = "sign_opt",
) -> RadiusOracle:
    """Sign-OPT: descend the distance of the boundary over directions; its slope is a mean of directions, signed by one decision each.

    The first direction is the best of random ones (towards points uniform in the clip, every other one of a random brightness;
    without a clip Gaussian noise that grows).

    Args:
      queries: forward passes at most, >= 1 (structure).
      starts: random directions that are tried first, >= 1 (structure).
      samples: decisions in one estimate of the slope, >= 1 (structure).
      step: the first step in the direction, whose norm is one; doubled and quartered by a line search; traced.
      smoothing: how far aside of a direction its neighbours are asked; a tenth of it once steps have become tiny; traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``. `jr.attacks.within` makes it an attack on one set. It sees only
      whether each query is a violation; ``info["forwards"]`` are the queries. Where no noise is one the radius stays ``+inf``.

    Raises:
      ValueError: no queries, starts or samples; another set (when it runs).

    Guarantee: an upper bound of the radius, attained at ``witness``, one of the queries.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z.sum() - 0.4), 0)
    >>> x = jnp.array([0.4, 0.3, 0.2])
    >>> attack = sign_opt(queries=500, starts=5, samples=20)
    >>> found = attack.solve(jax.random.key(0), f, jr.sets.l2(0.0, clip=(0, 1)), x)
    >>> print(bool(0.288 <= found.value < 0.33))  # 0.5 / sqrt(3)
    True

    References:
      Cheng, Singh, Chen, Chen, Liu & Hsieh, Sign-OPT: a query-efficient hard-label adversarial attack, ICLR 2020 (constants and line
      search: the authors' code).
    Deviations:
      L2 only: over directions of unit Linf norm the distance has kinks, where the descent stays. Queries stay in the clip. A trial
      direction is measured only where it is a violation at the least distance so far, one query instead of a search for what would
      be dropped. The smoothing stops at 1e-5.
    """
    for what, count in (("starts", starts), ("samples", samples)):
        check_count(count, what, "sign_opt")
    phases, init = bind(_phases, starts=starts, samples=samples), bind(_init, step, smoothing)
    return decision_based(init, phases, queries, kinds=("l2",), by="sign_opt", name=name)
