"""Median smoothing: order statistics against exact quantiles and coverage, boxes against a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jrobust import smoothing
from jrobust.smoothing._medians import order_statistics

KEY = jax.random.key(0)


@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (500, 0.2), (50, 0.9)])
def test_order_statistics_are_the_best_of_their_level(n, p):
    alpha = 0.01
    low, high = order_statistics(n, p, p, alpha)
    assert stats.binom.cdf(low - 1, n, p) <= alpha < stats.binom.cdf(low, n, p)
    assert high == n + 1 or stats.binom.sf(high - 1, n, p) <= alpha
    assert stats.binom.sf(high - 2, n, p) > alpha
    assert order_statistics(5, 0.5, 0.5, 0.001) == (0, 6)  # too few draws to say anything


def test_coverage_whatever_the_distribution():
    rng, n, alpha, rho = np.random.default_rng(0), 200, 0.2, 0.4
    samples = rng.exponential(size=(n, 3000)) ** 2
    quantiles = stats.expon.ppf(stats.norm.cdf([-rho, rho])) ** 2
    low, high = zip(*(smoothing.median_bounds(samples[:, i], rho, alpha=alpha) for i in range(3000)), strict=True)
    wrong = (np.array(low) > quantiles[0]) | (np.array(high) < quantiles[1])
    assert stats.binomtest(int(wrong.sum()), 3000, alpha, alternative="greater").pvalue > 0.001
    assert wrong.mean() > alpha / 3  # and no wider than need be


def test_the_median_of_a_linear_model_stays_within():
    # x -> w.x under Gaussian noise has the median w.x, so the bound is tight in the limit
    w, sigma, eps = np.array([0.6, -0.8]), 0.5, 0.3
    x = jnp.array([[1.0, 0.5], [0.0, 0.0]])
    out = smoothing.noisy_outputs(
        lambda z: (z @ jnp.asarray(w, jnp.float32))[:, None],
        x,
        noise=smoothing.gaussian(sigma),
        n=20_000,
        key=KEY,
        batch_size=3000,
    )
    assert out.shape == (2, 20_000, 1)
    for centre, samples in zip(np.asarray(x) @ w, out, strict=True):
        low, high = smoothing.median_bounds(samples, eps / sigma)
        assert low[0] <= centre - eps
        assert high[0] >= centre + eps
        assert high[0] - low[0] < 2 * eps + 0.1
    again = smoothing.noisy_outputs(lambda z: z, x[1:], noise=smoothing.gaussian(sigma), n=5, key=KEY, batch_size=2)
    assert np.unique(again).size == 10


def test_several_answers_share_alpha():
    samples = np.random.default_rng(0).normal(size=(300, 1))
    one = smoothing.median_bounds(samples, 0.2)
    many = smoothing.median_bounds(np.repeat(samples, 50, 1), 0.2)
    assert many[0][0] < one[0][0]
    assert many[1][0] > one[1][0]
    assert smoothing.median_bounds(samples, 9.0)[0] == -np.inf


def overlap(a, b):
    w, h = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    area = max(0, a[2] - a[0]) * max(0, a[3] - a[1])
    return w * h / (area + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


@pytest.mark.parametrize("seed", range(8))
def test_the_least_overlap_against_a_grid(seed):
    rng = np.random.default_rng(seed)
    box = np.array([0.0, 0.0, 2.0, 1.0])
    low = box + rng.normal(0, 0.4, 4)
    high = low + rng.uniform(0, 0.8, 4)
    bound = smoothing.iou_lower(low, high, box)
    grid = [overlap(low + (high - low) * t, box) for t in rng.choice(np.linspace(0, 1, 5), (3000, 4))]
    assert bound <= min(grid) + 1e-12
    np.testing.assert_allclose(bound, min(grid), atol=1e-12)  # all 16 corners are among them


def test_boxes_that_may_be_empty_or_anywhere():
    assert smoothing.iou_lower([0, 0, -1, 1], [0, 0, 2, 1], [0, 0, 1, 1]) == 0
    assert smoothing.iou_lower([-np.inf, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]) == 0
    assert smoothing.iou_lower(np.zeros((3, 4)), np.ones((3, 4)), [0, 0, 1, 1]).shape == (3,)


def test_bad_input():
    with pytest.raises(ValueError, match="NaNs"):
        smoothing.median_bounds(np.array([np.nan]), 0.1)
    with pytest.raises(ValueError, match="rho is >= 0"):
        smoothing.median_bounds(np.zeros(3), -0.1)
    with pytest.raises(ValueError, match=r"one number each, got shapes \(\) and \(2,\)"):
        smoothing.median_bounds(np.zeros(3), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="low is at most high"):
        smoothing.iou_lower([1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="4 coordinates"):
        smoothing.iou_lower([0, 0], [1, 1], [0, 0, 1, 1])
