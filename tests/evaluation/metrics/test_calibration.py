"""Calibration where it is known, and by literal loops."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jrobust import metrics

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(200, 4))
Y = RNG.integers(0, 4, 200)


def test_a_constant_confidence():
    z = np.log(np.array([[0.8, 0.2]] * 10))
    y = [0] * 6 + [1] * 4
    assert metrics.ece(z, y) == pytest.approx(0.2)
    found = metrics.reliability(z, y, bins=5)
    assert found.count.tolist() == [0, 0, 0, 10, 0] or found.count.tolist() == [0, 0, 0, 0, 10]  # 0.8 to rounding
    assert np.nanmax(found.accuracy) == 0.6
    sure = metrics.reliability(np.array([[1000.0, 0.0]]), [0], bins=5)
    assert sure.count.tolist() == [0, 0, 0, 0, 1]
    assert metrics.ece(np.array([[1000.0, 0.0]]), [0]) == 0


def test_by_loops():
    p = softmax(LOGITS, 1)
    total = 0.0
    for b in range(15):
        inside = [i for i in range(200) if b / 15 < p[i].max() <= (b + 1) / 15]
        if inside:
            total += abs(sum(p[i].argmax() == Y[i] for i in inside) - sum(p[i].max() for i in inside))
    assert metrics.ece(LOGITS, Y) == pytest.approx(total / 200)
    assert metrics.ece(LOGITS, Y, bins=1) == pytest.approx(abs((p.argmax(1) == Y).mean() - p.max(1).mean()))
    assert metrics.brier(LOGITS, Y).value == pytest.approx(
        np.mean([((p[i] - np.eye(4)[Y[i]]) ** 2).sum() for i in range(200)])
    )
    assert metrics.nll(LOGITS, Y).value == pytest.approx(-log_softmax(LOGITS, 1)[np.arange(200), Y].mean())
    assert metrics.nll(1000 * LOGITS, Y).value == pytest.approx(
        -log_softmax(1000 * LOGITS, 1)[np.arange(200), Y].mean()
    )
    assert metrics.brier(LOGITS, Y).side == metrics.nll(LOGITS, Y).side == "exact"


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_for_logits_are_told(classes):
    z, y = LOGITS[:, :classes], Y % classes
    p, right = softmax(z, 1), np.ones(200, bool)
    calls = {
        "ece": lambda z: metrics.ece(z, y),
        "reliability": lambda z: metrics.reliability(z, y),
        "brier": lambda z: metrics.brier(z, y),
        "nll": lambda z: metrics.nll(z, y),
        "acac": lambda z: metrics.acac(z, right),
        "actc": lambda z: metrics.actc(z, y, right),
        "nte": lambda z: metrics.nte(z, right),
        "ccv": lambda p: metrics.ccv(z, p, y),
        "cos": lambda p: metrics.cos(z, p, y),
    }
    for name, call in calls.items():
        call(z), call(np.log(p))  # silent
        with pytest.warns(UserWarning, match=rf"^{name}: \w+ are probabilities"):
            call(p)
    assert metrics.nll(np.log(p), y).value == pytest.approx(metrics.nll(z, y).value)
    metrics.brier([[0.25, 0.75], [1.0, 0.0]], [1, 0])  # of two classes a few may be so by chance


def test_bad_input():
    with pytest.raises(ValueError, match="bins"):
        metrics.ece(LOGITS, Y, bins=0)
    with pytest.raises(ValueError, match="out of range"):
        metrics.brier(LOGITS, Y + 4)
    with pytest.raises(ValueError, match="finite logits"):
        metrics.nll(np.full((2, 2), np.inf), [0, 1])
