"""Drivers: oracles over data sets, what they return, and metrics over it."""

from jrobust.evaluation import metrics
from jrobust.evaluation._corruptions import CorruptionErrors, corruption_errors
from jrobust.evaluation._curve import curve
from jrobust.evaluation._diagnose import Diagnosis, diagnose
from jrobust.evaluation._evaluate import evaluate as evaluate  # public as jr.evaluate
from jrobust.evaluation._outcomes import Outcomes, outcomes_of, smoothed_outcomes
from jrobust.evaluation._protocol import protocol_of, smoothing_protocol
from jrobust.evaluation._reading import card_of, read_sections
from jrobust.evaluation._report import report
from jrobust.evaluation._results import Accuracy, Contradiction, Curve, Evaluation, Result, Table
from jrobust.evaluation._rows import corruption_rows, costs_of, rows_of, smoothed_rows, smoothing_cost
from jrobust.evaluation._sections import CorruptionRow, Cost, Gallery, Row, Section

__all__ = [
    "Accuracy",
    "Contradiction",
    "CorruptionErrors",
    "CorruptionRow",
    "Cost",
    "Curve",
    "Diagnosis",
    "Evaluation",
    "Gallery",
    "Outcomes",
    "Result",
    "Row",
    "Section",
    "Table",
    "card_of",
    "corruption_errors",
    "corruption_rows",
    "costs_of",
    "curve",
    "diagnose",
    "metrics",
    "outcomes_of",
    "protocol_of",
    "read_sections",
    "report",
    "rows_of",
    "smoothed_outcomes",
    "smoothed_rows",
    "smoothing_cost",
    "smoothing_protocol",
]
