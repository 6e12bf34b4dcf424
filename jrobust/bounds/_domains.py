"""What branch and bound does to one domain: bound it, look for a witness in it, and say where to cut it next.

A domain is two vectors of ends, ``lo`` and ``hi``. Branching over *neurons*, they constrain the inputs of nonlinear equations (infinite
where nothing does) for one specification; branching over the *input*, they are a box for all specifications at once.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._oracle import Oracle
from jrobust._program import Equation
from jrobust.bounds._backward import Bounded, Form, at_input, pair, pairs_of, upper
from jrobust.bounds._machine import never_nan
from jrobust.bounds._methods import method_of
from jrobust.bounds._optimise import optimised
from jrobust.bounds._problem import Problem, mask_of, relaxable
from jrobust.bounds._propagate import Method, forward, output, posed, row, unsettled, walked
from jrobust.bounds._tables import RELAX, Interval
from jrobust.sets import box
from jrobust.typing import Array

_WORST = 4  # specifications whose slopes decide where a box is cut


class Domain(NamedTuple):
    """One domain (or a batch of them): its ends, the specification it is about (-1: all) and the optimiser's parameters."""

    lo: Any
    hi: Any
    row: Any
    parameters: Any


class Leaf(NamedTuple):
    """What is known of a domain: upper bounds [m], the worst point met in it, entries and points to cut next (best first; -1: none)."""

    elements: Array
    lower: Array
    witness: Any
    entries: Array
    points: Array


# -- Neurons ------------------------------------------------------------------------------------------------------------


def splittable(problem: Problem) -> list[int]:
    """The values that nonlinear equations with a relaxation take, in order."""
    program, found = problem.program, []
    for eqn in program.equations:
        if relaxable(program, eqn):
            found += [i for i, d in zip(eqn.inputs, mask_of(program, eqn), strict=True) if d and i not in found]
    return [i for i in found if jnp.issubdtype(program.avals[i].dtype, jnp.floating)]


def _unravelled(problem: Problem, lo: Array, hi: Array) -> dict[int, Interval]:
    cuts, start = {}, 0
    for i in splittable(problem):
        shape = problem.program.avals[i].shape
        size = math.prod(shape)
        cuts[i] = Interval(*(end[start : start + size].reshape(shape) for end in (lo, hi)))
        start += size
    return cuts


def _ravelled(problem: Problem, parts: dict[int, Array]) -> Array:
    return jnp.concatenate([jnp.ravel(parts[i]) for i in splittable(problem)])


def neuron_root(oracle: Oracle, f: Any, s: Any) -> tuple[dict[int, Interval], Array, Domain]:
    """The intervals that all domains share, the specifications' bounds [m], and one domain a specification [m, ...]."""
    method: Method = method_of(oracle, "branch(method=)")
    problem = posed(f, s, method)
    by = walked(problem, method)
    elements = jnp.atleast_1d(never_nan(output(problem, method, by)))
    size = sum(math.prod(problem.program.avals[i].shape) for i in splittable(problem))
    dtype, m = elements.dtype, elements.shape[0]
    none = jnp.full((m, size), -jnp.inf, dtype), jnp.full((m, size), jnp.inf, dtype)
    zero = {i: (jnp.zeros(problem.program.avals[i].shape, dtype),) * 2 for i in splittable(problem)}
    parameters = jax.tree.map(lambda a: jnp.broadcast_to(a, (m, *a.shape)), (by.theta, zero))
    return {i: by.env[i] for i in splittable(problem)}, elements, Domain(*none, jnp.arange(m), parameters)


def walked_over(
    problem: Problem, method: Method, root: dict[int, Interval], lo: Array, hi: Array
) -> tuple[Any, Bounded, Array]:
    """The domain's cuts, its intervals, and whether these are contradictory: then it is empty."""
    cuts = _unravelled(problem, lo, hi)
    given = {i: Interval(jnp.maximum(root[i].lo, c.lo), jnp.minimum(root[i].hi, c.hi)) for i, c in cuts.items()}
    by = forward(problem, method, given)
    crossed = [by.env[i].lo - by.env[i].hi > 1e-5 * (1 + jnp.abs(by.env[i].lo)) for i in cuts]
    return cuts, by, jnp.any(jnp.stack([jnp.any(c) for c in crossed]))


def neuron(
    oracle: Oracle, f: Any, s: Any, root: dict[int, Interval], domain: Domain, tried: int
) -> tuple[Domain, Leaf]:
    """Bound one domain of neurons by beta-CROWN; of its best entries to cut, ``tried`` are tried out (filtered smart branching)."""
    method: Method = method_of(oracle, "branch(method=)")
    problem = posed(f, s, method)
    (out,) = problem.program.outputs
    cuts, by, empty = walked_over(problem, method, root, domain.lo, domain.hi)
    m = problem.program.avals[out].shape[0]
    form = row(problem, by, out, domain.row)
    options = {"steps": method.steps, "rate": method.rate, "target": method.target}
    bound, parameters, end = optimised(problem, by, form, cuts=cuts, start=domain.parameters, **options)
    bound = jnp.minimum(bound, by.env[out].hi[domain.row])
    bound = jnp.where(empty, -jnp.inf, never_nan(bound))
    witness = s.argsup(at_input(problem, end.rows))
    scores, points = _scores(problem, by, end, parameters[0])
    best, entries = jax.lax.top_k(scores, min(8, scores.size))

    def child(entry: Array, side: int) -> Array:
        here = jnp.arange(scores.size) == entry
        lo = jnp.where(here & (side == 1), points, domain.lo)
        hi = jnp.where(here & (side == 0), points, domain.hi)
        _, inner, empty = walked_over(problem, method, root, lo, hi)
        inner = inner._replace(pairs=pairs_of(problem, inner.env, parameters[0]))
        value = upper(problem, inner, form)[0]
        return jnp.where(empty, -jnp.inf, never_nan(value))

    if tried > 1:
        few = entries[:tried]
        sides = jnp.stack([jax.vmap(lambda e, side=side: child(e, side))(few) for side in (0, 1)])
        gain = jnp.minimum(sides, bound)
        # the worse child decides, the better one between equals
        rank = jnp.where(best[:tried] > 0, jnp.max(gain, 0) + 1e-3 * jnp.min(gain, 0), jnp.inf)
        order = jnp.argsort(rank)
        entries = jnp.concatenate([few[order], entries[tried:]])
        best = jnp.concatenate([best[:tried][order], best[tried:]])
    elements = jnp.where(jnp.arange(m) == domain.row, bound, -jnp.inf)
    leaf = Leaf(elements, f.value(f.outputs(witness)), witness, jnp.where(best > 0, entries, -1), points[entries])
    return domain._replace(parameters=parameters), leaf


def _scores(problem: Problem, by: Bounded, end: Form, theta: dict[int, Any]) -> tuple[Array, Array]:
    """For every entry, what its relaxation costs the bound, and where to cut it: at a kink, or in the middle."""
    program = problem.program
    zero = {i: jnp.zeros(program.avals[i].shape, by.env[i].lo.dtype) for i in splittable(problem)}
    scores, points = dict(zero), {i: 0.5 * (by.env[i].lo + by.env[i].hi) for i in zero}
    for k, c in end.met.items():
        eqn = program.equations[k]
        values = [by.env[i] for i in eqn.inputs]
        sources = [i for i in eqn.inputs if i in zero]
        kinks = RELAX[eqn.name].kinks(eqn, *values)
        if len(sources) == 1 and program.avals[sources[0]].shape == eqn.avals[0].shape:
            (i,) = sources
            for kink in kinks or ():
                inside = (by.env[i].lo < kink) & (kink < by.env[i].hi)
                points[i] = jnp.where(inside, kink, points[i])
            scores[i] += jnp.where(unsettled(problem, by.env, i), _lost(problem, by, k, theta[k], c[0], points[i]), 0.0)
        else:
            lost = jnp.sum(_lost(problem, by, k, theta[k], c[0], None))
            widths = {i: by.env[i].hi - by.env[i].lo for i in sources}
            total = sum(jnp.sum(w) for w in widths.values())
            for i, w in widths.items():
                scores[i] += jnp.where(total > 0, lost * w / jnp.where(total > 0, total, 1.0), 0.0)
    scores = {i: jnp.where((by.env[i].hi > by.env[i].lo) & jnp.isfinite(v), v, 0.0) for i, v in scores.items()}
    return _ravelled(problem, scores), _ravelled(problem, points)


def _lost(problem: Problem, by: Bounded, k: int, theta: Any, c: Array, at: Array | None) -> Array:
    """How far the relaxation lies from its function, weighted by the coefficients that meet it: where it would be cut, and at the ends."""
    eqn: Equation = problem.program.equations[k]
    lo, hi = pair(eqn, [by.env[i] for i in eqn.inputs], by.env[eqn.outputs[0]], theta)

    def gap(point: list[Any]) -> Array:
        value = eqn.bind(point)[0]
        return jnp.maximum(c, 0) * (hi(*point) - value) + jnp.minimum(c, 0) * (lo(*point) - value)

    def points(share: float) -> list[Any]:
        return [v.lo + share * (v.hi - v.lo) if isinstance(v, Interval) else v for v in (by.env[i] for i in eqn.inputs)]

    if at is None:
        return gap(points(0.5))
    middle = [at if isinstance(by.env[i], Interval) else by.env[i] for i in eqn.inputs]
    return gap(middle) + 0.1 * (gap(points(0.0)) + gap(points(1.0)))


# -- Input --------------------------------------------------------------------------------------------------------------


def input_root(oracle: Oracle, f: Any, s: Any) -> tuple[None, Array, Domain]:
    """The set's box, as one domain [1, ...], and the specifications' bounds [m]."""
    (lo,), (hi,) = map(jax.tree.leaves, s.hull())
    elements = jnp.full(jax.eval_shape(f, s.center).shape, jnp.inf, lo.dtype)  # the first step will say
    return None, elements, Domain(lo.reshape(1, -1), hi.reshape(1, -1), jnp.full(1, -1), ())


def piece(oracle: Oracle, f: Any, s: Any, root: None, domain: Domain, tried: int) -> tuple[Domain, Leaf]:
    """Bound one box, all specifications at once; cut next where width times slope is largest.

    Slopes are those of the function at the centre and of the affine functions that bound it: the first alone miss what a kink hides.
    """
    (shape,), tree = [jnp.shape(x) for x in jax.tree.leaves(s.center)], jax.tree.structure(s.center)
    as_point = lambda v: tree.unflatten([v.reshape(shape)])  # noqa: E731
    lo, hi = domain.lo, domain.hi
    centre, width = 0.5 * (lo + hi), hi - lo
    elements, worst, lines = _bounded(oracle, f, box(as_point(lo), as_point(hi))(as_point(centre)))
    differentiate = jax.jacfwd if lo.size < elements.size else jax.jacrev
    slopes = differentiate(lambda v: f(as_point(v)))(centre)[worst]
    slopes, lines = (jnp.where(jnp.isfinite(a), a, 0.0) for a in (slopes, slopes if lines is None else lines))
    corner = jnp.where(lines[0] > 0, hi, lo)
    values = jnp.stack([jnp.max(f(as_point(v))) for v in (centre, corner)])
    at = jnp.argmax(values)
    smear = jnp.max(jnp.where(elements[worst, None] >= 0, jnp.abs(slopes) + jnp.abs(lines), 0.0), axis=0) * width
    # a direction that no slope shows is cut as well, once the others are small
    score = smear + 0.02 * jnp.max(smear) * width / jnp.max(width) + 1e-30
    score = jnp.where((centre > lo) & (centre < hi), score, 0.0)
    best, entries = jax.lax.top_k(score, min(8, score.size))
    leaf = Leaf(
        elements,
        values[at],
        as_point(jnp.stack([centre, corner])[at]),
        jnp.where(best > 0, entries, -1),
        centre[entries],
    )
    return domain, leaf


def _bounded(oracle: Oracle, f: Any, s: Any) -> tuple[Array, Array, Array | None]:
    """Upper bounds [m], the few largest (which), and the slopes [few, n] of the affine functions behind these: None without such."""

    def largest(elements: Array) -> Array:
        return jax.lax.top_k(elements, min(_WORST, elements.size))[1]

    method = dict(getattr(oracle.run, "static", ())).get("method")
    if not (isinstance(method, Method) and method.relax):
        elements = oracle.solve(None, f, s).info["elements"]
        return elements, largest(elements), None
    problem = posed(f, s, method)
    by = walked(problem, method)
    elements = jnp.atleast_1d(never_nan(output(problem, method, by)))
    worst = largest(elements)
    (out,) = problem.program.outputs
    if out not in problem.program.dependent:
        return elements, worst, None

    def slope(j: Array) -> Array:
        _, end = upper(problem, by, row(problem, by, out, j))
        return jnp.ravel(jax.tree.leaves(at_input(problem, end.rows))[0])

    return elements, worst, jax.vmap(slope)(worst)
