"""The engine: one forward walk with intervals, which backward walks (`_backward`) tighten where they can, a row an entry."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jrobust.bounds._curves
import jrobust.bounds._interval
import jrobust.bounds._order
import jrobust.bounds._products
import jrobust.bounds._relaxations
import jrobust.bounds._special  # noqa: F401  (all fill the tables)
from jrobust import _loops
from jrobust._program import Program
from jrobust.bounds._backward import Bounded, Form, lines, pulled, scaled, upper
from jrobust.bounds._machine import intersect
from jrobust.bounds._optimise import optimised
from jrobust.bounds._problem import Env, Problem, check, is_box, mask_of, pose, program_of, relaxable
from jrobust.bounds._rounding import affine_error, underflow
from jrobust.bounds._tables import RELAX, Interval, is_affine
from jrobust.bounds._walk import walk
from jrobust.typing import Array

# of one example: drivers run hundreds at once, and more rows at a time are no faster (experiments/bench/bounds.py)
MEMORY = 2**21


class Method(NamedTuple):
    """What makes a bounding method, all static.

    Attributes:
      name: for tables and errors.
      relax: whether the backward walk goes through nonlinear equations (CROWN) or stops there (IBP).
      intermediates: the method (anything that can `walk`) whose intervals the relaxations are built on; None: its own, refined as it goes.
      memory: bytes that the coefficients of one example may take.
      rounding: whether bounds hold for what floats compute, not exact arithmetic alone.
      steps, rate, target: of the optimiser of the relaxations' free parameters (alpha-CROWN); 0 steps leaves them as they start.
    """

    name: str
    relax: bool
    intermediates: Any
    memory: int = MEMORY
    steps: int = 0
    rate: float = 0.1
    target: float = -math.inf
    rounding: bool = False

    def walk(self, problem: Problem) -> Bounded:
        """Intervals of every value, and relaxations."""
        return forward(problem, self)


IBP = Method("ibp", False, None)
CROWN = Method("crown", True, None)


# -- Forward ----------------------------------------------------------------------------------------------------------


def forward(problem: Problem, method: Method, given: Mapping[int, Interval] | None = None) -> Bounded:
    """Intervals of every value, as tight as ``method`` makes them; where intervals are ``given``, those and no backward walk."""
    program = problem.program
    base = method.intermediates.walk(problem) if given is None and method.intermediates is not None else None
    theta, pairs, errors, lost = {}, {}, {}, []

    def tightened(env: Env, i: int) -> Interval:
        if given is not None:
            return intersect(env[i], given[i]) if i in given else env[i]
        if not worth_refining(problem, method, i):
            return env[i]
        # an optimiser builds on what it has tightened itself so far
        by = base if base is not None and not method.steps else Bounded(env, theta, pairs, errors, sum(lost))
        by = by if method.relax else by._replace(theta={}, pairs={})
        return intersect(env[i], two_sided(problem, method, by, i, env[i]))

    def met(env: Env, k: int, outs: Sequence[Interval]) -> Sequence[Interval]:
        eqn = program.equations[k]
        if base is not None:
            outs = [intersect(o, base.env[i]) if _floating(o) else o for o, i in zip(outs, eqn.outputs, strict=True)]
        if relaxable(program, eqn):
            values = [env[i] for i in eqn.inputs]
            theta[k] = RELAX[eqn.name].start(eqn, *values)
            found = lines(problem, k, values, outs[0], theta[k])
            pairs.update({} if found is None else {k: found})
        elif problem.rounding and is_affine(eqn, mask := mask_of(program, eqn), program.avals):
            errors[k] = affine_error(eqn, mask, [env[i] for i in eqn.inputs])
        if problem.rounding:
            fresh = [env[i] for i in program.inputs] if not lost else []
            lost.extend(underflow(v, _widest(program)) for v in (*fresh, *outs) if _floating(v))
        return outs

    env = walk(problem, tightened, met)
    return Bounded(env, theta, pairs, errors, sum(lost))


def _widest(program: Program) -> int:
    return max(math.prod(program.avals[j].shape) for j in program.dependent)


def _floating(v: Interval) -> bool:
    return bool(jnp.issubdtype(v.lo.dtype, jnp.floating))


def worth_refining(problem: Problem, method: Method, i: int) -> bool:
    """Whether a backward pass can be tighter than the interval of value ``i``."""
    if not jnp.issubdtype(problem.program.avals[i].dtype, jnp.floating):
        return False
    if i in problem.pure and is_box(problem.s):
        return method.relax and problem.levels[i] > 1
    return method.relax or (i in problem.pure and problem.levels[i] > 0)


def unsettled(problem: Problem, env: Env, i: int) -> Array:
    """Which entries of value ``i`` some nonlinear equation is not yet affine in, as far as its interval shows."""
    program, aval = problem.program, problem.program.avals[i]
    open_ = jnp.zeros(aval.shape, bool)
    for eqn in program.equations:
        if i not in eqn.inputs or is_affine(eqn, mask_of(program, eqn), program.avals):
            continue
        values = [env.get(j) for j in eqn.inputs]
        rule = RELAX.get(eqn.name)
        points = None if rule is None or any(v is None for v in values) else rule.kinks(eqn, *values)
        if points is None:
            return jnp.ones(aval.shape, bool)
        open_ |= jnp.any(
            jnp.stack([jnp.broadcast_to((env[i].lo < p) & (p < env[i].hi), aval.shape) for p in points]), 0
        )
    return open_


# -- Rows -------------------------------------------------------------------------------------------------------------


def row(problem: Problem, by: Bounded, i: int, index: Any) -> Form:
    """Entry ``index`` (as if flat) of value ``i`` as a form, pulled back to the last nonlinear equation before it."""
    aval, equations = problem.program.avals[i], problem.program.equations
    c = (jnp.arange(math.prod(aval.shape)) == index).astype(aval.dtype).reshape(aval.shape)
    upto = 1 + max((k for k, eqn in enumerate(equations) if i in eqn.outputs), default=-1)
    return pulled(problem, by, Form({i: c}, jnp.zeros((), c.dtype), upto, {}), affine_only=True)


def _rows(
    problem: Problem, by: Bounded, i: int, memory: int, one: Callable[[Form], Any], open_: Array | None, default: Any
) -> Any:
    """``one(form)`` for each open entry of value ``i`` (None: all), as many at a time as memory allows; the identity is never built."""
    program, aval = problem.program, problem.program.avals[i]
    n = math.prod(aval.shape)
    # about three coefficient arrays are alive at a time, for either sign
    chunk = max(1, min(n, memory // (6 * _widest(program) * aval.dtype.itemsize)))

    def at(index: Array) -> Any:
        return one(row(problem, by, i, index))

    active = None if open_ is None else open_.reshape(-1)
    out = _loops.map_where(at, active, jax.tree.map(jnp.ravel, default), batch_size=chunk)
    return jax.tree.map(lambda end: end.reshape(aval.shape), out)


def bound_of(problem: Problem, method: Method, by: Bounded, form: Form) -> Array:
    """An upper bound of one form; where ``by`` has no pair, the interval serves."""
    if not method.steps or not by.theta:
        return upper(problem, by, form)[0]
    return optimised(problem, by, form, steps=method.steps, rate=method.rate, target=method.target)[0]


def one_sided(problem: Problem, method: Method, by: Bounded, i: int, default: Array) -> Array:
    """Upper bounds of every entry of value ``i`` by backward passes."""
    return _rows(problem, by, i, method.memory, lambda form: bound_of(problem, method, by, form), None, default)


def ends_of(
    problem: Problem, method: Method, by: Bounded, i: int, default: Interval, open_: Array | None = None
) -> Interval:
    """Both bounds of value ``i`` by backward passes, of the open entries (None: of all)."""

    def both(form: Form) -> Interval:
        signs = jnp.array([-1.0, 1.0], form.offset.dtype)
        below, above = jax.vmap(lambda sign: bound_of(problem, method, by, scaled(form, sign)))(signs)
        return Interval(-below, above)

    return _rows(problem, by, i, method.memory, both, open_, default)


def two_sided(problem: Problem, method: Method, by: Bounded, i: int, default: Interval) -> Interval:
    """Both bounds of value ``i`` by backward passes, which part where the first nonlinear equation is met.

    Of a settled entry the interval stays as it is, unless it lies on the first affine chain: interval arithmetic goes on from there.
    """
    first = i in problem.pure
    open_ = jnp.ones(default.lo.shape, bool) if first else unsettled(problem, by.env | {i: default}, i)
    return ends_of(problem, method, by, i, default, open_)


def posed(fn: Callable[[Any], Any], s: Any, method: Method) -> Problem:
    """The problem of ``fn`` over a set, once every equation is known to have a rule."""
    program = program_of(fn, s.center)
    check(program, method.name)
    return pose(program, s, method.rounding)


def upper_bounds(fn: Callable[[Any], Any], s: Any, method: Method) -> Array:
    """Elementwise upper bounds of the array ``fn(z)`` over the set: the interval, and the backward pass where it can be tighter."""
    problem = posed(fn, s, method)
    return output(problem, method, walked(problem, method))


def walked(problem: Problem, method: Method) -> Bounded:
    """The walk that a method's relaxations are built on."""
    return (method if method.intermediates is None else method.intermediates).walk(problem)


def output(problem: Problem, method: Method, by: Bounded) -> Array:
    """Upper bounds of the program's output after a walk."""
    (out,) = problem.program.outputs
    if out not in problem.program.dependent:
        return jnp.asarray(by.env[out])
    best = by.env[out]
    # an affine chain alone needs no relaxation
    if problem.levels[out] > 1 or (out in problem.pure and not is_box(problem.s)):
        best = intersect(
            best, Interval(best.lo, one_sided(problem, method, by._replace(theta={}, pairs={}), out, best.hi))
        )
    if method.relax and out not in problem.pure:
        best = intersect(best, Interval(best.lo, one_sided(problem, method, by, out, best.hi)))
    return best.hi
