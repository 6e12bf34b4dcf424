"""Forward methods: forward CROWN and zonotopes (DeepZ). One walk over the program; what relaxes a nonlinear equation differs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle
from jrobust._tree import bind
from jrobust.bounds._affine import PUSHED
from jrobust.bounds._backward import Bounded, relaxed
from jrobust.bounds._forms import Form, inputs, pushed, span
from jrobust.bounds._machine import intersect
from jrobust.bounds._methods import answer, check_memory
from jrobust.bounds._problem import Env, Problem, check, is_box, mask_of, pose, program_of, relaxable
from jrobust.bounds._propagate import IBP, one_sided
from jrobust.bounds._steps import constant, reduced, symbolic, with_slack, with_symbols
from jrobust.bounds._tables import Interval, is_affine
from jrobust.bounds._walk import walk
from jrobust.typing import Array

_MEMORY = 2**28


class Forward(NamedTuple):
    """A forward method: its name, whether errors become noise symbols (zonotope), and its budget of bytes."""

    name: str
    symbols: bool
    memory: int

    def walk(self, problem: Problem) -> Bounded:
        """Intervals of every value, and the relaxations that backward walks build on them."""
        return relaxed(problem, bounded(problem, self)[0])


def bounded(problem: Problem, method: Forward) -> tuple[Env, dict[int, Form]]:
    """Known values, intervals of all others, and the forms of the floating ones."""
    program = problem.program
    most = _most_rows(problem, method)
    forms = inputs(problem)

    def tightened(env: Env, i: int) -> Interval:
        exact = i in problem.pure and problem.levels[i] <= 1 and is_box(problem.s)
        return env[i] if exact or i not in forms else intersect(env[i], span(problem, forms[i]))

    def met(env: Env, k: int, outs: Sequence[Interval]) -> Sequence[Interval]:
        eqn = program.equations[k]
        mask = mask_of(program, eqn)
        values = [env[i] for i in eqn.inputs]
        sources = [i for i, d in zip(eqn.inputs, mask, strict=True) if d]
        if eqn.name in PUSHED and is_affine(eqn, mask, program.avals):
            made = pushed(eqn, mask, values, [forms[i] for i in sources])
            forms.update({i: reduced(form, most) for i, form in zip(eqn.outputs, made, strict=True)})
            return outs
        smooth = relaxable(program, eqn) and all(i in forms for i in sources)
        for i, out in zip(eqn.outputs, outs, strict=True):
            if jnp.issubdtype(out.lo.dtype, jnp.floating):
                operands = [forms[j] for j in sources] if smooth else None
                step = with_symbols if method.symbols else with_slack
                form = constant(out, forms) if operands is None else step(problem, eqn, mask, values, out, operands)
                forms[i] = symbolic(form, k, most) if method.symbols else form
        return outs

    return walk(problem, tightened, met), forms


# -- Oracles ------------------------------------------------------------------------------------------------------------


def _most_rows(problem: Problem, method: Forward) -> int:
    """How many rows the coefficients of the widest value may have; raises where the input alone has more."""
    program = problem.program
    n = sum(math.prod(program.avals[i].shape) for i in program.inputs)
    widest = max((program.avals[i] for i in program.dependent), key=lambda a: math.prod(a.shape) * a.dtype.itemsize)
    row = max(math.prod(widest.shape) * widest.dtype.itemsize, 1) * (1 if method.symbols else 2)
    if n * row > method.memory:
        raise ValueError(
            f"{method.name}: {n} inputs and a value of shape {widest.shape} take {n * row} bytes of coefficients, more than "
            f"memory={method.memory}; raise memory=, or take jr.bounds.crown(), which works in chunks"
        )
    return method.memory // row


def forward_bounds(fn: Callable[[Any], Any], s: Any, method: Forward) -> Array:
    """Elementwise upper bounds of the array ``fn(z)`` over the set."""
    program = program_of(fn, s.center)
    check(program, method.name)
    (out,) = program.outputs
    problem = pose(program, s)
    env, forms = bounded(problem, method)
    if out not in program.dependent:
        return jnp.asarray(env[out])
    best = env[out]
    if out in forms:
        best = intersect(best, span(problem, forms[out]))
    if problem.levels[out] > 1 and out not in problem.pure:  # as interval arithmetic does, so never above it
        best = intersect(best, Interval(best.lo, one_sided(problem, IBP, Bounded(env, {}, {}, {}), out, best.hi)))
    return best.hi


def _solve(key: Any, f: Objective, s: Any, *, method: Forward) -> Bound:
    return answer(forward_bounds(f, s, method))


def _oracle(name: str, symbols: bool, memory: int) -> Oracle:
    return Oracle("upper", bind(_solve, method=Forward(name, symbols, check_memory(memory, name))), name=name)


def forward_crown(*, memory: int = _MEMORY) -> Oracle:
    """Forward CROWN: ``sup { f(z) : z in S }`` by two affine functions of the input around every value, carried forward.

    They start as the input itself and go through affine operations exactly, through others by CROWN's relaxations; the set's own
    support turns them into the intervals on which the next relaxation is built. One pass bounds every output, however many:
    cheap where the input is small. Coefficients: two arrays of inputs x entries for every value.

    Args:
      memory: bytes that the two coefficient arrays of the widest value may take, for one example (about three times as much is
        alive at the peak; a driver's vmap over B examples takes B times that).

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, or one that computes in floats narrower than float32.
      ValueError: at trace time, the coefficients do not fit ``memory``.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward. ``+inf`` where ``f`` may be NaN.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) - z[1:])
    >>> print(forward_crown().solve(None, f, jr.sets.linf(1.0)(jnp.zeros(2))).value)
    2.0

    References:
      Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018; Xu et al.,
      Automatic perturbation analysis for scalable certified robustness and beyond, NeurIPS 2020.

    Deviations: intersected with interval bounds at every nonlinear operation and at the output, so never above `ibp`.
    """
    return _oracle("forward-crown", False, memory)


def zonotope(*, memory: int = _MEMORY) -> Oracle:
    """DeepZ: ``sup { f(z) : z in S }`` by a zonotope around every value: an affine function of the input and of noise symbols.

    A nonlinear operation becomes one affine function and an error, the narrowest parallel pair at hand (ReLU's is the paper's); each
    entry's error is a new symbol, kept through all that follows.

    Args:
      memory: bytes that the coefficients of the widest value may take, for one example (about three times as much is alive at the
        peak; a driver's vmap over B examples takes B times that). Beyond it the oldest symbols, then the smallest new ones, give way
        to a box, which is sound and looser.

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, or one that computes in floats narrower than float32.
      ValueError: at trace time, not even the input's own symbols fit ``memory``.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward. ``+inf`` where ``f`` may be NaN.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) - z[1:])
    >>> print(zonotope().solve(None, f, jr.sets.linf(1.0)(jnp.zeros(2))).value)
    2.0

    References:
      Singh et al., Fast and effective robustness certification, NeurIPS 2018.

    Deviations: the input's symbols live in the set itself (any norm), not in its hull; intersected with interval bounds at every
      nonlinear operation and at the output; curves take the narrowest of a few slopes.
    """
    return _oracle("zonotope", True, memory)
