"""The backward walk: a row of coefficients pulled from a value to the input, as an upper bound of it over the set.

It is written for one row ``c``: an upper bound of ``<c, v>`` for any value ``v`` of the program. It pulls ``c`` through affine equations
by their VJP and through others by the pair of affine functions that sandwich them (CROWN), or takes their interval (IBP). On its way
it collects multiples of the constraints that a split of the domain added (beta-CROWN).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._program import Equation
from jrobust.bounds._affine import ELEMENTWISE, LINEAR, filled, function
from jrobust.bounds._machine import within
from jrobust.bounds._problem import Env, Problem, mask_of, relaxable
from jrobust.bounds._rounding import line_error, straight, sum_error, weighted, weighted_error
from jrobust.bounds._tables import RELAX, Interval, is_affine
from jrobust.typing import Array

# Entries of a value from which its lines are kept: every row goes through them, and would compute them again.
_LARGE = 1024


class Lines(NamedTuple):
    """The affine functions below and above an equation, and how far rounding may move what is pulled through each, entry by entry.

    Where the equation works entry by entry, ``diagonals`` has of either side the value at 0 and the slope in each operand.
    """

    sides: Sequence[Callable[..., Any]]
    errors: Sequence[Array] | None = None
    diagonals: Sequence[tuple[Array, Sequence[Array]]] | None = None


class Bounded(NamedTuple):
    """What a forward walk found: every known value and an interval for every other, the lines built on them, by equation, their free
    parameters, how far rounding may move what is pulled through affine equations, and what a walk back may lose by underflow."""

    env: Env
    theta: dict[int, Any]
    pairs: dict[int, Lines]
    errors: dict[int, Sequence[Array]]
    lost: Any = 0.0


def pair(eqn: Equation, values: Sequence[Any], out: Interval, theta: Any = None) -> list[Callable[..., Any]]:
    """The affine functions around an equation, with these free parameters (None: those that its relaxation starts with)."""
    rule = RELAX[eqn.name]
    theta = rule.start(eqn, *values) if theta is None else theta
    return within(rule.lines(eqn, theta, *values), out, values)


def lines(problem: Problem, k: int, values: Sequence[Any], out: Interval, theta: Any) -> Lines | None:
    """`pair`, and its errors; None where these are asked for and not known."""
    eqn = problem.program.equations[k]
    sides = pair(eqn, values, out, theta)
    mask = mask_of(problem.program, eqn)
    operands, own = [v for v, d in zip(values, mask, strict=True) if d], [filled(side, mask, values) for side in sides]
    entrywise = eqn.name in ELEMENTWISE and all(v.lo.shape == out.lo.shape for v in operands)
    diagonals = [_diagonal(side, operands) for side in own] if entrywise else None
    if diagonals is not None and out.lo.size >= _LARGE:
        diagonals = _loops.kept(diagonals)
    if not problem.rounding:
        return Lines(sides, None, diagonals)
    if not straight(eqn, [v.lo.shape for v in operands]):
        return None
    return Lines(sides, [line_error(eqn, side, operands, out) for side in own], diagonals)


def _diagonal(side: Callable[..., Any], operands: Sequence[Interval]) -> tuple[Array, Sequence[Array]]:
    """An affine function that works entry by entry, as its value at 0 and its slopes."""
    (at_zero,), vjp = jax.vjp(side, *(jnp.zeros_like(v.lo) for v in operands))
    return at_zero, vjp([jnp.ones_like(at_zero)])


def pairs_of(problem: Problem, env: Env, theta: Mapping[int, Any]) -> dict[int, Lines]:
    """`lines` of every equation that has parameters here."""
    found = {}
    for k, parameters in theta.items():
        eqn = problem.program.equations[k]
        found[k] = lines(problem, k, [env[i] for i in eqn.inputs], env[eqn.outputs[0]], parameters)
    return {k: v for k, v in found.items() if v is not None}


def relaxed(problem: Problem, env: Env) -> Bounded:
    """The relaxations that intervals of every value give."""
    program = problem.program
    theta = {
        k: RELAX[eqn.name].start(eqn, *(env[i] for i in eqn.inputs))
        for k, eqn in enumerate(program.equations)
        if relaxable(program, eqn)
    }
    return Bounded(env, theta, pairs_of(problem, env, theta), {})


class Form(NamedTuple):
    """``<rows, values> + offset``, with the equations from ``upto`` on already pulled through.

    ``met`` are the coefficients that nonlinear equations were met with, by equation; ``error`` is what rounding may add.
    """

    rows: dict[int, Array]
    offset: Array
    upto: int
    met: dict[int, Any]
    error: Any = 0.0


class Cut(NamedTuple):
    """Multipliers >= 0 of ``value >= interval.lo`` and ``value <= interval.hi``; zero where the domain has no such constraint."""

    above: Array
    below: Array
    interval: Interval


def _pull(
    fn: Callable[..., Any], shapes: Sequence[Any], coefficients: Sequence[Any], *, linear: bool = False
) -> tuple[Sequence[Any], Any]:
    """``<c, fn(x)>`` for affine ``fn`` as ``<c', x> + bias``; there is none where ``fn`` is ``linear``."""
    at_zero, vjp = jax.vjp(fn, *(jnp.zeros(a.shape, a.dtype) for a in shapes))
    return vjp(coefficients), 0.0 if linear else sum(_dot(c, b) for c, b in zip(coefficients, at_zero, strict=True))


def _through(c: Array, below: tuple[Array, Any], above: tuple[Array, Any]) -> tuple[Sequence[Array], Array]:
    """The same of a pair of lines, entry by entry: ``below`` where c is negative, else ``above``."""
    negative = c < 0
    at_zero, slopes = jax.tree.map(lambda low, high: jnp.where(negative, low, high), below, above)
    return [c * slope for slope in slopes], _dot(c, at_zero)


def _dot(c: Array, b: Array) -> Array:
    """``<c, b>``; an entry that a form does not hold (c = 0) may be infinite."""
    return jnp.sum(jnp.where(c == 0, 0.0, c * b))


def _cut(rows: dict[int, Array], i: int, cut: Cut | None, aval: Any, env: Env, error: "_Error") -> Any:
    """Add the constraints on value ``i``, each a quantity >= 0 on the domain; returns what the offset gains."""
    if cut is None:
        return 0.0
    rows[i] = rows.get(i, jnp.zeros(aval.shape, aval.dtype)) + cut.above - cut.below
    error.add(weighted_error, rows[i], env[i])
    error.add(sum_error, cut.below, cut.interval.hi)
    error.add(sum_error, cut.above, cut.interval.lo)
    return _dot(cut.below, cut.interval.hi) - _dot(cut.above, cut.interval.lo)


def pulled(
    problem: Problem, by: Bounded, form: Form, cuts: Mapping[int, Cut] | None = None, *, affine_only: bool = False
) -> Form:
    """Pull a form back: as an upper bound all the way, or exactly, up to the first equation that is not affine or whose value is cut."""
    program, env, cuts = problem.program, by.env, cuts or {}
    rows, offset, met = dict(form.rows), form.offset, dict(form.met)
    error = _Error(problem.rounding, form.error)
    for k in reversed(range(form.upto)):
        eqn = program.equations[k]
        if not any(o in rows or o in cuts for o in eqn.outputs):
            continue
        mask = mask_of(program, eqn)
        affine = is_affine(eqn, mask, program.avals)
        if affine_only and not (affine and not any(o in cuts for o in eqn.outputs)):
            return Form(rows, offset, k + 1, met, error.total)
        sources = [i for i, d in zip(eqn.inputs, mask, strict=True) if d]
        known = [None if d else env[i] for i, d in zip(eqn.inputs, mask, strict=True)]
        shapes = [program.avals[i] for i in sources]
        offset += sum(_cut(rows, o, cuts.get(o), a, env, error) for o, a in zip(eqn.outputs, eqn.avals, strict=True))
        c = [rows.pop(o, jnp.zeros(a.shape, offset.dtype)) for o, a in zip(eqn.outputs, eqn.avals, strict=True)]
        if affine:
            parts = [_pull(filled(function(eqn), mask, known), shapes, c, linear=eqn.name in LINEAR)]
            for ci, size in zip(c, by.errors.get(k, ()), strict=False):
                error.add(weighted, ci, size)
        elif k in by.pairs:
            met[k], pair = c, by.pairs[k]
            if pair.diagonals is None:
                signed = [jnp.minimum(c[0], 0), jnp.maximum(c[0], 0)]
                parts = [_pull(filled(f, mask, known), shapes, [ci]) for f, ci in zip(pair.sides, signed, strict=True)]
            else:
                parts = [_through(c[0], *pair.diagonals)]
            if pair.errors is not None:
                error.add(weighted, c[0], jnp.where(c[0] > 0, pair.errors[1], pair.errors[0]))
        else:
            for ci, o in zip(c, eqn.outputs, strict=True):
                offset += _sup(ci, env[o])
                error.add(sum_error, ci, env[o])
            continue
        before = set(rows)
        for back, bias in parts:
            offset += bias
            error.add(weighted_error, offset, 1.0)
            for i, ci in zip(sources, back, strict=True):
                rows[i] = rows[i] + ci if i in rows else ci
        for i in before & set(sources):
            error.add(weighted_error, rows[i], env[i])
    offset += sum(_cut(rows, i, cuts.get(i), program.avals[i], env, error) for i in program.inputs)
    return Form(rows, offset, 0, met, error.total)


class _Error:
    """What rounding may add to a form, summed up where it is asked for."""

    def __init__(self, asked: bool, total: Any) -> None:
        self.asked, self.total = asked, total

    def add(self, term: Callable[..., Array], *of: Any) -> None:
        if self.asked:
            self.total = self.total + term(*of)


def upper(problem: Problem, by: Bounded, form: Form, cuts: Mapping[int, Cut] | None = None) -> tuple[Array, Form]:
    """An upper bound of a form over the set, and the form at the input."""
    end = pulled(problem, by, form, cuts)
    bound = end.offset
    if end.rows:
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(c)) for c in end.rows.values()]))
        bound = jnp.where(finite, bound + problem.s.support(at_input(problem, end.rows)), jnp.nan)
    if problem.rounding:
        last = sum(sum_error(c, by.env[i]) for i, c in end.rows.items())
        bound += 1.01 * (end.error + last + jnp.asarray(by.lost, bound.dtype) + weighted_error(bound, 1.0))
    return bound, end


def scaled(form: Form, factor: Array) -> Form:
    """The form times a number."""
    rows = {i: factor * c for i, c in form.rows.items()}
    return form._replace(rows=rows, offset=factor * form.offset, error=jnp.abs(factor) * form.error)


def _sup(c: Array, v: Interval) -> Array:
    return _dot(c, jnp.where(c > 0, v.hi, v.lo))


def at_input(problem: Problem, rows: Mapping[int, Array]) -> Any:
    """Rows of the program's inputs as a point of the set's structure; 0 where there is none."""
    leaves, tree = jax.tree.flatten(problem.s.center)
    return tree.unflatten([rows.get(i, jnp.zeros_like(x)) for i, x in zip(problem.program.inputs, leaves, strict=True)])
