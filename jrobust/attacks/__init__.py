"""Attacks: lower bounds on a worst case, each with a witness."""

from jrobust.attacks._apgd import apgd
from jrobust.attacks._gradient import fgsm, pgd
from jrobust.attacks._rules import steepest

__all__ = ["apgd", "fgsm", "pgd", "steepest"]
