"""A flat program as rows of a (mixed-integer) linear program: one vector of affine functions for each value.

Affine equations are composed, piecewise linear ones have `RULES`; any other lies between its two affine functions, or in its interval.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jrobust._program import Equation
from jrobust.bounds._affine import filled, function
from jrobust.bounds._backward import pair
from jrobust.bounds._linear import Affine, Model, scaled, stacked, take
from jrobust.bounds._matrices import ELEMENTWISE, affine_map
from jrobust.bounds._piecewise import RULES, Term, known, pick
from jrobust.bounds._problem import mask_of, relaxable
from jrobust.bounds._tables import Interval, ends, is_affine

# bounds of hidden values are computed in float32 and limit columns here: no true value may lie beyond
_ROUNDING = 1e-6


class Encoding(NamedTuple):
    """The outputs, and the equations that were relaxed (with their columns' bounds alone, or two affine functions)."""

    outputs: Affine
    relaxed: list[Equation]


def encode(model: Model, program: Any, env: dict[int, Any], inputs: Sequence[Affine]) -> Encoding:
    """Write a program into ``model``.

    Args:
      model: with the columns and rows of the set.
      program: flat, with one output.
      env: an `Interval` or known array for every value.
      inputs: the columns of the program's inputs.
    """
    values = {i: Term(a, *_ends(env[i])) for i, a in zip(program.inputs, inputs, strict=True)}

    def read(i: int) -> Term:
        return values[i] if i in values else known(env[i])

    relaxed = []
    for eqn in program.equations:
        mask = mask_of(program, eqn)
        if not any(mask):
            continue
        ids = [i for i, d in zip(eqn.inputs, mask, strict=True) if d]
        finite = all(np.all(np.isfinite(end)) for i in (*ids, *eqn.outputs) for end in _ends(env[i]))
        outs = None
        if finite and is_affine(eqn, mask, program.avals):
            outs = [_compose(program, env, eqn, mask, ids, [values[i].affine for i in ids])]
        elif finite and eqn.name in RULES:
            operands = [_spread(read(i), eqn, program.avals[i].shape) for i in eqn.inputs]
            outs = RULES[eqn.name](model, eqn, *operands)
        if outs is None:
            outs, exact = _between(model, program, env, eqn, mask, ids, [values[i].affine for i in ids], finite)
            relaxed += [] if exact else [eqn]
        whole, start = stacked(outs) if len(outs) > 1 else outs[0], 0
        for i in eqn.outputs:
            lo, hi = _ends(env[i])
            values[i] = Term(take(whole, np.arange(start, start + len(lo))), lo, hi)
            start += len(lo)
    return Encoding(read(program.outputs[0]).affine, relaxed)


def _ends(v: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds in float64, rounded outward; those of a known value are itself."""
    lo, hi = (np.asarray(end, np.float64).ravel() for end in ends(v))
    if not isinstance(v, Interval) or not jnp.issubdtype(v.lo.dtype, jnp.floating):
        return lo, hi
    room = _ROUNDING * (1 + np.maximum(np.abs(lo), np.abs(hi)))
    return lo - room, hi + room


def _spread(v: Term, eqn: Equation, shape: tuple[int, ...]) -> Term:
    """A scalar operand of an elementwise equation, at every entry."""
    n = eqn.avals[0].size
    return v if shape != () or n == 1 else pick(v, np.zeros(n, int))


def _compose(
    program: Any, env: Any, eqn: Equation, mask: Any, ids: Sequence[int], operands: Sequence[Affine]
) -> Affine:
    fixed = [None if d else env[i] for i, d in zip(eqn.inputs, mask, strict=True)]
    avals = [program.avals[i] for i in ids]
    diagonal = eqn.name in ELEMENTWISE and all(a.shape == eqn.avals[0].shape for a in avals)
    return affine_map(filled(function(eqn), mask, fixed), avals, operands, diagonal=diagonal)


def _between(
    model: Model,
    program: Any,
    env: Any,
    eqn: Equation,
    mask: Any,
    ids: Sequence[int],
    operands: Sequence[Affine],
    finite: bool,
) -> tuple[list[Affine], bool]:
    """Columns inside the outputs' intervals and, where nothing is infinite, between the relaxation's two affine functions."""
    bounds = [_ends(env[i]) for i in eqn.outputs]
    exact = all(bool(jnp.all(env[i].lo == env[i].hi)) for i in eqn.outputs)
    whole = [jnp.issubdtype(a.dtype, jnp.bool_) for a in eqn.avals]
    ys = [model.new(lo, hi, choice=bool(b)) for (lo, hi), b in zip(bounds, whole, strict=True)]
    if finite and not exact and relaxable(program, eqn):
        sides = pair(eqn, [env[i] for i in eqn.inputs], env[eqn.outputs[0]])
        fixed = [None if d else env[i] for i, d in zip(eqn.inputs, mask, strict=True)]
        avals = [program.avals[i] for i in ids]
        below, above = (affine_map(filled(side, mask, fixed), avals, operands, diagonal=False) for side in sides)
        model.at_most_zero(below, scaled(-1, ys[0]))
        model.at_most_zero(ys[0], scaled(-1, above))
    return ys, exact
