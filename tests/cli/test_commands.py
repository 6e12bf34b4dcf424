"""The commands end to end, in this process: what a good call leaves behind, and that a bad one costs one line."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jrobust.cli import main

_MODEL = """
import jax
import jax.numpy as jnp

def linear(x):
    return jnp.stack([x[:, 0], x[:, 1]], -1)

def corners(x):
    return jnp.stack([x[:, 0, 0], x[:, -1, -1]], -1)

def flat(x):
    return x[:, 0]

def unruled(x):
    return jax.lax.bessel_i1e(linear(x))

number = 3

class Net:
    def __call__(self, x):
        return linear(x)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a module of models and two arrays; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("nets_of_mine.py").write_text(_MODEL)
    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)
    x = np.array([[0.2, 0.8], [0.55, 0.45], [0.9, 0.1], [0.5, 0.4]], np.float32)
    np.save("x.npy", x)
    np.save("y.npy", np.array([1, 0, 0, 1]))
    return tmp_path


MINE = ["evaluate", "--model", "nets_of_mine:linear", "--x", "x.npy", "--y", "y.npy", "--quiet"]


def replaced(flag, value):
    words = list(MINE)
    words[words.index(flag) + 1] = value
    return [*words, "--eps", "0.1"]


def test_attacks_through_a_substitute(here, capsys):
    assert main([*MINE, "--eps", "0.1", "--oracle", "clean", "fgsm", "--substitute", "mlp", "--seeds", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "at most" in line]
    assert len(rows) == 1
    assert "transfer of fgsm" in rows[0]
    assert " 3 " in rows[0]  # the fourth is the seed
    assert main([*MINE, "--eps", "0.1", "--substitute", "mlp", "--seeds", "4"]) == 2
    assert "leave examples to evaluate" in capsys.readouterr().err


def test_evaluate_a_function_on_arrays(here, capsys):
    options = ["--eps", "0", "1/10", "0.3", "--oracle", "clean", "fgsm", "pgd", "ibp", "crown", "--restarts", "2"]
    assert main([*MINE, *options, "--out", "result"]) == 0
    table = capsys.readouterr().out
    assert "at most" in table
    assert "at least" in table
    assert "confidence" in table
    summary = json.loads(Path("result/summary.json").read_text())
    share = {(r["name"], r["eps"]): r["value"] for r in summary["rows"]}
    assert share["clean", 0.0] == 0.75
    # margins 0.6, 0.1, 0.8 of the three that are right, and two coordinates: holds iff margin > 2 eps
    for name in ("fgsm", "pgd", "ibp", "crown"):
        assert [share[name, eps] for eps in (0.0, 0.1, 0.3)] == [0.75, 0.5, 0.25], name
    assert all(r["n"] == 4 and 0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in summary["rows"])
    assert json.loads(Path("result/config.json").read_text())["oracle"] == ["clean", "fgsm", "pgd", "ibp", "crown"]
    assert "--model nets_of_mine:linear" in summary["command"]
    assert "jax" in summary["versions"]

    assert main([*MINE, *options, "--out", "result"]) == 0  # the same question again: read from disk
    assert main([*MINE, *options, "--out", "result", "--seed", "1"]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert main(["report", "result", "--out", "page.html", "--title", "<mine>"]) == 0
    page = Path("page.html").read_text()
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page
    assert "<svg" in page
    assert "No contradiction" in page
    assert "attack pgd" in page
    assert "http://" not in page


def attack_words(method, model="linear"):
    return f"attack --method {method} --model nets_of_mine:{model} --x x.npy --y y.npy --out made --steps 30 --restarts 2".split()


@pytest.mark.parametrize(
    ("words", "model", "shape"),
    [
        (["uap", "--eps", "3/10", "--mask", "mask.npy"], "linear", (2,)),
        pytest.param(
            ["lavan", "--size", "2", "1", "--at", "0", "0", "--target", "0"], "corners", (3, 4), marks=pytest.mark.sweep
        ),
        pytest.param(
            ["patch", "--size", "2", "2", "--scale", "1", "1", "--at", "0", "0"],
            "corners",
            (3, 4),
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            ["rp2", "--mask", "mask.npy", "--eps", "0.2", "--shift", "0"], "corners", (3, 4), marks=pytest.mark.sweep
        ),
    ],
)
def test_attack_is_judged_on_other_examples(here, capsys, words, model, shape):
    """The numbers of the table, counted again with numpy from the saved perturbation on the examples not crafted on."""
    x = np.random.default_rng(0).uniform(0.3, 0.7, (40, *shape)).astype(np.float32)
    logits = lambda z: z.reshape(len(z), -1)[:, [0, -1]]  # noqa: E731
    np.save("x.npy", x)
    np.save("y.npy", y := logits(x).argmax(1))
    np.save("mask.npy", mask := np.eye(1, np.prod(shape), dtype=np.float32).reshape(shape))  # the first entry only
    assert main([*attack_words(words[0], model), *words[1:], "--craft", "1/4"]) == 0
    assert "crafted on 10 examples, judged on 30 others" in capsys.readouterr().out
    p, crafted = np.load("made/perturbation.npy"), np.load("made/crafted_on.npy")
    rest = np.setdiff1d(np.arange(40), crafted)
    assert (len(crafted), len(rest)) == (10, 30)
    z = x[rest].copy()
    if words[0] in ("lavan", "patch"):
        z[:, : p.shape[0], : p.shape[1]] = p
    else:
        assert np.abs(p * (1 - mask)).max() == 0
        assert np.abs(p).max() <= float({"uap": 0.3, "rp2": 0.2}[words[0]]) + 1e-6
        z = np.clip(z + p, 0, 1)
    rows = json.loads(Path("made/summary.json").read_text())["rows"]
    assert [(r["name"], r["side"], r["n"]) for r in rows] == [
        ("clean", "exact", 30),
        (words[0], "lower", 30),
        ("noise", "lower", 30),
    ]
    assert rows[0]["value"] == 1
    assert rows[1]["value"] == pytest.approx((logits(z).argmax(1) == y[rest]).mean())
    assert rows[1]["value"] < 0.9


def bad(here, capsys, words):
    """The one line that a bad call says."""
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("jrobust: error: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


X = np.full((4, 2), 0.5, np.float32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.where(np.eye(4, 2) > 0, np.nan, X), "nan"),
        (np.where(np.eye(4, 2) > 0, np.inf, X), "inf"),
        (X + np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.7], [0.0, 0.0]], np.float32), "1.2"),
        (X[:0], "empty"),
        (np.array([{}, {}]), "no plain .npy"),
    ],
)
def test_bad_x(here, capsys, x, message):
    np.save("bad.npy", x, allow_pickle=True)
    words = replaced("--x", "bad.npy")
    if not len(x):
        np.save("empty.npy", np.zeros(0, int))
        words[words.index("--y") + 1] = "empty.npy"
    assert message in bad(here, capsys, words).lower()


@pytest.mark.parametrize("y", [np.array([0, 1, 2, 0]), np.array([0, -1, 0, 0]), np.zeros(4), np.array([0, 1, 0])])
def test_bad_y(here, capsys, y):
    np.save("bad.npy", y)
    bad(here, capsys, replaced("--y", "bad.npy"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nets_of_mine:flat", "[B, K]"),
        ("nets_of_mine:nothing", "has no nothing"),
        ("nets_of_mine:number", "is a int"),
        ("nets_of_mine:Net", "it is a class"),
        ("no_such_module:f", "no_such_module"),
        ("nets_of_mine", "pkg.module:function"),
        ("net.onnx", "ONNX"),
    ],
)
def test_bad_model(here, capsys, model, message):
    assert message in bad(here, capsys, replaced("--model", model))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*MINE], "--eps"),
        ([*MINE, "--eps", "-0.1"], ">= 0"),
        ([*MINE, "--eps", "nan"], "finite"),
        ([*MINE, "--eps", "8/0"], "--eps"),
        ([*MINE, "--eps", "0.1", "--oracle", "crwn"], "did you mean 'crown'"),
        ([*MINE, "--eps", "0.1", "--n", "0"], "--n"),
        ([*MINE, "--eps", "0.1", "--batch-size", "0"], "batch_size"),
        ([*MINE, "--eps", "0.1", "--norm", "l7"], "--norm"),
        ([*MINE, "--ep", "0.1"], "did you mean --eps?"),
        (["evaluate", "--eps", "0.1"], "--run"),
        (["evaluate", "--run", "nowhere"], "config.json"),
        (["certify", "--run", "nowhere", "--sigma", "0"], "--sigma"),
        (["attack", "--method", "uap"], "--out"),
        ([*attack_words("uap")], "needs --eps"),
        ([*attack_words("uap"), "--eps", "0.1", "--size", "2", "2"], "--size does not go with --method uap"),
        ([*attack_words("uap"), "--eps", "0.1", "--craft", "1"], "--craft"),
        ([*attack_words("uap"), "--eps", "0.1", "--target", "5"], "target"),
        ([*attack_words("uap"), "--eps", "-1"], ">= 0"),
        ([*attack_words("lavan"), "--size", "2", "2"], "needs --at"),
        ([*attack_words("patch"), "--size", "2", "2"], "images"),
        ([*attack_words("rp2"), "--mask", "x.npy"], "does not fit"),
        ([*attack_words("stickers")], "--method"),
        (["train", "--dataset", "digitz", "--out", "r"], "did you mean 'digits'"),
        (["train", "--model", "cnn-smal", "--out", "r"], "did you mean 'cnn-small'"),
        (["report", "nowhere"], "nowhere"),
        (["report", "."], "no results"),
        (["evluate"], "evaluate"),
        ([], "demo"),
    ],
)
def test_bad_words(here, capsys, words, message):
    assert message in bad(here, capsys, words)


def test_missing_file_and_missing_rule(here, capsys):
    assert "gone.npy" in bad(here, capsys, replaced("--x", "gone.npy"))
    words = [*replaced("--model", "nets_of_mine:unruled"), "--oracle", "ibp"]
    assert "bessel_i1e" in bad(here, capsys, words)


def test_full_disk(here, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jrobust._records.Records.append", full)
    assert "space" in bad(here, capsys, [*MINE, "--eps", "0.1", "--oracle", "fgsm", "--out", "result"])


def test_interrupted_evaluation_goes_on(here):
    """SIGINT to a process: 130, what was finished stays, the same command ends with the answers of one never interrupted."""
    n = 100
    x = np.random.default_rng(0).uniform(size=(n, 2)).astype(np.float32)
    np.save("x.npy", x)
    np.save("y.npy", x.argmax(1))
    words = [*MINE, "--eps", "0.1", "--oracle", "pgd", "--steps", "10000", "--restarts", "2", "--batch-size", "1"]
    words += ["--out", "result"]
    # a shell's background jobs ignore SIGINT, and so would their children
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from jrobust.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def written():
        return sum(p.read_text().count("\n") for p in Path("result").rglob("*.jsonl"))

    deadline = time.monotonic() + 120
    while written() < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, (said, written())
    assert "interrupted" in said
    assert "Traceback" not in said
    kept = written()
    assert 5 <= kept < n
    assert main(words) == 0
    assert written() == n  # every example once
    assert main([*words[:-1], "whole"]) == 0
    rows = [json.loads(Path(folder, "summary.json").read_text())["rows"] for folder in ("result", "whole")]
    assert rows[0] == rows[1]


def test_the_command_of_a_result_can_be_typed():
    from jrobust.cli import _common
    from jrobust.cli._evaluate import evaluate
    from jrobust.cli._parse import parse
    from jrobust.cli._report import _training
    from jrobust.cli._train import Train

    given = {"run": "r", "eps": (0.1, 0.2), "nested": True, "quiet": True, "oracle": ("clean", "pgd")}
    words = _common.command_of("evaluate", given, evaluate).split()[1:]
    assert "--nested" in words
    assert "True" not in words
    call = parse(words, "")
    assert {k: call.keywords[k] for k in given} == given
    config = dataclasses.asdict(Train(method="ibp", ema=True, epochs=3, drops=(0.5,), clip_norm=None))
    said = _training(
        {**config, "model": {"name": "mlp", "shape": [8, 8, 1]}, "drops": [0.5], "command": "train"}
    ).split()[1:]
    assert parse(said, "").__self__ == Train(
        method="ibp", ema=True, epochs=3, drops=(0.5,), clip_norm=None, model="mlp"
    )
