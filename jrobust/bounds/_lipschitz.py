"""Lipschitz bounds: by operator norms, layer by layer, or by bounding the Jacobian over the set."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._objective import Objective, objective
from jrobust._oracle import Bound, Oracle, require
from jrobust._program import Equation
from jrobust._tree import bind, unravel
from jrobust.bounds._affine import PUSHED
from jrobust.bounds._jacobian import jacobian_bounds, rise, support_about_centre
from jrobust.bounds._machine import intersect
from jrobust.bounds._methods import answer, ibp
from jrobust.bounds._norms import Gauge, dual, gauges, operator, size
from jrobust.bounds._problem import Problem, check, mask_of, pose, program_of
from jrobust.bounds._propagate import IBP, forward, upper_bounds
from jrobust.bounds._slopes import SLOPE, continuous, derivable, slopes
from jrobust.bounds._tables import Interval, is_affine
from jrobust.typing import Array, Float

# -- Global: operator norms ---------------------------------------------------------------------------------------------


def _chain(problem: Problem, env: Any, i: int) -> tuple[list[int], Callable[..., Array]]:
    """The values on which ``i`` depends through affine equations alone, and ``i`` as a function of them."""
    program = problem.program
    made = {o: eqn for eqn in program.equations for o in eqn.outputs}
    sources: dict[int, None] = {}
    steps: dict[int, Equation] = {}

    def visit(j: int) -> None:
        eqn = made.get(j)
        if j not in program.dependent or j in sources or (eqn is not None and id(eqn) in steps):
            return
        if eqn is None or eqn.name not in PUSHED or not is_affine(eqn, mask_of(program, eqn), program.avals):
            sources[j] = None
            return
        steps[id(eqn)] = eqn
        for operand in eqn.inputs:
            visit(operand)

    visit(i)

    def of_sources(*values: Array) -> Array:
        local = dict(zip(sources, values, strict=True))
        for eqn in program.equations:
            if id(eqn) in steps:
                operands = [local[j] if j in program.dependent else env[j] for j in eqn.inputs]
                local |= dict(zip(eqn.outputs, derivable(eqn, operands), strict=True))
        return local[i]

    return list(sources), of_sources


def _matrices(problem: Problem, env: Any, i: int) -> dict[int, Array]:
    """The linear map from each source of value ``i``, [entries, entries of the source]."""
    sources, fn = _chain(problem, env, i)
    zeros = [jnp.zeros(problem.program.avals[j].shape, problem.program.avals[j].dtype) for j in sources]
    out = problem.program.avals[i]
    count = math.prod(out.shape)
    _, vjp = jax.vjp(fn, *zeros)
    rows = jax.vmap(vjp)(jnp.eye(count, dtype=out.dtype).reshape(count, *out.shape))
    return {j: r.reshape(count, -1) for j, r in zip(sources, rows, strict=True)}


def _inside(units: Sequence[Gauge]) -> float:
    """The order of the norm between layers: the input's own, where all inputs agree."""
    orders = {g.p for g in units}
    return orders.pop() if len(orders) == 1 else math.inf


def _constants(problem: Problem, env: Any, units: Sequence[Gauge]) -> dict[int, Any]:
    """Of each nonlinear value that matters: its Lipschitz constant, from the gauges to the norm between layers."""
    program, p = problem.program, _inside(units)
    inputs = dict(zip(program.inputs, units, strict=True))
    known: dict[int, Any] = {}

    def through(i: int, scale: Array | None) -> Array:
        total = jnp.zeros((), program.avals[i].dtype)
        for j, w in _matrices(problem, env, i).items():
            w = w if scale is None else jnp.ravel(scale)[:, None] * w
            if j in inputs:
                total += operator(w * jnp.ravel(inputs[j].weight), inputs[j].p, p)
            else:
                total += operator(w, p, p) * known[j]
        return total

    for eqn in program.equations:
        mask = mask_of(program, eqn)
        if not any(mask) or (eqn.name in PUSHED and is_affine(eqn, mask, program.avals)):
            continue
        operands = [i for i, d in zip(eqn.inputs, mask, strict=True) if d]
        values = [env[i] for i in eqn.inputs]
        constant: Any = jnp.asarray(jnp.inf)
        if continuous(program, eqn):
            if eqn.name in SLOPE:
                constant = SLOPE[eqn.name](eqn, p) * through(operands[0], None)
            elif (rates := slopes(eqn, mask, values)) is not None:
                constant = sum(through(i, k) for i, k in zip(operands, rates, strict=True))
        known |= dict.fromkeys(eqn.outputs, constant)
    return known


def _by_norms(problem: Problem, at_centre: Array, unit: bool) -> tuple[Array, Array]:
    """``f(c) + rise`` and the rise, one an output; with ``unit`` the rises are Lipschitz constants."""
    program, s = problem.program, problem.s
    env = forward(problem, IBP).env
    units = gauges(s, unit)
    known, p = _constants(problem, env, units), _inside(units)
    (out,) = program.outputs
    leaves, tree = jax.tree.flatten(s.center)
    risen = jnp.zeros(at_centre.size, at_centre.dtype)
    if out in program.dependent:
        rows = _matrices(problem, env, out)
        mine = {j: rows.pop(j) for j in program.inputs if j in rows}
        for j, w in rows.items():
            reach = size(w, dual(p), axis=1)
            risen += jnp.where(reach > 0, reach * known[j], 0.0)  # 0 times infinity
        if unit:
            by_input = dict(zip(program.inputs, units, strict=True))
            risen += sum(size(w, dual(by_input[j].p), axis=1) for j, w in mine.items())
        elif mine:
            zeros = [jnp.zeros((at_centre.size, v.size), v.dtype) for v in leaves]
            full = [mine.get(j, z) for j, z in zip(program.inputs, zeros, strict=True)]
            risen += jax.vmap(lambda row: support_about_centre(s, tree.unflatten(unravel(row, leaves))))(
                jnp.concatenate(full, 1)
            )
    return at_centre + risen.reshape(at_centre.shape), risen.reshape(at_centre.shape)


# -- The oracle and the constant ----------------------------------------------------------------------------------------


def _solve(method: Any, key: Any, f: Objective, s: Any, *, local: bool) -> Bound:
    program = program_of(f, s.center)
    check(program, "lipschitz")
    problem = pose(program, s)
    at_centre = jnp.atleast_1d(f(s.center))
    if local:
        bounds = jacobian_bounds(program, s, method)
        elements = at_centre + jax.vmap(lambda lo, hi: rise(s, Interval(lo, hi)))(*bounds).reshape(at_centre.shape)
    else:
        elements = _by_norms(problem, at_centre, unit=False)[0]
    value = upper_bounds(f, s, IBP).reshape(elements.shape)
    elements = intersect(Interval(value, value), Interval(value, elements)).hi
    return answer(elements)


def lipschitz(*, local: bool = False, method: Oracle | None = None) -> Oracle:
    """``sup { f(z) : z in S } <= f(c) + sup { <J, z - c> }``: how far a function can rise from its value at the centre.

    Global: the product of the layers' operator norms in the set's own norm (exact of order 1 and inf; of order 2 by the Gram iteration;
    of others between those of 1 and inf), activations by the most that they rise on their interval. Local: any method of `jr.bounds`
    bounds the Jacobian, entry by entry, over the set.

    Args:
      local: whether to bound the Jacobian instead of multiplying norms.
      method: of `jr.bounds`, for the Jacobian; None: `ibp`.

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, in the function or (local) in its derivative.
      TypeError, ValueError: ``method`` is no upper oracle.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward, but for the Gram iteration's. The result is
      intersected with interval arithmetic's, which it falls back to where the function may jump (comparisons, rounding) or no norm is
      known. ``+inf`` where ``f`` may be NaN.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) - z[1:])
    >>> s = jr.sets.linf(1.0)(jnp.zeros(2))
    >>> print(lipschitz().solve(None, f, s).value, lipschitz(local=True).solve(None, f, s).value)
    3.0 2.0

    References:
      Szegedy et al., Intriguing properties of neural networks, 2013; Delattre et al., Efficient bound of Lipschitz constant for
      convolutional layers by Gram iteration, ICML 2023; Shi et al., Efficiently computing local Lipschitz constants of neural
      networks via bound propagation, NeurIPS 2022.
    """
    method = ibp() if method is None else method
    require(("upper",), method, by="lipschitz(method=)")
    return Oracle("upper", bind(_solve, method, local=bool(local)), name="lipschitz-local" if local else "lipschitz")


def lipschitz_constant(
    fn: Callable[[Any], Any], s: Any, *, local: bool = False, method: Oracle | None = None
) -> Float[Array, "..."]:
    """Elementwise Lipschitz constants over the set: ``|fn(z) - fn(z')| <= K ||z - z'||`` for all z, z' in it.

    Args:
      fn: one example -> array.
      s: the set of one example. The norm is its own (``l1``, ``l2``, ``lp``); L-infinity for any other; of a product the largest of
        its inputs' norms.
      local, method: as in `lipschitz`.

    Returns:
      K of the output's shape, ``+inf`` where the function may jump or no norm is known.

    Guarantee: as of `lipschitz`.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> print(lipschitz_constant(lambda z: jnp.array([[3.0, 4.0]]) @ z, jr.sets.l2(1.0)(jnp.zeros(2))))
    [5.]
    """
    method = ibp() if method is None else method
    require(("upper",), method, by="lipschitz_constant(method=)")
    out = jax.eval_shape(fn, s.center)
    program = program_of(objective(fn), s.center)
    check(program, "lipschitz_constant")
    if local:
        bounds = jacobian_bounds(program, s, method)
        most = jnp.maximum(jnp.abs(bounds.lo), jnp.abs(bounds.hi))
        units = gauges(s, True)
        parts = unravel(most, [jnp.ravel(g.weight) for g in units])
        constant = sum(size(part, dual(g.p), axis=1) for part, g in zip(parts, units, strict=True))
    else:
        problem = pose(program, s)
        constant = _by_norms(problem, jnp.zeros(jax.eval_shape(objective(fn), s.center).shape, out.dtype), unit=True)[1]
    return jnp.where(jnp.isnan(constant), jnp.inf, constant).reshape(out.shape)
