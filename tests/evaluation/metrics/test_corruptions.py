"""Numbers of the corruption benchmarks: their fixed points, and the authors' definitions written out."""

import numpy as np
import pytest

import jrobust as jr
from jrobust import metrics
from jrobust.evaluation.metrics._corruptions import ALEXNET

RNG = np.random.default_rng(0)
FIVE = {name: np.clip(error + np.linspace(-0.05, 0.05, 5), 0, 1) for name, error in ALEXNET.items()}


def test_errors_relative_to_alexnet():
    assert tuple(ALEXNET) == jr.corruptions.scored
    assert metrics.mce(FIVE) == pytest.approx(1.0)
    assert metrics.mce({name: np.zeros(5) for name in ALEXNET}) == 0.0
    own = {name: RNG.uniform(size=5) for name in ALEXNET}
    assert metrics.mce(own, reference=own) == pytest.approx(1.0)
    sums = [sum(own[n]) / sum(FIVE[n]) for n in own]
    assert metrics.mce(own, reference=FIVE) == pytest.approx(np.mean(sums)) == pytest.approx(metrics.mce(own))
    assert metrics.mean_corruption_error(own) == pytest.approx(np.mean(list(own.values())))
    relative = metrics.relative_mce(own, clean=0.2, reference_clean=0.4)
    assert relative == pytest.approx(np.mean([(sum(own[n]) - 1.0) / (sum(FIVE[n]) - 2.0) for n in own]))
    assert metrics.relative_mce(FIVE, clean=0.4, reference_clean=0.4) == pytest.approx(1.0)


def literal(ranks, distance, noise, stride):
    """The authors' loops over starts and strides."""
    stride, total = (1 if noise else stride), []
    for video in ranks:
        found = []
        for start in range(stride):
            before = video[start]
            for now in video[start::stride][1:]:
                found.append(distance(before, now))
                before = before if noise else now
        total.append(np.mean(found))
    return np.mean(total)


@pytest.mark.parametrize(("noise", "stride"), [(False, 1), (False, 3), (True, 1)])
def test_stability_along_sequences(noise, stride):
    logits = RNG.normal(size=(4, 8, 12))
    predictions = logits.argmax(-1)
    flips = literal(predictions, lambda a, b: a != b, noise, stride)
    assert metrics.flip_probability(predictions, noise=noise, stride=stride) == pytest.approx(flips)

    cumulated = np.cumsum([0, 1, 1, 1, 1, 1, *[0] * 6])

    def distance(a, b):  # of rankings 1..K
        sigma = b[np.argsort(a)]
        return np.abs(cumulated[:5] - cumulated[sigma - 1][:5]).sum()

    ranks = (-logits).argsort(-1).argsort(-1) + 1
    moved = literal(ranks, distance, noise, stride)
    assert metrics.top5_distance(logits, noise=noise, stride=stride) == pytest.approx(moved)


def test_bad_input():
    with pytest.raises(TypeError, match="by corruption"):
        metrics.mce([0.1, 0.2])
    with pytest.raises(ValueError, match=r"missing \['fog'\]"):
        metrics.mce({name: e for name, e in FIVE.items() if name != "fog"})
    with pytest.raises(ValueError, match="5 severities, got 1"):
        metrics.mce({name: [0.1] for name in ALEXNET})
    for bad in ([1.2], [], [np.nan]):
        with pytest.raises(ValueError, match=r"shares in \[0, 1\]"):
            metrics.mean_corruption_error({"fog": bad})
    with pytest.raises(ValueError, match=r"equally many severities, got \[1, 2\]"):
        metrics.mean_corruption_error({"fog": [0.1], "snow": [0.1, 0.2]})
    with pytest.raises(ValueError, match="errs no more"):
        metrics.relative_mce(FIVE, clean=0.1, reference_clean=0.7)
    with pytest.raises(ValueError, match="clean errors lie in"):
        metrics.relative_mce(FIVE, clean=1.5, reference_clean=0.4)
    with pytest.raises(ValueError, match=r"stride is an int in 1\.\.2"):
        metrics.flip_probability(np.zeros((2, 3)), stride=3)
    with pytest.raises(ValueError, match="T >= 2"):
        metrics.flip_probability(np.zeros((2, 1)))
    with pytest.raises(ValueError, match="K >= 5"):
        metrics.top5_distance(np.zeros((2, 3, 4)))
