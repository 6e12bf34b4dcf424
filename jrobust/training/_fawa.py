"""Fairness-aware weight averaging: an average of epochs that leaves out those in which some class was not robust."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_batch, check_labels
from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import crafting_by
from jrobust.sets import Threat
from jrobust.training._classes import check_epoch
from jrobust.training._paired import inner
from jrobust.training._step import TrainState
from jrobust.typing import Array, Float


def by_class(right: Float[Array, " B"], y: Any, classes: int) -> Float[Array, " K"]:
    """The mean of ``right`` over the examples of each class; NaN where there are none.

    >>> print(by_class(jnp.array([1.0, 0.0, 1.0]), jnp.array([0, 0, 1]), 3))
    [0.5 1.  nan]
    """
    seen = jax.nn.one_hot(y, classes, dtype=right.dtype)
    return right @ seen / jnp.sum(seen, 0)


def fawa(
    step: Callable[..., tuple[TrainState, dict[str, Any]]],
    loss: Loss,
    threat: Threat,
    x: Any,
    y: Any,
    *,
    classes: int,
    epoch: int,
    attack: Oracle | int = 10,
    decay: Any = 0.88,
    threshold: Any = 0.2,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """A training step that averages the parameters once an epoch, if the worst class of a validation batch is robust enough.

    After each epoch the batch is attacked; where its least accuracy by class reaches ``threshold``, ``average <- decay average +
    (1 - decay) params`` (the first such epoch starts the average). It stands in ``state.ema``, in the place of any that ``step``
    keeps, so that `fit` saves, resumes and evaluates it.

    Args:
      step: from `make_step`, for instance of `cfa`.
      loss: a `jr.Loss` of logits, for the validation.
      threat: the perturbations of the validation.
      x, y: held-out examples that `fit` does not train on; the validation passes them as one batch.
      classes: K.
      epoch: steps in an epoch (`epoch_steps`).
      attack: a lower oracle, or how many steps of PGD.
      decay: of the average, published.
      threshold: of the worst class's robust accuracy (published: 0.2 and 0.24, for CIFAR-10).

    Returns:
      A step for ``init(..., ema=True, memory=(memory, 0))``, where ``memory`` is what ``step`` alone would start from and the number
      counts the epochs that entered. Metrics gain ``worst_class``, in the last step of an epoch what was measured, in the others 0.

    References:
      Wei, Wang, Guo & Wang, CFA: class-wise calibrated fair adversarial training, CVPR 2023.

    Deviations: BatchNorm's statistics are the live ones, not averaged.

    >>> import optax, jrobust as jr
    >>> loss, tx = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest)), optax.sgd(0.5)
    >>> x, y, threat = jnp.eye(2), jnp.arange(2), jr.sets.linf(0.1)
    >>> step = fawa(jr.training.make_step(loss, tx), loss, threat, x, y, classes=2, epoch=2)
    >>> state = jr.training.init(jnp.zeros((2, 2)), None, tx, ema=True, memory=(None, 0))
    >>> for t in range(2):
    ...     state, metrics = step(state, (x, y), key=jax.random.key(t))
    >>> int(state.memory[1]), bool(jnp.all(state.ema == state.params))  # an epoch is over, and holds
    (1, True)
    """
    check_epoch(classes, epoch, "fawa")
    y = jnp.asarray(check_labels(y, check_batch(x)))
    x = jnp.asarray(x)
    craft = crafting_by(loss, threat, inner(attack, "random"), by="fawa")

    def averaging(state: TrainState, batch: tuple[Any, ...], *, key: Any) -> tuple[TrainState, dict[str, Any]]:
        if state.ema is None or not (isinstance(state.memory, tuple) and len(state.memory) == 2):
            raise ValueError("fawa keeps an average and counts: start with init(..., ema=True, memory=(memory, 0))")
        memory, entered = state.memory
        for_step, for_attack = jax.random.split(key)
        after, metrics = step(dataclasses.replace(state, ema=None, memory=memory), batch, key=for_step)

        def judge(average: Any) -> Any:
            z = craft(after.params, after.rest, x, y, key=for_attack)
            right = jnp.argmax(loss.outputs(after.params, after.rest, z, train=False)[0], -1) == y
            worst = jnp.nanmin(by_class(right.astype(jnp.float32), y, classes))
            share = jnp.where(worst >= threshold, jnp.where(entered == 0, 1.0, 1.0 - decay), 0.0)
            mixed = jax.tree.map(lambda a, p: ((1.0 - share) * a + share * p).astype(a.dtype), average, after.params)
            return mixed, entered + (worst >= threshold).astype(jnp.int32), worst

        nothing = lambda average: (average, entered, jnp.zeros(()))  # noqa: E731
        ema, entered, worst = jax.lax.cond(after.step % epoch == 0, judge, nothing, state.ema)
        return dataclasses.replace(after, ema=ema, memory=(after.memory, entered)), metrics | {"worst_class": worst}

    return averaging
