"""Hooks of `fit` that watch robust accuracy: on data held out, to keep the best and to stop in time; against a collapse."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_count, check_key, check_labels
from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import at_witnesses
from jrobust.attacks import pgd
from jrobust.data import unit
from jrobust.sets import Threat
from jrobust.training._step import TrainState


class Stop(Exception):
    """Raised by a hook of `fit`: training ends, with this state."""

    def __init__(self, state: TrainState, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def measuring(loss: Loss, threat: Threat, attack: Oracle) -> Callable[..., Any]:
    """``(params, rest, x, y, key) -> (right at the clean batch, right under the attack)``, numbers of examples, compiled."""
    robust = at_witnesses(loss, threat, attack)

    @jax.jit
    def right(params: Any, rest: Any, x: Any, y: Any, key: Any) -> Any:
        z = robust.craft(params, rest, x, y, key=key)
        return tuple(jnp.sum(jnp.argmax(loss.outputs(params, rest, v, train=False)[0], -1) == y) for v in (x, z))

    return right


@dataclasses.dataclass
class HeldOut:
    """What `held_out` makes: a hook with a memory."""

    measure: Callable[[TrainState], tuple[float, float]]
    patience: int | None
    best: tuple[float, int, TrainState | None] = (-math.inf, 0, None)

    def __call__(self, epoch: int, state: TrainState) -> dict[str, float]:
        """Clean and robust accuracy of the held-out data; raises `Stop` where the patience is over."""
        clean, robust = self.measure(state)
        if robust > self.best[0]:
            self.best = robust, epoch, jax.tree.map(jnp.copy, state) if self.patience is not None else None
        value, since, kept = self.best
        if self.patience is not None and kept is not None and epoch - since >= self.patience:
            raise Stop(
                kept,
                f"held-out robust accuracy has not risen above {value:.4f} (epoch {since}) for {self.patience} epochs",
            )
        return {"held_out_accuracy": clean, "held_out_robust": robust}


def held_out(
    loss: Loss,
    threat: Threat,
    x: Any,
    y: Any,
    *,
    key: Any,
    attack: Oracle | None = None,
    batch_size: int = 256,
    patience: int | None = None,
) -> HeldOut:
    """A hook for `fit`: clean and robust accuracy on data held out of the training, never the test set.

    With ``fit(..., hook=held_out(...), best="held_out_robust", run=DIR)`` the state that is best there is kept beside the last.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      x, y: the data held out.
      key: typed key.
      attack: a lower oracle; None: 10 steps of PGD.
      batch_size: of the evaluation.
      patience: stop the training after so many epochs without a better robust accuracy, and return the best state; None never stops.
        A resumed training counts from anew.

    Returns:
      ``hook(epoch, state) -> {"held_out_accuracy": ..., "held_out_robust": ...}``, of `TrainState.averaged`.

    References:
      Rice, Wong & Kolter, Overfitting in adversarially robust deep learning, ICML 2020.

    >>> import optax, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> hook = held_out(loss, jr.sets.linf(0.6), jnp.eye(2), jnp.arange(2), key=jax.random.key(0))
    >>> hook(1, jr.training.init(jnp.eye(2), None, optax.sgd(0.1)))
    {'held_out_accuracy': 1.0, 'held_out_robust': 0.0}
    """
    check_key(key)
    check_count(batch_size, "batch_size", "held_out")
    if patience is not None:
        check_count(patience, "patience", "held_out")
    right, n = measuring(loss, threat, pgd(steps=10) if attack is None else attack), len(x)
    y = check_labels(y, n)
    if n == 0:
        raise ValueError("held_out: there are no examples")

    def measure(state: TrainState) -> tuple[float, float]:
        parts = [slice(i, i + batch_size) for i in range(0, n, batch_size)]
        counts = [
            right(
                state.averaged, state.rest, unit(jnp.asarray(x[part])), jnp.asarray(y[part]), jax.random.fold_in(key, i)
            )
            for i, part in enumerate(parts)
        ]
        clean, robust = (sum(int(c[k]) for c in counts) / n for k in (0, 1))
        return clean, robust

    return HeldOut(measure, patience)


@dataclasses.dataclass
class OverfittingGuard:
    """What `overfitting_guard` makes: a hook with a memory."""

    measure: Callable[[TrainState], Any]
    drop: int | float
    before: tuple[float, TrainState] | None = None

    def __call__(self, epoch: int, state: TrainState) -> dict[str, float]:
        """The robust accuracy of the watched batch; raises `Stop` where it collapsed."""
        now = float(self.measure(state))
        if self.before is not None and now < self.before[0] - self.drop:
            raise Stop(
                self.before[1],
                f"catastrophic overfitting: robust accuracy of the watched batch fell from {self.before[0]:.3f} to {now:.3f} in "
                f"epoch {epoch}; the state before it is kept",
            )
        self.before = now, jax.tree.map(jnp.copy, state)
        return {"watched_accuracy": now}


def overfitting_guard(
    loss: Loss, threat: Threat, x: Any, y: Any, *, key: Any, attack: Oracle | None = None, drop: int | float = 0.2
) -> OverfittingGuard:
    """A hook for `fit` that stops single-step training when it collapses, and returns the state of the epoch before.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      x, y: the batch to watch, of the training data (never the test set).
      key: typed key.
      attack: what a single step cannot hide from; None: 5 steps of PGD.
      drop: fall of the accuracy from one epoch to the next that counts as a collapse. A resumed training compares from anew.

    References:
      Wong, Rice & Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> guard = overfitting_guard(loss, jr.sets.linf(0.1), jnp.eye(2), jnp.arange(2), key=jax.random.key(0))
    >>> import optax
    >>> guard(1, jr.training.init(jnp.eye(2), None, optax.sgd(0.1)))
    {'watched_accuracy': 1.0}
    """
    right = measuring(loss, threat, pgd(steps=5) if attack is None else attack)
    if len(x) == 0:
        raise ValueError("overfitting_guard: there are no examples")
    x, y = unit(jnp.asarray(x)), jnp.asarray(check_labels(y, len(x)))
    return OverfittingGuard(lambda state: right(state.params, state.rest, x, y, key)[1] / len(y), drop)


def together(*hooks: Callable[[int, TrainState], Any]) -> Callable[[int, TrainState], dict[str, Any]]:
    """Several hooks as one; their numbers must have different names.

    >>> together(lambda epoch, state: {"a": 1.0}, lambda epoch, state: None, lambda epoch, state: {"b": epoch})(3, None)
    {'a': 1.0, 'b': 3}
    """

    def hook(epoch: int, state: Any) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        for one in hooks:
            more = one(epoch, state) or {}
            if twice := numbers.keys() & more.keys():
                raise ValueError(f"two hooks return a number named {', '.join(sorted(twice))}")
            numbers |= more
        return numbers

    return hook


def tensorboard(folder: Any) -> Callable[[Any], None]:
    """A ``log`` for `fit`: every number of a line becomes a curve of TensorBoard.

    Args:
      folder: where the event files go; a resumed training adds a file.

    Raises:
      ImportError: tensorboardX is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = tensorboard(folder)
    ...     log({"step": 10, "loss": 0.5})
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError("event files are written by tensorboardX: pip install 'jrobust[tensorboard]'") from error
    writer = SummaryWriter(str(folder))

    def log(line: Any) -> None:
        for name, value in line.items():
            if name not in ("step", "epoch"):
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return log
