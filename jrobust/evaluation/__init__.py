"""Drivers: oracles over data sets, what they return, and metrics over it."""

from jrobust.evaluation import metrics
from jrobust.evaluation._curve import curve
from jrobust.evaluation._diagnose import Diagnosis, diagnose
from jrobust.evaluation._evaluate import evaluate
from jrobust.evaluation._landscape import Landscape, WeightLandscape, filter_normalised, landscape, weight_landscape
from jrobust.evaluation._report import report
from jrobust.evaluation._results import Accuracy, Contradiction, Curve, Evaluation, Result, Table
from jrobust.evaluation._sections import Gallery, Row, Section, read_sections, rows_of, smoothed_rows

__all__ = [
    "Accuracy",
    "Contradiction",
    "Curve",
    "Diagnosis",
    "Evaluation",
    "Gallery",
    "Landscape",
    "Result",
    "Row",
    "Section",
    "Table",
    "WeightLandscape",
    "curve",
    "diagnose",
    "evaluate",
    "filter_normalised",
    "landscape",
    "metrics",
    "read_sections",
    "report",
    "rows_of",
    "smoothed_rows",
    "weight_landscape",
]
