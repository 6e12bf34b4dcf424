"""What floating point may add to a bound: of the network's own evaluation, and of the computation of the bound.

Model of arithmetic, with u = eps / 2 of the dtype: sums, products, quotients and roots are correctly rounded; sums of products are
added up in any order, fused or not; what underflows may be flushed to zero; exp, tanh and their like are within 32 u of the largest of
their operands and results. Values that do not depend on the input are the floats that were computed. Fast convolution algorithms
(Winograd, FFT) and products of fewer bits (TF32, bfloat16) are outside of it.

Intervals: an operand of a sum of n products is widened by gamma(2 n + 10) of its magnitude first, and so the sum by what n roundings
can do to it, in the network and in the bound; the result of anything else is widened by units of itself. Backward walks: where
``<c, y>`` of an equation's output y becomes ``<c', x> + bias``, the form's error grows by what the rounding of c', of the bias and of
the network's y can amount to.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._program import Equation
from jrobust.bounds._affine import AVERAGING, ELEMENTWISE, absolute, names
from jrobust.bounds._machine import intersect, intervals, whole
from jrobust.bounds._tables import Interval, Mask, ends
from jrobust.typing import Array

_FEW, _SOME, _MANY = 4, 128, 512  # units: of a basic operation, a function, and one that works through logarithms


def gamma(n: int, dtype: Any) -> float:
    """The relative error of n roundings; a percent for that of the error itself."""
    nu = n * float(jnp.finfo(dtype).eps) / 2
    return 1.01 * nu / (1 - nu) if nu < 0.5 else math.inf


def magnitude(v: Any) -> Array:
    """The largest absolute value of each entry."""
    lo, hi = ends(v)
    return jnp.maximum(jnp.abs(lo), jnp.abs(hi))


def weighted(c: Array, size: Array) -> Array:
    """``<|c|, size>``; an entry that a form does not hold (c = 0) may be infinite."""
    return jnp.sum(jnp.where(c == 0, 0.0, jnp.abs(c) * size))


# -- How often primitives round -----------------------------------------------------------------------------------------


def _dot(eqn: Equation, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    contracted = math.prod(shapes[0][i] for i in eqn.params["dimension_numbers"][0][0])
    return contracted, max(eqn.avals[0].size * contracted // max(1, math.prod(s)) for s in shapes)


def _conv(eqn: Equation, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    out, inner, *_ = eqn.params["dimension_numbers"].rhs_spec
    kernel = math.prod(shapes[1])
    return kernel // max(1, shapes[1][out]), kernel // max(1, shapes[1][inner])


def _twice(n: int) -> tuple[int, int]:
    return n, n


def _ratio(eqn: Equation, shapes: Sequence[tuple[int, ...]]) -> int:
    return max(1, math.prod(shapes[0]) // max(1, eqn.avals[0].size))


_SUMS: dict[str, Callable[..., tuple[int, int]]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_sum": lambda eqn, shapes: (_ratio(eqn, shapes), 0),
    "reduce_window_sum": lambda eqn, shapes: _twice(math.prod(eqn.params["window_dimensions"])),
    "cumsum": lambda eqn, shapes: _twice(shapes[0][eqn.params["axis"]]),
    "scatter-add": lambda eqn, shapes: (1 + math.prod(shapes[2]), 1),
}
"""Terms of a sum, and of the sums of its transpose."""

_EXACT = names(
    "reshape squeeze transpose rev slice copy stop_gradient name optimization_barrier sharding_constraint pvary device_put",
    "split unstack expand_dims neg concatenate pad stack select_n dynamic_slice dynamic_update_slice scatter abs max min",
    "clamp reduce_max reduce_min reduce_window_max reduce_window_min sort top_k cummax cummin sign floor ceil round",
)
_REPEATS = names("broadcast_in_dim tile gather")  # exact; their transposes are sums
_SHIFTS = names(
    "add add_any sub concatenate pad stack select_n scatter scatter-add dynamic_update_slice"
)  # by known terms
_BASIC = names("add add_any sub mul div sqrt square leaky_relu convert_element_type")
_FUNCTIONS = names(
    "exp expm1 log log1p tanh logistic erf erfc softplus sin cos gelu gelu_tanh silu mish elu celu selu soft_sign",
    "sparse_plus rsqrt cbrt atan asinh sinh cosh integer_pow reduce_prod cumprod logsumexp cumlogsumexp softmax log_softmax",
)
_LOGARITHMIC = names("pow exp2")


def _units(eqn: Equation, shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Of a function of an entry, or of a row of them; None where the model says nothing."""
    if eqn.name in _LOGARITHMIC:
        return _MANY
    if eqn.name not in _FUNCTIONS:
        return None
    axis = eqn.params.get("axis")
    along = shapes[0][axis] if isinstance(axis, int) else 1
    return _SOME + 2 * max(_ratio(eqn, shapes), along, abs(eqn.params.get("y", 0)))


# -- Intervals ------------------------------------------------------------------------------------------------------------


def widened(v: Interval, by: Any) -> Interval:
    """Both ends moved outward."""
    return Interval(v.lo - by, v.hi + by)


def outward(v: Interval, units: int) -> Interval:
    """Each end moved by units of itself, and of the smallest number."""
    rate, tiny = gamma(units, v.lo.dtype), units * float(jnp.finfo(v.lo.dtype).tiny)
    return Interval(v.lo - (rate * jnp.abs(v.lo) + tiny), v.hi + (rate * jnp.abs(v.hi) + tiny))


def basic(v: Interval, values: Sequence[Any] = ()) -> Interval:
    """The same after a basic operation, whose rounding keeps the sign: of operands that have none, for an end at 0 may have underflown."""
    lo, hi = outward(v, _FEW)
    above, below = v.lo >= 0, v.hi <= 0
    for low, high in map(ends, values):
        above, below = above & ((low >= 0) | (v.lo > 0)), below & ((high <= 0) | (v.hi < 0))
    return Interval(jnp.where(above, jnp.maximum(lo, 0), lo), jnp.where(below, jnp.minimum(hi, 0), hi))


def _floating(v: Any) -> bool:
    return bool(jnp.issubdtype(ends(v)[0].dtype, jnp.floating))


def _may_overflow(eqn: Equation, values: Sequence[Any], n: int) -> Array:
    """Whether some order of a sum may leave the numbers on its way, and be NaN or infinite, wherever it ends."""
    sizes = [jnp.max(magnitude(v), initial=0.0) for v in values if _floating(v)]
    join = jnp.sum if eqn.name == "scatter-add" else jnp.prod
    return ~(n * join(jnp.stack(sizes)) < 0.25 * float(jnp.finfo(eqn.avals[0].dtype).max))


def _unsigned(eqn: Equation, like: Array) -> Interval:
    """What the parity of a power says of its sign."""
    return Interval(jnp.full_like(like, 0.0 if eqn.params["y"] % 2 == 0 else -jnp.inf), jnp.full_like(like, jnp.inf))


def rounded(eqn: Equation, values: Sequence[Any]) -> list[Interval]:
    """`intervals` of what the network computes in floats."""
    if not jnp.issubdtype(eqn.avals[0].dtype, jnp.floating) or eqn.name in _EXACT | _REPEATS:
        return intervals(eqn, values)
    shapes = [jnp.shape(ends(v)[0]) for v in values]
    if eqn.name in _SUMS:
        n = 2 * _SUMS[eqn.name](eqn, shapes)[0] + 10
        overflows = _may_overflow(eqn, values, n)
        bounded = [isinstance(v, Interval) and _floating(v) for v in values]
        values = [
            widened(v, gamma(n, v.lo.dtype) * magnitude(v)) if b else v for v, b in zip(values, bounded, strict=True)
        ]
        # what is only added, not multiplied, counts once more (scatter-add)
        outs = [outward(o, n if eqn.name == "scatter-add" else _FEW) for o in intervals(eqn, values)]
        return [whole(o, overflows) for o in outs]
    if eqn.name in _BASIC:
        even = eqn.name == "square" or (eqn.name == "mul" and eqn.inputs[0] == eqn.inputs[1])
        return [basic(o, () if even else values) for o in intervals(eqn, values)]
    if eqn.name == "integer_pow" and eqn.params["y"] < 0:  # products, which may underflow before they are turned over
        y = -eqn.params["y"]
        (power,) = intervals(dataclasses.replace(eqn, params={**eqn.params, "y": y}), values)
        power = outward(power, 2 * y + _FEW)
        free = (power.lo > 0) | (power.hi < 0)
        lo, hi = (
            jnp.where(free, 1.0 / jnp.where(free, end, 1.0), far)
            for end, far in ((power.hi, -jnp.inf), (power.lo, jnp.inf))
        )
        return [intersect(outward(Interval(lo, hi), _FEW), _unsigned(eqn, lo))]
    units = _units(eqn, shapes)
    if units is None:
        return [whole(o, True) if _floating(o) else o for o in intervals(eqn, values)]
    outs = [outward(o, units) for o in intervals(eqn, values)]
    for v in values:
        if _floating(v):
            m = magnitude(v)
            outs = [widened(o, gamma(units, o.lo.dtype) * (m if m.shape == o.lo.shape else jnp.max(m))) for o in outs]
    return outs


# -- Backward walks ---------------------------------------------------------------------------------------------------------


def straight(eqn: Equation, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the error of a pair of lines is known: entry by entry, or averages of entries."""
    alone = eqn.name in ELEMENTWISE and all(s == eqn.avals[0].shape for s in shapes)
    return alone or eqn.name in AVERAGING


def affine_error(eqn: Equation, mask: Mask, values: Sequence[Any]) -> list[Array]:
    """How far rounding, of an affine equation and of a row that is pulled through it, may move the row's value: by each coefficient."""
    shapes = [jnp.shape(ends(v)[0]) for v in values]
    n = 2 * _FEW
    if eqn.name in _SUMS:
        n = sum(_SUMS[eqn.name](eqn, shapes)) + _FEW
    elif eqn.name in _REPEATS or (eqn.name == "pad" and mask[1]):
        n = eqn.avals[0].size
    elif eqn.name in _EXACT:
        n = 0
    shifts = eqn.name in _SHIFTS and any(not d and _floating(v) for v, d in zip(values, mask, strict=True))
    if n == 0 and not shifts:
        return []
    sizes = [magnitude(v) if d else jnp.abs(v) if _floating(v) else v for v, d in zip(values, mask, strict=True)]
    size = absolute(eqn, mask, sizes)
    dependent = [m for m, d in zip(sizes, mask, strict=True) if d]
    errors = [gamma(n, r.dtype) * r for r in size(*dependent)]
    if shifts:  # the bias is a dot product of its own
        base = size(*(jnp.zeros_like(m) for m in dependent))
        errors = [e + gamma(e.size + _FEW, e.dtype) * b for e, b in zip(errors, base, strict=True)]
    return errors


def line_error(eqn: Equation, side: Callable[..., Any], values: Sequence[Any], out: Interval) -> Array:
    """The same of one of a `straight` equation's pair of lines."""
    like = [jnp.zeros_like(v.lo) for v in values]
    (at_zero,), vjp = jax.vjp(side, *like)
    if eqn.name in AVERAGING:  # no negative coefficient
        reach = jax.jvp(side, tuple(like), tuple(magnitude(v) for v in values))[1][0]
    else:
        slopes = vjp([jnp.ones_like(at_zero)])
        reach = sum((jnp.abs(k) * magnitude(v) for k, v in zip(slopes, values, strict=True)), jnp.zeros_like(at_zero))
    plain = eqn.name in _EXACT | _BASIC
    if not plain:  # by the model, of the function itself
        most = [magnitude(v) if v.lo.shape == reach.shape else jnp.max(magnitude(v)) for v in values]
        reach = reach + sum(most, jnp.zeros_like(reach))
    units = 4 * _FEW if plain else _units(eqn, [v.lo.shape for v in values]) or _MANY  # of a slope and an intercept
    error = gamma(units, reach.dtype) * (reach + jnp.abs(at_zero) + magnitude(out))
    return error + gamma(error.size + _FEW, reach.dtype) * jnp.abs(at_zero)


def sum_error(c: Array, size: Any) -> Array:
    """Of a dot product with numbers of such magnitude, a support function's too."""
    return gamma(c.size + 32, c.dtype) * weighted(c, magnitude(size))


def underflow(v: Interval, often: int) -> Array:
    """Of every product with one value along a backward walk, each lost below the smallest number; an entry meets so many."""
    size = magnitude(v)
    return often * float(jnp.finfo(size.dtype).tiny) * (size.size + jnp.sum(jnp.where(jnp.isfinite(size), size, 0.0)))


def weighted_error(c: Array, size: Any) -> Array:
    """Of an addition or two to each coefficient."""
    return gamma(_FEW, c.dtype) * weighted(c, magnitude(size))
