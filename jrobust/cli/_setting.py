"""What the methods of ``jrobust train`` are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jrobust as jr
from jrobust.training import Schedule


class Setting(NamedTuple):
    """What a method is made of.

    Attributes:
      loss: cross-entropy of the model.
      eps: the linf radius; ``ramp`` the same as a schedule, ``kappa`` a weight of the clean loss, for certified methods.
      steps: of the inner attack.
      classes, epoch: number of classes, batches in an epoch.
      batch: shape of a batch.
      standard, teacher: a model trained without attacks, and a robust one, where the method asks for them (`NEEDS`).
      weight: of the bound (SABR: size of its box), where a method lies between an attack and a bound; None: its own.
      accumulate, dtype: parts that a batch is worked at in; of the layers' arithmetic.
      total, examples: steps of the whole training, and how large the training set is.
      net: the model, of `jr.models`: YOPO parts it after its first layer.
      sigma, samples: deviation of the noise and noisy copies of an example (None: the method's own), of methods for smoothing.
      sensitive: classes whose mistakes cost something; none: all.
      keep, masks: the share of the weights that stays, and which; None before that is known.
      seed: of what the method draws once (the multipliers of LORE).
      warm: the radius as a schedule, of attacks that begin small (None: ``eps`` from the first step on).
    """

    loss: jr.Loss
    eps: float
    ramp: Schedule
    kappa: Schedule
    steps: int
    replays: int
    classes: int
    epoch: int
    batch: tuple[int, ...]
    standard: Callable[[Any], Any] | None = None
    teacher: Callable[[Any], Any] | None = None
    weight: float | None = None
    total: int = 1
    examples: int = 1
    net: Any = None
    accumulate: int = 1
    dtype: Any = None
    sigma: float = 0.5
    samples: int | None = None
    sensitive: tuple[int, ...] = ()
    keep: float = 0.1
    masks: Any = None
    warm: Schedule | None = None
    seed: int = 0

    @property
    def batches(self) -> int:
        """That a loss sees in an epoch: an accumulated batch comes in parts."""
        return self.epoch * self.accumulate

    @property
    def threat(self) -> jr.sets.Threat:
        """The perturbations of images in [0, 1]."""
        return jr.sets.linf(self.eps, clip=(0, 1))

    @property
    def attack(self) -> jr.Oracle:
        """PGD, the last iterate."""
        return jr.attacks.pgd(steps=self.steps, keep="last")
