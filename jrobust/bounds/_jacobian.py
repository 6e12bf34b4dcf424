"""A function's Jacobian over a set, entry by entry, and how far the function can rise with it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust import sets
from jrobust._oracle import Oracle
from jrobust._program import Program
from jrobust._tree import unravel
from jrobust.bounds._methods import output_bounds
from jrobust.bounds._slopes import continuous, derivable
from jrobust.bounds._tables import Interval
from jrobust.typing import Array


def support_about_centre(s: Any, c: Any) -> Array:
    """``sup <c, z - centre>``."""
    return s.support(c) - sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (c, s.center)), strict=True))


def _jacobian(program: Program, center: Any) -> Callable[[Any], Array]:
    """``z -> J`` [outputs, inputs] of the flat program: custom derivatives are not asked, stop_gradient does not stop."""
    (out,) = program.outputs

    def fn(z: Any) -> Array:
        env = dict(program.constants) | dict(zip(program.inputs, jax.tree.leaves(z), strict=True))
        for eqn in program.equations:
            env |= dict(zip(eqn.outputs, derivable(eqn, [env[i] for i in eqn.inputs]), strict=True))
        return jnp.ravel(env[out])

    count = math.prod(program.avals[out].shape)
    n = sum(v.size for v in jax.tree.leaves(center))

    def jacobian(z: Any) -> Array:
        leaves = jax.tree.leaves((jax.jacrev if count <= n else jax.jacfwd)(fn)(z))
        return jnp.concatenate([v.reshape(count, -1) for v in leaves], axis=1)

    return jacobian


def jacobian_bounds(program: Program, s: Any, method: Oracle) -> Interval:
    """Elementwise bounds of the Jacobian over the set's convex hull; infinite where the function may jump."""
    (out,) = program.outputs
    shape = (math.prod(program.avals[out].shape), sum(v.size for v in jax.tree.leaves(s.center)))
    dtype = program.avals[out].dtype
    if out not in program.dependent:
        return Interval(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    if not all(continuous(program, eqn) for eqn in program.equations):
        return Interval(jnp.full(shape, -jnp.inf, dtype), jnp.full(shape, jnp.inf, dtype))
    if not s.geometry.convex:
        leaves, tree = jax.tree.flatten(s.center)
        hull = sets.product(*(sets.box(lo, hi) for lo, hi in zip(*map(jax.tree.leaves, s.hull()), strict=True)))
        fn = _jacobian(program, s.center)
        return Interval(*output_bounds(lambda z: fn(tree.unflatten(z)), hull(tuple(leaves)), method=method))
    return Interval(*output_bounds(_jacobian(program, s.center), s, method=method))


def rise(s: Any, j: Interval) -> Array:
    """An upper bound of ``<J, z - c>`` over J between the rows ``j`` [n] and z in the set."""
    leaves, tree = jax.tree.flatten(s.center)
    low, high = (unravel(end, leaves) for end in j)
    if s.geometry.name == "product":
        starts = [sum(len(jax.tree.leaves(p.center)) for p in s.params[:k]) for k in range(len(s.params))]
        total = jnp.zeros((), j.lo.dtype)
        for part, start in zip(s.params, starts, strict=True):
            some = slice(start, start + len(jax.tree.leaves(part.center)))
            rows = [jnp.concatenate([jnp.ravel(v) for v in e[some]]) for e in (low, high)]
            total += rise(part, Interval(*rows))
        return total
    hull = [jax.tree.leaves(end) for end in s.hull()]
    by_box, radius = jnp.zeros((), j.lo.dtype), jnp.zeros((), j.lo.dtype)
    for a, b, c, lo, hi in zip(low, high, leaves, *hull, strict=True):
        by_box += jnp.sum(jnp.maximum(jnp.maximum(_times(b, hi - c), _times(a, lo - c)), 0.0))
        radius += jnp.sum(_times(0.5 * (b - a), jnp.maximum(hi - c, c - lo)))
    # a box of Jacobians about its middle: exact where the Jacobian is constant
    middle = support_about_centre(s, tree.unflatten([0.5 * (a + b) for a, b in zip(low, high, strict=True)]))
    rises = [by_box, middle + radius]
    if s.geometry.name[:1] == "l" and not s.geometry.name.startswith("l0"):
        # in a ball that is symmetric in every entry the larger end of each is attained; a clip is made symmetric, outward
        c = leaves[0]
        room = jnp.maximum(hull[1][0] - c, c - hull[0][0])
        clip = (None, None) if s.params[1] is None else (c - room, c + room)
        ball = sets.Set(c, (s.params[0], *clip), s.geometry)
        rises.append(support_about_centre(ball, jnp.maximum(jnp.abs(low[0]), jnp.abs(high[0]))))
    return jnp.min(jnp.where(jnp.isnan(jnp.stack(rises)), jnp.inf, jnp.stack(rises)))


def _times(a: Array, d: Array) -> Array:
    return jnp.where(d == 0, 0.0, a * d)  # of an entry that does not move the derivative may be infinite
