"""``jrobust report``: results on one page."""

from pathlib import Path

from tyro.conf import Positional

from jrobust.evaluation import read_sections
from jrobust.evaluation import report as write


def report(dirs: Positional[tuple[str, ...]], *, out: str = "report.html", title: str = "Robustness report") -> Path:
    """Write one self-contained HTML page of tables and plots from the results in some directories.

    Args:
      dirs: results of evaluate and certify, training runs, or folders of them.
      out: the page.
      title: of the page.
    """
    if not dirs:
        raise ValueError("give at least one directory of results")
    page = write([section for folder in dirs for section in read_sections(folder)], out, title=title)
    print(f"wrote {page}")
    return page
