"""The honest report: every number with its n, side and confidence, what is missing said, and how to get it all again."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jrobust.evaluation._report._html import html
from jrobust.evaluation._report._markdown import markdown
from jrobust.evaluation._report._models import models_of
from jrobust.evaluation._report._page import page
from jrobust.evaluation._report._robustbench import robustbench
from jrobust.evaluation._report._sections import Section
from jrobust.evaluation._results import Curve, Evaluation


def report(
    sections: Section | Sequence[Any], path: str | os.PathLike[str], *, title: str = "Robustness report"
) -> Path:
    """Write one file about one model or several: a page that needs no other file and no network, Markdown, or JSON.

    An alarm where an attack breaks what a certificate proves comes first; then how the models compare, ranked only where they were asked
    the same; then each model: card, protocol, both sides over the radius and by class, certified radii, witnesses, corruptions, cost,
    every number, and the command that makes them again. What was not measured is said.

    Args:
      sections: a `Section`, or several: ``Section(title, rows_of(evaluation, model=title, seed=seed))`` of an `Evaluation` or
        `Curve`; with ``outcomes=outcomes_of(...)``, ``protocol=protocol_of(...)`` and ``costs=costs_of(...)`` it says more.
        `read_sections` finds them in directories. Sections of one title (and origin) are about one model.
      path: of the file; its ending says what it is: .html, .md, or .json (RobustBench's keys beside ours). Its directory is made.
      title: of the page.

    Returns:
      The path.

    Raises:
      TypeError: something else than sections.
      ValueError: no sections, or another ending.

    >>> import tempfile
    >>> from jrobust.evaluation import Row
    >>> row = Row("net", "pgd", "linf", 0.1, "lower", 0.5, 0.4, 0.6, 100, 1.0, 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     "at most" in report([Section("net", (row,))], Path(folder) / "r.html").read_text()
    True
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".html", ".htm", ".md", ".json"):
        raise ValueError(f"a report ends in .html, .md or .json, got {path.name!r}")
    sections = (sections,) if isinstance(sections, Section) else sections
    if isinstance(sections, Evaluation | Curve) or not all(isinstance(s, Section) for s in sections):
        raise TypeError(
            f"report takes sections, got {type(sections).__name__}; an Evaluation or Curve becomes one by "
            "Section(title, rows_of(evaluation, model=title, seed=seed))"
        )
    if not sections:
        raise ValueError("a report needs at least one section")
    models = models_of(sections)
    if ending == ".json":
        text = robustbench(models, title)
    else:
        blocks = page(models, title)
        text = markdown(blocks) if ending == ".md" else html(blocks, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
