"""The forward walk that every method makes: known values, and intervals of all others, as tight as the method makes them."""

from collections.abc import Callable, Sequence

import jax

from jrobust.bounds._machine import intervals, whole
from jrobust.bounds._problem import Env, Problem, mask_of
from jrobust.bounds._rounding import basic, rounded
from jrobust.bounds._tables import Interval, is_affine


def walk(
    problem: Problem,
    tightened: Callable[[Env, int], Interval],
    met: Callable[[Env, int, Sequence[Interval]], Sequence[Interval]],
) -> Env:
    """Intervals of all values, in the program's order.

    Args:
      problem: the program and its set.
      tightened: ``(env, i)``, a tighter interval of value ``i``; asked once, before the first equation that is not affine takes it.
      met: ``(env, k, outs)``, the intervals of the outputs of equation ``k``, which it may tighten or take note of.
    """
    program = problem.program
    hull = [whole(Interval(*both)) for both in zip(*map(jax.tree.leaves, problem.s.hull()), strict=True)]
    hull = [basic(v) for v in hull] if problem.rounding else hull
    rule = rounded if problem.rounding else intervals
    env: Env = dict(program.constants) | dict(zip(program.inputs, hull, strict=True))
    done: set[int] = set()
    for k, eqn in enumerate(program.equations):
        mask = mask_of(program, eqn)
        if not any(mask):
            outs = eqn.bind([env[i] for i in eqn.inputs])
        else:
            if not is_affine(eqn, mask, program.avals):
                for i in {i for i, d in zip(eqn.inputs, mask, strict=True) if d} - done:
                    env[i] = tightened(env, i)
                    done.add(i)
            outs = met(env, k, rule(eqn, [env[i] for i in eqn.inputs]))
        env |= dict(zip(eqn.outputs, outs, strict=True))
    return env
