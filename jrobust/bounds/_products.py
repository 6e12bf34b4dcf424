"""Products, quotients and softmax of bounded quantities between two affine functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jrobust._program import Equation
from jrobust.bounds._curves import Curve, lines
from jrobust.bounds._tables import Interval, definterval, defrelax, ends
from jrobust.typing import Array

_SQUARE, _RECIPROCAL = Curve((), (True,)), Curve((0.0,), (False, True))


def _centre(v: Any) -> Array:
    lo, hi = ends(v)
    return jnp.asarray(0.5 * (lo + hi))


def _bilinear(eqn: Equation, x: Any, y: Any) -> Any:
    """The mean of McCormick's two planes on either side: ``(x - x_l)(y - y_l) >= 0`` and so on, whatever sums the products."""
    (xl, xh), (yl, yh), xc, yc = ends(x), ends(y), _centre(x), _centre(y)
    if eqn.name == "mul" and eqn.inputs[0] == eqn.inputs[1]:
        out = Interval(jnp.zeros_like(xl), jnp.maximum(xl**2, xh**2))
        centre, *pair = lines(jnp.square, _SQUARE, x, out)
        return tuple(lambda z, _, k=k, b=b: k * (z - centre) + b for k, b in pair)

    def of(a: Any, b: Any) -> Array:
        return eqn.bind([a, b])[0]

    below, above = 0.5 * (of(xl, yl) + of(xh, yh)), 0.5 * (of(xl, yh) + of(xh, yl))
    return lambda p, q: of(p, yc) + of(xc, q) - below, lambda p, q: of(p, yc) + of(xc, q) - above


def _quotient(eqn: Equation, x: Any, y: Interval) -> Any:
    """``x`` times ``1 / y``, where ``y`` has one sign; elsewhere nothing finite bounds it, and `within` takes the interval."""
    free = (y.lo > 0) | (y.hi < 0)
    y = Interval(jnp.where(free, y.lo, 1.0), jnp.where(free, y.hi, 1.0))
    r = Interval(1 / y.hi, 1 / y.lo)
    at, *pair = lines(lambda v: 1 / v, _RECIPROCAL, y, r)
    (k_lo, b_lo), (k_hi, b_hi) = pair
    (xl, xh), xc, rc = ends(x), _centre(x), _centre(r)
    up, down = jnp.maximum(xc, 0.0), jnp.minimum(xc, 0.0)

    def line(p: Any, q: Any, low: Any, high: Any, offset: Array) -> Array:
        return rc * p + low * (k_lo * (q - at) + b_lo) + high * (k_hi * (q - at) + b_hi) - offset

    below, above = 0.5 * (xl * r.lo + xh * r.hi), 0.5 * (xl * r.hi + xh * r.lo)
    return lambda p, q: line(p, q, up, down, below), lambda p, q: line(p, q, down, up, above)


# -- Softmax and its like -------------------------------------------------------------------------------------------------


def _others(x: Array, axis: int) -> Array:
    """``logsumexp`` over all entries but one, for each."""
    width = [(0, 0, 0)] * x.ndim

    def shifted(v: Array, low: int) -> Array:
        return lax.pad(v, jnp.asarray(-jnp.inf, x.dtype), [*width[:axis], (low, -low, 0), *width[axis + 1 :]])

    before, after = lax.cumlogsumexp(x, axis), lax.cumlogsumexp(x, axis, reverse=True)
    return jnp.logaddexp(shifted(before, 1), shifted(after, -1))


def _log_softmax(eqn: Equation, x: Interval) -> list[Interval]:
    axis = eqn.params["axis"]
    return [Interval(-jax.nn.softplus(_others(x.hi, axis) - x.lo), -jax.nn.softplus(_others(x.lo, axis) - x.hi))]


def _softmax(eqn: Equation, x: Interval) -> list[Interval]:
    axis = eqn.params["axis"]
    return [Interval(jax.nn.sigmoid(x.lo - _others(x.hi, axis)), jax.nn.sigmoid(x.hi - _others(x.lo, axis)))]


def _tangent(f: Any, at: Array, end: Array) -> Any:
    """``f`` linearised; the constant ``end`` where that is not finite."""
    value = f(at)
    return lambda z: jnp.where(jnp.isfinite(value), value + jax.jvp(f, (at,), (z - at,))[1], end)


def _chord_sum(x: Interval, axis: int, shift: Array) -> Any:
    """``z -> sum of the chords of exp(. - shift)``: at least the sum of the exponentials."""
    lo, hi = jnp.exp(x.lo - shift), jnp.exp(x.hi - shift)
    width = x.hi - x.lo
    slope = jnp.where(width > 1e-6, (hi - lo) / jnp.where(width > 1e-6, width, 1.0), 0.0)
    base = jnp.where(width > 1e-6, lo, hi)
    return lambda z: jnp.sum(base + slope * (z - x.lo), axis=axis, keepdims=True)


def _relaxed_logsumexp(x: Interval, axis: int, out: Interval) -> Any:
    """Convex: the tangent below; above, the tangent of the concave logarithm of the sum of chords. Reduced axes are kept."""
    at = _centre(x)
    shift = jnp.max(at, axis=axis, keepdims=True)
    total = _chord_sum(x, axis, shift)
    below = _tangent(lambda z: jax.nn.logsumexp(z, axis=axis, keepdims=True), at, out.lo)
    return below, _tangent(lambda z: shift + jnp.log(total(z)), at, out.hi)


def _logsumexp_lines(eqn: Equation, x: Interval) -> Any:
    axis, shape = eqn.params["axis"], eqn.avals[0].shape
    kept = Interval(*(jax.nn.logsumexp(end, axis=axis, keepdims=True) for end in x))
    below, above = _relaxed_logsumexp(x, axis, kept)
    return lambda z: below(z).reshape(shape), lambda z: above(z).reshape(shape)


def _log_softmax_lines(eqn: Equation, x: Interval) -> Any:
    axis = eqn.params["axis"]
    kept = Interval(*(jax.nn.logsumexp(end, axis=axis, keepdims=True) for end in x))
    below, above = _relaxed_logsumexp(x, axis, kept)
    return lambda z: z - above(z), lambda z: z - below(z)


def _softmax_lines(eqn: Equation, x: Interval) -> Any:
    """Below, the tangent of the convex ``exp(x_k) / sum of chords``; above, that of the chord of exp over the concave ``log_softmax``."""
    axis, at = eqn.params["axis"], _centre(x)
    (out,), (log,) = _softmax(eqn, x), _log_softmax(eqn, x)
    shift = jnp.max(at, axis=axis, keepdims=True)
    total = _chord_sum(x, axis, shift)
    width = log.hi - log.lo
    fine = jnp.isfinite(width) & (width > 1e-6)
    slope = jnp.where(fine, (out.hi - out.lo) / jnp.where(fine, width, 1.0), 0.0)
    base, start = jnp.where(fine, out.lo, out.hi), jnp.where(fine, log.lo, 0.0)
    above = _tangent(lambda z: base + slope * (jax.nn.log_softmax(z, axis=axis) - start), at, out.hi)
    return _tangent(lambda z: jnp.exp(z - shift) / total(z), at, out.lo), above


defrelax("mul dot_general conv_general_dilated", _bilinear)
defrelax("div", _quotient)
definterval("softmax", _softmax)
definterval("log_softmax", _log_softmax)
defrelax("softmax", _softmax_lines)
defrelax("log_softmax", _log_softmax_lines)
defrelax("logsumexp", _logsumexp_lines)
