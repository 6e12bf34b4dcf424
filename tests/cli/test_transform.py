"""``jrobust evaluate --transform``: shares of a published range instead of radii of a norm."""

import json
from pathlib import Path

import numpy as np
import pytest

from jrobust.cli import main

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
    Path("bright_nets.py").write_text(_MODEL)
    np.save("x.npy", np.array([0.3, 0.45, 0.55], np.float32)[:, None, None, None] * np.ones((3, 4, 4, 1), np.float32))
    np.save("y.npy", np.zeros(3, int))
    return ["evaluate", "--model", "bright_nets:bright", "--x", "x.npy", "--y", "y.npy", "--quiet", "--transform"]


def test_brightness_by_shares(words, capsys):
    oracles = ["--oracle", "clean", "grid", "pgd", "--restarts", "1", "--steps", "3"]
    assert main([*words, "brightness", "--eps", "1/2", "1", *oracles, "--out", "result"]) == 0
    assert "brightness 0.5" in capsys.readouterr().out
    summary = json.loads(Path("result/summary.json").read_text())
    share = {(r["name"], r["threat"], r["eps"]): r["value"] for r in summary["rows"]}
    for name in ("grid", "pgd"):
        assert share[name, "brightness", 0.5] == pytest.approx(2 / 3)
        assert share[name, "brightness", 1.0] == pytest.approx(1 / 3)
    assert "--transform brightness" in summary["command"]
    gallery = np.load("result/gallery.npz")
    np.testing.assert_allclose(gallery["witness"], gallery["clean"] + 0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["rotate"], "unknown transform 'rotate'; did you mean 'rotation'?"),
        (["hue"], "hue takes images of 3 channels"),
        (["brightness", "--eps", "8"], "share of its range, in [0, 1]; got 8"),
        (["brightness", "--norm", "l2"], "--norm l2 or --transform, not both"),
        (["flow", "--oracle", "grid"], "more than 1,000,000"),
    ],
)
def test_bad_input_is_one_line(words, capsys, more, said):
    assert main([*words, *more]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert said in out.err
    assert out.err.count("\n") == 1
