"""Products, quotients and softmax of bounded quantities between two affine functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jrobust._program import Equation
from jrobust.bounds._curves import Curve, affine, lines, slopes
from jrobust.bounds._tables import Interval, definterval, defrelax, ends
from jrobust.typing import Array

_SQUARE, _RECIPROCAL = Curve((), (True,)), Curve((0.0,), (False, True))


def _centre(v: Any) -> Array:
    lo, hi = ends(v)
    return jnp.asarray(0.5 * (lo + hi))


def _is_square(eqn: Equation) -> bool:
    return eqn.name == "mul" and eqn.inputs[0] == eqn.inputs[1]


def _bilinear(eqn: Equation, theta: Array, x: Any, y: Any) -> Any:
    """Any mean of McCormick's two planes on either side: ``(x - x_l)(y - y_l) >= 0`` and so on, whatever sums the products."""
    (xl, xh), (yl, yh) = ends(x), ends(y)
    if _is_square(eqn):
        out = Interval(jnp.zeros_like(xl), jnp.maximum(xl**2, xh**2))
        return affine(*lines(jnp.square, _SQUARE, theta, x, out))

    def plane(p: Any, q: Any, a: Any, b: Any) -> Array:
        (one,), (two,), (both,) = eqn.bind([p, b]), eqn.bind([a, q]), eqn.bind([a, b])
        return one + two - both

    def mean(share: Array, one: tuple[Any, Any], two: tuple[Any, Any]) -> Any:
        return lambda p, q: share * plane(p, q, *one) + (1 - share) * plane(p, q, *two)

    return mean(theta[0], (xl, yl), (xh, yh)), mean(theta[1], (xl, yh), (xh, yl))


def _bilinear_start(eqn: Equation, x: Any, y: Any) -> Array:
    if _is_square(eqn):
        return slopes(jnp.square, _SQUARE, x)
    return jnp.full((2, *eqn.avals[0].shape), 0.5, eqn.avals[0].dtype)


def _inverse(v: Array) -> Array:
    return 1 / v


def _free(y: Interval) -> Interval:
    """The denominator where it has one sign, elsewhere 1 (`within` then takes the interval)."""
    free = (y.lo > 0) | (y.hi < 0)
    return Interval(jnp.where(free, y.lo, 1.0), jnp.where(free, y.hi, 1.0))


def _quotient(eqn: Equation, theta: Array, x: Any, y: Interval) -> Any:
    """``x`` times ``1 / y``, where ``y`` has one sign; elsewhere nothing finite bounds it."""
    y = _free(y)
    r = Interval(1 / y.hi, 1 / y.lo)
    at, *pair = lines(_inverse, _RECIPROCAL, theta, y, r)
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


def _between(x: Interval, theta: Array) -> Array:
    """Where to touch: ``theta`` of the way from one end to the other."""
    return x.lo + theta * (x.hi - x.lo)


def _middles(eqn: Equation, x: Interval) -> Array:
    return jnp.full((2, *x.lo.shape), 0.5, x.lo.dtype)


def _relaxed_logsumexp(x: Interval, theta: Array, axis: int, out: Interval) -> Any:
    """Convex: the tangent below; above, the tangent of the concave logarithm of the sum of chords. Reduced axes are kept."""
    low, high = _between(x, theta[0]), _between(x, theta[1])
    shift = jnp.max(high, axis=axis, keepdims=True)
    total = _chord_sum(x, axis, shift)
    below = _tangent(lambda z: jax.nn.logsumexp(z, axis=axis, keepdims=True), low, out.lo)
    return below, _tangent(lambda z: shift + jnp.log(total(z)), high, out.hi)


def _logsumexp_lines(eqn: Equation, theta: Array, x: Interval) -> Any:
    axis, shape = eqn.params["axis"], eqn.avals[0].shape
    kept = Interval(*(jax.nn.logsumexp(end, axis=axis, keepdims=True) for end in x))
    below, above = _relaxed_logsumexp(x, theta, axis, kept)
    return lambda z: below(z).reshape(shape), lambda z: above(z).reshape(shape)


def _log_softmax_lines(eqn: Equation, theta: Array, x: Interval) -> Any:
    axis = eqn.params["axis"]
    kept = Interval(*(jax.nn.logsumexp(end, axis=axis, keepdims=True) for end in x))
    below, above = _relaxed_logsumexp(x, theta, axis, kept)
    return lambda z: z - above(z), lambda z: z - below(z)


def _softmax_lines(eqn: Equation, theta: Array, x: Interval) -> Any:
    """Below, the tangent of the convex ``exp(x_k) / sum of chords``; above, that of the chord of exp over the concave ``log_softmax``."""
    axis = eqn.params["axis"]
    low, high = _between(x, theta[0]), _between(x, theta[1])
    (out,), (log,) = _softmax(eqn, x), _log_softmax(eqn, x)
    shift = jnp.max(low, axis=axis, keepdims=True)
    total = _chord_sum(x, axis, shift)
    width = log.hi - log.lo
    fine = jnp.isfinite(width) & (width > 1e-6)
    slope = jnp.where(fine, (out.hi - out.lo) / jnp.where(fine, width, 1.0), 0.0)
    base, start = jnp.where(fine, out.lo, out.hi), jnp.where(fine, log.lo, 0.0)
    above = _tangent(lambda z: base + slope * (jax.nn.log_softmax(z, axis=axis) - start), high, out.hi)
    return _tangent(lambda z: jnp.exp(z - shift) / total(z), low, out.lo), above


defrelax("mul dot_general conv_general_dilated", _bilinear, _bilinear_start)
defrelax("div", _quotient, lambda eqn, x, y: slopes(_inverse, _RECIPROCAL, _free(y)))
definterval("softmax", _softmax)
definterval("log_softmax", _log_softmax)
defrelax("softmax", _softmax_lines, _middles)
defrelax("log_softmax", _log_softmax_lines, _middles)
defrelax("logsumexp", _logsumexp_lines, _middles)
