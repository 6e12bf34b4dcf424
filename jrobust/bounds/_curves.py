"""Functions of one variable between two lines of any slope: the offset is computed, so no slope has to be proved.

A curve is cut where its curvature changes sign (`Curve`). On a convex piece ``f(x) - k x`` is largest at an end; on a concave one it
is largest where ``f' = k``, and a few bisections give a point whose tangent bounds it from above, wherever they stop. Slopes are those of
the convex and concave envelopes at the middle of the interval, as far as a grid shows them: the lines with the least area.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jrobust import _loops
from jrobust._program import Equation
from jrobust.bounds._tables import INTERVAL, Interval, anything, defcall, definterval, defrelax
from jrobust.typing import Array

_BISECTIONS, _SLOPES = 14, 20
_NEAR = (0.0, 0.3, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # beside a bend, at the scale on which these functions bend

Line = tuple[Array, Array]
"""``k, b`` of ``x -> k (x - centre) + b``."""


class Curve(NamedTuple):
    """Where a function's curvature changes sign, in increasing order, and whether it is convex before, between and after.

    Both may be arrays that depend on the interval.
    """

    bends: Sequence[Any]
    convex: Sequence[Any]


def _slope(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda v: jax.jvp(f, (v,), (jnp.ones_like(v),))[1]


def _both(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """``f`` and ``-f`` of arrays [2, n, ...], for functions of the trailing shape alone."""
    return lambda v: jnp.stack([1.0, -1.0]).astype(v.dtype).reshape(2, *[1] * (v.ndim - 1)) * jax.vmap(jax.vmap(f))(v)


def _most(f: Callable[[Array], Array], curve: Curve, x: Interval, centre: Array, k: Array) -> Array:
    """Upper bounds of ``f(v) - k[0] (v - centre)`` and ``-f(v) - k[1] (v - centre)`` over the interval, attained up to a last bisection."""
    shape = x.lo.shape
    edges = jnp.stack([x.lo, *(jnp.clip(b, x.lo, x.hi) for b in curve.bends), x.hi])
    convex = jnp.stack([jnp.broadcast_to(jnp.asarray(c), shape) for c in curve.convex])
    a, b = (jnp.broadcast_to(e, (2, *e.shape)) for e in (edges[:-1], edges[1:]))  # [2, pieces, ...]
    k = k[:, None]

    def height(v: Array) -> Array:
        return _both(f)(v) - k * (v - centre)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        mid = 0.5 * (ends[0] + ends[1])
        rises = _both(_slope(f))(mid) >= k
        return jnp.where(rises, mid, ends[0]), jnp.where(rises, ends[1], mid)

    found = _loops.fori_loop(0, _BISECTIONS, halve, (a, b))
    # derivatives see the place of the extreme value, as a share of the piece, as fixed (the envelope theorem)
    width = jnp.where(b > a, b - a, 1.0)
    s, t = (jnp.clip(a + lax.stop_gradient((end - a) / width) * (b - a), a, b) for end in found)
    rise = jnp.maximum(_both(_slope(f))(s) - k, 0.0)
    inside = jnp.maximum(height(t), height(s) + jnp.where(t > s, rise * (t - s), 0.0))
    concave = jnp.stack([~convex, convex])
    tops = jnp.maximum(jnp.maximum(height(a), height(b)), jnp.where(concave, inside, -jnp.inf))
    return jnp.max(tops, axis=1)


def _envelopes(run: Array, rise: Array, tangent: Array) -> Array:
    """Slopes at the middle of the concave envelopes of points ``rise`` [2, n, ...] at ``run``: the tangents', where no point lies above."""
    near = 1e-6 * (1 + jnp.max(jnp.abs(rise), axis=1))
    fits = jnp.all(rise <= tangent[:, None] * run + near[:, None], axis=1)
    steep = jnp.where(run != 0, rise / jnp.where(run != 0, run, 1.0), tangent[:, None])

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        k = 0.5 * (ends[0] + ends[1])
        height = rise - k[:, None] * run
        up = jnp.max(jnp.where(run > 0, height, -jnp.inf), axis=1) > jnp.max(
            jnp.where(run > 0, -jnp.inf, height), axis=1
        )
        return jnp.where(up, k, ends[0]), jnp.where(up, ends[1], k)

    low, high = _loops.fori_loop(0, _SLOPES, halve, (jnp.min(steep, axis=1), jnp.max(steep, axis=1)))
    return jnp.where(fits, tangent, 0.5 * (low + high))


def _grid(curve: Curve, x: Interval) -> Array:
    shares = jnp.linspace(0.0, 1.0, 9, dtype=x.lo.dtype).reshape(-1, *[1] * x.lo.ndim)
    points = [x.lo + (x.hi - x.lo) * shares]
    offsets = jnp.array([s * d for d in _NEAR for s in (-1, 1)], x.lo.dtype).reshape(-1, *[1] * x.lo.ndim)
    for bend in curve.bends:
        points.append(jnp.clip(bend + offsets, x.lo, x.hi))
    return jnp.concatenate(points)


def _range(f: Callable[[Array], Array], points: Array) -> tuple[Array, Array]:
    """The least and the largest finite slope of ``f`` at the points."""
    slopes = jax.vmap(_slope(f))(points)
    fine = jnp.isfinite(slopes)
    least = jnp.min(jnp.where(fine, slopes, jnp.inf), axis=0)
    most = jnp.max(jnp.where(fine, slopes, -jnp.inf), axis=0)
    return tuple(jnp.where(jnp.isfinite(end), end, 0.0) for end in (least, most))  # pyright: ignore


def slopes(f: Callable[[Array], Array], curve: Curve, x: Interval) -> Array:
    """Where between the least and the largest slope those of the envelopes at the middle lie: [2, ...], below and above."""
    centre, points = 0.5 * (x.lo + x.hi), _grid(curve, x)
    value, tangent = f(centre), _slope(f)(centre)
    rise = jax.vmap(f)(points) - value
    k = _envelopes(points - centre, jnp.stack([rise, -rise]), jnp.stack([tangent, -tangent]))
    least, most = _range(f, points)
    wide = most > least
    theta = (jnp.stack([-k[1], k[0]]) - least) / jnp.where(wide, most - least, 1.0)
    return jnp.where(wide & jnp.isfinite(theta), jnp.clip(theta, 0.0, 1.0), 0.5)


def lines(
    f: Callable[[Array], Array], curve: Curve, theta: Array, x: Interval, out: Interval
) -> tuple[Array, Line, Line]:
    """``centre, below, above``: lines under and over ``f`` on the interval; constants where no finite line is at hand.

    Args:
      f: elementwise.
      curve: of ``f``.
      theta: as of `slopes`, each in [0, 1].
      x: of the variable.
      out: of the value.
    """
    centre = 0.5 * (x.lo + x.hi)
    least, most = _range(f, _grid(curve, x))
    k = least + theta * (most - least)
    above, below = _most(f, curve, x, centre, jnp.stack([k[1], -k[0]]))

    def safe(k: Array, b: Array, end: Array) -> Line:
        fine = jnp.isfinite(k) & jnp.isfinite(b)
        return jnp.where(fine, k, 0.0), jnp.where(fine, b, end)

    return centre, safe(k[0], -below, out.lo), safe(k[1], above, out.hi)


def affine(centre: Array, *pair: Line) -> Any:
    """Lines as functions of the first operand."""
    return tuple(lambda z, *_, k=k, b=b: k * (z - centre) + b for k, b in pair)


def relax_curve(names: str, curve: Callable[..., Curve]) -> None:
    """Relax functions of the first operand, bent as ``curve(eqn, x, *rest)`` says; they need an interval rule as well."""

    def of(eqn: Equation, x: Interval, *rest: Any) -> tuple[Callable[[Array], Array], Curve]:
        return lambda v: eqn.bind([v, *rest])[0], curve(eqn, x, *rest)

    def pair(eqn: Equation, theta: Array, x: Interval, *rest: Any) -> Any:
        (out,) = INTERVAL[eqn.name].apply(eqn, x, *rest)
        return affine(*lines(*of(eqn, x, *rest), theta, x, out))

    defrelax(names, pair, lambda eqn, x, *rest: slopes(*of(eqn, x, *rest), x))


def defcurve(names: str, bends: Sequence[float] = (), convex: Sequence[bool] = (True,)) -> None:
    """Relax primitives with these bends; they need an interval rule as well."""
    relax_curve(names, lambda *_: Curve(bends, convex))


def turning(at: Sequence[float]) -> Callable[..., Sequence[Interval]]:
    """The interval rule of a function of one variable that is monotone but for the points ``at``."""

    def rule(eqn: Equation, x: Interval, *rest: Any) -> list[Interval]:
        points = [jnp.clip(jnp.asarray(v, x.lo.dtype), x.lo, x.hi) for v in (-jnp.inf, *at, jnp.inf)]
        values = [eqn.bind([v, *rest])[0] for v in points]
        return [Interval(jnp.min(jnp.stack(values), axis=0), jnp.max(jnp.stack(values), axis=0))]

    return rule


def _wave(eqn: Equation, x: Interval) -> list[Interval]:
    """sin and cos: an extreme value where a turning point lies inside. Huge arguments are not trusted to float."""
    shift = 0.5 if eqn.name == "sin" else 0.0
    lo, hi = (end / math.pi - shift for end in x)  # maxima at even integers, minima at odd ones
    first = jnp.ceil(lo - 1e-3)
    values = [eqn.bind([end])[0] for end in x]
    one, two = first <= hi + 1e-3, first + 1 <= hi + 1e-3
    even = first % 2 == 0
    far = ~(jnp.maximum(jnp.abs(x.lo), jnp.abs(x.hi)) < 1e3)
    low = jnp.where(far | jnp.where(even, two, one), -1.0, jnp.minimum(*values))
    high = jnp.where(far | jnp.where(even, one, two), 1.0, jnp.maximum(*values))
    nan = jnp.where(jnp.isnan(x.lo + x.hi) | ~jnp.isfinite(x.lo) | ~jnp.isfinite(x.hi), jnp.nan, 0.0)
    return [Interval(low + nan, high + nan)]


def _wave_curve(eqn: Equation, x: Interval) -> Curve:
    """Bends of sin at the multiples of pi, of cos halfway between; three suffice up to a width of two pi, beyond no line helps."""
    shift = 0.0 if eqn.name == "sin" else 0.5
    first = jnp.ceil(x.lo / math.pi - shift)
    wide = ~((x.hi - x.lo < 2 * math.pi) & (jnp.maximum(jnp.abs(x.lo), jnp.abs(x.hi)) < 1e3))
    bends = [jnp.where(wide, jnp.nan, (first + i + shift) * math.pi) for i in range(3)]
    even = first % 2 == 0
    # sin is negative, so convex, before 0; cos positive, so concave, before pi / 2
    before = even if eqn.name == "sin" else ~even
    return Curve(bends, [before, ~before, before, ~before])


def _power_curve(eqn: Equation, x: Interval) -> Curve:
    y = eqn.params["y"]
    if y >= 0:
        return Curve((), (True,)) if y % 2 == 0 else Curve((0.0,), (False, True))
    return Curve((0.0,), (y % 2 == 0, True))


def _pow(eqn: Equation, x: Any, y: Any) -> list[Interval]:
    """A known power of a quantity that stays positive."""
    if not jnp.issubdtype(eqn.avals[0].dtype, jnp.floating):
        return [anything(eqn.avals[0])]
    at = [eqn.bind([end, y])[0] for end in x]
    fine = (x.lo > 0) | ((x.lo == 0) & (y > 0))
    ends = [jnp.where(fine, f(*at), jnp.nan) for f in (jnp.minimum, jnp.maximum)]
    return [Interval(*ends)]


def _elu_curve(eqn: Equation, x: Interval, alpha: Any = 1.0) -> Curve:
    """ELU and CELU bend at 0, upwards or down; below it they curve as the sign of ``alpha`` says."""
    return Curve((0.0,), (jnp.asarray(alpha) >= 0, True))


definterval("elu celu", turning((0.0,)), lambda mask: mask in ((True,), (True, False)))
definterval("silu", turning((-1.27846454276107,)))
definterval("gelu", turning((-0.751791537559929,)))
definterval("gelu_tanh", turning((-0.752461404408723,)))
definterval("mish", turning((-1.1924312145155,)))
definterval("cosh", turning((0.0,)))
definterval("sin cos", _wave)
definterval("pow", _pow, lambda mask: mask == (True, False))

defcurve("exp exp2 expm1 softplus square cosh sparse_plus rsqrt")
defcurve("log log1p sqrt", (), (False,))
defcurve("tanh logistic atan erf asinh cbrt soft_sign", (0.0,), (True, False))
defcurve("erfc sinh", (0.0,), (False, True))
defcurve("selu", (0.0,), (True, True))
defcurve("silu", (-2.39935728051547, 2.39935728051547), (False, True, False))
defcurve("gelu", (-1.41421358657633, 1.41421358657633), (False, True, False))
defcurve("gelu_tanh", (-1.41850397712807, 1.41850397712807), (False, True, False))
defcurve("mish", (-2.25637639636079, 1.49057117948543), (False, True, False))
relax_curve("elu celu", _elu_curve)
relax_curve("sin cos", _wave_curve)
relax_curve("integer_pow", _power_curve)
relax_curve("pow", lambda eqn, x, y: Curve((), ((y < 0) | (y > 1),)))

for name in ("silu", "mish", "elu", "celu", "selu", "soft_sign", "sparse_plus", "softplus"):
    defcall(name, getattr(jax.nn, name))
