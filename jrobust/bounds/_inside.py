"""What a bound knew on its way: the intervals of the input and of what enters every ReLU."""

from typing import Any, NamedTuple

from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle
from jrobust._program import Program
from jrobust._tree import bind
from jrobust.bounds._backward import Bounded
from jrobust.bounds._methods import answer, method_of
from jrobust.bounds._problem import Problem, mask_of
from jrobust.bounds._propagate import Method, output, posed, walked
from jrobust.bounds._tables import Interval


class Inside(NamedTuple):
    """Intervals, each ``(lo, hi)``: of the input's arrays, and of ``v - c`` of every ``max(v, c)`` with a known c, in order."""

    input: tuple[Interval, ...]
    relus: tuple[Interval, ...]


def relus(program: Program) -> list[int]:
    """The equations ``max(v, c)`` with one operand known, which every ReLU is."""
    return [
        k
        for k, eqn in enumerate(program.equations)
        if eqn.name == "max" and sorted(mask_of(program, eqn)) == [False, True]
    ]


def _met(problem: Problem, by: Bounded) -> Inside:
    program, entering = problem.program, []
    for k in relus(program):
        i, c = program.equations[k].inputs
        i, c = (i, c) if i in program.dependent else (c, i)
        entering.append(Interval(*(end - by.env[c] for end in by.env[i])))
    return Inside(tuple(by.env[i] for i in program.inputs), tuple(entering))


def _solve(key: Any, f: Objective, s: Any, *, method: Method) -> Bound:
    problem = posed(f, s, method)
    by = walked(problem, method)
    bound = answer(output(problem, method, by))
    return bound._replace(info=bound.info | {"inside": _met(problem, by)})


def inside(method: Oracle) -> Oracle:
    """A method that also shows what it bounded on its way: ``info["inside"]``, from the same walk, differentiable like the bound.

    Args:
      method: `ibp`, `crown`, `crown_ibp` or `alpha_crown`, with intermediates of these; those of `crown_ibp` are interval arithmetic's.

    Returns:
      The method; ``info["inside"].input`` are the intervals ``(lo, hi)`` of the input's arrays, ``.relus`` those of what enters each
      ReLU (``v - c`` of ``max(v, c)`` with a known c), in the program's order.

    Raises:
      TypeError: any other method.

    Guarantee: as of the method.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f, s = jr.objectives.objective(lambda z: jax.nn.relu(2 * z)), jr.sets.linf(0.5)(jnp.zeros(1))
    >>> found = inside(jr.bounds.ibp()).solve(jax.random.key(0), f, s).info["inside"]
    >>> print(found.relus[0].lo, found.relus[0].hi)
    [-1.] [1.]
    """
    each = method_of(method, "inside")
    if not isinstance(each, Method):
        raise TypeError(f"inside takes ibp, crown, crown_ibp or alpha_crown, got {each.name}")
    return Oracle("upper", bind(_solve, method=each), name=method.name)
