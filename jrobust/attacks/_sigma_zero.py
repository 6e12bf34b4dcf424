"""Sigma-zero: the fewest entries, by gradient descent on a smooth count and a threshold that adapts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._iterate import Algorithm
from jrobust._objective import Objective, largest
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._adaptive_norm import cosine
from jrobust.attacks._minimum import adam, closer, closest, minimize, only_balls, unfound
from jrobust.attacks._state import climb
from jrobust.typing import Array, Float, Point


class CountState(NamedTuple):
    """The iterate, Adam's moments, the threshold below which an entry goes back, the closest violation, the steps taken."""

    z: Point
    mean: Point
    square: Point
    threshold: Float[Array, ""]
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    count: Array


def _init(threshold: Any, key: Any, f: Objective, s: Any) -> CountState:
    del key, f
    x, zero = s.center, jnp.zeros_like(s.center)
    return CountState(x, zero, zero, jnp.asarray(threshold, x.dtype), count=jnp.asarray(0, jnp.int32), **unfound(s))


def _smooth_count(d: Array, sigma: Any) -> Array:
    """The mean of ``d^2 / (d^2 + sigma)``: about the share of entries that are not 0."""
    return jnp.mean(d**2 / (d**2 + sigma))


def _step(
    step: Any, sigma: Any, adapt: Any, key: Any, state: CountState, f: Objective, s: Any, *, steps: int
) -> CountState:
    del key
    x, (lo, hi) = s.center, s.params[1:]
    value, _, g = climb(f, largest, state.z)
    state = closer(state, state.z, value, s)
    outside = value < 0
    g = jnp.where(jnp.isfinite(g), g, 0.0)  # where the model has no slope the count alone is descended
    # descend on max(-value, 0) + the smooth count
    g = jax.grad(_smooth_count)(state.z - x, sigma) - jnp.where(outside, g, 0.0)
    top = jnp.max(jnp.abs(g), initial=0.0)
    i = state.count + 1
    mean, square, direction, metric = adam(state.mean, state.square, g / jnp.maximum(top, 1e-12), i)
    length = cosine(step, 0.1 * step, state.count, steps)
    z = jnp.clip(state.z - length * direction / metric, lo, hi)
    shift = adapt * cosine(step, 0.1 * step, i, steps)
    threshold = jnp.clip(state.threshold + jnp.where(outside, -shift, shift), 0.0, jnp.max(hi - lo))
    z = jnp.where(jnp.abs(z - x) < threshold, x, z)
    return state._replace(z=z, mean=mean, square=square, threshold=threshold.astype(state.threshold.dtype), count=i)


def _for_set(step: Any, sigma: Any, threshold: Any, adapt: Any, kind: str, classes: int, *, steps: int) -> Algorithm:
    del classes
    only_balls(kind, ("l0",), "sigma_zero")
    return Algorithm(bind(_init, threshold), bind(_step, step, sigma, adapt, steps=steps), bind(closest))


def sigma_zero(
    *,
    steps: int = 1000,
    step: Any = 1.0,
    sigma: Any = 1e-3,
    threshold: Any = 0.3,
    adapt: Any = 0.01,
    name: str = "sigma_zero",
) -> RadiusOracle:
    """Sigma-zero: Adam on the margin plus a smooth count of changed entries; changes below a threshold go back to zero.

    The threshold rises at a violation and falls elsewhere. Both parts of the gradient together are scaled to a largest entry of
    one. The step decays along a cosine to a tenth.

    Args:
      steps: gradient steps, >= 1 (structure).
      step: of Adam at first, in the units of the input; traced. The constants are for inputs in [0, 1].
      sigma: the square of the change that counts one half, > 0; traced.
      threshold: the first one, in the units of the input; traced.
      adapt: the threshold's change over the step of Adam; traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l0`` of entries (not of pixels). `jr.attacks.within` makes it an attack on one set.

    Guarantee: an upper bound of the count, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z @ jnp.array([1.0, 3.0, 0.5]) - 1), 0)
    >>> s = jr.sets.l0(0, clip=(0, 1))
    >>> print(sigma_zero(steps=50).solve(jax.random.key(0), f, s, jnp.array([0.6, 0.7, 0.5])).value)
    1.0

    References:
      Cina et al., Sigma-zero: gradient-based optimization of l0-norm adversarial examples, ICLR 2025.
    Deviations:
      The margin's gradient is 0 at a violation (published: of ``max(margin, 0)``, the same off the boundary). The last iterate is
      evaluated too.
    """
    choose = bind(_for_set, step, sigma, threshold, adapt, steps=steps)
    return minimize(choose, steps, name=f"{name}-{steps}")
