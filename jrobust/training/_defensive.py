"""Defensive distillation, a defence that was broken, kept to be measured against."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jrobust._checks import check_classes
from jrobust._objective import Loss
from jrobust._tree import stop_gradient
from jrobust.training._distilled import Teacher, check_same, check_temperature


def defensive_distillation(
    loss: Loss, teacher: Teacher | None = None, *, temperature: Any = 20.0
) -> Callable[..., Any]:
    """Defensive distillation: teacher and student learn at a high temperature and are used at temperature 1. Historic: broken.

    First the teacher, from labels: ``CE(z(x) / T, y)``. Then a student of the same architecture, from its soft answers at that temperature:
    ``-sum_k softmax(T(x) / T)_k log softmax(z(x) / T)_k``. Logits come out T times larger, so at temperature 1 the softmax is
    saturated and the gradient of its cross-entropy rounds to zero: attacks on it fail, attacks on logits (`jr.attacks.carlini_wagner`,
    or PGD with `jr.objectives.logit_difference`) do not, and there is hardly any robustness. Judge it by those.

    Args:
      loss: a `jr.Loss` of logits, cross-entropy.
      teacher: a model trained so before, ``x[B, ...] -> logits[B, K]`` at temperature 1, in inference mode; None trains the teacher.
      temperature: T > 0, the same for both (the default is ours; the authors try 1 to 100).

    Returns:
      A loss without attack, ``(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. That of a student does not depend on
      what ``y`` says, and where the student is the teacher it is the entropy of the soft labels, its least value.

    Raises:
      ValueError: ``temperature`` out of range; a teacher of other classes.

    References:
      Papernot et al., Distillation as a defense to adversarial perturbations against deep neural networks, IEEE S&P 2016.
      Carlini & Wagner, Towards evaluating the robustness of neural networks, IEEE S&P 2017 (the break).

    >>> import jax.numpy as jnp, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(2), None, 20.0 * jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> teacher, student = defensive_distillation(loss), defensive_distillation(loss, lambda x: x)
    >>> print(f"{teacher(*args, **how)[0][0]:.4f} {student(*args, **how)[0][0]:.4f}")  # log(1 + 1/e), and the entropy of that
    0.3133 0.5822
    """
    check_temperature(temperature, "defensive_distillation")

    def distilled(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        logits, rest = loss.outputs(params, rest, x, train=train)
        if teacher is None:
            return loss.reduce(logits / temperature, y), rest
        check_classes(y, logits.shape[-1], "label", index=False)
        target = stop_gradient(teacher(x))
        check_same(target, logits)
        return optax.softmax_cross_entropy(logits / temperature, jax.nn.softmax(target / temperature)), rest

    return distilled
