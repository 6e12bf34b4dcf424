"""The divergence taken apart: generalised KL, whose two parts are weighted by themselves and by what a class looks like on average."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, Crafting, crafting_by
from jrobust.objectives import kl
from jrobust.sets import Threat
from jrobust.training._classes import ClassMeans, check_epoch, class_means, remembered
from jrobust.training._paired import both, inner, near, paired
from jrobust.training._step import Remembering
from jrobust.typing import Array, Float


def weighted_squares(
    clean: Float[Array, "B K"], adversarial: Float[Array, "B K"], weights: Float[Array, "B K"]
) -> Float[Array, " B"]:
    """``1/4 sum_jk w_j w_k ((n_j - n_k) - (a_j - a_k))^2`` of each example, in O(K).

    With ``w`` the clean probabilities its gradient by the clean logits is that of ``KL(p(n) || p(a))``.

    >>> n, a = jnp.array([[1.0, 0.0, 3.0]]), jnp.array([[0.0, 0.5, 1.0]])
    >>> w = jnp.array([[0.2, 0.3, 0.5]])
    >>> pairs = lambda v: v[0, :, None] - v[0, None]
    >>> direct = 0.25 * jnp.sum(w[0, :, None] * w[0, None] * (pairs(n) - pairs(a)) ** 2)
    >>> bool(jnp.allclose(weighted_squares(n, a, w)[0], direct))
    True
    """
    d, total = clean - adversarial, jnp.sum(weights, -1)
    mean = jnp.sum(weights * d, -1, keepdims=True) / jnp.where(total > 0, total, 1.0)[:, None]
    return 0.5 * total * jnp.sum(weights * (d - mean) ** 2, -1)


def soft_cross_entropy(clean: Float[Array, "B K"], adversarial: Float[Array, "B K"]) -> Float[Array, " B"]:
    """``-sum_k p_k(clean) log p_k(adversarial)``, the first of them a constant."""
    return -jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(clean)) * jax.nn.log_softmax(adversarial), -1)


def dkl(
    loss: Loss,
    threat: Threat,
    *,
    alpha: Any = 6.0,
    beta: Any = 6.0,
    symmetric: bool = False,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Decoupled KL training: ``CE(x, y) + alpha softCE(sg p(x), p(x')) + beta wMSE(x, x')``, whose two parts have a weight each.

    wMSE compares differences of logits, weighted by the probabilities at the clean example. With ``alpha == beta`` the gradient is that
    of TRADES: the first part moves the adversarial logits alone, the second the clean ones alone.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      alpha, beta: weights; by default those of TRADES.
      symmetric: let the gradient of wMSE reach the adversarial logits too, the first of the two improvements of IKL (the other,
        weights by class, is `gkl` with ``gamma=1``).
      attack, crafting: as of `trades`.

    References:
      Cui et al., Decoupled Kullback-Leibler divergence loss, NeurIPS 2024.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> gradient = lambda robust: jax.grad(lambda p: jnp.mean(robust(p, *args[1:], **how)[0]))(args[0])
    >>> threat = jr.sets.linf(0.3)
    >>> bool(jnp.allclose(gradient(dkl(loss, threat)), gradient(jr.training.trades(loss, threat)), atol=1e-6))
    True
    """

    def outer(clean: Any, adversarial: Any, y: Any) -> Any:
        other = adversarial if symmetric else jax.lax.stop_gradient(adversarial)
        squares = weighted_squares(clean, other, jax.lax.stop_gradient(jax.nn.softmax(clean)))
        return loss.reduce(clean, y) + alpha * soft_cross_entropy(clean, adversarial) + beta * squares

    return paired(loss, threat, inner(attack, near, kl), outer, crafting=crafting)


def gkl(
    loss: Loss,
    threat: Threat,
    *,
    classes: int,
    epoch: int,
    alpha: Any = 4.0,
    beta: Any = 20.0,
    temperature: Any = 4.0,
    gamma: Any = 1.0,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> Remembering:
    """Generalised KL training: ``CE(x, y) + alpha softCE(sg p(x), p(x')) + beta wMSE(x, x')``.

    wMSE compares differences of logits, weighted by ``pi_y^gamma`` where ``pi_y`` is the mean of ``softmax(logits / temperature)`` over
    the clean examples of class y in the epoch before, over the sum of all weights in the batch; gradients reach both branches. With
    ``gamma=1`` the weights of an example sum to 1, and this is the IKL loss.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      classes: K.
      epoch: batches in an epoch (`epoch_steps`), after which the class means are renewed.
      alpha, beta, temperature, gamma: published for CIFAR-10 (gamma 0.4 for CIFAR-100).
      attack: as of `trades` (the soft cross-entropy differs from the divergence by a constant).
      crafting: as of `jr.worst_case`.

    Returns:
      A loss that is `Remembering`: ``make_step(loss, tx)`` with ``init(params, rest, tx, memory=loss.start)``.

    References:
      Cui et al., Decoupled Kullback-Leibler divergence loss, NeurIPS 2024; and its generalisation, GKL, 2025.

    Deviations: the published recipe also uses `awp`, an eps that grows over the training (`scheduled`) and an average by epoch.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = gkl(loss, jr.sets.linf(0.1), classes=2, epoch=10)
    >>> robust.start.means.tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    check_epoch(classes, epoch, "gkl")
    craft = crafting_by(loss, threat, inner(attack, near, kl), crafting=crafting, by="gkl")

    def remembering(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool, memory: ClassMeans) -> Any:
        z = craft(params, rest, x, y, key=key)
        clean, adversarial, rest = both(loss, params, rest, x, z, y, train=train)
        weights = memory.means[y] ** gamma
        soft = soft_cross_entropy(clean, adversarial)
        share = y.shape[0] / jnp.sum(jnp.sum(weights, -1) ** 2)
        squares = share * weighted_squares(clean, adversarial, weights)
        losses = optax.softmax_cross_entropy_with_integer_labels(clean, y) + alpha * soft + beta * squares
        return losses, rest, remembered(memory, jax.nn.softmax(clean / temperature), y, epoch)

    uniform = jnp.full((classes, classes), 1.0 / classes)
    return Remembering(remembering, class_means(uniform))
