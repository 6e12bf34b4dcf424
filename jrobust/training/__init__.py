"""Training: one step for natural, adversarial and certified losses, and a loop that resumes exactly."""

from jrobust.training._awp import awp
from jrobust.training._balanced import b_mtard
from jrobust.training._calibrated import cfa, iaat
from jrobust.training._composite import gat
from jrobust.training._defensive import defensive_distillation
from jrobust.training._denoising import denoise, denoise_stably, diffusion
from jrobust.training._distilled import ard, iad_i, iad_ii, rslad
from jrobust.training._embedding import duals, fare, lore
from jrobust.training._fawa import fawa
from jrobust.training._fit import epoch_steps, fit
from jrobust.training._free import free
from jrobust.training._friendly import fat, friendly
from jrobust.training._fused import fused
from jrobust.training._gkl import dkl, gkl
from jrobust.training._guided import lbgat
from jrobust.training._historic import bilateral, ensemble, feature_scattering
from jrobust.training._las_at import las_at
from jrobust.training._losses import blend, certified, sharpened
from jrobust.training._macer import macer
from jrobust.training._margin_cs import margin_cs
from jrobust.training._noisy import consistency, noisy, stability
from jrobust.training._orthogonal import gor, orthogonality
from jrobust.training._paired import alp, hat, mart, paired, score, trades
from jrobust.training._pruned import finetuned, hydra, hydra_masks, hydra_scores, pruned
from jrobust.training._regularised import cure, gradient_penalty, jacobian_penalty, llr
from jrobust.training._run import load, read_config, restore, start_run
from jrobust.training._schedules import Schedule, linear, smoothed
from jrobust.training._shi import shi
from jrobust.training._single_step import fgsm_rs, gradalign, n_fgsm
from jrobust.training._smooth_adv import smooth_adv
from jrobust.training._smooth_mix import smooth_mix
from jrobust.training._softened import softened
from jrobust.training._statistics import batch_statistics
from jrobust.training._step import Remembering, Scheduled, TrainState, accuracy, ema_decay, init, make_step, scheduled
from jrobust.training._substitute import Substitute, substitute
from jrobust.training._taps import taps
from jrobust.training._union import conflict, union
from jrobust.training._watch import Stop, held_out, overfitting_guard, tensorboard, together
from jrobust.training._yopo import yopo

__all__ = [
    "Remembering",
    "Schedule",
    "Scheduled",
    "Stop",
    "Substitute",
    "TrainState",
    "accuracy",
    "alp",
    "ard",
    "awp",
    "b_mtard",
    "batch_statistics",
    "bilateral",
    "blend",
    "certified",
    "cfa",
    "conflict",
    "consistency",
    "cure",
    "defensive_distillation",
    "denoise",
    "denoise_stably",
    "diffusion",
    "dkl",
    "duals",
    "ema_decay",
    "ensemble",
    "epoch_steps",
    "fare",
    "fat",
    "fawa",
    "feature_scattering",
    "fgsm_rs",
    "finetuned",
    "fit",
    "free",
    "friendly",
    "fused",
    "gat",
    "gkl",
    "gor",
    "gradalign",
    "gradient_penalty",
    "hat",
    "held_out",
    "hydra",
    "hydra_masks",
    "hydra_scores",
    "iaat",
    "iad_i",
    "iad_ii",
    "init",
    "jacobian_penalty",
    "las_at",
    "lbgat",
    "linear",
    "llr",
    "load",
    "lore",
    "macer",
    "make_step",
    "margin_cs",
    "mart",
    "n_fgsm",
    "noisy",
    "orthogonality",
    "overfitting_guard",
    "paired",
    "pruned",
    "read_config",
    "restore",
    "rslad",
    "scheduled",
    "score",
    "sharpened",
    "shi",
    "smooth_adv",
    "smooth_mix",
    "smoothed",
    "softened",
    "stability",
    "start_run",
    "substitute",
    "taps",
    "tensorboard",
    "together",
    "trades",
    "union",
    "yopo",
]
