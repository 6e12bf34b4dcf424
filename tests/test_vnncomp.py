"""experiments/vnncomp.py on a family made here, and what its records say: no verdict contradicts the competition's consensus."""

import csv
import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import vnncomp
from tests.io.test_files import graph

SPEC = """
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.0)) (assert (<= X_0 1.0)) (assert (>= X_1 0.0)) (assert (<= X_1 1.0))
(assert (>= Y_0 {}))
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Unsafe: x_0 + 2 x_1 at least 2.9, or 3.1, over the unit square."""
    net = graph([("MatMul", ("x", "w"), {})], (1, 2), {"w": np.array([[1.0], [2.0]], np.float32)})
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "net.onnx.gz").write_bytes(gzip.compress(net.SerializeToString()))
    rows = []
    for level, consensus in (("2.9", "sat"), ("3.1", "unsat"), ("3.2", "open")):
        (folder / f"{level}.vnnlib.gz").write_bytes(gzip.compress(SPEC.format(level).encode()))
        rows.append(["net.onnx", f"{level}.vnnlib", "10", consensus, consensus, "1.5"])
    with open(folder / "instances.csv", "w", newline="") as lines:
        head = ["onnx", "vnnlib", "timeout_s", "consensus", "winner_verdict", "winner_seconds"]
        csv.writer(lines).writerows([head, *rows])
    monkeypatch.setattr(vnncomp, "RECORDS", tmp_path / "records")
    return tmp_path


def test_a_family(family, monkeypatch, capsys):
    words = ["vnncomp", "toy", "--root", str(family), "--timeout", "20", "--in-process"]
    monkeypatch.setattr(sys, "argv", [*words, "--agreed"])
    vnncomp.main()
    assert [r["verdict"] for r in vnncomp.read("toy")] == ["sat", "unsat"]
    assert "| toy, net | 20.0 | in process | 2 | 2/2 | 1 | 1 | 0 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", words)
    vnncomp.main()  # goes on where it was
    assert [r["verdict"] for r in vnncomp.read("toy")] == ["sat", "unsat", "unsat"]
    assert "| 3 | 2/2 | 1 | 2 | 0 |" in capsys.readouterr().out


def test_a_wrong_verdict_shows(family):
    vnncomp.RECORDS.mkdir()
    row = '{"onnx": "n", "vnnlib": "a", "consensus": "sat", "winner_verdict": "sat", "winner_seconds": "1", "verdict": "unsat", '
    (vnncomp.RECORDS / "vnncomp_toy.jsonl").write_text(
        row + '"seconds": 1.0, "limit": 60.0, "in_process": false, "cached": true, "seed": 0}\n'
    )
    assert "| toy, n | 60.0 | command, cached | 1 | 1/1 | 0 | 1 | 1 |" in vnncomp.table()


@pytest.mark.parametrize("family", vnncomp.FAMILIES)
def test_records(family):
    """Of the runs that are kept: none contradicts, every counterexample was run again by onnxruntime."""
    decided = [r for r in vnncomp.read(family) if r["verdict"] in ("sat", "unsat") and r["consensus"] in vnncomp.AGREED]
    assert decided
    assert all(r["verdict"] == r["consensus"].removesuffix("-single") for r in decided)
    assert all(r["confirmed"] == "onnxruntime" for r in decided if r["verdict"] == "sat")


def test_docs_show_the_records():
    assert vnncomp.table() in (Path(__file__).parents[1] / "docs" / "vnncomp.md").read_text()
