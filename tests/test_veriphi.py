"""The functions of experiments/veriphi.py at toy size: what they record adds up, and what is there is not run again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from experiments import veriphi
from jrobust._tree import bind


def linear(w, x):
    return x @ w


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(veriphi, "RECORDS", tmp_path / "records" / "veriphi.jsonl")
    return veriphi.RECORDS


def test_records_of_a_linear_net(records, tmp_path):
    """The margin of a linear net of two classes is known: whoever is decided, is decided rightly."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 2)).astype(np.float32)
    x = rng.uniform(0.3, 0.7, (12, 6)).astype(np.float32)
    y = (x @ w).argmax(1)
    y[0] = 1 - y[0]
    eps, net = 0.03, bind(linear, jnp.asarray(w))
    margin = (x @ w)[np.arange(12), y] - (x @ w)[np.arange(12), 1 - y]
    robust = margin > eps * np.abs(w[:, 0] - w[:, 1]).sum()
    assert 2 < robust.sum() < 10

    def write(i, line):
        veriphi.append({"kind": "image", "data": "toy", "training": "natural", "eps": "0.03", "i": i, **line})

    veriphi.study(net, x[:3], y[:3], eps, 1.0, 8, 0, set(), write)
    assert [r["i"] for r in veriphi.read()] == [0, 1, 2]
    veriphi.study(net, x, y, eps, 1.0, 8, 0, {0, 1, 2}, write)
    rows = veriphi.read()
    assert [r["i"] for r in rows] == list(range(12))
    assert [r["right"] for r in rows] == [False, *[True] * 11]
    for r in rows[1:]:
        assert r["first"][0] == ("verified" if robust[r["i"]] else "violated")
        assert r["first"][1] == ("ibp" if robust[r["i"]] else "fgsm")
        assert (r["alone"][0] == "verified") == bool(robust[r["i"]])
        assert veriphi.where(r, "first") == r["first"][1]
    at = np.array([r["i"] for r in rows if veriphi.verified(r)])
    threat = jr.sets.linf(eps, clip=(0, 1))
    assert veriphi.attacked_again(net, x[at], y[at], threat, 0) == 0
    wrong = np.flatnonzero((margin > 0) & ~robust)
    assert veriphi.attacked_again(net, x[wrong], y[wrong], threat, 0) == len(wrong)
    text = veriphi.table()
    assert f"| toy | natural | 0.03 | 12 | 11 | {11 - robust.sum()} | {robust.sum()} | 0 | {robust.sum()} | 0 |" in text
    assert "0 contradictions" in text
    pytest.importorskip("matplotlib").use("agg")
    veriphi.plot(str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 1000
    records.write_text("\n".join(json.dumps(r) for r in rows[:4]) + "\n")
    assert len(veriphi.read()) == 4


@pytest.mark.parametrize("training", ["ibp", *(pytest.param(t, marks=pytest.mark.sweep) for t in ("natural", "pgd"))])
def test_trainings(training):
    data = jr.data.load("digits")
    net = veriphi.train(data, "mlp", training, 0.02, 2, 0, None)
    right = np.asarray(jnp.argmax(net(jnp.asarray(data.test_x)), axis=1)) == data.test_y
    assert right.mean() > 0.3  # of ten classes, after two passes
