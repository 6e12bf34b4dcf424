"""Upper and exact oracles that solve (mixed-integer) linear programs on the host."""

import dataclasses
import math
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle
from jrobust._program import Program
from jrobust._tree import bind
from jrobust.bounds._backward import Bounded
from jrobust.bounds._encode import encode
from jrobust.bounds._linear import Affine, Model, Solution, maximise, take
from jrobust.bounds._machine import intersect
from jrobust.bounds._methods import check_memory, crown, method_of
from jrobust.bounds._polyhedra import input_columns
from jrobust.bounds._problem import check, pose, program_of
from jrobust.bounds._propagate import CROWN, MEMORY, Method, one_sided
from jrobust.bounds._tables import Interval
from jrobust.typing import Array

# how far above what the network attains at the solver's point a bound may lie and still be called exact
_CLOSE = 1e-4


@partial(jax.tree_util.register_dataclass, data_fields=["env", "best"], meta_fields=["program"])
@dataclasses.dataclass(frozen=True)
class _Analysis:
    """A program (its constants are in ``env``), bounds of its values, and of its output by one more backward pass."""

    program: Program
    env: dict[int, Any]
    best: Interval


@partial(jax.jit, static_argnames=("inner", "by"))
def _analyse(f: Any, s: Any, *, inner: Any, by: str) -> _Analysis:
    program = program_of(f, s.center)
    check(program, by)
    (out,) = program.outputs
    problem = pose(program, s)
    walked = inner.walk(problem)
    env = walked.env
    if out not in program.dependent:
        best = Interval(jnp.asarray(env[out]), jnp.asarray(env[out]))
    else:
        walked = walked if getattr(inner, "relax", True) else Bounded(env, {}, {}, {})
        best = intersect(env[out], Interval(env[out].lo, one_sided(problem, CROWN, walked, out, env[out].hi)))
    return _Analysis(dataclasses.replace(program, constants={}), env, best)


@jax.jit
def _tried(f: Any, s: Any, points: Any) -> tuple[Any, Array]:
    """Points of the set, and the violations [points, m] there."""
    inside = jax.vmap(s.project)(points)
    return inside, jax.vmap(lambda z: jnp.ravel(f(z)))(inside)


def _solve(
    key: Any, f: Objective, s: Any, *, inner: Any, by: str, integers: bool, seconds: float, exact: bool
) -> Bound:
    analysis = _analyse(f, s, inner=inner, by=by)
    model = Model(integers)
    inputs = input_columns(model, s, by)
    encoding = encode(model, analysis.program, analysis.env, inputs)
    if exact and encoding.relaxed:
        eqn = encoding.relaxed[0]
        raise NotImplementedError(
            f"{by}: '{eqn.name}', used at {eqn.source}, is not piecewise linear here (or may be infinite or NaN), so it can only be "
            "relaxed, and nothing exact follows: leave exact=True out for an upper bound"
        )
    frozen, m = model.frozen(), encoding.outputs.size
    solutions: list[Solution] = []
    start = time.perf_counter()
    for k in range(m):
        left = seconds - (time.perf_counter() - start)
        solutions.append(maximise(frozen, take(encoding.outputs, np.array([k])), left / (m - k)))
    best = Interval(*(jnp.ravel(end) for end in analysis.best))
    found = _rounded_up([solution.bound for solution in solutions], best.hi.dtype)
    elements = (
        intersect(best, Interval(best.lo, found)).hi
        if analysis.program.outputs[0] in analysis.program.dependent
        else best.hi
    )
    elements = jnp.where(jnp.isnan(elements), jnp.inf, elements)
    value = jnp.max(elements)
    if not integers:
        return Bound(value, None, {"elements": elements})
    points, violations = _tried(f, s, _points(s, inputs, [solution.point for solution in solutions]))
    attained = jnp.max(violations, axis=1)
    i = jnp.argmax(attained)  # a NaN is the largest
    if exact:
        _check_exact(by, np.asarray(elements), np.asarray(jnp.max(violations, axis=0)), solutions)
    witness = jax.tree.map(lambda leaf: leaf[i], points) if exact else None
    return Bound(value, witness, {"elements": elements, "gap": value - attained[i]})


def _rounded_up(bounds: list[float], dtype: Any) -> Array:
    wide = np.asarray(bounds, np.float64)
    near = wide.astype(dtype)
    return jnp.asarray(np.where(near < wide, np.nextafter(near, np.asarray(np.inf, dtype)), near))


def _points(s: Any, inputs: list[Affine], found: list[np.ndarray | None]) -> Any:
    """The centre and the solver's points, as a batch."""
    leaves, tree = jax.tree.flatten(s.center)
    batch = []
    for leaf, columns, lo, hi in zip(leaves, inputs, *map(jax.tree.leaves, s.hull()), strict=True):
        at = columns.matrix.indices
        rows = [leaf if x is None else jnp.asarray(x[at].reshape(leaf.shape), leaf.dtype) for x in found]
        batch.append(jnp.clip(jnp.stack([leaf, *rows]), lo, hi))
    return tree.unflatten(batch)


def _check_exact(by: str, elements: np.ndarray, attained: np.ndarray, solutions: list[Solution]) -> None:
    for k, (bound, reached, solution) in enumerate(zip(elements, attained, solutions, strict=True)):
        if not bound - reached <= _CLOSE * max(1.0, abs(float(reached))):
            why = (
                "it may be NaN"
                if not np.isfinite(bound)
                else "the solver finished"
                if solution.optimal
                else "out of time"
            )
            raise RuntimeError(
                f"{by}: violation {k} is at most {bound:.6g} and {reached:.6g} is attained ({why}): this is not exact. "
                "Give more time, or leave exact=True out for an upper bound"
            )


def _inner(intermediates: Oracle | None, memory: int, by: str) -> Method:
    check_memory(memory, by)
    return method_of(crown(memory=memory) if intermediates is None else intermediates, f"{by}(intermediates=)")


def lp(*, intermediates: Oracle | None = None, memory: int = MEMORY) -> Oracle:
    """The linear program over all convex relaxations at once ("Planet", the triangle of ReLU): ``sup { f(z) : z in S }`` from above.

    Every ``max``, and what is made of it (ReLU, leaky ReLU, abs, clip, max-pooling), lies between its operands and its chord; a
    selection by a comparison mixes its cases by a number between 0 and 1; every other nonlinear operation lies between `crown`'s two
    affine functions.

    Args:
      intermediates: the method that bounds hidden values, `crown` by default.
      memory: bytes of coefficients for it; see `crown`.

    Returns:
      An `Oracle` of side "upper" on the host, one example and one linear program a violation at a time; ``info["elements"]`` [m].

    Raises:
      NotImplementedError: a primitive without a rule; a set that is not linf, l1, l0, a box, a point or a product of them. An L0 set
        is relaxed to its convex hull.

    Guarantee: an upper bound, never above `crown`'s with the same intermediate bounds. It is the weak-duality value of the solver's
      multipliers, so the solver's tolerances do not matter; ``+inf`` where ``f`` may be NaN. Float rounding of the network and of the
      intermediate bounds (widened by 1e-6 (1 + their size)) is not directed outward.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) + jax.nn.relu(z[:1] - z[1:]) - z[:1])
    >>> s = jr.sets.linf(1.0)(jnp.zeros(2))
    >>> print(f"{lp().solve(None, f, s).value:.4f}")  # two triangles, at z = 0 or -1; in truth 1
    2.0000

    References:
      Ehlers, Formal verification of piece-wise linear feed-forward neural networks, ATVA 2017.
      Salman et al., A convex relaxation barrier to tight robustness verification of neural networks, NeurIPS 2019.
      Neumaier & Shcherbina, Safe bounds in linear and mixed-integer linear programming, Math. Program. 2004.

    Deviations: intersected with `crown`'s bounds.
    """
    inner = _inner(intermediates, memory, "lp")
    run = bind(_solve, inner=inner, by="lp", integers=False, seconds=math.inf, exact=False)
    return Oracle("upper", run, host=True, name="lp")


def milp(
    *,
    time_limit: float | int | None = None,
    exact: bool = False,
    intermediates: Oracle | None = None,
    memory: int = MEMORY,
) -> Oracle:
    """A mixed-integer linear program: ``sup { f(z) : z in S }`` of a piecewise linear network, solved by branch and cut (HiGHS).

    ReLU and every other ``max`` whose winner is not certain gets one binary choice, and so does a comparison (where its operands are equal
    either answer counts). What is not piecewise linear lies between `crown`'s two affine functions, and the result is then an upper bound.

    Args:
      time_limit: seconds of the solver for one example (compiling and bounding hidden values not counted), shared by its
        violations; None: until solved. When it is over, the value is the solver's dual
        bound, an upper bound still (or `crown`'s, where there is none yet).
      exact: claim the supremum itself. A network that is not piecewise linear, or a limit that came first, is then an error.
      intermediates: the method that bounds hidden values, `crown` by default.
      memory: bytes of coefficients for it; see `crown`.

    Returns:
      An `Oracle` on the host, one example at a time: of side "upper", or "exact" with a witness in the set that attains ``value`` up to
      1e-4 (relatively, above 1). ``info["elements"]`` are bounds of the single violations [m], ``info["gap"]`` is ``value`` less what the
      network attains at the solver's points: about 0 where it was solved to the end.

    Raises:
      ValueError: a time limit that is not a positive number.
      NotImplementedError: as `lp`; with ``exact`` also a primitive that had to be relaxed, named with its line.
      RuntimeError: with ``exact``, a bound that is not attained: out of time, NaN, or a jump of ``f``.

    Guarantee: an upper bound up to the solver's tolerances (1e-6 in rows and choices), for which ``1e-6 (1 + |value|)`` is added; no proof
      covers them, as in every floating-point MILP verifier. ``+inf`` where ``f`` may be NaN. Intermediate bounds are widened by 1e-6
      (1 + their size); float rounding of the network is not directed outward.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) + jax.nn.relu(z[:1] - z[1:]) - z[:1])
    >>> bound = milp(exact=True).solve(None, f, jr.sets.linf(1.0)(jnp.zeros(2)))
    >>> print(f"{bound.value:.4f} {f(bound.witness)[0]:.4f}")
    1.0000 1.0000

    References:
      Tjeng, Xiao & Tedrake, Evaluating robustness of neural networks with mixed integer programming, ICLR 2019.

    Deviations: intermediate bounds by `crown`, not by linear programs; a maximum of several entries is a tournament of pairs.
    """
    if time_limit is not None and not (isinstance(time_limit, int | float) and time_limit > 0):
        raise ValueError(f"milp: time_limit is a number of seconds > 0, or None, got {time_limit!r}")
    inner = _inner(intermediates, memory, "milp")
    seconds = math.inf if time_limit is None else float(time_limit)
    run = bind(_solve, inner=inner, by="milp", integers=True, seconds=seconds, exact=exact)
    return Oracle("exact" if exact else "upper", run, host=True, name="milp")
