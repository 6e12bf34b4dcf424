"""Step rules: optax transformations that also see the set."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def steepest(*, relative: bool = False) -> optax.GradientTransformationExtraArgs:
    """The steepest-descent direction of the set's own norm (sign for Linf, normalised gradient for L2), of unit norm.

    Like every optax rule it descends; attacks hand it the gradient of minus what they climb. Chain it with
    ``optax.scale(step)``, ``optax.trace`` (momentum, before it) or ``optax.scale_by_schedule``.

    Args:
      relative: length of the set's own radius instead of one.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> rule, s = steepest(), jr.sets.linf(0.1)(jnp.zeros(2))
    >>> print(rule.update(jnp.array([3.0, -2.0]), rule.init(s.center), s.center, set=s)[0])
    [-1.  1.]
    """

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, *, set: Any, **extra: Any) -> tuple[Any, Any]:
        del params, extra
        return set.steepest(jax.tree.map(jnp.negative, updates), relative=relative), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
