"""Drivers: oracles over data sets, what they return, and metrics over it."""

from jrobust.evaluation import metrics
from jrobust.evaluation._corruptions import CorruptionErrors, corruption_errors
from jrobust.evaluation._curve import curve
from jrobust.evaluation._diagnose import Diagnosis, diagnose
from jrobust.evaluation._evaluate import evaluate as evaluate  # public as jr.evaluate
from jrobust.evaluation._landscape import Landscape, WeightLandscape, filter_normalised, landscape, weight_landscape
from jrobust.evaluation._leaderboard import Entry, add_entry, leaderboard, read_entries
from jrobust.evaluation._report import (
    CorruptionRow,
    Cost,
    Gallery,
    Outcomes,
    Row,
    Section,
    card_of,
    corruption_rows,
    costs_of,
    outcomes_of,
    protocol_of,
    read_sections,
    report,
    rows_of,
    smoothed_outcomes,
    smoothed_rows,
    smoothing_cost,
    smoothing_protocol,
)
from jrobust.evaluation._results import Accuracy, Contradiction, Curve, Evaluation, Result, Table
from jrobust.evaluation._suites import PROTOCOLS, Protocol, run_protocol

__all__ = [
    "PROTOCOLS",
    "Accuracy",
    "Contradiction",
    "CorruptionErrors",
    "CorruptionRow",
    "Cost",
    "Curve",
    "Diagnosis",
    "Entry",
    "Evaluation",
    "Gallery",
    "Landscape",
    "Outcomes",
    "Protocol",
    "Result",
    "Row",
    "Section",
    "Table",
    "WeightLandscape",
    "add_entry",
    "card_of",
    "corruption_errors",
    "corruption_rows",
    "costs_of",
    "curve",
    "diagnose",
    "filter_normalised",
    "landscape",
    "leaderboard",
    "metrics",
    "outcomes_of",
    "protocol_of",
    "read_entries",
    "read_sections",
    "report",
    "rows_of",
    "run_protocol",
    "smoothed_outcomes",
    "smoothed_rows",
    "smoothing_cost",
    "smoothing_protocol",
    "weight_landscape",
]
