"""What is bounded: classification objectives, the surrogates that attacks climb, and training losses as data."""

from jrobust._objective import Stochastic, anchored, largest, objective, stochastic
from jrobust.objectives._classification import ce, classification, dlr, kl, logit_difference, margins, with_label
from jrobust.objectives._defences import bpda, eot, straight_through
from jrobust.objectives._losses import cross_entropy, soft_cross_entropy, worst_logits
from jrobust.objectives._through import through

__all__ = [
    "Stochastic",
    "anchored",
    "bpda",
    "ce",
    "classification",
    "cross_entropy",
    "dlr",
    "eot",
    "kl",
    "largest",
    "logit_difference",
    "margins",
    "objective",
    "soft_cross_entropy",
    "stochastic",
    "straight_through",
    "through",
    "with_label",
    "worst_logits",
]
