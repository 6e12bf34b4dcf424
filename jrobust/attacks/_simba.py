"""SimBA: one basis vector after another is added or subtracted, and kept where the score rises."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._iterate import improves
from jrobust._objective import Objective
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind, where
from jrobust.attacks._queries import Phase, by_scores, cosines, one_array, spending
from jrobust.attacks._square import _layout
from jrobust.attacks._state import Surrogate, keep, nothing
from jrobust.typing import Array, Float, Int, Point

_LOOK, _LESS, _MORE = range(3)


class BasisState(NamedTuple):
    """The iterate with its score, the order of the basis vectors and the place in it, and the worst case so far."""

    phase: Array
    z: Point
    height: Float[Array, ""]
    order: Int[Array, " n"]
    place: Array
    value: Float[Array, ""]
    witness: Point


def _sides(s: Any, *, ratio: float, channels: int) -> tuple[int, int, int]:
    """How many basis vectors along the rows, the columns and the channels of the image."""
    height, width, depth = _layout(s, channels).image(s.center).shape
    return math.ceil(ratio * height), math.ceil(ratio * width), depth


def _init(key: Any, f: Objective, s: Any, *, ratio: float, channels: int, by: str) -> BasisState:
    del f
    one_array(s, by)
    order = jax.random.permutation(key, math.prod(_sides(s, ratio=ratio, channels=channels)))
    worst, none = nothing(s.center), jnp.asarray(0, jnp.int32)
    return BasisState(none, s.center, worst, order, none, worst, s.center)


def _vector(state: BasisState, s: Any, *, basis: str, ratio: float, channels: int) -> Point:
    """The unit vector whose turn it is: one entry, or one cosine of the image and channel."""
    layout = _layout(s, channels)
    height, width, depth = layout.image(s.center).shape
    rows, columns, _ = _sides(s, ratio=ratio, channels=channels)
    row, column, channel = jnp.unravel_index(state.order[state.place], (rows, columns, depth))
    if basis == "pixel":
        down, across = jnp.arange(height) == row, jnp.arange(width) == column
    else:
        down, across = jnp.asarray(cosines(height, rows))[:, row], jnp.asarray(cosines(width, columns))[:, column]
    parts = (a.astype(s.center.dtype) for a in (down, across, jnp.arange(depth) == channel))
    return layout.example(jnp.einsum("h,w,c->hwc", *parts))


def _ask(step: Any, key: Any, state: BasisState, s: Any, *, sign: int, **layout: Any) -> Point:
    del key
    return s.project(state.z + sign * step * _vector(state, s, **layout)) if sign else state.z


def _learn(key: Any, state: BasisState, s: Any, z: Point, height: Array, *, sign: int) -> BasisState:
    """What improves is kept; the next vector's turn comes after an improvement, or after both signs."""
    del key, s
    height = height.astype(state.height.dtype)
    better = improves(height, state.height)
    following = (state.place + 1) % state.order.shape[0]
    done = jnp.asarray(sign > 0) | (better & (sign != 0))
    return state._replace(
        z=where(better, z, state.z),
        height=jnp.where(better, height, state.height),
        place=jnp.where(done, following, state.place),
        phase=jnp.where(done | (sign == 0), _LESS, _MORE).astype(jnp.int32),
    )


def _keep(state: BasisState, z: Point, value: Float[Array, ""], s: Any) -> BasisState:
    del s
    return keep(state, z, value)


def _for_set(
    step: Any,
    kind: str,
    classes: int,
    *,
    queries: int,
    basis: str,
    ratio: float,
    surrogate: Any,
    channels: int,
    name: str,
) -> Oracle:
    del kind, classes
    layout = {"basis": basis, "ratio": ratio, "channels": channels}
    phases = tuple(Phase(bind(_ask, step, sign=sign, **layout), bind(_learn, sign=sign)) for sign in (0, -1, 1))
    init = bind(_init, ratio=ratio, channels=channels, by="simba")
    return spending(by_scores(init, phases, record=_keep, surrogate=surrogate, own=True), queries, name)


def simba(
    *,
    queries: int = 10_000,
    step: Any = 0.2,
    basis: Literal["pixel", "dct"] = "pixel",
    ratio: float | None = None,
    surrogate: Surrogate | None = None,
    channels: int = -1,
    name: str = "simba",
) -> Oracle:
    """Simple black-box attack: a step along one vector of an orthonormal basis, back and forth, kept where the score rises.

    Args:
      queries: forward passes at most, >= 1 (structure); one or two a vector.
      step: length along a vector, Euclidean, in the units of the input; traced. What leaves the set is projected onto it.
      basis: "pixel" (one entry) or "dct" (one cosine of one channel; low frequencies) (structure).
      ratio: the share of vectors along each side of the image that are used, the first ones, in (0, 1] (structure). None: 1 for
        "pixel", 1/8 for "dct".
      surrogate: what has to rise, ``(objective, outputs) -> scalar``; None takes the objective's own (cross-entropy, which ranks as
        the label's probability does).
      channels: the axis of the channels, as in `jr.attacks.square`.
      name: for tables.

    Returns:
      An `Oracle` of side "lower", for every set of one array; each example stops at its first violation, and
      ``info["forwards"]`` are the queries it took. The model is never differentiated.

    Raises:
      ValueError: no queries, another basis, a ratio outside (0, 1].

    Guarantee: a lower bound, attained at ``witness``, which lies in the set to rounding.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z.sum(), 0)
    >>> bound = simba(queries=50, step=1.0).solve(jax.random.key(0), f, jr.sets.linf(0.1)(jnp.ones((2, 2))))
    >>> print(f"{bound.value:.1f}")  # every entry at 0.9
    -7.2

    References:
      Guo, Gardner, You, Wilson & Weinberger, Simple black-box adversarial attacks, ICML 2019 (step: the authors' code).
    Deviations:
      The set bounds the perturbation (theirs is bounded by the number of steps). Each example has its own random order, which starts
      again at its end.
    """
    check_count(queries, "queries", "simba")
    if basis not in ("pixel", "dct"):
        raise ValueError(f"simba: basis is 'pixel' or 'dct', got {basis!r}")
    ratio = (1.0 if basis == "pixel" else 0.125) if ratio is None else ratio
    if not 0 < ratio <= 1:
        raise ValueError(f"simba: ratio must lie in (0, 1], got {ratio}")
    name = f"{name}-{queries}"
    options = {"queries": queries, "basis": basis, "ratio": ratio, "surrogate": surrogate, "channels": channels}
    return adaptive("lower", bind(_for_set, step, name=name, **options), name=name)
