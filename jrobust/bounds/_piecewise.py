"""Piecewise linear primitives as rows of a (mixed-integer) linear program, exactly.

``max``, and what is made of it: entries whose winner is certain are that operand, each other one gets a column and, where choices are
binary, a choice. Comparisons are choices, selections follow them. A rule that gives None has nothing to say.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jrobust._program import Equation
from jrobust.bounds._linear import Affine, Model, constant, placed, scaled, shifted, stacked, take, total


class Term(NamedTuple):
    """A value, entry by entry: affine in the columns, and between bounds."""

    affine: Affine
    lo: np.ndarray
    hi: np.ndarray


def known(v: Any) -> Term:
    values = np.asarray(v, np.float64).ravel()
    return Term(constant(values), values, values)


def pick(v: Term, at: np.ndarray) -> Term:
    return Term(take(v.affine, at), v.lo[at], v.hi[at])


def _largest_of(model: Model, a: Term, b: Term) -> Term:
    """``max(a, b)``: above both, and on the one that is chosen; without choices below the chord of ``b + relu(a - b)``."""
    low, high = a.lo - b.hi, a.hi - b.lo
    first, second = low >= 0, (low < 0) & (high <= 0)
    at, n = np.flatnonzero(~(first | second)), len(low)
    out = total(scaled(first, a.affine), scaled(second, b.affine))
    lo, hi = np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi)
    if len(at):
        x, y = (model.named(take(v.affine, at), v.lo[at], v.hi[at]) for v in (a, b))
        top, low, high = model.new(lo[at], hi[at]), low[at], high[at]
        model.at_most_zero(x, scaled(-1, top))
        model.at_most_zero(y, scaled(-1, top))
        if model.integers:
            chosen = model.new(np.zeros(len(at)), np.ones(len(at)), choice=True)
            model.at_most_zero(top, scaled(-1, x), shifted(low, scaled(-low, chosen)))
            model.at_most_zero(top, scaled(-1, y), scaled(-high, chosen))
        else:
            slope = high / (high - low)
            model.at_most_zero(top, scaled(-slope, x), shifted(slope * low, scaled(slope - 1, y)))
        out = total(out, placed(top, at, n))
    return Term(out, lo, hi)


def _negated(v: Term) -> Term:
    return Term(scaled(-1, v.affine), -v.hi, -v.lo)


def _extreme(model: Model, sign: int, a: Term, b: Term) -> Term:
    return _largest_of(model, a, b) if sign > 0 else _negated(_largest_of(model, _negated(a), _negated(b)))


def _numbers(eqn: Equation) -> bool:
    """Whether an equation computes in floats or booleans: integers have no column."""
    return jnp.issubdtype(eqn.avals[0].dtype, jnp.floating) or eqn.avals[0].dtype == jnp.bool_


def _operand(eqn: Equation) -> Any:
    """Shape and dtype of the first operand."""
    return eqn.eqn.invars[0].aval


def _pair(sign: int) -> Callable[..., Any]:
    return lambda model, eqn, a, b: [_extreme(model, sign, a, b).affine] if _numbers(eqn) else None


def _clamp(model: Model, eqn: Equation, low: Term, x: Term, high: Term) -> Any:
    return [_extreme(model, -1, _extreme(model, 1, x, low), high).affine] if _numbers(eqn) else None


def _relu(model: Model, x: Term) -> Affine:
    return _largest_of(model, x, known(np.zeros_like(x.lo))).affine


def _abs(model: Model, eqn: Equation, x: Term) -> Any:
    return [total(scaled(2, _relu(model, x)), scaled(-1, x.affine))] if _numbers(eqn) else None


def _leaky(model: Model, eqn: Equation, x: Term, slope: Term | None = None) -> Any:
    k = 0.01 if slope is None else slope.lo
    return [total(scaled(k, x.affine), scaled(1 - np.asarray(k), _relu(model, x)))]


def _tournament(model: Model, v: Term, rows: np.ndarray, sign: int) -> Affine:
    """The extreme over axis 0 of ``rows``, indices into ``v``, by rounds of pairs as in the relaxation of `crown`."""
    while len(rows) > 1:
        n = len(rows) // 2
        won = _extreme(model, sign, pick(v, rows[:n].ravel()), pick(v, rows[n : 2 * n].ravel()))
        rest = pick(v, rows[2 * n :].ravel())
        v = Term(
            stacked([won.affine, rest.affine]), np.concatenate([won.lo, rest.lo]), np.concatenate([won.hi, rest.hi])
        )
        rows = np.arange(len(v.lo)).reshape(-1, rows.shape[1])
    return take(v.affine, rows[0])


def _reduce(sign: int) -> Callable[..., Any]:
    def rule(model: Model, eqn: Equation, x: Term) -> Any:
        axes, shape = eqn.params["axes"], _operand(eqn).shape
        if not _numbers(eqn) or not len(x.lo):
            return None
        rows = np.moveaxis(np.arange(len(x.lo)).reshape(shape), axes, range(len(axes)))
        return [_tournament(model, x, rows.reshape(-1, eqn.avals[0].size), sign)]

    return rule


def _window(sign: int) -> Callable[..., Any]:
    def rule(model: Model, eqn: Equation, x: Term) -> Any:
        if not _numbers(eqn):
            return None
        # padding: an entry that never wins
        last = np.min(x.lo) if sign > 0 else np.max(x.hi)
        padded = stacked([x.affine, constant([last])])
        x = Term(padded, np.append(x.lo, last), np.append(x.hi, last))
        return [_tournament(model, x, _windows(eqn), sign)]

    return rule


def _windows(eqn: Equation) -> np.ndarray:
    """Indices [window, output entry] of what competes; padding has the one after the last."""
    p, shape = eqn.params, _operand(eqn).shape
    n = int(np.prod(shape))
    dilated = [0 if s == 0 else (s - 1) * d + 1 for s, d in zip(shape, p["base_dilation"], strict=True)]
    grid = np.full([s + max(lo, 0) + max(hi, 0) for s, (lo, hi) in zip(dilated, p["padding"], strict=True)], n)
    at = tuple(
        slice(max(lo, 0), max(lo, 0) + s, d)
        for s, d, (lo, _) in zip(dilated, p["base_dilation"], p["padding"], strict=True)
    )
    grid[at] = np.arange(n).reshape(shape)
    grid = grid[
        tuple(slice(max(-lo, 0), g - max(-hi, 0)) for g, (lo, hi) in zip(grid.shape, p["padding"], strict=True))
    ]
    size, stride, dilation = p["window_dimensions"], p["window_strides"], p["window_dilation"]
    views = []
    for corner in np.ndindex(*size):
        start = [i * d for i, d in zip(corner, dilation, strict=True)]
        stop = [s + (m - 1) * t + 1 for s, m, t in zip(start, eqn.avals[0].shape, stride, strict=True)]
        views.append(grid[tuple(map(slice, start, stop, stride))].ravel())
    return np.stack(views)


# -- Comparisons and selections ---------------------------------------------------------------------------------------


def _greater(model: Model, eqn: Equation, a: Term, b: Term) -> Any:
    """1 where ``a > b``, 0 where ``a < b``, and either where they are equal."""
    if not jnp.issubdtype(_operand(eqn).dtype, jnp.floating):
        return None
    low, high = a.lo - b.hi, a.hi - b.lo
    at = np.flatnonzero((low <= 0) & (high >= 0))
    surely = placed(constant(np.ones(int(np.sum(low > 0)))), np.flatnonzero(low > 0), len(low))
    if not len(at):
        return [surely]
    chosen = model.new(np.zeros(len(at)), np.ones(len(at)), choice=True)
    difference = total(take(a.affine, at), scaled(-1, take(b.affine, at)))
    model.at_most_zero(difference, scaled(-high[at], chosen))
    model.at_most_zero(scaled(-1, difference), shifted(low[at], scaled(-low[at], chosen)))
    return [total(surely, placed(chosen, at, len(low)))]


def _select(model: Model, eqn: Equation, which: Term, *cases: Term) -> Any:
    """The case that is chosen; entry by entry the other says nothing."""
    if len(cases) != 2 or not _numbers(eqn) or _operand(eqn).dtype != jnp.bool_:
        return None
    no, yes = cases
    at = np.flatnonzero(which.lo != which.hi)
    out = total(scaled(which.lo == 1, yes.affine), scaled(which.hi == 0, no.affine))
    if len(at):
        no, yes, t = pick(no, at), pick(yes, at), take(which.affine, at)
        y = model.new(np.minimum(no.lo, yes.lo), np.maximum(no.hi, yes.hi))
        # by how much the value can lie above or below the case that was not chosen
        off = shifted(1, scaled(-1, t))
        for case, other, is_off in ((yes, no, off), (no, yes, t)):
            up, down = np.maximum(other.hi - case.lo, 0), np.maximum(case.hi - other.lo, 0)
            model.at_most_zero(y, scaled(-1, case.affine), scaled(-up, is_off))
            model.at_most_zero(case.affine, scaled(-1, y), scaled(-down, is_off))
        out = total(out, placed(y, at, len(which.lo)))
    return [out]


def _convert(model: Model, eqn: Equation, x: Term) -> Any:
    """A truth value as a number."""
    truth = _operand(eqn).dtype == jnp.bool_
    return [x.affine] if truth and jnp.issubdtype(eqn.avals[0].dtype, jnp.floating) else None


def _not(model: Model, eqn: Equation, x: Term) -> Any:
    return [shifted(1, scaled(-1, x.affine))] if eqn.avals[0].dtype == jnp.bool_ else None


RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(["max", "or"], _pair(1)),
    **dict.fromkeys(["min", "and"], _pair(-1)),
    "clamp": _clamp,
    "abs": _abs,
    "leaky_relu": _leaky,
    **dict.fromkeys(["reduce_max", "reduce_or"], _reduce(1)),
    **dict.fromkeys(["reduce_min", "reduce_and"], _reduce(-1)),
    "reduce_window_max": _window(1),
    "reduce_window_min": _window(-1),
    **dict.fromkeys(["gt", "ge"], _greater),
    **dict.fromkeys(["lt", "le"], lambda model, eqn, a, b: _greater(model, eqn, b, a)),
    "select_n": _select,
    "convert_element_type": _convert,
    "not": _not,
}
