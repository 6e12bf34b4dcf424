"""Metrics of witnesses by hand and by literal loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

import jrobust as jr
from jrobust import metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4))
Y = np.array([0, 1, 2, 3, 0, 1])
S = np.array([1, 0, 1, 1, 0, 1], bool)
X = RNG.uniform(size=(6, 12, 13, 3))
Z = np.clip(X + RNG.uniform(-0.1, 0.1, X.shape), 0, 1)


def test_confidence():
    p = softmax(LOGITS, 1)[S]
    assert metrics.acac(LOGITS, S).value == pytest.approx(p.max(1).mean())
    assert metrics.actc(LOGITS, Y, S).value == pytest.approx(np.mean([row[y] for row, y in zip(p, Y[S])]))
    top = np.sort(p, 1)
    gap = metrics.nte(LOGITS, S)
    assert gap.value == pytest.approx((top[:, -1] - top[:, -2]).mean())
    assert (gap.n, gap.side) == (4, "estimate")
    # a thousand more logits than floats can exponentiate
    assert metrics.acac(1000.0 + 1000 * LOGITS, S).value == pytest.approx(1.0)
    none = metrics.acac(LOGITS, ~S & S)
    assert np.isnan(none.value)
    with pytest.raises(ValueError, match="finite logits"):
        metrics.nte(np.where(S[:, None], np.nan, LOGITS), S)
    with pytest.raises(ValueError, match=r"y\[3\] = 9 is out of range"):
        metrics.actc(LOGITS, [0, 1, 2, 9, 0, 1], S)
    with pytest.raises(ValueError, match="float logits"):
        metrics.acac([[0, 1]], [True])


def test_equal_distances_have_no_interval_of_no_width():
    x, two = np.full((2, 4, 4, 1), 0.5, np.float32), np.array([True, True])
    z = x + np.float32(0.1)
    missed = 1 - 0.025**0.5
    by_inf, by_two = (metrics.ald(x, z, two, p=p) for p in (np.inf, 2))
    np.testing.assert_allclose((by_inf.low, by_inf.high), (0.1 * (1 - missed), 0.1 + 0.9 * missed), rtol=1e-5)
    np.testing.assert_allclose(by_two.high, 0.4 + 3.6 * missed, rtol=1e-5)  # 4 is the diagonal of 16 entries
    assert metrics.ald(x, z, two, p=2, relative=True).high == np.inf
    assert metrics.ald(2 * x, 2 * z, two, p=np.inf).high == np.inf
    assert metrics.nll(np.zeros((5, 2)), np.zeros(5, int)).high == np.inf
    for sensitivity, heaviest in (("complement", 1.0), ("inverse", 255.0), ("deviation", 0.5)):
        most = 16 * heaviest
        a = metrics.psd(x, z, two, sensitivity=sensitivity)
        np.testing.assert_allclose(a.high, a.value + missed * (most - a.value), rtol=1e-5)


def test_intervals_end_where_the_quantity_does():
    # two examples that differ much: Student's interval alone leaves every range
    logits, two, y = [[9.0, 0.0, 0.0], [0.1, 0.0, 0.0]], [True, True], [0, 1]
    x = np.stack([np.zeros((12, 12, 1)), np.full((12, 12, 1), 0.5)])
    z = np.stack([1 - x[0], x[1]])
    ranges = {
        "acac": (metrics.acac(logits, two), 1 / 3, 1.0),
        "actc": (metrics.actc(logits, y, two), 0.0, 1.0),
        "nte": (metrics.nte(logits, two), 0.0, 1.0),
        "ald 0": (metrics.ald(x, z, two, p=0), 0.0, 1.0),
        "ald 2": (metrics.ald(x, z, two, p=2), 0.0, np.inf),
        "psd": (metrics.psd(x, z, two), 0.0, np.inf),
        "ssim": (metrics.average_ssim(x, z, two), -1.0, 1.0),
        "empirical": (metrics.empirical_robustness(x + 0.01, z, two), 0.0, np.inf),
        "ccv": (metrics.ccv(logits, [[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]], [0, 0]), 0.0, 1.0),
        "cos": (metrics.cos(logits, [[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]], [0, 0]), 0.0, np.log(2)),
    }
    for name, (a, least, most) in ranges.items():
        assert least <= a.low <= a.value <= a.high <= most, name
    assert [ranges[name][0].low for name in ("acac", "nte", "psd", "ssim", "ccv")] == [1 / 3, 0.0, 0.0, -1.0, 0.0]
    # where all have one value the interval is of the share that may differ
    assert metrics.acac([[0.0, 0.0]] * 9, [True] * 9).low == 0.5
    assert 0.5 < metrics.acac([[0.0, 0.0]] * 9, [True] * 9).high < 0.8


def test_distortion():
    d = (Z - X).reshape(6, -1)[S]
    a = X.reshape(6, -1)[S]
    assert metrics.ald(X, Z, S, p=np.inf).value == pytest.approx(np.abs(d).max(1).mean())
    assert metrics.ald(X, Z, S, p=2).value == pytest.approx(np.sqrt((d**2).sum(1)).mean())
    relative = np.sqrt((d**2).sum(1) / (a**2).sum(1)).mean()
    assert metrics.ald(X, Z, S, p=2, relative=True).value == pytest.approx(relative)
    z = X.copy()
    z[:, 0, 0, 0] += 0.5
    z[:, 0, 0, 1] = (np.round(z[:, 0, 0, 1] * 255) + 0.2) / 255  # no level further
    assert metrics.ald(X, z, S, p=0).value == pytest.approx(1 / (12 * 13 * 3))
    for options, word in [({"p": 1}, "0, 2 or inf"), ({"p": 0, "relative": True}, "p=2")]:
        with pytest.raises(ValueError, match=word):
            metrics.ald(X, Z, S, **options)
    with pytest.raises(ValueError, match=r"x\[0\] is 0 everywhere"):
        metrics.ald(0 * X, Z, S, p=2, relative=True)


def literal_psd(x, z, weigh):
    total = 0.0
    for c in range(x.shape[2]):
        wide = np.pad(x[..., c], 1, "reflect")
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                total += abs(z[i, j, c] - x[i, j, c]) * weigh(wide[i : i + 3, j : j + 3].std())
    return total


@pytest.mark.parametrize(
    ("name", "weigh"),
    [("complement", lambda s: 1 - s), ("inverse", lambda s: 1 / max(s, 1 / 255)), ("deviation", lambda s: s)],
)
def test_sensitivity(name, weigh):
    x = X[:2].copy()
    x[0, :4, :4] = 0.5  # flat
    expected = np.mean([literal_psd(a, b, weigh) for a, b in zip(x, Z[:2])])
    assert metrics.psd(x, Z[:2], S[:1].repeat(2), sensitivity=name).value == pytest.approx(expected)


def test_similarity_by_a_literal_window():
    at = np.arange(11) - 5
    g = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    g /= g.sum()

    def one(a, b):
        scores = []
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                m, n = (g * p).sum(), (g * q).sum()
                u, v, w = (g * (p - m) ** 2).sum(), (g * (q - n) ** 2).sum(), (g * (p - m) * (q - n)).sum()
                scores.append((2 * m * n + 1e-4) * (2 * w + 9e-4) / ((m**2 + n**2 + 1e-4) * (u + v + 9e-4)))
        return np.mean(scores)

    expected = [np.mean([one(a[..., c], b[..., c]) for c in range(3)]) for a, b in zip(X, Z)]
    np.testing.assert_allclose(metrics.ssim(X, Z), expected, rtol=1e-9)
    assert metrics.average_ssim(X, Z, S).value == pytest.approx(np.mean(np.array(expected)[S]))
    a, b = np.full((1, 11, 11, 1), 0.3), np.full((1, 11, 11, 1), 0.6)
    assert metrics.ssim(a, b)[0] == pytest.approx((2 * 0.18 + 1e-4) / (0.09 + 0.36 + 1e-4))
    with pytest.raises(ValueError, match="window must be odd"):
        metrics.ssim(X[:, :8], Z[:, :8])
    assert metrics.ssim(X[:, :8], X[:, :8], window=7) == pytest.approx(np.ones(6))
    with pytest.raises(ValueError, match="takes images"):
        metrics.psd(X[..., 0], Z[..., 0], S)


def test_what_survives_a_blur_and_a_compression():
    # class 1 iff the left half is brighter than a checkerboard's contrast: a blur wipes that out
    board = (np.indices((8, 8)).sum(0) % 2).astype(np.float32)

    def model(x):
        contrast = jnp.abs(jnp.sum((x[..., 0] - 0.5) * (2 * board - 1), axis=(1, 2)))
        return jnp.stack([jnp.full_like(contrast, 8.0), contrast], 1)

    fine = np.full((8, 8), 0.5, np.float32) + 0.3 * (2 * board - 1)  # contrast 19.2: class 1
    flat = np.full((8, 8), 0.5, np.float32)
    z = np.stack([fine, fine, flat])[..., None]
    assert metrics.logits(model, z).argmax(1).tolist() == [1, 1, 0]
    y, success = np.array([0, 0, 1]), np.ones(3, bool)
    kept = metrics.blur_robustness(model, z, y, success, sigma=2.0)
    assert (kept.count, kept.n, kept.side) == (1, 3, "estimate")  # the flat image stays
    assert metrics.blur_robustness(model, z, y, success, sigma=0).value == 1.0
    assert metrics.blur_robustness(model, z, y, success, sigma=2.0, target=[1, 1, 0]).count == 1
    assert metrics.compression_robustness(model, z, y, success, quality=90).value == 1.0
    coarse = jr.corruptions.corruption(
        jr.corruptions.cifar_c["jpeg_compression"].render, "jpeg", [(1,)]
    )  # at the coarsest quality
    by_hand = [np.asarray(coarse.corrupt(jax.random.key(0), image, 1)) for image in z]
    expected = metrics.logits(model, np.stack(by_hand)).argmax(1) != y
    assert metrics.compression_robustness(model, z, y, success, quality=1).count == expected.sum()
    with pytest.raises(ValueError, match="none could survive"):
        metrics.blur_robustness(model, z, y, ~success)
    with pytest.raises(ValueError, match="quality"):
        metrics.compression_robustness(model, z, y, success, quality=0)
    with pytest.raises(ValueError, match="sigma"):
        metrics.blur_robustness(model, z, y, success, sigma=-1)


def test_logits_in_batches():
    w = RNG.normal(size=(5, 3)).astype(np.float32)
    x = RNG.normal(size=(11, 5)).astype(np.float32)
    np.testing.assert_allclose(metrics.logits(lambda x: x @ w, x, batch_size=4), x @ w, rtol=1e-5)
    noisy = jr.objectives.stochastic(lambda key, x: x @ w, 2)
    with pytest.raises(TypeError, match="random model needs a key"):
        metrics.logits(noisy, x)
    with pytest.raises(ValueError, match=r"x\[3, 0\] = nan is not finite"):
        metrics.logits(lambda x: x @ w, np.where(np.arange(11)[:, None] == 3, np.nan, x))
    with pytest.raises(ValueError, match="batch_size"):
        metrics.logits(lambda x: x @ w, x, batch_size=0)
