"""The five numbers of a defence's utility against SciPy and counts."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from jrobust import metrics

RNG = np.random.default_rng(0)
RAW, DEFENDED = RNG.normal(size=(2, 40, 3))
Y = RNG.integers(0, 3, 40)


def test_shares():
    raw, defended = RAW.argmax(1), DEFENDED.argmax(1)
    cav, crr, csr = (f(raw, defended, Y) for f in (metrics.cav, metrics.crr, metrics.csr))
    assert crr.count == sum(d == y != r for r, d, y in zip(raw, defended, Y))
    assert csr.count == sum(r == y != d for r, d, y in zip(raw, defended, Y))
    assert crr.n == csr.n == cav.n == 40
    assert cav.value == pytest.approx(crr.value - csr.value, abs=1e-15)
    assert cav.value == pytest.approx((defended == Y).mean() - (raw == Y).mean())
    assert {cav.side, crr.side, csr.side} == {"exact"}
    assert metrics.cav(raw, raw, Y).value == metrics.crr(raw, raw, Y).value == 0
    with pytest.raises(ValueError, match="cav: defended must be integer classes"):
        metrics.cav(raw, defended[:3], Y)


def test_outputs():
    p, q = softmax(RAW, 1), softmax(DEFENDED, 1)
    both = (p.argmax(1) == Y) & (q.argmax(1) == Y)
    assert 1 < both.sum() < 40
    ccv, cos = metrics.ccv(RAW, DEFENDED, Y), metrics.cos(RAW, DEFENDED, Y)
    assert ccv.value == pytest.approx(np.abs(p.max(1) - q.max(1))[both].mean())
    assert cos.value == pytest.approx(np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p[both], q[both])]))
    assert ccv.n == cos.n == both.sum()
    assert metrics.cos(RAW, RAW, Y).value == 0
    # probabilities that vanish in float64 are no NaN
    far = np.array([[2000.0, 0.0, 0.0]])
    assert metrics.cos(far, far, [0]).value == 0
    assert np.isnan(metrics.ccv(-far, far, [0]).value)
    with pytest.raises(ValueError, match="one shape"):
        metrics.ccv(RAW, DEFENDED[:, :2], Y)
