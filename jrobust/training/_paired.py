"""Losses of a clean batch and its adversarial one, in pairs: TRADES, MART, SCORE, ALP, HAT."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust._checks import check_classes
from jrobust._objective import Loss, Objective, anchored
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, Crafting, crafting_by
from jrobust._tree import normal_like
from jrobust.attacks import pgd
from jrobust.attacks._rules import steepest
from jrobust.objectives import kl
from jrobust.objectives._classification import divergence
from jrobust.sets import Threat
from jrobust.typing import Array, Float, Int


def both(loss: Loss, params: Any, rest: Any, x: Any, z: Any, y: Any, *, train: bool) -> tuple[Array, Array, Any]:
    """The logits of a clean batch and of an adversarial one, in this order, and ``rest'`` after both."""
    clean, rest = loss.outputs(params, rest, x, train=train)
    if jnp.ndim(y) == 1:  # a distribution over classes is the loss's own business
        check_classes(y, clean.shape[-1], "label", index=False)
    adversarial, rest = loss.outputs(params, rest, z, train=train)
    return clean, adversarial, rest


def paired(
    loss: Loss,
    threat: Threat,
    attack: Oracle,
    outer: Callable[[Float[Array, "B K"], Float[Array, "B K"], Int[Array, " B"]], Float[Array, " B"]],
    *,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """A robust loss of the logits at the clean batch and at the adversarial one.

    Args:
      loss: a `jr.Loss`: its outputs are what ``outer`` sees; its reduction is what the attack climbs, unless that has a surrogate.
      threat: the perturbations.
      attack: a lower oracle without early stop.
      outer: ``outer(clean[B, K], adversarial[B, K], y[B]) -> [B]``; gradients flow through both.
      crafting: as of `jr.worst_case`.

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. With ``train=True`` the clean batch passes first,
      then the adversarial one, each normalised by its own statistics; running statistics take in both.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> both = paired(loss, jr.sets.linf(0.5), jr.attacks.fgsm(), lambda z, a, y: jnp.sum((z - a) ** 2, -1))
    >>> args = jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> print(both(*args, key=jax.random.key(0), train=True)[0])
    [0.5]
    """
    craft = crafting_by(loss, threat, attack, crafting=crafting, by="paired")
    return at_pairs(loss, craft, lambda x, z, clean, adversarial, y: outer(clean, adversarial, y))


def at_pairs(loss: Loss, craft: Callable[..., Any], outer: Callable[..., Float[Array, " B"]]) -> AtWitnesses:
    """`paired` once the attack is made, for an ``outer(x, z, clean, adversarial, y)`` that asks other models about the points too."""

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        clean, adversarial, rest = both(loss, params, rest, x, z, y, train=train)
        return outer(x, z, clean, adversarial, y), rest

    return AtWitnesses(craft, at)


def near(key: Any, s: Any) -> Any:
    """The clean example and noise of deviation 1e-3: at the example itself the gradient of a divergence from it is 0."""
    return jax.tree.map(jnp.add, s.center, normal_like(key, s.center, 1e-3))


def inner(attack: Oracle | int, start: Any, surrogate: Any = None, *, share: Any = None) -> Oracle:
    """An attack of training: as given, or PGD of so many steps, each of a share of the radius (None: 2.5 / steps); the last iterate."""
    if isinstance(attack, Oracle):
        return attack
    rule = None if share is None else steepest(relative=True)
    return pgd(steps=attack, step=share, rule=rule, start=start, surrogate=surrogate, keep="last")


def trades(
    loss: Loss, threat: Threat, *, beta: Any = 6.0, attack: Oracle | int = 10, crafting: Crafting = "inference"
) -> AtWitnesses:
    """TRADES: the loss, cross-entropy, of the clean example plus ``beta KL(p(x) || p(x'))``, x' where that divergence is large.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      beta: weight of the divergence, 1 to 10: larger is more robust and less accurate.
      attack: a lower oracle, or how many steps of PGD climb the divergence from the clean example and a little noise, each of
        2.5 / steps radii (published: 0.23 radii at 10 steps).
      crafting: as of `jr.worst_case`.

    References:
      Zhang et al., Theoretically principled trade-off between robustness and accuracy, ICML 2019.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = trades(loss, jr.sets.linf(0.5), beta=6.0)
    >>> losses, _ = robust(jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0]), key=jax.random.key(0), train=True)
    >>> bool(losses[0] > loss(jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0]))[0][0])
    True
    """

    def outer(clean: Any, adversarial: Any, y: Any) -> Any:
        return loss.reduce(clean, y) + beta * divergence(clean, adversarial)

    return paired(loss, threat, inner(attack, near, kl), outer, crafting=crafting)


def mart(
    loss: Loss, threat: Threat, *, beta: Any = 5.0, attack: Oracle | int = 10, crafting: Crafting = "inference"
) -> AtWitnesses:
    """MART: boosted cross-entropy of the adversarial example, and the divergence weighted by how wrong the clean example is.

    ``-log p'_y - log(1.0001 - max_{k != y} p'_k + 1e-12) + beta (1.0000001 - p_y) KL(p || p')``; gradients flow through the weight.

    Args:
      loss, threat, crafting: as of `trades`.
      beta: weight of the divergence (published: 5 for ResNet-18, 6 for wide nets).
      attack: a lower oracle, or how many steps of PGD climb the cross-entropy from the clean example and a little noise.

    References:
      Wang et al., Improving adversarial robustness requires revisiting misclassified examples, ICLR 2020.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = mart(loss, jr.sets.linf(0.5))
    >>> losses, _ = robust(jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0]), key=jax.random.key(0), train=True)
    >>> losses.shape
    (1,)
    """

    def outer(clean: Any, adversarial: Any, y: Any) -> Any:
        label = jax.nn.one_hot(y, clean.shape[-1], dtype=bool)
        wrong = jnp.max(jnp.where(label, 0.0, jax.nn.softmax(adversarial)), axis=-1)
        boosted = optax.softmax_cross_entropy_with_integer_labels(adversarial, y) - jnp.log(1.0001 - wrong + 1e-12)
        right = jnp.sum(jnp.where(label, jax.nn.softmax(clean), 0.0), axis=-1)
        return boosted + beta * (1.0000001 - right) * divergence(clean, adversarial)

    return paired(loss, threat, inner(attack, near), outer, crafting=crafting)


@anchored
def squared(f: Objective, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """``||p(z) - p(x)||^2``, from the probabilities at the clean example: the inner loss of SCORE."""
    return jnp.sum((jax.nn.softmax(logits) - jax.nn.softmax(f.reference)) ** 2)


def score(
    loss: Loss, threat: Threat, *, beta: Any = 4.0, attack: Oracle | int = 10, crafting: Crafting = "inference"
) -> AtWitnesses:
    """SCORE: squared errors of probabilities in the place of divergences, ``||p(x) - y||^2 + beta ||p(x') - p(x)||^2``.

    Args:
      loss, threat, crafting: as of `trades`.
      beta: weight of the local term (published: 3 and 4).
      attack: a lower oracle, or how many steps of PGD climb the local term from a random start.

    References:
      Pang et al., Robustness and accuracy could be reconcilable by (proper) definition, ICML 2022.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = score(loss, jr.sets.linf(0.0), attack=jr.attacks.fgsm())
    >>> print(robust(jnp.zeros((2, 2)), None, jnp.ones((1, 2)), jnp.array([0]), key=jax.random.key(0), train=True)[0])
    [0.5]
    """

    def outer(clean: Any, adversarial: Any, y: Any) -> Any:
        p, q = jax.nn.softmax(clean), jax.nn.softmax(adversarial)
        return jnp.sum((p - jax.nn.one_hot(y, p.shape[-1])) ** 2, -1) + beta * jnp.sum((q - p) ** 2, -1)

    return paired(loss, threat, inner(attack, "random", squared), outer, crafting=crafting)


def alp(
    loss: Loss, threat: Threat, *, weight: Any = 0.5, attack: Oracle | int = 10, crafting: Crafting = "inference"
) -> AtWitnesses:
    """Adversarial logit pairing: ``CE(x, y) + CE(x', y) + weight ||z(x) - z(x')||^2``, z the logits. Historic.

    Not robust under strong attack: much of what it gains under PGD is a loss that is hard to climb. Judge it by AutoAttack.

    Args:
      loss, threat, crafting: as of `trades`.
      weight: of the squared distance of the logits; the default is ours.
      attack: a lower oracle, or how many steps of PGD climb the loss from a random start.

    References:
      Kannan, Kurakin & Goodfellow, Adversarial logit pairing, 2018.
      Engstrom, Ilyas & Athalye, Evaluating and understanding the robustness of adversarial logit pairing, 2018.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = alp(loss, jr.sets.linf(0.5), weight=2.0, attack=jr.attacks.fgsm())
    >>> args = jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> print(robust(*args, key=jax.random.key(0), train=True)[0])  # log(1 + 1/e) + log 2 + 2 * (1/4 + 1/4)
    [2.0064087]
    """

    def outer(clean: Any, adversarial: Any, y: Any) -> Any:
        return loss.reduce(clean, y) + loss.reduce(adversarial, y) + weight * jnp.sum((clean - adversarial) ** 2, -1)

    return paired(loss, threat, inner(attack, "random"), outer, crafting=crafting)


def hat(
    loss: Loss,
    threat: Threat,
    standard: Callable[[Any], Any],
    *,
    beta: Any = 2.5,
    gamma: Any = 0.5,
    h: Any = 2.0,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Helper-based adversarial training: TRADES, and beyond the adversarial example a helper with the label a standard net gives.

    ``CE(x, y) + beta KL(p(x) || p(x')) + gamma CE(x + h (x' - x), argmax standard(x'))``: the margin need not grow further than that.

    Args:
      loss, threat, crafting: as of `trades`.
      standard: a model trained without attacks, ``x[B, ...] -> logits[B, K]``, in inference mode.
      beta, gamma, h: weights and how far the helper lies (published for CIFAR-10 without further data).
      attack: as of `trades`.

    References:
      Rade & Moosavi-Dezfooli, Reducing excessive margin to achieve a better accuracy vs. robustness trade-off, ICLR 2022.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = hat(loss, jr.sets.linf(0.1), lambda x: x)
    >>> robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0].shape
    (2,)
    """
    base = trades(loss, threat, beta=beta, attack=attack, crafting=crafting)

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        losses, rest = base.at(params, rest, x, z, y, key=key, train=train)
        helper = jax.tree.map(lambda a, b: a + h * (b - a), x, z)
        label = jax.lax.stop_gradient(jnp.argmax(standard(z), axis=-1))
        out, rest = loss.outputs(params, rest, helper, train=train)
        return losses + gamma * optax.softmax_cross_entropy_with_integer_labels(out, label), rest

    return AtWitnesses(base.craft, at)
