"""Training losses as data (`Loss`), and how a bound on margins becomes logits again."""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jrobust._checks import check_classes
from jrobust._objective import Loss
from jrobust._tree import as_pytree
from jrobust.typing import Array, Float, Int


def _softmax_cross_entropy(logits: Float[Array, "B K"], y: Int[Array, " B"]) -> Float[Array, " B"]:
    check_classes(
        y, logits.shape[-1], "label", index=False
    )  # in a traced step they are not known; `fit` looks at them before
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def cross_entropy(apply: Callable[..., Any]) -> Loss:
    """Softmax cross-entropy of a model as a `Loss`; monotone in the margins, so any oracle may bound it.

    Args:
      apply: ``apply(params, rest, x[B, ...], *, train) -> (logits[B, K], rest')``, as `jr.nnx.functional` gives.

    Raises:
      TypeError: a function of other arguments, such as a module itself.

    >>> import jax.numpy as jnp
    >>> loss = cross_entropy(lambda params, rest, x, *, train: (x @ params, rest))
    >>> print(loss(jnp.eye(2), None, jnp.zeros((1, 2)), jnp.array([0]))[0])
    [0.6931472]
    """
    try:
        inspect.signature(apply).bind(None, None, None, train=False)
    except TypeError:
        given = getattr(apply, "__name__", type(apply).__name__)
        raise TypeError(
            f"cross_entropy takes apply(params, rest, x, *, train) -> (logits, rest'), got {given}; "
            "of an nnx.Module that is jr.nnx.functional(model).apply"
        ) from None
    return Loss(as_pytree(apply), as_pytree(_softmax_cross_entropy))


def _soft(logits: Float[Array, "B K"], y: Any) -> Float[Array, " B"]:
    if jnp.shape(y) != logits.shape:
        raise ValueError(
            f"soft_cross_entropy: labels are of the shape of the logits, {logits.shape}, got {jnp.shape(y)} (jr.training.softened)"
        )
    return optax.softmax_cross_entropy(logits, y)


def soft_cross_entropy(apply: Callable[..., Any]) -> Loss:
    """Softmax cross-entropy with labels that are distributions, y[B, K]: smoothed or mixed ones (`jr.training.softened`).

    It is not monotone in the margins of one class: for lower oracles only.

    Args:
      apply: as of `cross_entropy`.

    >>> import jax.numpy as jnp
    >>> loss = soft_cross_entropy(lambda params, rest, x, *, train: (x @ params, rest))
    >>> print(loss(jnp.eye(2), None, jnp.zeros((1, 2)), jnp.array([[0.5, 0.5]]))[0])
    [0.6931472]
    """
    return Loss(cross_entropy(apply).outputs, as_pytree(_soft))


def worst_logits(elements: Float[Array, " m"], y: Any) -> Float[Array, " n"]:
    """Logits with margins ``elements`` over class ``y``, which itself gets 0.

    >>> import jax.numpy as jnp
    >>> print(worst_logits(jnp.array([-2.0, -1.0]), 1))
    [-2.  0. -1.]
    """
    k = elements.shape[-1] + 1
    j = jnp.arange(k)
    spread = elements[jnp.clip(j - (j > y), 0, k - 2)]
    return jnp.where(j == y, 0.0, spread)
