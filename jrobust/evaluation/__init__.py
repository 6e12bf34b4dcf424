"""Drivers: oracles over data sets, what they return, and metrics over it."""

from jrobust.evaluation import metrics
from jrobust.evaluation._corruptions import CorruptionErrors, corruption_errors
from jrobust.evaluation._curve import curve
from jrobust.evaluation._diagnose import Diagnosis, diagnose
from jrobust.evaluation._evaluate import evaluate as evaluate  # public as jr.evaluate
from jrobust.evaluation._report import report
from jrobust.evaluation._results import Accuracy, Contradiction, Curve, Evaluation, Result, Table
from jrobust.evaluation._sections import Gallery, Row, Section, read_sections, rows_of, smoothed_rows

__all__ = [
    "Accuracy",
    "Contradiction",
    "CorruptionErrors",
    "Curve",
    "Diagnosis",
    "Evaluation",
    "Gallery",
    "Result",
    "Row",
    "Section",
    "Table",
    "corruption_errors",
    "curve",
    "diagnose",
    "metrics",
    "read_sections",
    "report",
    "rows_of",
    "smoothed_rows",
]
