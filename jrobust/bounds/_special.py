"""Functions with poles, bends or a domain of their own, and products along an axis."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from jrobust._program import Equation
from jrobust.bounds._curves import Curve, defcurve, relax_curve, turning
from jrobust.bounds._tables import Interval, anything, definterval, defmonotone, defrelax
from jrobust.typing import Array


def _tan(eqn: Equation, x: Interval) -> list[Interval]:
    """Increasing between poles; across one, or where float cannot say where it is, any number."""
    lo, hi = (end / math.pi - 0.5 for end in x)  # poles at the integers
    near = 1e-3
    clear = (jnp.floor(lo - near) == jnp.floor(hi + near)) & (jnp.maximum(jnp.abs(x.lo), jnp.abs(x.hi)) < 1e3)
    return [Interval(*(jnp.where(clear, eqn.bind([end])[0], far) for end, far in zip(x, (-jnp.inf, jnp.inf))))]


def _tan_curve(eqn: Equation, x: Interval) -> Curve:
    return Curve((jnp.round(0.5 * (x.lo + x.hi) / math.pi) * math.pi,), (False, True))


# -- Remainders -------------------------------------------------------------------------------------------------------


def _one_piece(eqn: Equation, x: Interval, c: Any) -> tuple[Array, Array, Array]:
    """Whether ``rem(x, c)`` is ``x`` less a constant on the interval, and its values at the ends (exact in floats)."""
    at_lo, at_hi = (eqn.bind([end, c])[0] for end in x)
    size = jnp.abs(c)
    signed = (x.lo >= 0) | (x.hi <= 0)
    # a step within a width below |c| shows: it makes the value at the upper end the smaller one
    piece = jnp.where(signed, (x.hi - x.lo < size) & (at_lo <= at_hi), (x.lo > -size) & (x.hi < size))
    return piece, at_lo, at_hi


def _rem(eqn: Equation, x: Interval, c: Any) -> list[Interval]:
    """The remainder of a division by known numbers, with the sign of the dividend."""
    if not jnp.issubdtype(eqn.avals[0].dtype, jnp.floating):
        return [_rem_of_integers(eqn, x, c)]
    piece, at_lo, at_hi = _one_piece(eqn, x, c)
    size = jnp.abs(c)
    low = jnp.where(piece, at_lo, jnp.where(x.lo >= 0, 0.0, jnp.maximum(-size, x.lo)))
    high = jnp.where(piece, at_hi, jnp.where(x.hi <= 0, 0.0, jnp.minimum(size, x.hi)))
    return [Interval(low, high)]


def _rem_of_integers(eqn: Equation, x: Interval, c: Any) -> Interval:
    """Without pieces, for differences may wrap; a remainder by 0 is anything."""
    least, most = anything(eqn.avals[0])
    usual = (c != 0) & (c > jnp.iinfo(x.lo.dtype).min)
    last = jnp.where(usual, jnp.abs(c), 1) - 1
    negative = jnp.maximum(-last, x.lo) if jnp.issubdtype(x.lo.dtype, jnp.signedinteger) else jnp.zeros_like(x.lo)
    low = jnp.where(x.lo >= 0, 0, negative)
    high = jnp.where(x.hi <= 0, 0, jnp.minimum(last, x.hi))
    return Interval(jnp.where(usual, low, least), jnp.where(usual, high, most))


def _rem_lines(eqn: Equation, theta: Any, x: Interval, c: Any) -> Any:
    piece, at_lo, _ = _one_piece(eqn, x, c)
    (out,) = _rem(eqn, x, c)
    return tuple(lambda z, _, end=end: jnp.where(piece, z - x.lo + at_lo, end) for end in out)


# -- Products along an axis -------------------------------------------------------------------------------------------


def _times(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """Interval products, with a bound of every partial product's size beside them."""
    corners = [p * q for p in a[:2] for q in b[:2]]
    lo, hi = corners[0], corners[0]
    for corner in corners[1:]:
        lo, hi = jnp.minimum(lo, corner), jnp.maximum(hi, corner)
    return lo, hi, a[2] * b[2]


def _running(x: Interval, axis: int, reverse: bool) -> Interval:
    """Products of the entries so far, exact: each entry occurs once. Where one of them, in any order, may overflow: NaN."""
    size = jnp.maximum(jnp.maximum(jnp.abs(x.lo), jnp.abs(x.hi)), 1)
    lo, hi, size = lax.associative_scan(_times, (x.lo, x.hi, size), reverse=reverse, axis=axis)
    if not jnp.issubdtype(lo.dtype, jnp.floating):
        return Interval(lo, hi)
    fails = ~jnp.isfinite(size)
    return Interval(jnp.where(fails, jnp.nan, lo), jnp.where(fails, jnp.nan, hi))


def _cumprod(eqn: Equation, x: Interval) -> list[Interval]:
    return [_running(x, eqn.params["axis"], eqn.params["reverse"])]


def _prod(eqn: Equation, x: Interval) -> list[Interval]:
    axes = eqn.params["axes"]
    rest = eqn.avals[0].shape
    rows = Interval(*(jnp.moveaxis(end, axes, range(len(axes))).reshape(-1, *rest) for end in x))
    if rows.lo.shape[0] == 0:
        return [Interval(*(jnp.ones(rest, end.dtype) for end in x))]
    return [Interval(*(end[-1] for end in _running(rows, 0, False)))]


definterval("tan", _tan)
defmonotone("atanh erf_inv digamma cumlogsumexp")
definterval("lgamma", turning((1.4616321449683623,)))
definterval("rem", _rem, lambda mask: mask == (True, False))
definterval("cumprod", _cumprod)
definterval("reduce_prod", _prod)

defcurve("atanh erf_inv asin", (0.0,), (False, True))
defcurve("acos", (0.0,), (True, False))
defcurve("digamma acosh", (), (False,))
defcurve("lgamma")
relax_curve("tan", _tan_curve)
defrelax("rem", _rem_lines)
