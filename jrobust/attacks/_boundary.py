"""Boundary attack: a random walk along the boundary, sideways on the sphere around the example and then towards it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._decision import beginning, decision_based, inside, to, unstarted, within_share
from jrobust.attacks._minimum import unit
from jrobust.attacks._queries import Phase
from jrobust.typing import Array, Float, Point

_SIDEWAYS, _TOWARDS = 2, 3
_EVERY = 10  # walks from one look at the sideways step to the next
_SIDEWAYS_RATES, _TOWARDS_RATES = (0.2, 0.5), (0.1, 0.25)


class WalkState(NamedTuple):
    """The start and its search; the walker, its two step lengths and their recent successes; the closest violation."""

    phase: Array
    count: Array
    far: Point
    low: Float[Array, ""]
    high: Float[Array, ""]
    near: Point
    aside: Point
    sideways: Float[Array, ""]
    towards: Float[Array, ""]
    sideways_hits: Array
    sideways_seen: Array
    towards_hits: Array
    towards_seen: Array
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point


def _init(sideways: Any, towards: Any, key: Any, f: Objective, s: Any) -> WalkState:
    del key, f
    number, none = jnp.zeros((), s.center.dtype), jnp.asarray(0, jnp.int32)
    return WalkState(
        near=s.center,
        aside=s.center,
        sideways=number + sideways,
        towards=number + towards,
        sideways_hits=jnp.zeros(100, bool),
        sideways_seen=none,
        towards_hits=jnp.zeros(30, bool),
        towards_seen=none,
        **unstarted(s),
    )


def _arrived(key: Any, state: WalkState, s: Any, near: Point) -> WalkState:
    del key, s
    return to(_SIDEWAYS, state, near=near)


def _aside(key: Any, state: WalkState, s: Any) -> Point:
    """A random step orthogonal to the way to the example, back onto the sphere around it."""
    way = s.center - state.near
    size = s.distance(state.near)
    d = jax.random.normal(key, way.shape, way.dtype)
    towards = unit(way)
    d = unit(d - jnp.sum(d * towards) * towards) * state.sideways * size
    return inside(s, s.center + (d - way) / jnp.sqrt(1 + state.sideways**2))


def _closer(state: WalkState, s: Any, aside: Point) -> Point:
    """From there towards the example, so far that the distance shrinks by a share."""
    size, now = s.distance(state.near), s.distance(aside)
    share = jnp.maximum(state.towards * size + now - size, 0.0) / jnp.where(now > 0, now, 1.0)
    return inside(s, aside + share * (s.center - aside))


def _recent(hits: Array, seen: Array, hit: Array) -> tuple[Array, Array]:
    """The last hits with one more; how many of them there are."""
    return jnp.append(hits[1:], hit), jnp.minimum(seen + 1, hits.size)


def _verdict(hits: Array, seen: Array, rates: tuple[float, float]) -> tuple[Array, Array]:
    """Whether the recent hits are too many, and whether too few; neither before they are all there."""
    full, rate = seen == hits.size, jnp.mean(hits)
    return full & (rate > rates[1]), full & (rate < rates[0])


def _seen_aside(adaptation: Any, key: Any, state: WalkState, s: Any, z: Point, hit: Array) -> WalkState:
    """Too many hits sideways: the boundary is flat here, both steps grow; too few: both shrink."""
    del key, s
    hits, seen = _recent(state.sideways_hits, state.sideways_seen, hit)
    many, few = _verdict(hits, seen, _SIDEWAYS_RATES)
    factor = jnp.where(many, adaptation, jnp.where(few, 1 / adaptation, 1.0)).astype(state.sideways.dtype)
    return state._replace(
        phase=jnp.asarray(_TOWARDS, jnp.int32),
        aside=z,
        sideways=state.sideways * factor,
        towards=state.towards * factor,
        sideways_hits=hits,
        sideways_seen=jnp.where(many | few, 0, seen),
    )


def _ahead(key: Any, state: WalkState, s: Any) -> Point:
    looked = state.count % _EVERY == 0
    return _closer(state, s, where(looked, state.aside, _aside(key, state, s)))


def _walked(adaptation: Any, key: Any, state: WalkState, s: Any, z: Point, hit: Array) -> WalkState:
    del key
    looked = state.count % _EVERY == 0
    hits, seen = _recent(state.towards_hits, state.towards_seen, hit)
    many, few = _verdict(hits, seen, _TOWARDS_RATES)
    factor = jnp.where(many, adaptation, jnp.where(few, 1 / adaptation, 1.0)).astype(state.towards.dtype)
    better = hit & (s.distance(z) < s.distance(state.near))
    count = state.count + 1
    return state._replace(
        phase=jnp.where(count % _EVERY == 0, _SIDEWAYS, _TOWARDS).astype(jnp.int32),
        count=count,
        near=where(better, z, state.near),
        towards=jnp.where(looked, state.towards * factor, state.towards),
        towards_hits=jnp.where(looked, hits, state.towards_hits),
        towards_seen=jnp.where(looked, jnp.where(many | few, 0, seen), state.towards_seen),
    )


def _phases(adaptation: Any, kind: str) -> tuple[Phase, ...]:
    return (
        *beginning(bind(within_share, 1e-3), bind(_arrived), kind=kind),
        Phase(bind(_aside), bind(_seen_aside, adaptation)),
        Phase(bind(_ahead), bind(_walked, adaptation)),
    )


def boundary(
    *,
    queries: int = 25_000,
    sideways: Any = 0.01,
    towards: Any = 0.01,
    adaptation: Any = 1.5,
    name: str = "boundary",
) -> RadiusOracle:
    """Boundary attack: random steps on the sphere around the example, each followed by one towards it, kept while they are violations.

    It starts from random noise that is a violation (uniform in the clip, every other one of a random brightness; without a
    clip Gaussian noise that grows), moved along the line to the boundary.

    Args:
      queries: forward passes at most, >= 1 (structure); eleven for ten steps.
      sideways: the first step on the sphere, as a share of the distance; traced.
      towards: the first step towards the example, as a share of the distance; traced.
      adaptation: the factor by which steps grow and shrink where too many or too few of them succeed, > 1; traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``. `jr.attacks.within` makes it an attack on one set. It sees only whether each
      query is a violation; ``info["forwards"]`` are the queries. Where no noise is one the radius stays ``+inf``.

    Raises:
      ValueError: no queries; another set (when it runs).

    Guarantee: an upper bound of the radius, attained at ``witness``, one of the queries.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z.sum() - 0.4), 0)
    >>> x = jnp.array([0.4, 0.3, 0.2])
    >>> attack = boundary(queries=500, sideways=0.1, towards=0.02)
    >>> found = attack.solve(jax.random.key(0), f, jr.sets.l2(0.0, clip=(0, 1)), x)
    >>> print(bool(0.288 <= found.value < 0.4))  # 0.5 / sqrt(3)
    True

    References:
      Brendel, Rauber & Bethge, Decision-based adversarial attacks: reliable attacks against black-box machine learning models, ICLR
      2018 (constants and rates: Foolbox 3, the authors' own).
    Deviations:
      The first violation is moved to the boundary by bisection. No end by convergence: the budget is spent.
    """
    phases, init = bind(_phases, adaptation), bind(_init, sideways, towards)
    return decision_based(init, phases, queries, kinds=("l2",), by="boundary", name=name)
