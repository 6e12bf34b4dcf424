"""The radius that a margin and a Lipschitz constant certify: no bound propagation, one forward pass."""

from typing import Any

import jax.numpy as jnp

from jrobust._objective import Objective
from jrobust._oracle import Radius, RadiusOracle
from jrobust._tree import bind, is_traced
from jrobust.objectives._classification import with_label


def _solve(constant: Any, key: Any, f: Any, threat: Any, x: Any) -> Radius:
    del key
    if threat is None or threat.name != "l2":
        raise ValueError(
            f"margin certifies l2 radii, the threat is {None if threat is None else threat.name}; use jr.sets.l2, or jr.bounds.lipschitz"
        )
    with_label(f, "margin")
    if isinstance(f, Objective) and f.draws is not None:
        raise TypeError("margin proves nothing about a random model from a few draws of it; see jr.smoothing")
    value = jnp.max(f(x))
    radius = jnp.where(value < 0, -value, 0.0) / (jnp.sqrt(2.0) * constant)  # NaN certifies nothing
    return Radius(radius, None, {"margin": -value})


def margin(constant: Any) -> RadiusOracle:
    """``r = (z_y - max_{j != y} z_j) / (sqrt(2) L)``: how far a net of Lipschitz constant L keeps its class, in l2.

    A difference of two logits changes by at most ``sqrt(2) L`` times the way: `jr.models.lipschitz_mlp` is such a net, and knows its
    ``constant``. 0 where the class is another than the label.

    Args:
      constant: L > 0, of the map from an input to **all** logits, l2 to l2; traced. It is taken for granted.

    Returns:
      A `RadiusOracle` of side "lower" for threats `jr.sets.l2` and objectives of `jr.objectives.classification`; the radius holds with
      any clip.

    Raises:
      ValueError: L is not > 0; when solving, another threat.
      TypeError: when solving, an objective without a label, or of a random model.

    Guarantee: a lower bound in exact arithmetic, if L is one; rounding is not directed outward.

    References:
      Tsuzuku, Sato & Sugiyama, Lipschitz-margin training, NeurIPS 2018.

    >>> import jrobust as jr
    >>> f = jr.objectives.classification(lambda z: z, 0)
    >>> print(margin(1.0).solve(None, f, jr.sets.l2(1.0), jnp.array([3.0, 1.0])).value)  # 2 / sqrt(2), and the boundary is there
    1.4142135
    """
    if not is_traced(constant) and not jnp.all(jnp.asarray(constant) > 0):
        raise ValueError(f"margin: the Lipschitz constant is > 0, got {constant}")
    return RadiusOracle("lower", bind(_solve, constant), name="margin")
