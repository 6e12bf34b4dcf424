"""ALMA: the closest violation by an augmented Lagrangian whose multiplier and penalty adapt while the point moves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective, largest
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._minimum import closer, closest, dual_norm, minimize, only_balls, unfound, unit
from jrobust.attacks._state import Surrogate, climb
from jrobust.objectives._classification import largest_logits
from jrobust.typing import Array, Float, Point

_FIRST = {"l1": 0.5, "l2": 0.1}
_TOLERANCE = 1e-4


class LagrangeState(NamedTuple):
    """The iterate, RMSProp's averages and step, the multiplier and the penalty, the closest violation, and when the first was found."""

    z: Point
    square: Point
    velocity: Point
    step: Float[Array, ""]
    multiplier: Float[Array, ""]
    penalty: Float[Array, ""]
    checked: Float[Array, ""]
    scale: Float[Array, ""]
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    found: Array
    count: Array


def _has_ratio(f: Objective, outputs: Any) -> bool:
    return f.label is not None and outputs.ndim == 1 and outputs.shape[0] >= 4


def ratio(f: Objective, outputs: Any) -> Float[Array, ""]:
    """The violation over the spread of the logits: the difference-of-logits ratio, positive exactly at a violation, targeted or not.

    The violation itself for objectives that are no classification of at least four classes; the step scales it.
    """
    violation = largest(f, outputs)
    if not _has_ratio(f, outputs):
        return violation
    top = largest_logits(outputs, 4)
    return violation / (top[0] - (top[2] if f.target is None else 0.5 * (top[2] + top[3])) + 1e-8)


def slope(y: Array, penalty: Array, multiplier: Array) -> Float[Array, ""]:
    """The derivative by ``y`` of the penalty-Lagrangian function P2 of the constraint ``y < 0``.

    P2 is ``m y + m p y^2 + p^2 y^3 / 6`` for ``y >= 0`` and ``m y / (1 - p y)`` below.
    """
    above = multiplier * (1 + 2 * penalty * y) + 0.5 * (penalty * y) ** 2
    return jnp.where(y >= 0, above, multiplier / (1 - penalty * jnp.minimum(y, 0.0)) ** 2)


def _init(key: Any, f: Objective, s: Any, *, steps: int) -> LagrangeState:
    del key, f
    x, one = s.center, jnp.ones((), s.center.dtype)
    return LagrangeState(
        z=x,
        square=jnp.ones_like(x),
        velocity=jnp.zeros_like(x),
        step=one,
        multiplier=one,
        penalty=one,
        checked=one,
        scale=one,
        found=jnp.asarray(steps + 1, jnp.int32),
        count=jnp.asarray(0, jnp.int32),
        **unfound(s),
    )


def _step(
    first: Any,
    memory: Any,
    key: Any,
    state: LagrangeState,
    f: Objective,
    s: Any,
    *,
    steps: int,
    kind: str,
    surrogate: Surrogate | None,
) -> LagrangeState:
    i, start = state.count, state.count == 0
    value, height, gradient = climb(f, surrogate or ratio, state.z)
    state = closer(state, state.z, value, s)
    # a violation that is not a ratio is one of the violation at the example
    raw = surrogate is None and not _has_ratio(f, jax.eval_shape(f.outputs, s.center))
    scale = jnp.where(start, jnp.maximum(jnp.abs(height), 1e-6), state.scale) if raw else state.scale
    height, gradient = height / scale, gradient / scale
    y = (_TOLERANCE - height).astype(state.multiplier.dtype)  # the constraint: y < 0
    # the penalty grows while nothing is found and the constraint does not come closer
    check = (i + 1) % 10 == 0
    stuck = check & ~start & (state.found > steps) & ~(y < 0.95 * state.checked)
    penalty = jnp.where(stuck, 1.2 * state.penalty, state.penalty)
    multiplier = memory * state.multiplier + (1 - memory) * slope(y, penalty, state.multiplier)
    multiplier = jnp.where(start, state.multiplier, jnp.clip(multiplier, 1e-6, 1e12))
    found = jnp.where(violated(value), jnp.minimum(state.found, i), state.found)
    # gradient of distance and penalty; at the example itself the distance has none
    d = state.z - s.center
    g = (jnp.sign(d) if kind == "l1" else unit(d)) - slope(y, penalty, multiplier) * gradient
    flat = start & ~(dual_norm(g, "l2") > 1e-6)
    g = jnp.where(flat, unit(jax.random.normal(key, g.shape, g.dtype)), g)
    step = jnp.where(start, first / s.distance(s.center + g), state.step)
    decay = 0.01 ** (jnp.maximum(i - found, 0) / (steps - found))
    square = memory * state.square + (1 - memory) * g**2
    velocity = memory * state.velocity + g / (jnp.sqrt(square) + 1e-8)
    return state._replace(
        z=jnp.clip(state.z - step * decay * velocity, *s.params[1:]).astype(state.z.dtype),
        square=square,
        velocity=velocity,
        step=step,
        multiplier=multiplier,
        penalty=penalty,
        checked=jnp.where(start | check, y, state.checked),
        scale=scale.astype(state.scale.dtype),
        found=found,
        count=i + 1,
    )


def _for_set(first: Any, memory: Any, kind: str, classes: int, *, steps: int, surrogate: Surrogate | None) -> Algorithm:
    del classes
    only_balls(kind, tuple(_FIRST), "alma")
    first = _FIRST[kind] if first is None else first
    stepping = bind(_step, first, memory, steps=steps, kind=kind, surrogate=surrogate)
    return Algorithm(bind(_init, steps=steps), stepping, bind(closest))


def alma(
    *, steps: int = 1000, first: Any = None, memory: Any = 0.9, surrogate: Surrogate | None = None, name: str = "alma"
) -> RadiusOracle:
    """Augmented Lagrangian attack: RMSProp on the norm plus a penalty of the difference-of-logits ratio.

    The multiplier is an average of the penalty's slopes; the penalty grows by 1.2 at every tenth step while no violation was found
    and the ratio has not come 5 % closer. Steps decay exponentially to 1/100 from the first violation on.

    Args:
      steps: gradient steps, >= 1 (structure).
      first: norm of the first step (before RMSProp's own scale), in the units of the input; traced. None takes the authors' 0.5 on
        L1, 0.1 on L2.
      memory: of the multiplier's average, of RMSProp and of its momentum, in [0, 1); traced. The authors take 0.5 for 100 steps.
      surrogate: what must become positive; None takes the ratio; with fewer than 4 classes or without a label
        the violation over that at the example.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l1``, ``l2``. `jr.attacks.within` makes it an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> found = alma(steps=200).solve(jax.random.key(0), f, jr.sets.l2(0.0), jnp.array([0.5]))
    >>> print(bool(0.5 <= found.value < 0.55))
    True

    References:
      Rony et al., Augmented Lagrangian adversarial attacks, ICCV 2021; constants as in the authors' code (adversarial-library).
    Deviations:
      The tolerance of 1e-4 is added to the ratio, not to its numerator, and decides nothing: a tie is a violation. The length of the
      first step does not look at the clip. The last iterate is evaluated too.
    """
    return minimize(bind(_for_set, first, memory, steps=steps, surrogate=surrogate), steps, name=f"{name}-{steps}")
