"""MACER: certified radii are made large without an attack, by their estimate from noisy copies."""

from typing import Any

import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._objective import Loss
from jrobust._transforms import AtWitnesses
from jrobust.training._margin_cs import softened_margins
from jrobust.training._noisy import check_level, under_noise
from jrobust.typing import Array, Bool, Float


def shortfall(m: Float[Array, " B"], finite: Bool[Array, " B"], gamma: Any) -> Float[Array, " B"]:
    """``gamma - m`` of examples that are right and not yet ``gamma`` far, else 0.

    >>> print(shortfall(jnp.array([-1.0, 2.0, 9.0, 0.0]), jnp.array([True, True, True, False]), 8.0))
    [0. 6. 0. 0.]
    """
    return jnp.where(finite & (m > 0) & (m <= gamma), gamma - m, 0.0)


def macer(
    loss: Loss, sigma: Any, *, samples: int = 16, weight: Any = 12.0, gamma: Any = 8.0, sharpness: Any = 16.0
) -> AtWitnesses:
    """MACER: cross-entropy of the smoothed classifier, plus a hinge on the certified radius of the examples that it has right.

    ``-log p_y + weight sigma / 2 max(0, gamma - (Phi^-1(q_y) - Phi^-1(max_{j != y} q_j)))``, where p is the mean softmax over the noise and
    q that of the logits times ``sharpness``; the hinge counts only where q is largest at y and both quantiles are finite.

    Args:
      loss: a `jr.Loss` of logits; its reduction is not used.
      sigma: standard deviation of the noise in input units, > 0, traced.
      samples: noisy copies of each example (published: 16).
      weight: of the hinge (published for CIFAR-10: 12 at sigma 0.25, 4 at 0.5, 12 at 1 but 0 in the first 200 of 440 epochs: that is
        `scheduled`).
      gamma: how large a margin is enough (published: 8).
      sharpness: inverse temperature of the softmax in the hinge (published: 16).

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``; the net sees all copies as one batch.

    Raises:
      ValueError: samples < 1.

    References:
      Zhai et al., MACER: attack-free and scalable robust training via maximizing certified radius, ICLR 2020.

    >>> import jax, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = macer(loss, 0.5)
    >>> robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0].shape
    (2,)
    """
    check_count(samples, "samples", "macer")
    check_level(sigma, "macer", gaussian=True)

    def outer(logits: Any, y: Any) -> Any:
        nll, m, finite = softened_margins(logits, y, None, sharpness)
        return nll + weight * sigma / 2 * shortfall(m, finite, gamma)

    return under_noise(loss, sigma, samples, outer)
