"""The report: from the results of drivers to one page.

    results of drivers         _rows, _outcomes    numbers with their intervals; every answer about every example
    what was asked             _asked              as plain data, for whom models may be ranked against
      -> a `Section`           _sections           plain data with a place on disk; _reading finds them there
      -> models                _models             sections about one model together; contradictions
      -> boards                _boards             models that were asked the same, and their ranks
      -> blocks                _page               what is said, in order; by _comparison, _heatmap, _plots, _svg, _pictures, _words
      -> a file                _html, _markdown    the same blocks (_blocks) in either form; _robustbench writes the models as JSON

`report` (_write) walks this way. Nothing here asks a model anything.
"""

from jrobust.evaluation._report._asked import protocol_of, smoothing_protocol
from jrobust.evaluation._report._outcomes import Outcomes, outcomes_of, smoothed_outcomes
from jrobust.evaluation._report._reading import card_of, read_sections
from jrobust.evaluation._report._rows import corruption_rows, costs_of, rows_of, smoothed_rows, smoothing_cost
from jrobust.evaluation._report._sections import CorruptionRow, Cost, Gallery, Row, Section
from jrobust.evaluation._report._write import report

__all__ = [
    "CorruptionRow",
    "Cost",
    "Gallery",
    "Outcomes",
    "Row",
    "Section",
    "card_of",
    "corruption_rows",
    "costs_of",
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
