"""The engine: one forward walk with intervals, and one backward walk with rows of coefficients.

The backward walk is written for one row ``c``: an upper bound of ``<c, v>`` over the set, for any value ``v`` of the program. It
pulls ``c`` back through affine equations by their VJP, and through others (CROWN) by the affine functions that sandwich them, or
(IBP) stops there and takes the interval. Rows are vmapped in chunks that fit a memory budget.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jrobust.bounds._curves
import jrobust.bounds._interval
import jrobust.bounds._products
import jrobust.bounds._relaxations  # noqa: F401  (all fill the tables)
from jrobust import _loops
from jrobust._program import Equation
from jrobust.bounds._machine import intersect, intervals, whole, within
from jrobust.bounds._problem import Problem, check, mask_of, pose, program_of
from jrobust.bounds._tables import RELAX, Interval, Mask, is_affine
from jrobust.typing import Array

Env = dict[int, Any]


class Method(NamedTuple):
    """What makes a bounding method, all static.

    Attributes:
      name: for tables and errors.
      relax: whether the backward walk goes through nonlinear equations (CROWN) or stops there (IBP).
      intermediates: the method whose intervals the relaxations are built on; None: its own, refined as it goes.
      memory: bytes that the coefficients of one example may take.
    """

    name: str
    relax: bool
    intermediates: "Method | None"
    memory: int


def _is_box(s: Any) -> bool:
    """Whether the set is its own hull."""
    if s.geometry.name in ("product", "power"):
        return all(_is_box(part) for part in s.params)
    return s.geometry.name in ("linf", "box")


# -- Forward ----------------------------------------------------------------------------------------------------------


class Bounded(NamedTuple):
    """The forward walk's result: every known value, an interval for every other, the relaxations built on them."""

    env: Env
    relaxed: dict[int, Any]


def forward(problem: Problem, method: Method) -> Bounded:
    """Intervals of every value, as tight as ``method`` makes them."""
    program = problem.program
    base = forward(problem, method.intermediates) if method.intermediates is not None else None
    hull = [whole(Interval(*both)) for both in zip(*map(jax.tree.leaves, problem.s.hull()), strict=True)]
    env: Env = dict(program.constants) | dict(zip(program.inputs, hull, strict=True))
    relaxed: dict[int, Any] = {}
    refined: set[int] = set()
    for k, eqn in enumerate(program.equations):
        mask = mask_of(program, eqn)
        if not any(mask):
            env |= dict(zip(eqn.outputs, eqn.bind([env[i] for i in eqn.inputs]), strict=True))
            continue
        affine = is_affine(eqn, mask, program.avals)
        if not affine:
            for i in {i for i, d in zip(eqn.inputs, mask, strict=True) if d} - refined:
                refined.add(i)
                if _worth_refining(problem, method, i):
                    how = None if not method.relax else base.relaxed if base is not None else relaxed
                    source = env if base is None else base.env
                    env[i] = intersect(env[i], two_sided(problem, source, how, i, method.memory))
        values = [env[i] for i in eqn.inputs]
        outs = intervals(eqn, values)
        if base is not None:
            outs = [intersect(o, base.env[i]) if _floating(o) else o for o, i in zip(outs, eqn.outputs, strict=True)]
        env |= dict(zip(eqn.outputs, outs, strict=True))
        if not affine and eqn.name in RELAX and _floating(outs[0]):
            relaxed[k] = within(RELAX[eqn.name](eqn, *values), outs[0], values)
    return Bounded(env, relaxed)


def _floating(v: Interval) -> bool:
    return bool(jnp.issubdtype(v.lo.dtype, jnp.floating))


def _worth_refining(problem: Problem, method: Method, i: int) -> bool:
    """Whether a backward pass can be tighter than the interval of value ``i``."""
    if not jnp.issubdtype(problem.program.avals[i].dtype, jnp.floating):
        return False
    if i in problem.pure and _is_box(problem.s):
        return method.relax and problem.levels[i] > 1
    return method.relax or (i in problem.pure and problem.levels[i] > 0)


# -- Backward ---------------------------------------------------------------------------------------------------------


def _pull(fn: Callable[..., Any], shapes: Sequence[Any], coefficients: Sequence[Any]) -> tuple[Sequence[Any], Any]:
    """``<c, fn(x)>`` for affine ``fn`` as ``<c', x> + bias``."""
    at_zero, vjp = jax.vjp(fn, *(jnp.zeros(a.shape, a.dtype) for a in shapes))
    return vjp(coefficients), sum(_dot(c, b) for c, b in zip(coefficients, at_zero, strict=True))


def _dot(c: Array, b: Array) -> Array:
    """``<c, b>``; an entry that a form does not hold (c = 0) may be infinite."""
    return jnp.sum(jnp.where(c == 0, 0.0, c * b))


class _Form(NamedTuple):
    """``<rows, values> + offset``, with the equations from ``upto`` on already pulled through."""

    rows: dict[int, Array]
    offset: Array
    upto: int


def _pulled(problem: Problem, env: Env, relaxed: dict[int, Any] | None, form: _Form, *, affine_only: bool) -> _Form:
    """Pull a form back: exactly, up to the first equation that is not affine; or as an upper bound, all the way."""
    program = problem.program
    rows, offset = dict(form.rows), form.offset
    for k in reversed(range(form.upto)):
        eqn = program.equations[k]
        if not any(o in rows for o in eqn.outputs):
            continue
        mask = mask_of(program, eqn)
        affine = is_affine(eqn, mask, program.avals)
        if affine_only and not affine:
            return _Form(rows, offset, k + 1)
        sources = [i for i, d in zip(eqn.inputs, mask, strict=True) if d]
        known = [None if d else env[i] for i, d in zip(eqn.inputs, mask, strict=True)]
        shapes = [program.avals[i] for i in sources]
        c = [rows.pop(o, jnp.zeros(a.shape, offset.dtype)) for o, a in zip(eqn.outputs, eqn.avals, strict=True)]
        if affine:
            parts = [_pull(_filled(_function(eqn), mask, known), shapes, c)]
        elif relaxed is not None and k in relaxed:
            signed = [jnp.minimum(ci, 0) for ci in c], [jnp.maximum(ci, 0) for ci in c]
            parts = [_pull(_filled(side, mask, known), shapes, ci) for side, ci in zip(relaxed[k], signed, strict=True)]
        else:
            offset += sum(_sup(ci, env[o]) for ci, o in zip(c, eqn.outputs, strict=True))
            continue
        for pulled, bias in parts:
            offset += bias
            for i, ci in zip(sources, pulled, strict=True):
                rows[i] = rows[i] + ci if i in rows else ci
    return _Form(rows, offset, 0)


def _upper(problem: Problem, env: Env, relaxed: dict[int, Any] | None, form: _Form) -> Array:
    """An upper bound of a form over the set; ``relaxed=None`` stops at nonlinear equations."""
    at_input = _pulled(problem, env, relaxed, form, affine_only=False)
    finite = [jnp.all(jnp.isfinite(c)) for c in at_input.rows.values()]
    bound = at_input.offset + _support(problem, at_input.rows)
    return jnp.where(jnp.all(jnp.stack(finite)), bound, jnp.nan) if finite else bound


def _sup(c: Array, v: Interval) -> Array:
    return _dot(c, jnp.where(c > 0, v.hi, v.lo))


def _support(problem: Problem, rows: dict[int, Array]) -> Any:
    if not rows:
        return 0.0
    leaves, tree = jax.tree.flatten(problem.s.center)
    ids = problem.program.inputs
    return problem.s.support(tree.unflatten([rows.get(i, jnp.zeros_like(x)) for i, x in zip(ids, leaves, strict=True)]))


def _filled(fn: Callable[..., Any], mask: Mask, values: Sequence[Any]) -> Callable[..., list[Any]]:
    """``fn`` of the dependent operands alone."""

    def of_dependent(*xs: Any) -> list[Any]:
        queue = iter(xs)
        out = fn(*(next(queue) if d else v for d, v in zip(mask, values, strict=True)))
        return list(out) if isinstance(out, list | tuple) else [out]

    return of_dependent


def _function(eqn: Equation) -> Callable[..., Any]:
    # the identity in value; its own derivative would drop the rows
    return (lambda x: x) if eqn.name == "stop_gradient" else (lambda *xs: eqn.bind(xs))


def _rows(problem: Problem, env: Env, i: int, memory: int, one: Callable[[_Form], Any]) -> Any:
    """``one(form)`` for each entry of value ``i``, as many at a time as the memory allows; the identity is never built."""
    program, aval = problem.program, problem.program.avals[i]
    n = math.prod(aval.shape)
    widest = max(math.prod(program.avals[j].shape) for j in program.dependent)
    # about three coefficient arrays are alive at a time, for either sign
    chunk = max(1, memory // (6 * widest * aval.dtype.itemsize))
    upto = 1 + max((k for k, eqn in enumerate(program.equations) if i in eqn.outputs), default=-1)

    def at(index: Array) -> Any:
        row = (jnp.arange(n) == index).astype(aval.dtype).reshape(aval.shape)
        form = _Form({i: row}, jnp.zeros((), aval.dtype), upto)
        return one(_pulled(problem, env, None, form, affine_only=True))

    index = jnp.arange(n)
    out = jax.vmap(at)(index) if n <= chunk else _loops.map(at, index, batch_size=chunk)
    return jax.tree.map(lambda end: end.reshape(aval.shape), out)


def one_sided(problem: Problem, env: Env, relaxed: Any, i: int, memory: int) -> Array:
    """Upper bounds of every entry of value ``i`` by backward passes."""
    return _rows(problem, env, i, memory, lambda form: _upper(problem, env, relaxed, form))


def two_sided(problem: Problem, env: Env, relaxed: Any, i: int, memory: int) -> Interval:
    """Both bounds of every entry of value ``i`` by backward passes, which part where the first nonlinear equation is met."""

    def both(form: _Form) -> Interval:
        negative = _Form({i: -c for i, c in form.rows.items()}, -form.offset, form.upto)
        return Interval(-_upper(problem, env, relaxed, negative), _upper(problem, env, relaxed, form))

    return _rows(problem, env, i, memory, both)


def upper_bounds(fn: Callable[[Any], Any], s: Any, method: Method) -> Array:
    """Elementwise upper bounds of the array ``fn(z)`` over the set: the interval, and the backward pass where it can be tighter."""
    program = program_of(fn, s.center)
    check(program, method.name)
    (out,) = program.outputs
    problem = pose(program, s)
    inner = method.intermediates if method.intermediates is not None else method
    env, relaxed = forward(problem, inner)
    if out not in program.dependent:
        return jnp.asarray(env[out])
    best = env[out]
    if problem.levels[out] > 1 or (out in problem.pure and not _is_box(s)):
        best = intersect(best, Interval(best.lo, one_sided(problem, env, None, out, method.memory)))
    if method.relax and out not in problem.pure:
        best = intersect(best, Interval(best.lo, one_sided(problem, env, relaxed, out, method.memory)))
    return best.hi
