"""What decision-based attacks share: a first violation by random noise, and the search for the boundary between it and the example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._minimum import closer, minimize, only_balls, two_ends, unfound
from jrobust.attacks._queries import Phase, at_once, by_decisions
from jrobust.sets._base import clamp
from jrobust.typing import Array, Float, Point

START, SEARCH = 0, 1  # the phases that all have; their own follow
_GROWTH, _FIRST, _WIDEST = 2**0.25, 0.02, 1e6
FINEST = 1e-6  # a bracket cannot be narrower than float32 resolves


def unstarted(s: Any) -> dict[str, Any]:
    """The fields that every decision-based attack's state has, before the first query."""
    number = jnp.zeros((), s.center.dtype)
    none = jnp.asarray(0, jnp.int32)
    return {"phase": none, "count": none, "far": s.center, "low": number, "high": number + 1, **unfound(s)}


def inside(s: Any, z: Point) -> Point:
    """The nearest point of the clip."""
    return clamp(z, *s.params[1:])


def to(phase: int, state: Any, **fields: Any) -> Any:
    """The state in another phase, its count at zero."""
    return state._replace(phase=jnp.asarray(phase, jnp.int32), count=jnp.zeros_like(state.count), **fields)


def search(state: Any, far: Point) -> Any:
    """Look for the boundary between the example and the violation ``far``."""
    return to(SEARCH, state, far=far, low=jnp.zeros_like(state.low), high=jnp.ones_like(state.high))


def noise(key: Any, count: Array, s: Any) -> Point:
    """A random point to start from: uniform in the clip, every other one raised to a random power, from dark to bright.

    (Some classes are what a model makes of any uniform noise.) Entries that no clip bounds: Gaussian noise that grows from try to try.
    """
    _, lo, hi = s.params
    x = s.center
    size = jnp.minimum(_FIRST * _GROWTH ** count.astype(x.dtype), _WIDEST)
    grown = inside(s, x + size * jax.random.normal(key, x.shape, x.dtype))
    if lo is None or hi is None:
        return grown
    k_noise, k_power = jax.random.split(key)
    power = jnp.where(count % 2 == 1, 1.0, jnp.exp(2.0 * jax.random.normal(k_power, (), x.dtype)))
    finite, low, width = two_ends(s)
    return jnp.where(finite, low + width * jax.random.uniform(k_noise, x.shape, x.dtype) ** power, grown)


def _start(key: Any, state: Any, s: Any) -> Point:
    return where(state.count > 0, noise(key, state.count, s), s.center)


def _started(key: Any, state: Any, s: Any, z: Point, hit: Array) -> Any:
    del key, s
    return where(hit, search(state, z), state._replace(count=state.count + 1))


def between(s: Any, far: Point, t: Array, *, kind: str) -> Point:
    """From the example (0) to ``far`` (1): along a line, on Linf sets by cutting off the displacement."""
    d = far - s.center
    reach = t * jnp.max(jnp.abs(d), initial=0.0)
    moved = jnp.clip(d, -reach, reach) if kind == "linf" else t * d
    return where(t >= 1, far, inside(s, s.center + moved))


def _middle(key: Any, state: Any, s: Any, *, kind: str) -> Point:
    del key
    return between(s, state.far, 0.5 * (state.low + state.high), kind=kind)


def _narrowed(
    tolerance: Any, arrived: Callable[..., Any], key: Any, state: Any, s: Any, z: Point, hit: Array, *, kind: str
) -> Any:
    del z
    middle = 0.5 * (state.low + state.high)
    low, high = jnp.where(hit, state.low, middle), jnp.where(hit, middle, state.high)
    state = state._replace(low=low, high=high)
    finest = jnp.maximum(tolerance(state, s), FINEST)
    return where(high - low <= finest, arrived(key, state, s, between(s, state.far, high, kind=kind)), state)


def beginning(tolerance: Any, arrived: Any, *, kind: str) -> tuple[Phase, Phase]:
    """The phases `START` and `SEARCH`.

    Args:
      tolerance: ``(state, s) -> `` the width, as a share of the way, at which a bracket of the boundary is narrow enough.
      arrived: ``(key, state, s, near) -> state``, from a violation next to the boundary (both made with `bind`).
      kind: of the set.
    """
    return (
        Phase(bind(_start), bind(_started)),
        Phase(bind(_middle, kind=kind), bind(_narrowed, tolerance, arrived, kind=kind)),
    )


def _record(state: Any, z: Point, value: Float[Array, ""], s: Any) -> Any:
    return closer(state, z, value, s)


def _for_set(phases: Any, init: Any, kind: str, classes: int, *, kinds: tuple[str, ...], by: str) -> Any:
    del classes
    only_balls(kind, kinds, by)
    return by_decisions(init, phases(kind), record=_record)


def decision_based(init: Any, phases: Any, queries: int, *, kinds: tuple[str, ...], by: str, name: str) -> RadiusOracle:
    """The `RadiusOracle` of a decision-based attack.

    Args:
      init: ``(key, f, s) -> state``, with the fields of `unstarted`.
      phases: ``kind of set -> phases`` (both made with `bind`).
      queries: the budget.
      kinds: the kinds of sets that it works on.
      by: the attack's name in errors.
      name: for tables.
    """
    check_count(queries, "queries", by)
    return minimize(
        bind(_for_set, phases, init, kinds=kinds, by=by), queries, until=bind(at_once), name=f"{name}-{queries}"
    )


def within_share(share: Any, state: Any, s: Any) -> Any:
    """The tolerance that is always the same share of the way."""
    del state, s
    return share


def made(make: Callable[[Any], Any], key: Any, f: Objective, s: Any) -> Any:
    """An ``init`` from ``s -> state``."""
    del key, f
    return make(s)
