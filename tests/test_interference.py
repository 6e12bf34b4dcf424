"""The comb of experiments/interference.py: its parts in closed form, and where noise in training stops helping."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from experiments import interference as comb

README = Path(comb.__file__).parent / "README.md"


def test_noise_on_a_circle_is_that_of_the_line_and_keeps_mass():
    plus, minus, step = comb.comb(3.0, 20.0, teeth=2)
    assert plus.sum() * step == pytest.approx(0.5)
    assert minus.sum() * step == pytest.approx(0.5)
    place = (np.arange(len(plus)) + 0.5) * step
    tooth = (plus > 0) & (place < 23.0)
    middle = place[tooth].mean()
    exact = norm.cdf(place - middle + 1.5) - norm.cdf(place - middle - 1.5)
    np.testing.assert_allclose(comb.convolve(tooth.astype(float), 1.0, step), exact, atol=2e-3)
    assert comb.convolve(plus, 1.0, step).sum() * step == pytest.approx(0.5)


def test_a_lone_tooth_shrinks_to_where_its_mass_is_a_half():
    plus, minus, step = comb.comb(1.6, 20.0, teeth=2)
    kept = comb.smooth_rule(comb.bayes_rule(plus, minus), 1.0, step)
    grid = np.linspace(0, 2, 200_001)
    half = grid[np.argmin(np.abs(norm.cdf(grid + 0.8) - norm.cdf(grid - 0.8) - 0.5))]
    assert kept.sum() * step / 2 == pytest.approx(2 * half, abs=0.03)
    assert comb.smoothed_risk(20.0, 0.0, tooth=1.6) == pytest.approx(0.5 * (1 - 2 * half / 1.6), abs=0.01)
    gone = comb.smooth_rule(comb.bayes_rule(*comb.comb(1.3, 20.0)[:2]), 1.0, 21.3 / 4000)
    assert not gone.any()  # narrower than 2 * 0.6745: no vote is won


def test_the_sign_flips_with_the_interference_distance():
    """Noise in training at the level of smoothing: strictly better where gaps are at most sigma, strictly worse where they are many."""
    for gap in (0.25, 0.5, 1.0):
        assert comb.smoothed_risk(gap, 1.0) < comb.smoothed_risk(gap, 0.0) - 0.2
    for gap in (4.0, 8.0, 16.0):
        assert comb.smoothed_risk(gap, 1.0) > comb.smoothed_risk(gap, 0.0) + 0.04
    # and the best level of training is not that of smoothing
    assert comb.smoothed_risk(1.0, 0.5) < comb.smoothed_risk(1.0, 1.0) - 0.05


def test_the_table_is_what_the_script_prints():
    assert comb.table() in README.read_text()
