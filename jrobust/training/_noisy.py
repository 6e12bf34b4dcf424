"""Training under noise, for randomized smoothing: Gaussian augmentation, stability training, consistency."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jrobust._checks import check_count
from jrobust._objective import Loss, log_mean
from jrobust._transforms import AtWitnesses
from jrobust._tree import is_traced, normal_like
from jrobust.objectives._classification import divergence
from jrobust.smoothing import Noise
from jrobust.training._paired import at_pairs
from jrobust.typing import Array, Float


def check_level(sigma: Any, by: str, *, gaussian: bool = False) -> None:
    """Raise unless it is the level of noise, or, where it need not be Gaussian, noise itself."""
    if isinstance(sigma, Noise):
        if gaussian:
            raise TypeError(f"{by}: sigma is the standard deviation of Gaussian noise, got {sigma.name} noise")
    elif not is_traced(sigma) and not (np.ndim(sigma) == 0 and np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"{by}: sigma is one finite number >= 0, got {sigma!r}")


def streams(key: Any) -> tuple[Any, Any, Any]:
    """The keys of the noise, of an attack, and of whatever else is drawn: each stage of a loss finds the same noise."""
    noise, attack, more = jax.random.split(key, 3)
    return noise, attack, more


def noises(key: Any, x: Any, sigma: Any, samples: int) -> Any:
    """Gaussian noise of deviation ``sigma`` for ``samples`` copies of a batch: [samples, B, ...]."""
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (samples, *a.shape)), x)
    return jax.tree.map(lambda n: sigma * n, normal_like(key, copies))


def noisy_copies(key: Any, x: Any, sigma: Any, samples: int) -> Any:
    """``samples`` noisy copies of a batch [samples, B, ...]; ``sigma`` a deviation, or a `jr.smoothing.Noise`."""
    if not isinstance(sigma, Noise):
        return jax.tree.map(jnp.add, x, noises(key, x, sigma, samples))
    keys = jax.random.split(key, (samples, jax.tree.leaves(x)[0].shape[0]))
    return jax.vmap(lambda k: jax.vmap(sigma.sample)(k, x))(keys)


def copied_logits(loss: Loss, params: Any, rest: Any, z: Any, *, train: bool) -> tuple[Float[Array, "m B K"], Any]:
    """The logits of copies [m, B, ...], which the net sees as one batch, and ``rest'``."""
    samples = jax.tree.leaves(z)[0].shape[0]
    out, after = loss.outputs(params, rest, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), z), train=train)
    return out.reshape(samples, -1, *out.shape[1:]), after


def mean_loss(loss: Loss, logits: Float[Array, "m B K"], y: Any) -> Float[Array, " B"]:
    """The mean over the copies of the loss at each."""
    return jnp.mean(jax.vmap(lambda of_copy: loss.reduce(of_copy, y))(logits), 0)


def under_noise(
    loss: Loss,
    sigma: Any,
    samples: int,
    outer: Callable[[Float[Array, "m B K"], Any], Float[Array, " B"]],
    craft: Callable[..., Any] | None = None,
) -> AtWitnesses:
    """A loss made of the logits at noisy copies of every example, or of the witness that ``craft`` puts in its place."""

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del x
        logits, after = copied_logits(loss, params, rest, noisy_copies(streams(key)[0], z, sigma, samples), train=train)
        return outer(logits, y), after

    return AtWitnesses(_itself if craft is None else craft, at)


def _itself(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
    del params, rest, y, key
    return x


def noisy(loss: Loss, sigma: Any, *, samples: int = 1) -> AtWitnesses:
    """Gaussian augmentation: the loss at noisy copies of the example, so that the net knows the noise that it is smoothed with.

    The noise of training need not be the one that is certified afterwards: ``sigma`` is this loss's own.

    Args:
      loss: a `jr.Loss`.
      sigma: standard deviation of the noise in input units, >= 0, traced; or a `jr.smoothing.Noise` of another shape (bits that flip
        take inputs of 0 and 1, which is not looked at here).
      samples: noisy copies of each example, whose losses are averaged; the net sees them as one batch, BatchNorm in training mode
        included.

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. Noisy inputs are not clipped.

    Raises:
      ValueError: samples < 1, a sigma that is negative or not finite.

    References:
      Cohen, Rosenfeld & Kolter, Certified adversarial robustness via randomized smoothing, ICML 2019.
      Pal & Sulam, Understanding noise-augmented training for randomized smoothing, TMLR 2023 (the two levels apart).

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> print(f"{noisy(loss, 0.0)(*args, **how)[0][0]:.4f}", noisy(loss, 0.25, samples=4)(*args, **how)[0].shape)
    0.3133 (2,)
    """
    check_count(samples, "samples", "noisy")
    check_level(sigma, "noisy")
    return under_noise(loss, sigma, samples, lambda logits, y: mean_loss(loss, logits, y))


def stability(
    loss: Loss,
    sigma: Any,
    *,
    weight: Any = 2.0,
    distance: str = "kl",
    at: str = "noisy",
) -> AtWitnesses:
    """Stability training: the loss, and how far the answer under noise is from the answer without it.

    ``loss(x + n) + weight D(p(x), p(x + n))``, D the divergence ``KL(p(x) || p(x + n))`` or the cross-entropy; gradients flow through
    both answers.

    Args:
      loss: a `jr.Loss` of logits.
      sigma: as of `noisy`.
      weight: of D (published: 2; of Carmon et al. 6).
      distance: "kl", or "cross_entropy" (of Li et al.), which is the divergence plus the entropy of ``p(x)``.
      at: where the loss is taken: "noisy", or "clean" as Carmon et al. do.

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. With ``train=True`` the clean batch passes first, then
      the noisy one, each normalised by its own statistics.

    Raises:
      ValueError: another ``distance`` or ``at``.

    References:
      Li, Chen, Wang & Carin, Certified adversarial robustness with additive noise, NeurIPS 2019.
      Carmon et al., Unlabeled data improves adversarial robustness, NeurIPS 2019.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = stability(loss, 0.0)  # no noise: the loss itself
    >>> print(f"{robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0][0]:.4f}")
    0.3133
    """
    check_level(sigma, "stability")
    if distance not in ("kl", "cross_entropy"):
        raise ValueError(f"stability: distance is 'kl' or 'cross_entropy', got {distance!r}")
    if at not in ("noisy", "clean"):
        raise ValueError(f"stability: at is 'noisy' or 'clean', got {at!r}")

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        del params, rest, y
        return jax.tree.map(lambda a: a[0], noisy_copies(streams(key)[0], x, sigma, 1))

    def outer(x: Any, z: Any, clean: Any, under: Any, y: Any) -> Any:
        del x, z
        if distance == "kl":
            away = divergence(clean, under)
        else:
            away = optax.softmax_cross_entropy(under, jax.nn.softmax(clean))
        return loss.reduce(under if at == "noisy" else clean, y) + weight * away

    return at_pairs(loss, craft, outer)


def inconsistency(logits: Float[Array, "m B K"], weight: Any, entropy: Any) -> Float[Array, " B"]:
    """``weight mean_j KL(q || p_j) + entropy H(q)``, with the mean q of the probabilities p_j of each copy.

    >>> same = jnp.array([[[2.0, 0.0]]] * 3)
    >>> print(inconsistency(same, 10.0, 0.0), jnp.round(inconsistency(0 * same, 10.0, 0.5), 4))  # log(2) / 2
    [0.] [0.3466]
    """
    log_q = log_mean(logits)
    away = jnp.mean(divergence(jnp.broadcast_to(log_q, logits.shape), logits), 0)
    return weight * away - entropy * jnp.sum(jnp.exp(log_q) * log_q, -1)


def consistent(loss: Loss, weight: Any, entropy: Any) -> Callable[[Any, Any], Any]:
    """What `consistency` makes of the logits of copies, for `under_noise`."""
    return lambda logits, y: mean_loss(loss, logits, y) + inconsistency(logits, weight, entropy)


def consistency(loss: Loss, sigma: Any, *, samples: int = 2, weight: Any = 10.0, entropy: Any = 0.5) -> AtWitnesses:
    """Consistency regularisation: the answers under different noise are drawn to their mean, and the mean to one class.

    ``mean_j loss(x + n_j) + weight mean_j KL(q || p(x + n_j)) + entropy H(q)``, q the mean of the probabilities. With the witnesses of
    SmoothAdv in the place of x: `smooth_adv` with ``consistency=``.

    Args:
      loss: a `jr.Loss` of logits.
      sigma: as of `noisy`.
      samples: noisy copies of each example, >= 2.
      weight: of the divergence (published for CIFAR-10: 20 at sigma 0.25, 10 at 0.5 and 1; for ImageNet 5).
      entropy: weight of the entropy of the mean (published: 0.5; 0.1 for ImageNet at sigma 1).

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``; the net sees all copies as one batch.

    Raises:
      ValueError: samples < 2: one copy is always consistent.

    References:
      Jeong & Shin, Consistency regularization for certified robustness of smoothed classifiers, NeurIPS 2020.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> plain, robust = noisy(loss, 0.5, samples=2), consistency(loss, 0.5)
    >>> bool(jnp.all(robust(*args, **how)[0] > plain(*args, **how)[0]))
    True
    """
    check_count(samples, "samples", "consistency", least=2)
    check_level(sigma, "consistency")
    return under_noise(loss, sigma, samples, consistent(loss, weight, entropy))
