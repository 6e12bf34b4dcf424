"""SmoothMix: the example is mixed with where a long ascent against the smoothed classifier leads."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust._checks import check_count
from jrobust._objective import Loss, log_mean
from jrobust._transforms import AtWitnesses
from jrobust.attacks import pgd
from jrobust.sets import l2
from jrobust.training._noisy import copied_logits, mean_loss, noises, streams
from jrobust.training._smooth_adv import crafting_under_noise
from jrobust.typing import Array, Float


def mixed(x: Any, z: Any, p: Float[Array, "B K"], share: Float[Array, " B"]) -> tuple[Any, Float[Array, "B K"]]:
    """``(1 - share) x + share z`` and its label, ``p`` mixed with the uniform distribution by the same share.

    >>> point, label = mixed(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.array([[1.0, 0.0]]), jnp.array([0.5]))
    >>> print(point, label)
    [[0.5]] [[0.75 0.25]]
    """

    def between(a: Array, b: Array) -> Array:
        return a + share.reshape(-1, *(1,) * (a.ndim - 1)).astype(a.dtype) * (b - a)

    return jax.tree.map(between, x, z), between(p, jnp.full_like(p, 1 / p.shape[-1]))


def smooth_mix(
    loss: Loss, sigma: Any, *, samples: int = 2, steps: int = 4, step: Any = 1.0, weight: Any = 5.0
) -> AtWitnesses:
    """SmoothMix: between the example and an unrestricted adversarial one, the smoothed classifier shall lose confidence evenly.

    ``mean_j loss(x + n_j) + weight 1[right] mean_j KL(label || p(m + n_j))``, where x' is what ``steps`` normalised gradient steps up
    ``-log mean_j p_y`` lead to, ``m = (1 - s) x + s x'`` with s uniform in [0, 1/2), the label ``(1 - s) q + s / K`` with the mean q
    of the probabilities at x, and "right" is where q is largest at y. The noise n_j is the same everywhere.

    Args:
      loss: a `jr.Loss` of logits.
      sigma: standard deviation of the noise in input units, > 0, traced.
      samples: noisy copies of each example (published: 2 for CIFAR-10).
      steps, step: of the ascent, whose length is not bounded otherwise (published: 8 of length 1 for MNIST; 4 of length 0.5 at sigma
        0.25 and of 1 at sigma 0.5 for CIFAR-10).
      weight: of the divergence (published: 5, growing linearly over the first 10 epochs: that is `scheduled`).

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. The ascent sees BatchNorm in inference mode; then the
      copies of the examples pass, and those of the mixtures.

    Raises:
      ValueError: samples or steps < 1.

    References:
      Jeong et al., SmoothMix: training confidence-calibrated smoothed classifiers for certified robustness, NeurIPS 2021.

    Deviations: the label is a constant to the gradient. The variant with a one-step adversarial example in the place of x is left out.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = smooth_mix(loss, 0.25, steps=2)
    >>> robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0].shape
    (2,)
    """
    check_count(steps, "steps", "smooth_mix")
    ascent = pgd(steps=steps, step=step, start="center", keep="last")  # which cannot leave the ball of its length
    craft = crafting_under_noise(loss, l2(step * steps), sigma, samples, ascent, "exact", "smooth_mix")

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        for_noise, _, for_share = streams(key)
        noise = noises(for_noise, x, sigma, samples)
        copies = lambda v: jax.tree.map(jnp.add, v, noise)  # noqa: E731
        logits, rest = copied_logits(loss, params, rest, copies(x), train=train)
        q = jax.lax.stop_gradient(jnp.exp(log_mean(logits)))
        share = jax.random.uniform(for_share, y.shape, q.dtype, 0.0, 0.5)
        point, label = mixed(x, z, q, share)
        between, rest = copied_logits(loss, params, rest, copies(point), train=train)
        away = jnp.mean(optax.kl_divergence(jax.nn.log_softmax(between), label), 0)
        return mean_loss(loss, logits, y) + weight * jnp.where(jnp.argmax(q, -1) == y, away, 0.0), rest

    return AtWitnesses(craft, at)
