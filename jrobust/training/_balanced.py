"""Taught by two models that do not change, one for clean examples and one for adversarial ones, in balance: B-MTARD."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import Crafting, crafting_by
from jrobust._tree import stop_gradient
from jrobust.sets import Threat
from jrobust.training._distilled import Teacher, check_share, distance
from jrobust.training._paired import both, inner, near
from jrobust.training._step import Remembering
from jrobust.typing import Array, Float, Int

HOTTEST = 10.0  # temperatures stay in [1, 10], as published


class Balance(NamedTuple):
    """What B-MTARD remembers; of two numbers the first is of the robust teacher, the second of the standard one.

    Attributes:
      temperature: [2], of the teachers.
      weight: [2], of the losses; they sum to 1.
      first: [2], the losses of the first batch.
      batches: how many were seen.
    """

    temperature: Float[Array, " 2"]
    weight: Float[Array, " 2"]
    first: Float[Array, " 2"]
    batches: Int[Array, ""]


def _entropy(logits: Float[Array, "B K"], temperature: Any) -> Float[Array, ""]:
    """The mean entropy of a batch of soft answers."""
    logs = jax.nn.log_softmax(logits / temperature)
    return -jnp.mean(jnp.sum(jnp.exp(logs) * logs, -1))


def balanced(memory: Balance, losses: Float[Array, " 2"], entropies: Float[Array, " 2"], rates: Any) -> Balance:
    """Weights that lean to the loss that has fallen less, temperatures that draw the teachers' entropies together.

    >>> start = Balance(jnp.ones(2), jnp.full(2, 0.5), jnp.ones(2), jnp.ones((), jnp.int32))
    >>> after = balanced(start, jnp.array([0.9, 0.3]), jnp.array([1.0, 0.2]), (0.1, 0.2))
    >>> print(after.temperature, after.weight)  # the standard teacher is too sure; of 3/4 and 1/4 a fifth of the way
    [1.  1.1] [0.55 0.45]
    """
    for_temperature, for_weight = rates
    apart = jnp.sign(entropies - entropies[::-1])
    temperature = jnp.clip(memory.temperature - for_temperature * apart, 1.0, HOTTEST)
    first = jnp.where(memory.batches == 0, losses, memory.first)
    left = losses / jnp.maximum(first, jnp.finfo(first.dtype).eps)  # 0 where the student began as the teacher
    total = jnp.sum(left)
    share = jnp.where(
        total > 0, left / jnp.where(total > 0, total, 1.0), 0.5
    )  # a student that is both teachers has nothing to balance
    weight = jnp.maximum(memory.weight - for_weight * (memory.weight - share), 0.0)
    return Balance(temperature, weight / jnp.sum(weight), first, memory.batches + 1)


def b_mtard(
    loss: Loss,
    threat: Threat,
    teacher: Teacher,
    standard: Teacher,
    *,
    rates: tuple[Any, Any] = (0.001, 0.025),
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> Remembering:
    """Balanced multi-teacher adversarial distillation: a robust teacher at adversarial examples, a standard one at clean examples.

    ``w_a KL(T(x') / tau_a || S(x')) + w_n KL(T_standard(x) / tau_n || S(x))``, the student at temperature 1. After each batch the teacher
    whose answers have the higher entropy becomes colder and the other one hotter, by a fixed step within [1, 10] from 1 on; and each
    weight moves towards the share that its loss, over its loss in the first batch, has of both. The new weights are those of the batch
    that they were learnt from, the new temperatures those of the next.

    Args:
      loss: a `jr.Loss` of the student's logits.
      threat: the perturbations.
      teacher: a robust model, ``x[B, ...] -> logits[B, K]``, in inference mode.
      standard: a model trained without attacks, of the same form.
      rates: step of the temperatures, and how far a weight moves in a batch, both in [0, 1] (the authors' 0.001 and 0.025; they lower both
        with the learning rate, which `scheduled` can: its losses share one memory). 0 for the first is MTARD, without temperatures.
      attack: a lower oracle, or how many steps of PGD climb the student's loss, cross-entropy, from the clean example and a little noise.
      crafting: as of `jr.worst_case`.

    Returns:
      A loss that is `Remembering` its `Balance`: ``make_step(loss, tx)`` with ``init(params, rest, tx, memory=loss.start)``.

    Raises:
      ValueError: ``rates`` out of range; a teacher of other classes.

    References:
      Zhao, Wang & Wei, Mitigating accuracy-robustness trade-off via balanced multi-teacher adversarial distillation, TPAMI 2024.
      Zhao et al., Enhanced accuracy and robustness via multi-teacher adversarial distillation, ECCV 2022 (MTARD).

    Deviations: divergences and entropies are sums over classes, as of `rslad`, without the authors' 1e-5 inside of the logarithm.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = b_mtard(loss, jr.sets.linf(0.1), lambda x: 2 * x, lambda x: 9 * x)
    >>> how = {"key": jax.random.key(0), "train": True, "memory": robust.start}
    >>> *_, memory = robust.loss(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), **how)
    >>> print(memory.temperature, memory.weight)
    [1.    1.001] [0.5 0.5]
    """
    check_share("b_mtard", **{"rates[0]": rates[0], "rates[1]": rates[1]})
    craft = crafting_by(loss, threat, inner(attack, near), crafting=crafting, by="b_mtard")

    def remembering(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool, memory: Balance) -> Any:
        z = craft(params, rest, x, y, key=key)
        clean, adversarial, rest = both(loss, params, rest, x, z, y, train=train)
        robust, plain = stop_gradient((teacher(z), standard(x)))
        of_robust, of_plain = memory.temperature
        losses = jnp.stack([distance(robust / of_robust, adversarial), distance(plain / of_plain, clean)])
        entropies = jnp.stack([_entropy(robust, of_robust), _entropy(plain, of_plain)])
        memory = balanced(memory, stop_gradient(jnp.mean(losses, -1)), entropies, rates)
        return memory.weight @ losses, rest, memory

    start = Balance(jnp.ones(2), jnp.full(2, 0.5), jnp.zeros(2), jnp.zeros((), jnp.int32))
    return Remembering(remembering, start)
