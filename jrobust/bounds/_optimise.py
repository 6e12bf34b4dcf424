"""Free parameters chosen by gradient: the slopes of relaxations (alpha-CROWN) and multipliers of split constraints (beta-CROWN)."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust import _loops
from jrobust.bounds._backward import Bounded, Cut, Form, pairs_of, upper
from jrobust.bounds._problem import Problem
from jrobust.bounds._tables import Interval
from jrobust.typing import Array

_DECAY, _BETA = 0.98, 0.5  # of the rate an iteration; of the multipliers' rate


def optimised(
    problem: Problem,
    by: Bounded,
    form: Form,
    *,
    steps: int,
    rate: float,
    target: float = -math.inf,
    cuts: Mapping[int, Interval] | None = None,
    start: Any = None,
) -> tuple[Array, Any, Form]:
    """The least upper bound of a form that ``steps`` evaluations of projected Adam find, and where.

    Args:
      problem, by, form: what is bounded, and the intervals that relaxations are built on (they stay).
      steps: evaluations, the first at the start.
      rate: of the relaxations' parameters, times 0.98 each step.
      target: a bound below it is good enough.
      cuts: constraints of the domain, by value: an end that is infinite constrains nothing.
      start: parameters as this function returns them; None: the method's own slopes, multipliers 0.

    Returns:
      The bound, its parameters (constants to a derivative), and the form at the input.
    """
    cuts = cuts or {}
    if start is None:
        zero = {i: (jnp.zeros_like(c.lo), jnp.zeros_like(c.hi)) for i, c in cuts.items()}
        start = by.theta, zero
    start = jax.lax.stop_gradient(start)

    def bound(parameters: Any) -> tuple[Array, Form]:
        theta, multipliers = parameters
        held = {i: _cut(cuts[i], *m) for i, m in multipliers.items()}
        return upper(problem, by._replace(pairs=pairs_of(problem, by.env, theta)), form, held)

    adam: Any = optax.scale_by_adam()

    def improve(carry: Any) -> Any:
        n, parameters, state, best = carry
        (value, _), slope = jax.value_and_grad(bound, has_aux=True)(parameters)
        best = jax.tree.map(lambda new, old: jnp.where(value < best[0], new, old), (value, parameters), best)
        slope = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), slope)
        step, state = adam.update(slope, state)
        size = rate * _DECAY**n
        theta, multipliers = parameters
        theta = jax.tree.map(lambda t, d: jnp.clip(t - size * d, 0.0, 1.0), theta, step[0])
        multipliers = jax.tree.map(lambda t, d: jnp.maximum(t - _BETA * size * d, 0.0), multipliers, step[1])
        return n + 1, (theta, multipliers), state, best

    if steps > 1:
        first = jnp.asarray(jnp.inf, form.offset.dtype), start
        carry = jnp.zeros((), jnp.int32), start, adam.init(start), first
        open_ = lambda carry: (carry[0] < steps) & ~(carry[3][0] < target)  # noqa: E731
        *_, (_, start) = _loops.while_loop(open_, improve, carry)
        start = jax.lax.stop_gradient(start)
    best, at_input = bound(start)
    return best, start, at_input


def _cut(interval: Interval, above: Array, below: Array) -> Cut:
    """Multipliers where there is a constraint."""
    low, high = jnp.isfinite(interval.lo), jnp.isfinite(interval.hi)
    ends = Interval(jnp.where(low, interval.lo, 0.0), jnp.where(high, interval.hi, 0.0))
    return Cut(jnp.where(low, above, 0.0), jnp.where(high, below, 0.0), ends)
