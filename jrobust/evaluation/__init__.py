"""Drivers: oracles over data sets, what they return, and metrics over it."""

from jrobust.evaluation import metrics
from jrobust.evaluation._evaluate import curve, evaluate
from jrobust.evaluation._results import Accuracy, Contradiction, Curve, Evaluation, Result, Table

__all__ = ["Accuracy", "Contradiction", "Curve", "Evaluation", "Result", "Table", "curve", "evaluate", "metrics"]
