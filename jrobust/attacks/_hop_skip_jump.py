"""HopSkipJump: the boundary's normal from decisions around it, a step along it, and a search back to the boundary."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._decision import beginning, decision_based, inside, search, to, unstarted
from jrobust.attacks._minimum import two_ends, unit
from jrobust.attacks._queries import Phase
from jrobust.typing import Array, Float, Point

_AROUND, _STEP = 2, 3
_MOST = 10_000  # queries of one estimate


class HopState(NamedTuple):
    """Start and search; the boundary point, the decisions around it, the direction and length of the step; the closest violation."""

    phase: Array
    count: Array
    far: Point
    low: Float[Array, ""]
    high: Float[Array, ""]
    near: Point
    reach: Float[Array, ""]
    weighted: Point
    plain: Point
    hits: Array
    direction: Point
    length: Float[Array, ""]
    round: Array
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point


def _init(key: Any, f: Objective, s: Any) -> HopState:
    del key, f
    zero, number, none = jnp.zeros_like(s.center), jnp.zeros((), s.center.dtype), jnp.asarray(0, jnp.int32)
    return HopState(
        near=s.center,
        reach=number,
        weighted=zero,
        plain=zero,
        hits=none,
        direction=zero,
        length=number,
        round=none,
        **unstarted(s),
    )


def _theta(gamma: Any, s: Any, *, kind: str) -> Any:
    """The published tolerance; no finer than float32 can follow."""
    d = s.center.size
    return jnp.maximum(gamma / (d * d if kind == "linf" else d * d**0.5), 1e-6)


def _tolerance(gamma: Any, state: HopState, s: Any, *, kind: str) -> Any:
    theta = _theta(gamma, s, kind=kind)
    return theta / jnp.maximum(s.distance(state.far), 1.0) if kind == "linf" else theta


def _arrived(key: Any, state: HopState, s: Any, near: Point) -> HopState:
    """At the boundary: how far the search began scales the next estimate."""
    del key
    zero = jnp.zeros_like(near)
    reach = s.distance(state.far).astype(state.reach.dtype)
    return to(
        _AROUND, state, near=near, reach=reach, weighted=zero, plain=zero, hits=state.hits * 0, round=state.round + 1
    )


def _delta(gamma: Any, state: HopState, s: Any, *, kind: str) -> Any:
    """How far from the boundary the decisions are asked: a tenth of the clip's width first, then as the paper has it."""
    d, (finite, _, width) = s.center.size, two_ends(s)
    later = (d if kind == "linf" else d**0.5) * _theta(gamma, s, kind=kind) * state.reach
    widest = jnp.max(jnp.where(finite, width, 0.0))
    return jnp.where((state.round == 1) & (widest > 0), 0.1 * widest, later)


def _around(gamma: Any, key: Any, state: HopState, s: Any, *, kind: str) -> Point:
    x = s.center
    law = (
        jax.random.uniform(key, x.shape, x.dtype, -1, 1) if kind == "linf" else jax.random.normal(key, x.shape, x.dtype)
    )
    return inside(s, state.near + (_delta(gamma, state, s, kind=kind) * unit(law)).astype(x.dtype))


def _learnt(gamma: Any, first: Any, key: Any, state: HopState, s: Any, z: Point, hit: Array, *, kind: str) -> HopState:
    del key
    d = ((z - state.near) / _delta(gamma, state, s, kind=kind)).astype(z.dtype)
    weighted, plain = state.weighted + jnp.where(hit, d, -d), state.plain + d
    hits, count = state.hits + hit, state.count + 1
    mean = 2 * hits / count - 1
    baseline = jnp.where(jnp.abs(mean) == 1, 0.0, mean)  # all on one side: nothing is subtracted
    g = unit(weighted - baseline.astype(plain.dtype) * plain)
    direction = jnp.sign(g) if kind == "linf" else g
    state = state._replace(weighted=weighted, plain=plain, hits=hits, count=count)
    length = s.distance(state.near) / jnp.sqrt(state.round)
    stepping = to(_STEP, state, direction=direction, length=length.astype(state.length.dtype))
    enough = jnp.minimum(jnp.floor(first * jnp.sqrt(state.round)), _MOST)
    return where(count >= enough, stepping, state)


def _step(key: Any, state: HopState, s: Any) -> Point:
    del key
    return inside(s, state.near + state.length * state.direction)


def _stepped(key: Any, state: HopState, s: Any, z: Point, hit: Array) -> HopState:
    """Half the step until it is a violation: in the end it is the boundary point itself."""
    del key, s
    return where(hit, search(state, z), state._replace(length=0.5 * state.length, count=state.count + 1))


def _phases(first: Any, gamma: Any, kind: str) -> tuple[Phase, ...]:
    return (
        *beginning(bind(_tolerance, gamma, kind=kind), bind(_arrived), kind=kind),
        Phase(bind(_around, gamma, kind=kind), bind(_learnt, gamma, first, kind=kind)),
        Phase(bind(_step), bind(_stepped)),
    )


def hop_skip_jump(
    *, queries: int = 25_000, first: Any = 100, gamma: Any = 1.0, name: str = "hop_skip_jump"
) -> RadiusOracle:
    """HopSkipJump: estimate the boundary's normal from decisions, step along it, search back to the boundary.

    It starts from random noise that is a violation (uniform in the clip, every other one of a random brightness; without a
    clip Gaussian noise that grows).

    Args:
      queries: forward passes at most, >= 1 (structure).
      first: decisions in the first estimate, >= 1; the t-th takes ``first * sqrt(t)``, at most 10,000; traced.
      gamma: of the tolerance ``theta = gamma / d^1.5`` (L2) or ``gamma / d^2`` (Linf) of the searches, > 0; traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``, ``linf``. `jr.attacks.within` makes it an attack on one set. It sees only
      whether each query is a violation; ``info["forwards"]`` are the queries. Where no noise is one the radius stays ``+inf``.

    Raises:
      ValueError: no queries; another set (when it runs).

    Guarantee: an upper bound of the radius, attained at ``witness``, one of the queries.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z.sum() - 0.4), 0)
    >>> x = jnp.array([0.4, 0.3, 0.2])
    >>> found = hop_skip_jump(queries=500).solve(jax.random.key(0), f, jr.sets.l2(0.0, clip=(0, 1)), x)
    >>> print(bool(0.288 <= found.value < 0.35))  # 0.5 / sqrt(3)
    True

    References:
      Chen, Jordan & Wainwright, HopSkipJumpAttack: a query-efficient decision-based attack, IEEE S&P 2020 (constants: the authors'
      code).
    Deviations:
      One search from the first noise to the boundary, not two. Tolerances are no finer than float32. Without a clip the first
      estimate is scaled as the later ones are.
    """
    phases = bind(_phases, first, gamma)
    return decision_based(bind(_init), phases, queries, kinds=("l2", "linf"), by="hop_skip_jump", name=name)
