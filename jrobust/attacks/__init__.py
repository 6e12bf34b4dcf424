"""Attacks: lower bounds on a worst case, each with a witness."""

from jrobust.attacks._apgd import apgd
from jrobust.attacks._fab import fab
from jrobust.attacks._gradient import fgsm, pgd
from jrobust.attacks._minimum import minimize, within
from jrobust.attacks._rules import steepest

__all__ = ["apgd", "fab", "fgsm", "minimize", "pgd", "steepest", "within"]
