"""``jrobust verify`` end to end: a small ONNX network, its four verdicts, its files, and its clock."""

import gzip
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jrobust.cli import main

onnx = pytest.importorskip("onnx")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with net.onnx (y_0 = |x_0 - x_1|, y_1 = x_1) and a specification to be filled in."""
    from onnx import TensorProto, helper, numpy_helper

    monkeypatch.chdir(tmp_path)
    w1 = np.array([[1, -1, 0], [-1, 1, 1]], np.float32)
    w2 = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", float32, [1, 2])],
        [helper.make_tensor_value_info("y", float32, [1, 2])],
        [numpy_helper.from_array(w1, "w1"), numpy_helper.from_array(w2, "w2")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    Path("net.onnx").write_bytes(model.SerializeToString())
    Path("net.onnx.gz").write_bytes(gzip.compress(model.SerializeToString()))
    specify("s.vnnlib", 0.9)
    return tmp_path


def specify(path, c, n=2, rest=""):
    names = [f"X_{i}" for i in range(n)]
    text = "".join(f"(declare-const {name} Real)\n" for name in [*names, "Y_0", "Y_1"])
    text += "".join(f"(assert (>= {x} 0.0))\n(assert (<= {x} 1.0))\n" for x in names)
    Path(path).write_text(f"{text}(assert (>= Y_0 {c})){rest}\n")


def test_sat(here, capsys):
    words = ["verify", "net.onnx", "s.vnnlib", "--results", "r.txt", "--counterexample", "c.txt", "--timeout", "60"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith("sat by attack in ")
    result = Path("r.txt").read_text()
    assert result == "sat\n" + Path("c.txt").read_text()
    assert re.fullmatch(r"\(\(X_0 \S+\)\n \(X_1 \S+\)\n \(Y_0 \S+\)\n \(Y_1 \S+\)\)\n", Path("c.txt").read_text())
    x0, x1, y0, y1 = (float(v) for v in re.findall(r"\([XY]_\d (\S+?)\)", result))
    assert 0 <= x0 <= 1
    assert 0 <= x1 <= 1
    np.testing.assert_allclose([y0, y1], [abs(x0 - x1), x1], atol=1e-6)
    assert y0 >= 0.9


def test_unsat_and_gzip(here, capsys):
    specify("s.vnnlib", 2.5)
    Path("s.vnnlib.gz").write_bytes(gzip.compress(Path("s.vnnlib").read_bytes()))
    assert main(["verify", "net.onnx.gz", "s.vnnlib.gz", "--quiet", "--results", "r.txt", "--timeout", "60"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("unsat by search in ")
    assert said.err == ""
    assert Path("r.txt").read_text() == "unsat\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.onnx", "s.vnnlib"], "none.onnx"),
        (["net.onnx", "none.vnnlib"], "none.vnnlib"),
        (["s.vnnlib", "net.onnx"], "expected MODEL.onnx SPEC.vnnlib"),
        (["net.onnx"], "SPEC.vnnlib"),
        (["net.onnx", "s.vnnlib", "--timeout", "0"], "--timeout is > 0"),
        (["net.onnx", "s.vnnlib", "--results", "no/r.txt"], "--results no/r.txt"),
        (["net.onnx", "wide.vnnlib"], "wide.vnnlib speaks of 3 inputs and 2 outputs"),
        (["net.onnx", "cut.vnnlib"], "cut.vnnlib, line 9: '(' is never closed"),
        (["cut.onnx", "s.vnnlib"], "cut.onnx"),
    ],
)
def test_bad_input_is_one_line(here, capsys, words, said):
    specify("wide.vnnlib", 1, n=3)
    specify("cut.vnnlib", 1, rest="(assert (or")
    Path("cut.onnx").write_bytes(Path("net.onnx").read_bytes()[:60])
    assert main(["verify", *words, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_the_limit_holds_during_start_up_and_compilation(here):
    specify("s.vnnlib", 1.001)  # open to the bounds, and true: the attacks would go on
    code = "import sys; from jrobust.cli import main; sys.exit(main())"
    words = ["verify", "net.onnx", "s.vnnlib", "--timeout", "1", "--results", "r.txt", "--quiet"]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout.split()[0]) == (0, "timeout"), done.stderr
    assert Path("r.txt").read_text() == "timeout\n"
    assert time.monotonic() - began < 60  # imports cannot be stopped; nothing comes after them
