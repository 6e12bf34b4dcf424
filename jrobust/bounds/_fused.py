"""The sum of exponentials of what a program gives, as one quantity: one walk back instead of one an output (loss fusion)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._oracle import Oracle
from jrobust.bounds._backward import Form
from jrobust.bounds._machine import intersect
from jrobust.bounds._methods import method_of
from jrobust.bounds._propagate import Method, bound_of, ends_of, posed, walked
from jrobust.bounds._tables import Interval
from jrobust.typing import Array, Float


def fusing(method: Oracle) -> Method:
    """The method of an oracle that can bound a form; refuses the others."""
    found = method_of(method, "fused")
    if not isinstance(found, Method):
        raise TypeError(f"fused takes ibp, crown_ibp, crown or alpha_crown, got {found.name}")
    return found


def chords(lo: Float[Array, " m"], hi: Float[Array, " m"], shift: Any) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """``(ends, slopes)``: of exp(v - shift) on [lo, hi] the value at hi, and the slope of its chord.

    >>> ends, slopes = chords(jnp.array([0.0, 1.0]), jnp.array([2.0, 1.0]), 1.0)
    >>> print(ends, slopes)  # (e - 1/e) / 2; where the ends meet the derivative
    [2.7182817 1.       ] [1.1752012 1.       ]
    """
    width = jnp.maximum(hi - lo, 0.0)
    wide = jnp.where(width > 1e-2, width, 1.0)
    share = jnp.where(width > 1e-2, -jnp.expm1(-wide) / wide, 1.0 - width / 2 + width**2 / 6)
    ends = jnp.exp(hi - shift)
    return ends, ends * share


def log_sum_exp(fn: Callable[[Any], Any], s: Any, method: Oracle) -> Float[Array, ""]:
    """An upper bound of ``log sum_j exp(fn(z)_j)`` over the set, on the chords between the ends that intervals give each ``fn(z)_j``.

    >>> import jrobust as jr
    >>> print(log_sum_exp(lambda z: jnp.stack([z[0], -z[0]]), jr.sets.linf(1.0)(jnp.zeros(1)), jr.bounds.crown_ibp()))  # log(e + 1/e)
    1.126928
    """
    found = fusing(method)
    problem = posed(fn, s, found)
    (out,) = problem.program.outputs
    by = walked(problem, found)
    if out not in problem.program.dependent:
        return jax.nn.logsumexp(jnp.asarray(by.env[out]))
    plain = by._replace(theta={}, pairs={})
    v = intersect(by.env[out], ends_of(problem, found, plain, out, by.env[out]))
    finite = jnp.all(jnp.isfinite(v.lo) & jnp.isfinite(v.hi))
    v = Interval(*(jnp.where(finite, end, 0.0) for end in v))
    shift = jax.lax.stop_gradient(jnp.max(v.hi))  # changes no bound, and nothing overflows
    ends, slopes = chords(v.lo, v.hi, shift)
    form = Form({out: slopes}, -jnp.sum(slopes * v.hi), len(problem.program.equations), {})
    below = bound_of(problem, found, by if found.relax else plain, form)
    below = jnp.where(below < 0, below, 0.0)  # no more than at the intervals' ends; NaN says nothing
    least = jnp.maximum(jnp.sum(jnp.exp(v.lo - shift)), jnp.finfo(ends.dtype).tiny)  # lower by rounding alone
    return jnp.where(finite, shift + jnp.log(jnp.maximum(jnp.sum(ends) + below, least)), jnp.inf)
