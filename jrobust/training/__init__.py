"""Training: one step for natural, adversarial and certified losses, and a loop that resumes exactly."""

from jrobust.training._awp import awp
from jrobust.training._fit import epoch_steps, fit
from jrobust.training._free import free
from jrobust.training._gkl import gkl
from jrobust.training._losses import blend, certified
from jrobust.training._margin_cs import margin_cs
from jrobust.training._paired import hat, mart, paired, score, trades
from jrobust.training._run import load, read_config, restore, start_run
from jrobust.training._schedules import Schedule, linear, smoothed
from jrobust.training._shi import shi
from jrobust.training._single_step import Stop, fgsm_rs, gradalign, n_fgsm, overfitting_guard
from jrobust.training._step import Remembering, Scheduled, TrainState, accuracy, ema_decay, init, make_step, scheduled
from jrobust.training._substitute import Substitute, substitute
from jrobust.training._taps import taps

__all__ = [
    "Remembering",
    "Schedule",
    "Scheduled",
    "Stop",
    "Substitute",
    "TrainState",
    "accuracy",
    "awp",
    "blend",
    "certified",
    "ema_decay",
    "epoch_steps",
    "fgsm_rs",
    "fit",
    "free",
    "gkl",
    "gradalign",
    "hat",
    "init",
    "linear",
    "load",
    "make_step",
    "margin_cs",
    "mart",
    "n_fgsm",
    "overfitting_guard",
    "paired",
    "read_config",
    "restore",
    "scheduled",
    "score",
    "shi",
    "smoothed",
    "start_run",
    "substitute",
    "taps",
    "trades",
]
