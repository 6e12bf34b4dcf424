"""The divergence taken apart: generalised KL, whose two parts are weighted by themselves and by what a class looks like on average."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import Crafting, crafting_by
from jrobust.objectives import kl
from jrobust.sets import Threat
from jrobust.training._classes import ClassMeans, check_epoch, class_means, remembered
from jrobust.training._paired import both, inner, near
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
    the clean examples of class y in the epoch before, over the sum of all weights in the batch; gradients reach both branches.

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
        soft = -jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(clean)) * jax.nn.log_softmax(adversarial), -1)
        share = y.shape[0] / jnp.sum(jnp.sum(weights, -1) ** 2)
        squares = share * weighted_squares(clean, adversarial, weights)
        losses = optax.softmax_cross_entropy_with_integer_labels(clean, y) + alpha * soft + beta * squares
        return losses, rest, remembered(memory, jax.nn.softmax(clean / temperature), y, epoch)

    uniform = jnp.full((classes, classes), 1.0 / classes)
    return Remembering(remembering, class_means(uniform))
