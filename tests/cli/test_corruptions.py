"""``jrobust evaluate --corruptions``: a table, a file for the report, one line for what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from jrobust.cli import main
from jrobust.cli._corruptions import chosen, suite_of
from jrobust.corruptions import mnist_c, mnist_c_severity, scored
from jrobust.evaluation import read_sections

_MODEL = """
import jax.numpy as jnp

def bright(x):
    mean = jnp.mean(x, axis=(1, 2, 3))
    return jnp.stack([0.6 - mean, mean - 0.6], -1)
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("dim_nets.py").write_text(_MODEL)
    np.save("x.npy", np.array([0.3, 0.45, 0.55], np.float32)[:, None, None, None] * np.ones((3, 6, 6, 1), np.float32))
    np.save("y.npy", np.zeros(3, int))
    return ["evaluate", "--model", "dim_nets:bright", "--x", "x.npy", "--y", "y.npy", "--quiet", "--corruptions"]


def test_a_table_and_records(words, capsys):
    ask = [*words, "brightness", "contrast", "--severities", "2", "4", "--out", "result"]
    assert main(ask) == 0
    out = capsys.readouterr().out
    assert "severity 2" in out
    assert "mean error exact 0.2500" in out  # of brightness 1 and 2 of 3 images: 0.55 + 0.1 is bright
    found = json.loads(Path("result/corruption_errors.json").read_text())
    assert (found["suite"], found["n"], found["seed"], found["model"]) == ("cifar-c", 3, 0, "dim_nets:bright")
    error = {(c["corruption"], c["severity"]): c["error"] for c in found["cells"]}
    assert error == pytest.approx(
        {("brightness", 2): 1 / 3, ("brightness", 4): 2 / 3, ("contrast", 2): 0.0, ("contrast", 4): 0.0}
    )
    (section,) = read_sections("result")
    assert [(r.name, r.threat, r.side, r.value) for r in section.rows] == [
        ("clean", "none", "exact", 1.0),
        ("mean accuracy over 2 corruptions", "cifar-c, severities 2, 4", "exact", 0.75),
    ]
    assert {(c.suite, c.drawn) for c in section.corruptions} == {("cifar-c", False)}
    assert "--corruptions brightness contrast --severities 2 4 --suite cifar-c --out result" in section.command
    assert main(ask) == 0  # all is on disk
    assert main([*words, "brightness", "--severities", "2", "--out", "result"]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_what_is_drawn_is_not_called_exact(words, capsys):
    assert main([*words, "gaussian-noise", "brightness", "--severities", "1", "2", "3", "--out", "result"]) == 0
    out = capsys.readouterr().out
    (mean,) = [line for line in out.splitlines() if "mean accuracy over 2" in line]
    assert "one draw" in mean
    assert "exact" not in mean
    assert "cifar-c, severities 1 to 3" in mean
    assert "one draw of the noise: gaussian_noise\n" in out
    assert main(["report", "result", "--out", "page.md"]) == 0
    page = Path("page.md").read_text()
    assert "cifar-c, severities 1 to 3. Error, counted; n = 3 images a cell." in page
    assert "| gaussian\\_noise | one draw | " in page
    assert "| brightness | the same for every seed | " in page
    assert "| mean accuracy over 2 corruptions | cifar-c, severities 1 to 3 | one draw |" in page


def test_names_and_suites():
    found, severities = chosen(("all",), "mnist-c", ())
    assert tuple(found) == tuple(mnist_c)
    assert severities == {name: (s,) for name, s in mnist_c_severity.items()}
    assert tuple(chosen(("all", "saturate", "fog"), "cifar-c", ())[0]) == (*scored, "saturate")
    assert chosen(("jpeg-compression",), "imagenet-c", (1, 2))[1] == (1, 2)
    assert [suite_of(s) for s in ((28, 28, 1), (32, 32, 3), (224, 224, 3))] == ["mnist-c", "cifar-c", "imagenet-c"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["fogg"], "unknown corruption of cifar-c 'fogg'; did you mean 'fog'?"),
        (["saturate"], "saturate takes images of 3 channels, got 1"),
        (["fog", "--severities", "6"], "fog: severity is an int in 1..5, got 6"),
        (["fog", "--eps", "0.1", "--norm", "l2"], "have no adversary: leave out --eps, --norm"),
        (["stripe", "--suite", "cifar-c"], "unknown corruption of cifar-c 'stripe'"),
    ],
)
def test_bad_input_is_one_line(words, capsys, more, said):
    assert main([*words, *more, "--out", "result"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert said in out.err
    assert out.err.count("\n") == 1
    assert not Path("result").exists()


def test_severities_alone_are_refused(words, capsys):
    assert main([*words[:-1], "--severities", "2"]) == 2
    assert "go with --corruptions" in capsys.readouterr().err
