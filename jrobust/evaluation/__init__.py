"""Drivers: oracles over data sets, what they return, and metrics over it."""

from jrobust.evaluation import metrics
from jrobust.evaluation._curve import curve
from jrobust.evaluation._diagnose import Diagnosis, diagnose
from jrobust.evaluation._evaluate import evaluate
from jrobust.evaluation._landscape import Landscape, WeightLandscape, filter_normalised, landscape, weight_landscape
from jrobust.evaluation._leaderboard import Entry, add_entry, leaderboard, read_entries
from jrobust.evaluation._protocols import PROTOCOLS, Protocol, run_protocol
from jrobust.evaluation._report import report
from jrobust.evaluation._results import Accuracy, Contradiction, Curve, Evaluation, Result, Table
from jrobust.evaluation._sections import Gallery, Row, Section, read_sections, rows_of, smoothed_rows

__all__ = [
    "PROTOCOLS",
    "Accuracy",
    "Contradiction",
    "Curve",
    "Diagnosis",
    "Entry",
    "Evaluation",
    "Gallery",
    "Landscape",
    "Protocol",
    "Result",
    "Row",
    "Section",
    "Table",
    "WeightLandscape",
    "add_entry",
    "curve",
    "diagnose",
    "evaluate",
    "filter_normalised",
    "landscape",
    "leaderboard",
    "metrics",
    "read_entries",
    "read_sections",
    "report",
    "rows_of",
    "run_protocol",
    "smoothed_rows",
    "weight_landscape",
]
