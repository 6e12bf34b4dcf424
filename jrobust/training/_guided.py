"""Guided by a teacher that learns at the same time: LBGAT."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jrobust._checks import check_classes
from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, Crafting, crafting_by
from jrobust.objectives import kl
from jrobust.objectives._classification import divergence
from jrobust.sets import Threat
from jrobust.training._paired import both, inner, near

STUDENT, TEACHER = "student", "teacher"


def part(loss: Loss, name: str) -> Loss:
    """The loss of one net of a dictionary of nets; it leaves the others' ``rest`` as it is."""

    def outputs(params: Any, rest: Any, x: Any, *, train: bool) -> Any:
        if not (isinstance(params, dict) and isinstance(rest, dict) and name in params and name in rest):
            raise ValueError(
                f"params and rest are dictionaries of the nets that train together; there is no {name!r} in both"
            )
        out, after = loss.outputs(params[name], rest[name], x, train=train)
        return out, {**rest, name: after}

    return dataclasses.replace(loss, outputs=outputs)


def lbgat(
    loss: Loss,
    threat: Threat,
    *,
    teacher: Loss | None = None,
    beta: int | float = 0.0,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Learnable boundary guided adversarial training: the student's adversarial logits follow a clean teacher's, trained along with it.

    ``mean_k (z_s(x') - z_t(x))_k^2 + CE(z_t(x), y) + beta KL(p_s(x) || p_s(x'))``; parameters and other arrays are pairs,
    ``{"student": ..., "teacher": ...}``. The squared distance moves both, as with the authors. What is kept and judged is the student.

    Args:
      loss: a `jr.Loss` of the student's logits, of one net's parameters.
      threat: the perturbations.
      teacher: the same for the teacher's; None: it has the student's architecture (with parameters of its own).
      beta: weight of the student's own divergence (published: 0 and 6).
      attack: as of `trades`, on the student.
      crafting: as of `jr.worst_case`.

    Returns:
      A robust loss of the pair: ``init({"student": params, "teacher": others}, {"student": rest, "teacher": ...}, tx)``. With
      ``beta`` 0 the student passes at the adversarial examples alone.

    References:
      Cui, Liu, Wang & Jia, Learnable boundary guided adversarial training, ICCV 2021.

    >>> import jax, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> pair = {"student": jnp.zeros((2, 2)), "teacher": jnp.eye(2)}, {"student": None, "teacher": None}
    >>> losses, _ = lbgat(loss, jr.sets.linf(0.1))(*pair, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)
    >>> print(f"{losses[0]:.4f}")  # 1/2 + log(1 + 1/e)
    0.8133
    """
    student, guide = part(loss, STUDENT), part(loss if teacher is None else teacher, TEACHER)
    craft = crafting_by(student, threat, inner(attack, near, kl), crafting=crafting, by="lbgat")

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        target, rest = guide.outputs(params, rest, x, train=train)
        check_classes(y, target.shape[-1], "label", index=False)
        if beta:
            clean, adversarial, rest = both(student, params, rest, x, z, y, train=train)
            own = beta * divergence(clean, adversarial)
        else:
            adversarial, rest = student.outputs(params, rest, z, train=train)
            own = 0.0
        return jnp.mean((adversarial - target) ** 2, -1) + guide.reduce(target, y) + own, rest

    return AtWitnesses(craft, at)
