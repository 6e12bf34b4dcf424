"""Attacks: lower bounds on a worst case, each with a witness."""

from jrobust.attacks import placements as placements
from jrobust.attacks._adaptive_norm import ddn, fmn
from jrobust.attacks._alma import alma
from jrobust.attacks._apgd import apgd
from jrobust.attacks._autoattack import autoattack
from jrobust.attacks._bandits import bandits
from jrobust.attacks._boundary import boundary
from jrobust.attacks._carlini_wagner import carlini_wagner
from jrobust.attacks._deepfool import deepfool
from jrobust.attacks._ead import ead
from jrobust.attacks._estimated import nes, spsa
from jrobust.attacks._exhaustive import each, grid, sampling
from jrobust.attacks._fab import fab
from jrobust.attacks._geoda import geoda
from jrobust.attacks._gradient import fgsm, frank_wolfe, pgd, rfgsm
from jrobust.attacks._hop_skip_jump import hop_skip_jump
from jrobust.attacks._jsma import jsma
from jrobust.attacks._lbfgs import lbfgs
from jrobust.attacks._minimum import minimize, within
from jrobust.attacks._momentum import bim, di_fgsm, mim, ni_fgsm, si_fgsm, ti_fgsm, vmi_fgsm
from jrobust.attacks._one_pixel import one_pixel
from jrobust.attacks._pdpgd import pdpgd
from jrobust.attacks._physical import lavan, patch, rp2
from jrobust.attacks._rules import steepest
from jrobust.attacks._sigma_zero import sigma_zero
from jrobust.attacks._sign_opt import sign_opt
from jrobust.attacks._simba import simba
from jrobust.attacks._sparse_rs import sparse_rs
from jrobust.attacks._square import square
from jrobust.attacks._transfer import transfer
from jrobust.attacks._universal import placed, uap, universal
from jrobust.attacks._zoo import zoo

__all__ = [
    "alma",
    "apgd",
    "autoattack",
    "bandits",
    "bim",
    "boundary",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "di_fgsm",
    "each",
    "ead",
    "fab",
    "fgsm",
    "fmn",
    "frank_wolfe",
    "geoda",
    "grid",
    "hop_skip_jump",
    "jsma",
    "lavan",
    "lbfgs",
    "mim",
    "minimize",
    "nes",
    "ni_fgsm",
    "one_pixel",
    "patch",
    "pdpgd",
    "pgd",
    "placed",
    "rfgsm",
    "rp2",
    "sampling",
    "si_fgsm",
    "sigma_zero",
    "sign_opt",
    "simba",
    "sparse_rs",
    "spsa",
    "square",
    "steepest",
    "ti_fgsm",
    "transfer",
    "uap",
    "universal",
    "vmi_fgsm",
    "within",
    "zoo",
]
