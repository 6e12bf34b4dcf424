"""Training: one step for natural, adversarial and certified losses, and a loop that resumes exactly."""

from jrobust.training._fit import epoch_steps, fit
from jrobust.training._losses import blend, certified
from jrobust.training._run import load, read_config, restore, start_run
from jrobust.training._schedules import Schedule, linear, smoothed
from jrobust.training._step import Scheduled, TrainState, accuracy, ema_decay, init, make_step, scheduled
from jrobust.training._substitute import Substitute, substitute

__all__ = [
    "Schedule",
    "Scheduled",
    "Substitute",
    "TrainState",
    "accuracy",
    "blend",
    "certified",
    "ema_decay",
    "epoch_steps",
    "fit",
    "init",
    "linear",
    "load",
    "make_step",
    "read_config",
    "restore",
    "scheduled",
    "smoothed",
    "start_run",
    "substitute",
]
