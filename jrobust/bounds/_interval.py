"""Interval arithmetic: the rule of every primitive, by one line where it is monotone or affine."""

import math
from typing import Any

import jax.numpy as jnp

from jrobust._program import Equation
from jrobust.bounds._tables import (
    Interval,
    Mask,
    anything,
    broadcasts,
    copies,
    defaffine,
    defbackward,
    definterval,
    defmonotone,
    ends,
    joins,
    mixes,
    moves,
)
from jrobust.typing import Array

# Affine with coefficients >= 0 (or <= 0): the ends map to the ends.
defaffine("reshape squeeze transpose rev slice copy stop_gradient", "+", moves)
defaffine("name optimization_barrier sharding_constraint pvary device_put split unstack expand_dims", "+", moves)
defaffine("neg", "-", moves)
defaffine("add add_any", "+", joins)
defaffine("sub", "+-", joins)
defaffine("broadcast_in_dim", "+k", broadcasts)
defaffine("concatenate pad stack tile", "+", copies)
defaffine("gather dynamic_slice", "+k", copies)
defaffine("dynamic_update_slice", "++k", copies)
defaffine("scatter scatter-add", "+k+", mixes)
defaffine("reduce_sum cumsum reduce_window_sum", "+", mixes)

# Monotone.
defmonotone("clamp reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin")
defmonotone("exp exp2 expm1 log log1p tanh logistic sqrt cbrt erf atan asin acosh sinh asinh sign floor ceil round")
defmonotone("softplus selu soft_sign sparse_plus logsumexp")
defmonotone("rsqrt erfc acos not", "-")
defmonotone("reduce_and reduce_or")


def _one(mask: Mask) -> bool:
    return sum(mask) == 1


def _hull(*corners: Array) -> Interval:
    lo, hi = corners[0], corners[0]
    for c in corners[1:]:
        lo, hi = jnp.minimum(lo, c), jnp.maximum(hi, c)
    return Interval(lo, hi)


def _larger(a: Any, b: Any) -> Array:
    """`jnp.maximum`, at ties ``b``: its own derivative divides by the number of largest operands."""
    return jnp.where((a > b) | (a != a), a, b)


def _smaller(a: Any, b: Any) -> Array:
    return jnp.where((a < b) | (a != a), a, b)


definterval("max", lambda eqn, x, y: [Interval(*(_larger(*both) for both in zip(ends(x), ends(y), strict=True)))])
definterval("min", lambda eqn, x, y: [Interval(*(_smaller(*both) for both in zip(ends(x), ends(y), strict=True)))])


# Products of a dot of two bounded operands that are written out, in numbers: 1 MiB of float32, about what coefficients take.
_WRITTEN_OUT = 2**18


def _contract(eqn: Equation, x: Any, y: Any) -> list[Interval]:
    """Products summed (dot, convolution): centre and radius, ``|W|`` for the radius."""
    (xc, xr), (yc, yr) = _ball(x), _ball(y)
    (centre,) = eqn.bind([xc, yc])
    if yr is None:
        (radius,) = eqn.bind([xr, jnp.abs(yc)])
    elif xr is None:
        (radius,) = eqn.bind([jnp.abs(xc), yr])
    else:
        (left,), (right,) = eqn.bind([jnp.abs(xc) + xr, yr]), eqn.bind([xr, jnp.abs(yc)])
        radius = left + right
    return [Interval(centre - radius, centre + radius)]


def _dot(eqn: Equation, x: Any, y: Any) -> list[Interval]:
    """Of two bounded operands: the least and the largest of every product, summed, which no centre and radius can beat."""
    (aval,), (contracted, batch) = eqn.avals, eqn.params["dimension_numbers"]
    bounded = isinstance(x, Interval) and isinstance(y, Interval) and jnp.issubdtype(aval.dtype, jnp.floating)
    if not bounded or aval.size * math.prod(x.lo.shape[i] for i in contracted[0]) > _WRITTEN_OUT:
        return _contract(eqn, x, y)
    corners = [_products(a, b, contracted, batch) for a in x for b in y]
    return [Interval(*(jnp.sum(end, axis=-1).reshape(aval.shape) for end in _hull(*corners)))]


def _products(a: Array, b: Array, contracted: Any, batch: Any) -> Array:
    """What a dot sums: [batch, free of a, free of b, contracted]."""

    def rows(v: Array, summed: Any, shared: Any) -> Array:
        free = [i for i in range(v.ndim) if i not in (*summed, *shared)]
        sizes = [math.prod(v.shape[i] for i in which) for which in (shared, free, summed)]
        return v.transpose(*shared, *free, *summed).reshape(sizes)

    return rows(a, contracted[0], batch[0])[:, :, None] * rows(b, contracted[1], batch[1])[:, None]


def _ball(v: Any) -> tuple[Any, Any]:
    return (0.5 * (v.lo + v.hi), 0.5 * (v.hi - v.lo)) if isinstance(v, Interval) else (v, None)


def _mul(eqn: Equation, x: Any, y: Any) -> list[Interval]:
    if eqn.inputs[0] == eqn.inputs[1]:
        return [_even(*ends(x), lambda v: v * v)]
    (a, b), (c, d) = ends(x), ends(y)
    if not isinstance(y, Interval):
        return [_hull(a * c, b * c)]
    if not isinstance(x, Interval):
        return [_hull(a * c, a * d)]
    return [_hull(a * c, a * d, b * c, b * d)]


def _div(eqn: Equation, x: Any, y: Any) -> list[Interval]:
    (a, b), (c, d) = ends(x), ends(y)
    if not isinstance(y, Interval):
        return [_hull(*(eqn.bind([v, c])[0] for v in (a, b)))]
    free = (c > 0) | (d < 0)
    c, d = jnp.where(free, c, 1.0), jnp.where(free, d, 1.0)
    quotient = _hull(a / c, a / d, b / c, b / d)
    return [Interval(jnp.where(free, quotient.lo, -jnp.inf), jnp.where(free, quotient.hi, jnp.inf))]


def _even(lo: Array, hi: Array, f: Any) -> Interval:
    """An even function that grows with ``|x|``."""
    near = jnp.maximum(jnp.maximum(lo, -hi), 0)
    return Interval(f(near), f(jnp.maximum(jnp.abs(lo), jnp.abs(hi))))


def _power(eqn: Equation, x: Interval) -> list[Interval]:
    y = eqn.params["y"]
    f = lambda v: v ** abs(y)  # noqa: E731
    positive = _even(x.lo, x.hi, f) if y % 2 == 0 else Interval(f(x.lo), f(x.hi))
    if y >= 0:
        return [positive]
    free = (x.lo > 0) | (x.hi < 0)
    lo, hi = (jnp.where(free, end, 1.0) for end in positive)
    return [Interval(jnp.where(free, 1 / hi, -jnp.inf), jnp.where(free, 1 / lo, jnp.inf))]


def _greater(a: Any, b: Any, *, strict: bool) -> Interval:
    # NaN ends must leave both answers possible: hence the negated comparison
    (al, ah), (bl, bh) = ends(a), ends(b)
    return Interval(al > bh, ~(ah <= bl)) if strict else Interval(al >= bh, ~(ah < bl))


def _equal(eqn: Equation, a: Any, b: Any) -> Interval:
    (al, ah), (bl, bh) = ends(a), ends(b)
    if eqn.inputs[0] == eqn.inputs[1]:  # the usual test for NaN
        number = (al == al) & (ah == ah)
        return Interval(number, jnp.ones_like(number))
    return Interval((al == ah) & (bl == bh) & (al == bl), ~((ah < bl) | (al > bh)))


def _not(b: Interval) -> Interval:
    return Interval(~b.hi, ~b.lo)


def _select(eqn: Equation, which: Any, *cases: Any) -> list[Interval]:
    los, his = zip(*map(ends, cases), strict=True)
    if not isinstance(which, Interval):
        return [Interval(eqn.bind([which, *los])[0], eqn.bind([which, *his])[0])]
    if len(cases) > 2 or which.lo.dtype != jnp.bool_:
        return [Interval(_hull(*los).lo, _hull(*his).hi)]
    pick = lambda ends_, both: jnp.where(which.lo, ends_[1], jnp.where(which.hi, both, ends_[0]))  # noqa: E731
    return [Interval(pick(los, jnp.minimum(*los)), pick(his, jnp.maximum(*his)))]


def _logical(eqn: Equation, x: Any, y: Any) -> list[Interval]:
    """On booleans monotone; on integers anything."""
    if eqn.avals[0].dtype != jnp.bool_:
        return [anything(eqn.avals[0])]
    return [Interval(*(eqn.bind([ends(x)[i], ends(y)[i]])[0] for i in (0, 1)))]


def _convert(eqn: Equation, x: Interval) -> list[Interval]:
    """Monotone between numbers, but to bool it asks for zero, and what does not fit an integer (NaN) may become anything."""
    (aval,), source = eqn.avals, x.lo.dtype
    if aval.dtype == jnp.bool_:
        return [_not(Interval((x.lo == 0) & (x.hi == 0), ~((x.lo > 0) | (x.hi < 0))))]
    lo, hi = (eqn.bind([end])[0] for end in x)
    if source == jnp.bool_ or not jnp.issubdtype(aval.dtype, jnp.integer):
        return [Interval(lo, hi)]
    info = jnp.iinfo(aval.dtype)
    if jnp.issubdtype(source, jnp.integer):
        own = jnp.iinfo(source)
        fits = (x.lo >= max(info.min, own.min)) & (x.hi <= min(info.max, own.max))
    else:
        fits = (x.lo > info.min - 1.0) & (x.hi < info.max + 1.0)
    least, most = anything(aval)
    return [Interval(jnp.where(fits, lo, least), jnp.where(fits, hi, most))]


def _maybe(eqn: Equation, *values: Any) -> list[Interval]:
    shape = eqn.avals[0].shape
    return [Interval(jnp.zeros(shape, bool), jnp.ones(shape, bool))]


def _leaky(eqn: Equation, x: Interval, slope: Any = 0.01) -> list[Interval]:
    f = lambda v: jnp.where(v >= 0, v, slope * v)  # noqa: E731
    kink = jnp.clip(0.0, x.lo, x.hi)
    return [_hull(f(x.lo), f(x.hi), f(kink))]


definterval("convert_element_type", _convert)
defbackward("convert_element_type", any, moves)
definterval("dot_general", _dot)
definterval("conv_general_dilated", _contract)
defbackward("dot_general conv_general_dilated", _one, mixes)
definterval("mul", _mul)
defbackward("mul", _one, moves)
definterval("div", _div)
defbackward("div", lambda mask: mask == (True, False), moves)
definterval("select_n", _select)
defbackward(
    "select_n", lambda mask: not mask[0], lambda eqn, levels: (moves if len(levels) == 1 else copies)(eqn, levels)
)
definterval("abs", lambda eqn, x: [_even(x.lo, x.hi, lambda v: v)])
definterval("square", lambda eqn, x: [_even(x.lo, x.hi, lambda v: v * v)])
definterval("integer_pow", _power)
definterval("gt", lambda eqn, a, b: [_greater(a, b, strict=True)])
definterval("ge", lambda eqn, a, b: [_greater(a, b, strict=False)])
definterval("lt", lambda eqn, a, b: [_greater(b, a, strict=True)])
definterval("le", lambda eqn, a, b: [_greater(b, a, strict=False)])
definterval("eq", lambda eqn, a, b: [_equal(eqn, a, b)])
definterval("ne", lambda eqn, a, b: [_not(_equal(eqn, a, b))])
definterval("and or", _logical)
definterval("is_finite", _maybe)
definterval("leaky_relu", _leaky, lambda mask: mask in ((True,), (True, False)))
