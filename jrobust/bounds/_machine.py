"""What real arithmetic does not know: NaN, infinities, integers that wrap around.

An interval that allows anything is NaN at both ends (floats) or the full range (integers). An infinite end is a value that may be
attained. Rules compute with ends; here their intervals become "anything" where the operation may leave the numbers, so that no
later rule can make such a value look bounded: operations pass NaN on, and `intersect` never tightens what is not finite.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._program import Equation
from jrobust.bounds._tables import INTERVAL, Interval, anything, ends
from jrobust.typing import Array


def intersect(a: Interval, b: Interval) -> Interval:
    """The interval ``a``, tightened by the bounds ``b`` of a pass in real arithmetic: where ``a`` is finite, so nothing overflows."""
    sound = jnp.isfinite(a.lo) & jnp.isfinite(a.hi)
    lo = jnp.where(sound & jnp.isfinite(b.lo) & (b.lo > a.lo), b.lo, a.lo)
    return Interval(lo, jnp.where(sound & jnp.isfinite(b.hi) & (b.hi < a.hi), b.hi, a.hi))


@jax.custom_jvp
def whole(v: Interval, fails: Any = False) -> Interval:
    """A float interval, anything where an end is NaN or the operation ``fails``; ends that overflowed are rounded outward."""
    fails = fails | jnp.isnan(v.lo) | jnp.isnan(v.hi)
    most = jnp.finfo(v.lo.dtype).max
    return Interval(
        jnp.where(fails, jnp.nan, jnp.minimum(v.lo, most)), jnp.where(fails, jnp.nan, jnp.maximum(v.hi, -most))
    )


@whole.defjvp
def _whole_jvp(primals: Any, tangents: Any) -> Any:
    """That of the identity, which it is of numbers; a bound that is none is made so, without a derivative, at the end."""
    return whole(*primals), tangents[0]


def never_nan(bound: Array) -> Array:
    """Upper bounds, where NaN is none."""
    return jnp.where(jnp.isnan(bound), jnp.inf, bound)


def intervals(eqn: Equation, values: Sequence[Any]) -> list[Interval]:
    """The outputs' intervals: the primitive's rule, and anything where a value may be NaN or wrap."""
    outs = []
    for out, aval in zip(INTERVAL[eqn.name].apply(eqn, *values), eqn.avals, strict=True):
        if jnp.issubdtype(aval.dtype, jnp.floating):
            outs.append(whole(out, _FAILS[eqn.name](eqn, out, *values) if eqn.name in _FAILS else False))
        elif jnp.issubdtype(aval.dtype, jnp.integer) and eqn.name in _ARITHMETIC:
            outs.append(_unwrapped(eqn, out, values))
        else:
            outs.append(out)
    return outs


def within(relaxation: Sequence[Callable[..., Any]], out: Interval, values: Sequence[Any]) -> list[Callable[..., Any]]:
    """A relaxation whose slopes can be trusted: the ends of ``out``, as constants, where a number in it may be huge, infinite or NaN."""
    limit = jnp.finfo(out.lo.dtype).max / 16
    small = [jnp.all(jnp.stack([jnp.abs(end) < limit for end in ends(v)]), axis=0) for v in (out, *values)]
    fine = [s if s.shape in ((), out.lo.shape) else jnp.all(s) for s in small]
    safe = jnp.all(jnp.stack(jnp.broadcast_arrays(*fine)), axis=0)
    return [lambda *xs, f=f, end=end: jnp.where(safe, f(*xs), end) for f, end in zip(relaxation, out, strict=True)]


# -- Floats: where an operation on numbers or infinities may give NaN --------------------------------------------------


def _has_zero(v: Any) -> Any:
    lo, hi = ends(v)
    return ~((lo > 0) | (hi < 0))


def _has_infinity(v: Any) -> Any:
    lo, hi = ends(v)
    return ~(jnp.isfinite(lo) & jnp.isfinite(hi))


def _sum(eqn: Equation, out: Interval, *values: Any) -> Any:
    return (out.lo == -jnp.inf) & (out.hi == jnp.inf)  # infinities of both signs may meet


def _product(eqn: Equation, out: Interval, x: Any, y: Any) -> Any:
    return (_has_zero(x) & _has_infinity(y)) | (_has_infinity(x) & _has_zero(y))


def _quotient(eqn: Equation, out: Interval, x: Any, y: Any) -> Any:
    fails = (_has_zero(x) & _has_zero(y)) | (_has_infinity(x) & _has_infinity(y))
    return fails | _may_be_nan(eqn, out, x) | _may_be_nan(eqn, out, y)


def _may_be_nan(eqn: Equation, out: Interval, x: Any) -> Any:
    lo, hi = ends(x)
    return jnp.isnan(lo) | jnp.isnan(hi)


def _shifted_row(eqn: Equation, out: Interval, x: Interval) -> Any:
    """Softmax subtracts a row's maximum: infinite, it leaves NaN; single entries may be -inf."""
    axis = eqn.params["axis"]
    most, least = jnp.max(x.hi, axis=axis, keepdims=True), jnp.max(x.lo, axis=axis, keepdims=True)
    return ~((most < jnp.inf) & (least > -jnp.inf))


def _any_in_row(eqn: Equation, out: Interval, *rows: Any) -> Any:
    axis = eqn.params["dimension" if eqn.name == "sort" else "axis"]
    anywhere = [jnp.any(_may_be_nan(eqn, out, x), axis=axis, keepdims=True) for x in rows]
    return jnp.any(jnp.stack(anywhere), axis=0)


_FAILS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(["add", "add_any", "sub", "reduce_sum", "cumsum", "reduce_window_sum", "scatter-add"], _sum),
    **dict.fromkeys(["dot_general", "conv_general_dilated"], _sum),
    "mul": _product,
    "div": _quotient,
    "integer_pow": _may_be_nan,
    **dict.fromkeys(["sort", "top_k"], _any_in_row),  # a NaN moves to an end
    **dict.fromkeys(["log", "sqrt"], lambda eqn, out, x: ~(x.lo >= 0)),
    **dict.fromkeys(["softmax", "log_softmax"], _shifted_row),
    "celu": lambda eqn, out, x, alpha=1.0: jnp.asarray(alpha) == 0,
    "log1p": lambda eqn, out, x: ~(x.lo >= -1),
    "acosh": lambda eqn, out, x: ~(x.lo >= 1),
    **dict.fromkeys(["asin", "acos", "atanh", "erf_inv"], lambda eqn, out, x: ~((x.lo >= -1) & (x.hi <= 1))),
    **dict.fromkeys(["lgamma", "digamma"], lambda eqn, out, x: ~(x.lo > 0)),
    "tan": lambda eqn, out, x: _has_infinity(x),
    "rem": lambda eqn, out, x, c: _has_infinity(x) | (c == 0),
    "rsqrt": lambda eqn, out, x: ~(x.lo > 0),  # at -0.0 it is -inf
}


# -- Integers ---------------------------------------------------------------------------------------------------------

_CHECKED = {"add", "add_any", "sub", "mul", "neg", "abs", "square", "integer_pow", "reduce_sum", "cumsum"}
_CHECKED |= {"reduce_prod", "cumprod"}
_ARITHMETIC = _CHECKED | {"div", "reduce_window_sum", "dot_general", "conv_general_dilated", "scatter-add"}


def _unwrapped(eqn: Equation, out: Interval, values: Sequence[Any]) -> Interval:
    """``out`` where the same rule in float32 stays well inside the range of a signed integer, else anything."""
    (aval,) = eqn.avals
    if eqn.name not in _CHECKED or not jnp.issubdtype(aval.dtype, jnp.signedinteger):
        return anything(aval)
    real = [Interval(*(e.astype(jnp.float32) for e in ends(v))) for v in values]
    (lo, hi) = INTERVAL[eqn.name].apply(eqn, *real)[0]
    limit = 0.99 * min(jnp.iinfo(aval.dtype).max, 2**23)  # far enough for float32's own rounding
    fits = (lo >= -limit) & (hi <= limit)
    least, most = anything(aval)
    return Interval(jnp.where(fits, out.lo, least), jnp.where(fits, out.hi, most))
