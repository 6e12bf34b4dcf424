"""Carlini and Wagner's attacks: distance plus a multiple of the margin, minimised in coordinates that cannot leave the box."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective, largest
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._minimum import adam, closer, closest, farthest, minimize, only_balls, two_ends, unfound
from jrobust.attacks._multiple import Multiple, advanced, check_searches, finished, stalled, unsearched
from jrobust.attacks._state import climb
from jrobust.sets._sparse import largest_groups, moved_groups, spread
from jrobust.typing import Array, Float, Point

_INSIDE = 1 - 1e-6


class PenaltyState(NamedTuple):
    """The iterate and its coordinates, Adam's moments, the closest violation, and the multiple.

    ``limit``: how far entries move at no cost (linf). ``free``: which entries may move (all, but on l0).
    """

    z: Point
    w: Point
    mean: Point
    square: Point
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    multiple: Multiple
    limit: Float[Array, ""]
    free: Array


class Seen(NamedTuple):
    """What an evaluation showed: the loss, the margin's gradient, whether it was reached, whether nothing closer was found before."""

    loss: Float[Array, ""]
    gradient: Array
    reached: Array
    closest: Array


def _unclipped(s: Any, w: Array) -> Array:
    """The point of coordinates ``w``, to rounding in the clip; entries without two ends are their own coordinates."""
    finite, lo, width = two_ends(s)
    return jnp.where(finite, lo + width * (jnp.tanh(w) / _INSIDE + 1) / 2, w)


def _box(s: Any, w: Array) -> Array:
    """The point of coordinates ``w``: any real numbers give a point of the clip."""
    return jnp.clip(_unclipped(s, w), *s.params[1:])


def _coordinates(s: Any) -> Array:
    """Those of the example."""
    finite, lo, width = two_ends(s)
    share = 2 * (s.center - lo) / jnp.where(width > 0, width, 1.0) - 1
    return jnp.where(finite, jnp.arctanh(jnp.clip(share, -1, 1) * _INSIDE), s.center)


def _moved(s: Any, w: Array, by: Array) -> Array:
    """Coordinates after a step; those that are the input's own stay in the clip."""
    w = w - by
    return jnp.where(two_ends(s)[0], w, jnp.clip(w, *s.params[1:]))


def _squares(d: Array, limit: Array) -> tuple[Float[Array, ""], Array]:
    """L2: the squared distance, and its gradient."""
    del limit
    return jnp.sum(d**2), 2 * d


def _excess(d: Array, limit: Array) -> tuple[Float[Array, ""], Array]:
    """Linf: what entries move beyond the limit, and its gradient."""
    over = jnp.maximum(jnp.abs(d) - limit, 0.0)
    return jnp.sum(over), jnp.where(over > 0, jnp.sign(d), 0.0)


def _bisect(state: PenaltyState, seen: Seen, s: Any, *, steps: int, searches: int) -> tuple[PenaltyState, Array]:
    """L2: every search starts at the example, with a multiple between one too small and one that is enough."""
    multiple = state.multiple._replace(hit=state.multiple.hit | seen.reached)
    multiple, over = stalled(multiple, seen.loss, steps)
    multiple, ends = advanced(multiple, over, steps=steps, searches=searches)
    return state._replace(multiple=multiple, w=jnp.where(ends, _coordinates(s), state.w)), ends


def _double(m: Multiple, hit: Array, over: Array, *, steps: int, searches: int, most: float) -> tuple[Multiple, Array]:
    """One step on, and whether the search ends; without a hit the multiple doubles, until it is beyond ``most``."""
    ends = over | (m.count + 1 >= steps)
    value = jnp.where(ends & ~hit, 2 * m.value, m.value)
    count, ended = jnp.where(ends, 0, m.count + 1), m.ended + ends
    done = m.done | (ended >= searches) | (value > most)
    return m._replace(value=value, hit=hit & ~ends, count=count, ended=ended, done=done), ends


def _tighten(state: PenaltyState, seen: Seen, s: Any, *, steps: int, searches: int) -> tuple[PenaltyState, Array]:
    """Linf: searches go on from one another; success tightens the limit, failure doubles the multiple."""
    del s
    m = state.multiple
    hit, over = m.hit | seen.closest, seen.loss < 1e-4 * m.value
    m, ends = _double(m, hit, over, steps=steps, searches=searches, most=20.0)
    limit = jnp.where(ends & hit, 0.9 * jnp.minimum(state.radius, state.limit), state.limit)
    return state._replace(multiple=m, limit=limit), ends


def _freeze(state: PenaltyState, seen: Seen, s: Any, *, steps: int, searches: int) -> tuple[PenaltyState, Array]:
    """L0: searches go on from one another; success freezes what did not move and a few of what mattered least."""
    moved = moved_groups(s, state.z)
    importance = jnp.abs(seen.gradient * (state.z - s.center))
    if moved.ndim < importance.ndim:
        importance = jnp.sum(importance, axis=-1)
    few = 1 + jnp.sum(moved & (importance <= 0.01))
    few = jnp.minimum(few, jnp.ceil(0.3 * jnp.sqrt(jnp.sum(moved)))).astype(jnp.int32)
    least = largest_groups(jnp.where(moved, 1 + jnp.max(importance) - importance, 0.0), few)
    m, ends = _double(state.multiple, seen.reached, seen.reached, steps=steps, searches=searches, most=2e6)
    free = jnp.where(seen.reached, state.free & spread(s, moved & ~least), state.free)
    return state._replace(multiple=m._replace(done=m.done | ~jnp.any(free)), free=free), ends


class Kind(NamedTuple):
    """What differs between sets: the distance that is minimised, how searches follow one another, and the defaults."""

    distance: Any
    following: Any
    steps: int
    searches: int
    multiple: float


_ENTRIES = Kind(_squares, _freeze, 1000, 400, 1e-3)
_KINDS = {
    "l2": Kind(_squares, _bisect, 10_000, 9, 1e-3),
    "linf": Kind(_excess, _tighten, 1000, 80, 1e-5),
    "l0": _ENTRIES,
    "l0-pixels": _ENTRIES,
}


def _point(s: Any, w: Array, free: Array) -> Array:
    """The point of coordinates ``w``, the example where entries are not free; on l0 also where they hardly move."""
    z = _box(s, w)
    if not s.geometry.name.startswith("l0"):
        return z
    _, lo, hi = s.params
    return jnp.where(free & (jnp.abs(z - s.center) >= 1e-4 * (hi - lo)), z, s.center)


def _init(multiple: Any, key: Any, f: Objective, s: Any) -> PenaltyState:
    del key, f
    w = _coordinates(s)
    zero, free = jnp.zeros_like(w), jnp.ones(w.shape, bool)
    limit = farthest(s).astype(w.dtype)
    return PenaltyState(
        s.center, w, zero, zero, multiple=unsearched(multiple, w.dtype), limit=limit, free=free, **unfound(s)
    )


def _step(
    step: Any,
    confidence: Any,
    key: Any,
    state: PenaltyState,
    f: Objective,
    s: Any,
    *,
    kind: str,
    steps: int,
    searches: int,
) -> PenaltyState:
    del key
    value, _, g = climb(f, largest, state.z)
    radius, state = state.radius, closer(state, state.z, value, s)
    multiple, short = state.multiple, jnp.maximum(confidence - value, 0.0)
    distance, away = _KINDS[kind].distance(state.z - s.center, state.limit)
    reached = violated(value) & (value >= confidence)
    seen = Seen(distance + multiple.value * short, g, reached, state.radius < radius)
    # one step of Adam in the coordinates
    # before rounding is clipped: the clip would stop every entry that lies at an end
    _, pull = jax.vjp(lambda w: _unclipped(s, w), state.w)
    (slope,) = pull(away - jnp.where(short > 0, multiple.value, 0.0) * g)
    slope = jnp.where(state.free, slope, 0.0)
    mean, square, direction, metric = adam(state.mean, state.square, slope, multiple.count + 1)
    state = state._replace(w=_moved(s, state.w, step * direction / metric))
    state, ends = _KINDS[kind].following(state, seen, s, steps=steps, searches=searches)
    z = _point(s, state.w, state.free)
    return state._replace(z=z, mean=jnp.where(ends, 0.0, mean), square=jnp.where(ends, 0.0, square))


def _total(kind: str, *, steps: int | None, searches: int | None) -> int:
    return (steps or _KINDS[kind].steps) * (searches or _KINDS[kind].searches)


def _for_set(
    step: Any, confidence: Any, multiple: Any, kind: str, classes: int, *, steps: int | None, searches: int | None
) -> Algorithm:
    del classes
    only_balls(kind, tuple(_KINDS), "carlini_wagner")
    default = _KINDS[kind]
    multiple = default.multiple if multiple is None else multiple
    steps, searches = steps or default.steps, searches or default.searches
    stepping = bind(_step, step, confidence, kind=kind, steps=steps, searches=searches)
    return Algorithm(bind(_init, multiple), stepping, bind(closest))


def carlini_wagner(
    *,
    steps: int | None = None,
    searches: int | None = None,
    step: Any = 0.01,
    multiple: Any = None,
    confidence: Any = 0.0,
    name: str = "carlini_wagner",
) -> RadiusOracle:
    """Carlini and Wagner's attacks: Adam on a distance plus a multiple of the margin, and a search for the multiple.

    L2: the squared distance; the multiple grows tenfold until it is enough, then it is bisected, each search from the example. Linf:
    what entries move beyond a limit; a success lowers the limit to 0.9 times the closest violation, a failure doubles the multiple
    (up to 20), each search from where the last one ended. L0: the squared distance; a success freezes the entries (pixels) that matter
    least to the margin, a failure doubles the multiple (up to 2e6).

    Args:
      steps: gradient steps of one search, >= 1 (structure); None takes 10 000 on L2, 1000 elsewhere. A search ends early where the loss
        no longer falls (L2, looked at ten times), where a violation lies within the limit (Linf), at the first violation (L0).
      searches: how many at most, >= 1 (structure); None takes 9 on L2, 80 on Linf, 400 on L0.
      step: of Adam, in the coordinates of the box (the input's own without a clip); traced. Radii far below one step in every entry
        take a smaller one: there a search is given up at its first look.
      multiple: the first one, > 0; traced. None takes 0.001 on L2 and L0, 1e-5 on Linf.
      confidence: the margin that a search wants to reach, >= 0; traced. The witness is the closest violation, of whatever margin.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``, ``linf``, ``l0``. `jr.attacks.within` makes it an attack on one set.

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
      Entries without two finite ends are their own coordinates. Early abort is judged for each example. On Linf the first limit is
      the distance of the farthest corner (published: 1), and there is no smallest limit (published: 1/256). On L0 everything that
      a success did not move is frozen at once.
    """
    check_searches(1 if steps is None else steps, 1 if searches is None else searches, "carlini_wagner")
    choose = bind(_for_set, step, confidence, multiple, steps=steps, searches=searches)
    tag = "" if steps is None else f"-{steps}" if searches is None else f"-{searches}x{steps}"
    return minimize(choose, bind(_total, steps=steps, searches=searches), until=bind(finished), name=f"{name}{tag}")
