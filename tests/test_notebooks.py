"""Notebooks: each py:percent source runs, its last cell asserts, and the paired .ipynb holds the same cells, executed."""

import pathlib
import subprocess
import sys

import jupytext
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


@pytest.mark.showcase
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_runs(source):
    run = subprocess.run(
        [sys.executable, str(source)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**__import__("os").environ, "MPLBACKEND": "agg"},
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_pair_is_in_step(source):
    script, notebook = jupytext.read(source), jupytext.read(source.with_suffix(".ipynb"))
    assert [c.source for c in script.cells] == [c.source for c in notebook.cells], "run: python notebooks/execute.py"
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code), "the .ipynb was not executed"
    assert not any(o.output_type == "error" for c in code for o in c.outputs)


def test_the_notebooks_are_there():
    names = ["01_worst_case", "02_attacks", "03_bounds", "04_training", "05_smoothing", "06_honest_evaluation"]
    assert [p.stem for p in SOURCES] == names
