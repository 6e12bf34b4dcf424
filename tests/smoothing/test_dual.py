"""Dual smoothing: the radius is that of the worst half-spaces, and the published one is broken by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from jrobust import smoothing
from jrobust.smoothing._dual import joint_probability

KEY = jax.random.key(0)
SIGMA = 0.4


def left_over(left, right, angle, r):
    """What two half-spaces keep of the winner's sum, above 1/2 each, after a move of length r split by an angle."""
    moved = norm.ppf([left, right]) - r * np.array([np.cos(angle), np.sin(angle)]) / SIGMA
    return norm.cdf(moved).sum() - 1


def exact(left, right):
    """The least move after which the sum is 1, by root finding over every split."""
    angles = np.linspace(0, np.pi / 2, 181)
    return min(brentq(lambda r, a=a: left_over(left, right, a, r), 0, 20) for a in angles)


@pytest.mark.parametrize(("left", "right"), [(0.99, 0.6), (0.8, 0.8), (0.95, 0.4), (0.7, 0.9)])
def test_the_radius_is_that_of_the_worst_half_spaces(left, right):
    radius = float(smoothing.gaussian(SIGMA).certify(joint_probability(left, right)))
    assert radius <= exact(left, right)
    np.testing.assert_allclose(radius, exact(left, right), atol=1e-6)


def test_the_published_quadrature_is_broken():
    left, right = 0.99, 0.6
    quadrature = SIGMA * np.hypot(*norm.ppf([left, right]))
    assert quadrature / SIGMA == pytest.approx(2.340, abs=1e-3)
    assert exact(left, right) / SIGMA == pytest.approx(1.824, abs=1e-3)
    assert left_over(left, right, np.pi / 4, 0.9 * quadrature) < -0.05  # well inside the published radius: lost
    assert joint_probability(0.9, 0.1) <= 0.5
    one_below = smoothing.gaussian(SIGMA).certify(joint_probability(0.95, 0.4))
    assert one_below > 0


W = jax.random.normal(jax.random.key(5), (2, 4, 4, 1))
SHIFTS = (0.2, 0.9)


def linear(part):
    def model(z):
        score = (z * W[part]).sum((1, 2, 3)) + SHIFTS[part]
        return jnp.stack([score, -score], 1)

    return model


def effective(part):
    """The weights of the half's own pixels, once those erased repeat their neighbours."""
    mine = (np.add.outer(np.arange(4), np.arange(4)) % 2 == part)[..., None]
    w = np.asarray(W[part], np.float64)
    return np.where(mine, w + w[:, [1, 0, 3, 2]], 0)


def probabilities(x):
    return np.array(
        [norm.cdf(((effective(p) * x).sum() + SHIFTS[p]) / SIGMA / np.linalg.norm(effective(p))) for p in (0, 1)]
    )


def test_end_to_end_against_exact_probabilities():
    x = 0.2 * jax.random.normal(KEY, (12, 4, 4, 1))
    done = smoothing.dual((linear(0), linear(1)), x, sigma=SIGMA, n=20_000, key=KEY, batch_size=5000)
    assert done.norm == "l2"
    assert done.confidence == 0.999
    assert (done.counts.sum(1) == 40_000).all()
    seen = 0
    for image, c, radius in zip(np.asarray(x, np.float64), done.prediction, done.radius, strict=True):
        p = probabilities(image)
        lead = SIGMA / np.sqrt(2) * norm.ppf(p if p.sum() > 1 else 1 - p).sum()
        if c < 0:
            assert radius == 0
            assert lead < 0.05
            continue
        seen += 1
        assert c == int(p.sum() < 1)
        assert lead - 0.06 < radius <= lead
        # the worst move of exactly that length: it leads to the boundary, and the published radius lies beyond
        way = [(-1) ** c * effective(k) / np.linalg.norm(effective(k)) / np.sqrt(2) for k in (0, 1)]
        moved = probabilities(image - 1.001 * lead * sum(way))
        assert (moved.sum() < 1) == (c == 0)
        inside = probabilities(image - 0.999 * lead * sum(way))
        assert (inside.sum() > 1) == (c == 0)
    assert seen >= 8


def test_many_draws_of_many_images_are_counted_a_few_images_at_a_time(monkeypatch):
    asked = []

    def instead(noise, leaves, key, stage, index, x, begin, end, size, **rest):
        asked.append(size * (end - begin))
        return np.tile(np.array([end - begin, 0]), (len(x), 1))

    monkeypatch.setattr("jrobust.smoothing._run.votes", instead)
    x, options = np.zeros((1000, 2, 2, 1)), {"n0": 1, "n": 3_000_000, "key": KEY}
    tiny = [lambda z, w=w: z.reshape(len(z), -1)[:, :2] + w for w in (0.0, 1.0)]
    done = smoothing.dual(tiny, x, sigma=SIGMA, batch_size=1000, **options)
    assert (done.prediction == 0).all()
    assert done.counts.tolist() == [[6_000_000, 0]] * 1000
    assert max(asked) < 2**31


def test_the_mean_radius_ends_at_the_largest_that_there_is():
    sure = lambda z: jnp.stack([jnp.ones(len(z)), jnp.zeros(len(z))], 1)  # noqa: E731
    done = smoothing.dual((sure, sure), jnp.zeros((3, 2, 2, 1)), sigma=SIGMA, n=50, key=KEY)
    np.testing.assert_array_equal(done.radius, done.most)  # all draws agree
    assert np.isfinite(done.most)
    mixed = done.average_radius([0, 0, 1])
    assert 0 == mixed.low < mixed.value < mixed.high == done.most
    assert done.average_radius([0, 0, 0]).low < done.most


def test_batches_of_two_sizes_say_the_same():
    x = 0.2 * jax.random.normal(KEY, (7, 4, 4, 1))
    one, other = (
        smoothing.dual((linear(0), linear(1)), x, sigma=SIGMA, n0=3, n=40, key=KEY, batch_size=b) for b in (5, 1000)
    )
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.selected, other.selected)


def test_a_half_depends_on_its_own_pixels_alone():
    for part, noise in enumerate(smoothing.halves(SIGMA)):
        other = (np.add.outer(np.arange(3), np.arange(5)) % 2 != part)[..., None]
        x = jax.random.normal(KEY, (3, 5, 2))
        changed = jnp.where(other, 7.0, x)
        np.testing.assert_array_equal(noise.sample(KEY, x), noise.sample(KEY, changed))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": linear(0)}, TypeError, "two, .*got function"),
        ({"models": (linear(0),)}, TypeError, "two, .*got 1 of them"),
        ({"key": 3}, TypeError, "typed PRNG key"),
        ({"x": np.zeros((2, 4, 4))}, ValueError, r"\[N, H, W, C\]"),
        ({"models": (linear(0), lambda z: jnp.zeros((len(z), 3)))}, ValueError, "2 and 3"),
        ({"alpha": 2.0}, ValueError, "alpha"),
        ({"sigma": 0.0}, ValueError, "sigma"),
    ],
)
def test_bad_input(change, error, message):
    call = {"models": (linear(0), linear(1)), "x": np.zeros((2, 4, 4, 1)), "sigma": SIGMA, "n": 10, "key": KEY} | change
    with pytest.raises(error, match=message):
        smoothing.dual(call.pop("models"), call.pop("x"), **call)
    with pytest.raises(ValueError, match="W >= 2"):
        smoothing.halves(0.1)[0].sample(KEY, jnp.zeros(3))
