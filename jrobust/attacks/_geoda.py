"""GeoDA: the boundary is nearly flat around the closest violation, so its normal there, from decisions, is the way to go."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._decision import beginning, decision_based, inside, search, to, unstarted
from jrobust.attacks._minimum import unit
from jrobust.attacks._queries import Phase, cosines
from jrobust.attacks._square import _layout
from jrobust.typing import Array, Float, Point

_AROUND, _GO = 2, 3
_FARTHEST = 8  # doublings of the way along a normal, before another one is estimated


class NormalState(NamedTuple):
    """The start and its search; the boundary point, this round's decisions, the normal over all rounds; the closest violation."""

    phase: Array
    count: Array
    far: Point
    low: Float[Array, ""]
    high: Float[Array, ""]
    near: Point
    total: Point
    normal: Point
    round: Array
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point


def _init(key: Any, f: Objective, s: Any) -> NormalState:
    del key, f
    zero, none = jnp.zeros_like(s.center), jnp.asarray(0, jnp.int32)
    return NormalState(near=s.center, total=zero, normal=zero, round=none, **unstarted(s))


def _rounds(queries: int, decay: float) -> tuple[int, ...]:
    """Decisions of each round: they grow by ``decay^(-2/3)``, the first round takes 80 at most; 25 queries a round are left to search."""
    rounds = 1
    while True:
        growth = decay ** (-2 / 3 * np.arange(rounds))
        counts = np.round(max(queries - 25 * rounds, rounds) * growth / growth.sum())
        if counts[0] <= 80:
            return tuple(int(n) for n in np.maximum(counts, 1))
        rounds += 1


def _tolerance(tolerance: Any, state: NormalState, s: Any) -> Array:
    return tolerance / jnp.sqrt(jnp.sum((state.far - s.center) ** 2))


def _arrived(key: Any, state: NormalState, s: Any, near: Point) -> NormalState:
    del key, s
    return to(_AROUND, state, near=near, total=jnp.zeros_like(near))


def _noise(key: Any, s: Any, *, ratio: float, channels: int) -> Point:
    """Normal coefficients of the lowest cosines of each channel; of all of them: white noise."""
    x = s.center
    if ratio == 1:
        return jax.random.normal(key, x.shape, x.dtype)
    layout = _layout(s, channels)
    height, width, depth = layout.image(x).shape
    rows, columns = (cosines(n, int(np.ceil(ratio * n))) for n in (height, width))
    lowest = jax.random.normal(key, (rows.shape[1], columns.shape[1], depth), x.dtype)
    return layout.example(jnp.einsum("hi,wj,ijc->hwc", rows, columns, lowest).astype(x.dtype))


def _around(width: Any, key: Any, state: NormalState, s: Any, **law: Any) -> Point:
    return inside(s, state.near + width * _noise(key, s, **law))


def _learnt(
    key: Any, state: NormalState, s: Any, z: Point, hit: Array, *, rounds: tuple[int, ...], **law: Any
) -> NormalState:
    del z
    noise = _noise(key, s, **law)
    enough = jnp.asarray(rounds)[jnp.minimum(state.round, len(rounds) - 1)]
    state = state._replace(total=state.total + jnp.where(hit, noise, -noise), count=state.count + 1)
    going = to(_GO, state, normal=state.normal + state.total / enough, round=state.round + 1)
    return where(state.count >= enough, going, state)


def _go(key: Any, state: NormalState, s: Any, *, kind: str) -> Point:
    """From the example along the normal, first as far as the boundary point was."""
    del key
    direction = jnp.sign(state.normal) if kind == "linf" else unit(state.normal)
    reach = s.distance(state.near) * 2.0 ** state.count.astype(direction.dtype)
    return inside(s, s.center + reach * direction)


def _gone(key: Any, state: NormalState, s: Any, z: Point, hit: Array) -> NormalState:
    further = state._replace(count=state.count + 1)
    lost = _arrived(key, state, s, state.near)
    return where(hit, search(state, z), where(further.count > _FARTHEST, lost, further))


def _phases(
    width: Any, tolerance: Any, kind: str, *, rounds: tuple[int, ...], ratio: float, channels: int
) -> tuple[Phase, ...]:
    law = {"ratio": ratio, "channels": channels}
    return (
        *beginning(bind(_tolerance, tolerance), bind(_arrived), kind="l2"),  # along lines, whatever the norm
        Phase(bind(_around, width, **law), bind(_learnt, rounds=rounds, **law)),
        Phase(bind(_go, kind=kind), bind(_gone)),
    )


def geoda(
    *,
    queries: int = 4000,
    width: Any = 2e-4,
    tolerance: Any = 1e-4,
    decay: float = 0.6,
    ratio: float = 1.0,
    channels: int = -1,
    name: str = "geoda",
) -> RadiusOracle:
    """GeoDA: estimate the boundary's normal from decisions, go along it from the example, search the boundary there, and again.

    It starts from random noise that is a violation (uniform in the clip, every other one of a random brightness; without a
    clip Gaussian noise that grows).

    Args:
      queries: forward passes at most, >= 1 (structure).
      width: standard deviation of the points around the boundary at which decisions are asked, in the units of the input; traced.
      tolerance: of the searches, Euclidean, in the units of the input; traced.
      decay: each round asks ``decay^(-2/3)`` times as many decisions as the one before, in (0, 1) (structure).
      ratio: the share of the cosines along each side of the image that the noise is made of, the lowest, in (0, 1] (structure); 1 is
        white noise. The authors take 75 of 224.
      channels: the axis of the channels, as in `jr.attacks.square`.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``, ``linf``. `jr.attacks.within` makes it an attack on one set. It sees only
      whether each query is a violation; ``info["forwards"]`` are the queries. Where no noise is one the radius stays ``+inf``.

    Raises:
      ValueError: no queries, a decay or ratio out of range; another set (when it runs).

    Guarantee: an upper bound of the radius, attained at ``witness``, one of the queries.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z.sum() - 0.4), 0)
    >>> x = jnp.array([0.4, 0.3, 0.2])
    >>> found = geoda(queries=500).solve(jax.random.key(0), f, jr.sets.l2(0.0, clip=(0, 1)), x)
    >>> print(bool(0.288 <= found.value < 0.33))  # 0.5 / sqrt(3)
    True

    References:
      Rahmati, Moosavi-Dezfooli, Frossard & Dai, GeoDA: a geometric framework for black-box adversarial attacks, CVPR 2020 (constants:
      the authors' code, in units of the input).
    Deviations:
      White noise unless ``ratio`` says otherwise; no sparse (L1) form. The way along a normal starts at the present distance and is
      doubled (theirs grows by a constant). Rounds after the budget's plan ask as many decisions as the last.
    """
    check_count(queries, "queries", "geoda")
    if not 0 < decay < 1:
        raise ValueError(f"geoda: decay must lie in (0, 1), got {decay}")
    if not 0 < ratio <= 1:
        raise ValueError(f"geoda: ratio must lie in (0, 1], got {ratio}")
    phases = bind(_phases, width, tolerance, rounds=_rounds(queries, decay), ratio=ratio, channels=channels)
    return decision_based(bind(_init), phases, queries, kinds=("l2", "linf"), by="geoda", name=name)
