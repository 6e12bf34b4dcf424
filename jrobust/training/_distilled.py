"""Taught by a robust model that does not change: ARD, RSLAD, IAD-I and IAD-II."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, Crafting, crafting_by
from jrobust._tree import as_pytree, stop_gradient
from jrobust.objectives._classification import divergence
from jrobust.sets import Threat
from jrobust.training._paired import at_pairs, inner, near
from jrobust.typing import Array, Float

Teacher = Callable[[Any], Any]
"""A model that does not change, ``x[B, ...] -> logits[B, K]``, in inference mode."""


def check_temperature(temperature: Any, by: str) -> None:
    """Refuses a temperature that divides by nothing or turns the classes round; a traced one is taken as it is."""
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"{by}: temperature is > 0, got {temperature}")


def check_share(by: str, **shares: Any) -> None:
    """Refuses concrete weights outside of [0, 1]."""
    for name, share in shares.items():
        if isinstance(share, int | float) and not 0 <= share <= 1:
            raise ValueError(f"{by}: {name} lies in [0, 1], got {share}")


def _check_trust(by: str, beta: Any, temperature: Any, **shares: Any) -> None:
    """What IAD-I and IAD-II ask of their numbers; an exponent below 0 trusts most where the teacher is wrong."""
    if isinstance(beta, int | float) and not beta >= 0:
        raise ValueError(f"{by}: beta is >= 0, got {beta}")
    check_temperature(temperature, by)
    check_share(by, **shares)


def check_same(target: Any, logits: Any) -> None:
    """Refuses a teacher whose answer has not the shape of the student's."""
    if target.shape != logits.shape:
        raise ValueError(
            f"a teacher gives logits of the shape of the student's, {logits.shape}, got {target.shape}; it takes a batch, "
            "x[B, ...] -> logits[B, K]"
        )


def distance(target: Float[Array, "*b K"], logits: Float[Array, "*b C"], temperature: Any = 1.0) -> Float[Array, "*b"]:
    """``T^2 KL(softmax(target / T) || softmax(logits / T))``: softness takes two factors of T from the gradient, T^2 gives them back.

    >>> print(f"{distance(jnp.array([1.0, 0.0]), jnp.zeros(2), 100.0):.3f}")  # soft: half the variance of the difference
    0.125
    """
    check_same(target, logits)
    return temperature**2 * divergence(target / temperature, logits / temperature)


def ard(
    loss: Loss,
    threat: Threat,
    teacher: Teacher,
    *,
    alpha: Any = 1.0,
    temperature: Any = 30.0,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Adversarially robust distillation: at the adversarial example the student says what a robust teacher says at the clean one.

    ``alpha T^2 KL(T(x) || S(x')) + (1 - alpha) CE(S(x), y)``, both models' logits divided by T in the divergence.

    Args:
      loss: a `jr.Loss` of the student's logits.
      threat: the perturbations.
      teacher: a robust model, ``x[B, ...] -> logits[B, K]``, in inference mode (`jr.training.load` gives one).
      alpha: weight of the teacher, in [0, 1] (the authors' 1 leaves the labels to the attack; the clean batch still passes, for BatchNorm).
      temperature: T > 0 (the authors' 30).
      attack: a lower oracle, or how many steps of PGD climb the student's loss, cross-entropy, from a random start.
      crafting: as of `jr.worst_case`.

    Returns:
      A robust loss in two stages, as of `paired`.

    Raises:
      ValueError: ``alpha`` or ``temperature`` out of range; a teacher of other classes.

    References:
      Goldblum, Fowl, Feizi & Goldstein, Adversarially robust distillation, AAAI 2020.

    Deviations: the divergence is a sum over classes; the authors' code takes the mean over batch and classes, so its first term is K
      times smaller, which matters beside weight decay and where ``alpha`` is not 1.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = ard(loss, jr.sets.linf(0.0), lambda x: x, attack=jr.attacks.fgsm())
    >>> print(robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0])  # as the teacher
    [0. 0.]
    """
    check_temperature(temperature, "ard")
    check_share("ard", alpha=alpha)
    craft = crafting_by(loss, threat, inner(attack, "random"), crafting=crafting, by="ard")

    def outer(x: Any, z: Any, clean: Any, adversarial: Any, y: Any) -> Any:
        del z
        taught = distance(stop_gradient(teacher(x)), adversarial, temperature)
        return alpha * taught + (1.0 - alpha) * loss.reduce(clean, y)

    return at_pairs(loss, craft, outer)


def _from_target(out: Float[Array, "B K"], target: Float[Array, "B C"]) -> Float[Array, " B"]:
    return distance(target, out)


def rslad(
    loss: Loss,
    threat: Threat,
    teacher: Teacher,
    *,
    alpha: Any = 5 / 6,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Robust soft label adversarial distillation: a robust teacher's answer at the clean example takes the place of every label.

    ``alpha KL(T(x) || S(x')) + (1 - alpha) KL(T(x) || S(x))``, x' where ``KL(T(x) || S(x'))`` is large.

    Args:
      loss: a `jr.Loss` of the student's logits; its reduction is not used, nor is what the labels say.
      threat, teacher: as of `ard`.
      alpha: weight of the adversarial half, in [0, 1] (published: 5/6).
      attack: a lower oracle, or how many steps of PGD, from the clean example and a little noise; either climbs the divergence from the
        teacher. A surrogate that reads the label does not serve: there is none.
      crafting: as of `jr.worst_case`.

    Returns:
      A robust loss in two stages, as of `paired`.

    Raises:
      ValueError: ``alpha`` out of range; a teacher of other classes.

    References:
      Zi, Zhao, Ma & Jiang, Revisiting adversarial robustness distillation: robust soft labels make student better, ICCV 2021.

    Deviations: divergences are sums over classes. The authors' code takes the mean over batch and classes, a loss K times smaller:
      under SGD their learning rate is K times ours, and beside weight decay the balance differs.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = rslad(loss, jr.sets.linf(0.1), lambda x: x)
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> z = robust.craft(*args, key=how["key"])
    >>> print(robust.at(*args[:3], args[2], args[3], **how)[0], bool(jnp.all(robust.at(*args[:3], z, args[3], **how)[0] > 0)))
    [0. 0.] True
    """
    check_share("rslad", alpha=alpha)
    follows = Loss(loss.outputs, as_pytree(_from_target))
    climb = crafting_by(follows, threat, inner(attack, near), crafting=crafting, by="rslad")

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        del y
        return climb(
            params, rest, x, stop_gradient(teacher(x)), key=key
        )  # the teacher is asked once, not at every step

    def outer(x: Any, z: Any, clean: Any, adversarial: Any, y: Any) -> Any:
        del z, y
        target = stop_gradient(teacher(x))
        return alpha * distance(target, adversarial) + (1.0 - alpha) * distance(target, clean)

    return at_pairs(loss, craft, outer)


def _trusted(guide: Float[Array, "B K"], y: Any, beta: Any) -> Float[Array, " B"]:
    """``p_T(y | x')^beta`` of the teacher's logits there: 1 where beta is 0, or where the teacher is sure of the label."""
    return jnp.exp(beta * jnp.take_along_axis(jax.nn.log_softmax(guide), y[:, None], -1)[:, 0])


def iad_i(
    loss: Loss,
    threat: Threat,
    teacher: Teacher,
    *,
    alpha: Any = 1.0,
    temperature: Any = 1.0,
    beta: Any = 0.1,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Introspective adversarial distillation: `ard`, and where the teacher fails at the student's adversarial example the student itself.

    With the trust ``A = p_T(y | x')^beta``: ``alpha (T^2 KL(T(x) || S(x')) + (1 - A) KL(S(x) || S(x'))) + (1 - alpha) CE(S(x), y)``.
    Gradients flow through both sides of the student's own divergence, as with the authors, and not through A.

    Args:
      loss, threat, teacher, attack, crafting: as of `ard`.
      alpha, temperature: as of `ard` (the authors' 1 and 1); the student's own divergence is at temperature 1.
      beta: >= 0, how steeply trust falls (the authors' 0.1); 0 trusts the teacher wholly and is `ard`. The authors begin so, for 60 of
        200 epochs: ``scheduled(lambda t: iad_i(loss, threat, teacher, beta=0.1 * (t >= begin)))``.

    Returns:
      A robust loss in two stages, as of `paired`.

    Raises:
      ValueError: ``alpha``, ``beta`` or ``temperature`` out of range; a teacher of other classes.

    References:
      Zhu et al., Reliable adversarial distillation with unreliable teachers, ICLR 2022.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> trusting, wary = (iad_i(loss, jr.sets.linf(0.3), lambda x: 3 * x, beta=b)(*args, **how)[0] for b in (0.0, 1.0))
    >>> bool(jnp.all(wary > trusting))
    True
    """
    _check_trust("iad_i", beta, temperature, alpha=alpha)
    craft = crafting_by(loss, threat, inner(attack, "random"), crafting=crafting, by="iad_i")

    def outer(x: Any, z: Any, clean: Any, adversarial: Any, y: Any) -> Any:
        target, guide = stop_gradient((teacher(x), teacher(z)))
        taught = distance(target, adversarial, temperature)
        own = (1.0 - _trusted(guide, y, beta)) * divergence(clean, adversarial)
        return alpha * (taught + own) + (1.0 - alpha) * loss.reduce(clean, y)

    return at_pairs(loss, craft, outer)


def iad_ii(
    loss: Loss,
    threat: Threat,
    teacher: Teacher,
    standard: Teacher,
    *,
    alpha: tuple[Any, Any] = (0.5, 0.25),
    temperature: Any = 1.0,
    beta: Any = 0.1,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Introspective adversarial distillation from a robust and a standard teacher, both asked at the adversarial example.

    With A as of `iad_i` and ``alpha = (a, b)``: ``(1 - a - b) CE(S(x'), y) + a (A T^2 KL(T(x') || S(x')) + (1 - A) KL(S(x) || S(x'))) +
    b T^2 KL(T_standard(x') || S(x'))``: what the robust teacher is not trusted with the student takes from itself.

    Args:
      loss, threat, teacher, attack, crafting: as of `ard`.
      standard: a model trained without attacks, of the same form as ``teacher``.
      alpha: weights of the two teachers, >= 0 and together at most 1 (the authors' 1/2 and 1/4).
      temperature, beta: as of `iad_i`; the authors begin with full trust for 40 of 200 epochs.

    Returns:
      A robust loss in two stages, as of `paired`.

    Raises:
      ValueError: ``alpha``, ``beta`` or ``temperature`` out of range; a teacher of other classes.

    References:
      Zhu et al., Reliable adversarial distillation with unreliable teachers, ICLR 2022.

    Deviations: the authors' code multiplies the student's own divergence by T^2 too, here as in `iad_i` it is at temperature 1; at
      their temperature, 1, that is the same.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = iad_ii(loss, jr.sets.linf(0.0), lambda x: x, lambda x: x, attack=jr.attacks.fgsm())
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> print(f"{robust(*args, **how)[0][0]:.4f}")  # a quarter of log(1 + 1/e)
    0.0783
    """
    a, b = alpha
    _check_trust("iad_ii", beta, temperature, **{"alpha[0]": a, "alpha[1]": b, "the sum of alpha": a + b})
    craft = crafting_by(loss, threat, inner(attack, "random"), crafting=crafting, by="iad_ii")

    def outer(x: Any, z: Any, clean: Any, adversarial: Any, y: Any) -> Any:
        del x
        guide, plain = stop_gradient((teacher(z), standard(z)))
        trust = _trusted(guide, y, beta)
        introspective = trust * distance(guide, adversarial, temperature) + (1.0 - trust) * divergence(
            clean, adversarial
        )
        labelled = (1.0 - a - b) * loss.reduce(adversarial, y)
        return labelled + a * introspective + b * distance(plain, adversarial, temperature)

    return at_pairs(loss, craft, outer)
