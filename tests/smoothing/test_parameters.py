"""Smoothing over a transformation's parameter: the semigroups, and radii against exact thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jrobust import smoothing

KEY = jax.random.key(0)
WAVE = jnp.cos(2 * jnp.pi * jnp.arange(8) / 8)
IMAGE = jnp.broadcast_to(WAVE[None, :, None], (6, 8, 1))
FREQUENCY = 2 * np.pi / 8


def test_blurs_add_up():
    x = jax.random.normal(KEY, (5, 6, 2))
    twice = smoothing.blurred(smoothing.blurred(x, 0.7), 1.1)
    np.testing.assert_allclose(twice, smoothing.blurred(x, 1.8), atol=1e-5)
    np.testing.assert_allclose(smoothing.blurred(x, 0.0), x, atol=1e-5)
    np.testing.assert_allclose(smoothing.blurred(x, 1e3), jnp.broadcast_to(x.mean((0, 1)), x.shape), atol=1e-5)
    np.testing.assert_allclose(smoothing.blurred(IMAGE, 2.0), np.exp(-(FREQUENCY**2)) * IMAGE, atol=1e-5)


def test_the_radius_of_blur_is_exact_for_a_threshold():
    # class 0 while the wave is stronger than c, that is while the variance is below t
    t, mean = 3.0, 1.5
    p = 1 - np.exp(-t / mean)
    radius = float(smoothing.blur(mean).certify(p))
    assert radius == pytest.approx(t - mean * np.log(2))
    for v, wins in ((0.999 * radius, True), (1.001 * radius, False)):
        assert (1 - np.exp(-(t - v) / mean) > 0.5) == wins
    # two-sided: the runner-up q gains by the ratio alone
    assert smoothing.blur(mean).certify(0.6, 0.1) == pytest.approx(-mean * np.log(0.5))

    def model(z):
        strength = (z * IMAGE).sum((1, 2, 3)) / (IMAGE**2).sum() - np.exp(-t * FREQUENCY**2 / 2)
        return jnp.stack([strength, -strength], 1)

    x = jnp.stack([smoothing.blurred(IMAGE, v) for v in (0.0, 1.0)])
    done = smoothing.certify(model, x, noise=smoothing.blur(mean), n=20_000, key=KEY, batch_size=2000)
    exact = t - np.array([0.0, 1.0]) - mean * np.log(2)
    assert (done.radius <= exact).all()
    np.testing.assert_allclose(done.radius, exact, atol=0.15)
    assert done.norm == "blur variance"


def above(threshold, value):
    def model(z):
        s = jax.vmap(value)(z) - threshold
        return jnp.stack([s, -s], 1)

    return model


@pytest.mark.parametrize(
    ("noise", "model", "exact"),
    [
        (smoothing.brightness(0.5), above(-0.4, jnp.mean), 0.4),
        (smoothing.contrast(0.5), above(0.6, lambda z: jnp.sqrt(2 * jnp.mean(z**2))), np.log(1 / 0.6)),
    ],
)
def test_the_radius_is_the_distance_to_the_threshold(noise, model, exact):
    done = smoothing.certify(model, IMAGE[None], noise=noise, n=20_000, key=KEY, batch_size=2000)
    assert done.prediction[0] == 0
    assert exact - 0.05 < done.radius[0] <= exact + 1e-6


def test_brightness_and_contrast_on_every_kind_of_set():
    # sets of the plane of parameters (k, b) take the part of class 0; their probabilities are sums over a fine grid
    sigma, of_contrast = 0.4, 0.3
    k, b = np.meshgrid(np.linspace(-1.8, 1.8, 121), np.linspace(-3, 3, 241), indexing="ij")

    def probability(inside, at_k, at_b):
        density = norm.pdf(k, at_k, of_contrast) * norm.pdf(b, at_b, np.exp(-at_k) * sigma)
        return (density * inside).sum() / density.sum()

    rng, least, seen = np.random.default_rng(0), np.inf, 0
    for trial in range(40):
        kind, t = trial % 5, rng.uniform(0.3, 1.5)
        way = rng.normal(size=2)
        way /= np.linalg.norm(way)
        flat = way[0] * k / of_contrast + way[1] * b / sigma < t
        inside = (flat, np.abs(b) < t, np.abs(b) > t / 6, flat & (np.abs(b) < 2 * t), k**2 + b**2 < t**2)[kind]
        p = probability(inside, 0.0, 0.0)
        if p <= 0.5:
            continue
        for most in (0.0, 0.05, 0.15):
            radius = float(smoothing.brightness_contrast(sigma, of_contrast, contrast=most).certify(p))
            if radius == 0:
                continue
            seen += 1
            for at_k in (most, most / 2, 0.0, -most / 2, -most):
                for at_b in (radius, -radius, radius / 2):
                    moved = probability(inside, at_k, at_b)
                    least = min(least, moved)
                    assert moved > 0.5 - 0.02
    assert seen > 20
    assert least < 0.53  # some set is close to the worst


def test_brightness_with_no_contrast_is_brightness():
    p = np.array([0.6, 0.9, 0.99])
    both = smoothing.brightness_contrast(0.4, 0.3, contrast=0.0)
    np.testing.assert_allclose(both.certify(p), smoothing.brightness(0.4).certify(p))
    np.testing.assert_allclose(both.certify(p, 0.005), smoothing.brightness(0.4).certify(p, 0.005))
    z = both.sample(KEY, IMAGE)
    slope = (z[0, 0, 0] - z[0, 4, 0]) / (IMAGE[0, 0, 0] - IMAGE[0, 4, 0])
    np.testing.assert_allclose(z, slope * IMAGE + (z - slope * IMAGE).mean(), atol=1e-5)
    with pytest.raises(ValueError, match="contrast is"):
        smoothing.brightness_contrast(0.4, 0.3, contrast=-1.0)


def test_translations_by_whole_pixels():
    sigma = 1.5
    start = jnp.zeros((1, 15, 15, 1)).at[0, 7, 7].set(1.0)

    def model(z):  # class 0: the point is in the rows 3..
        row = (z.sum((2, 3)) * jnp.arange(15)).sum(1) - 2.5
        return jnp.stack([row, -row], 1)

    noise = smoothing.translation(sigma)
    done = smoothing.certify(model, start, noise=noise, n=20_000, key=KEY, batch_size=2000)
    rows = np.arange(-40, 41)
    weight = norm.cdf((rows + 0.5) / sigma) - norm.cdf((rows - 0.5) / sigma)
    wins = [weight[((7 + v + rows) % 15) >= 3].sum() > 0.5 for v in range(0, -8, -1)]
    safe = wins.index(False) - 1  # the last whole move up that keeps the class
    assert 2.5 < done.radius[0] < safe + 1
    z = noise.sample(KEY, start[0])
    assert z.sum() == 1
    moved = jax.vmap(lambda k: noise.sample(k, jnp.roll(start[0], 2, 0)))(jax.random.split(KEY, 20))
    same = jax.vmap(lambda k: jnp.roll(noise.sample(k, start[0]), 2, 0))(jax.random.split(KEY, 20))
    np.testing.assert_array_equal(moved, same)


@pytest.mark.parametrize("make", [smoothing.brightness, smoothing.contrast, smoothing.translation, smoothing.blur])
def test_bad_input(make):
    with pytest.raises(ValueError, match="one finite number > 0"):
        make(0.0)
    if make in (smoothing.translation, smoothing.blur):
        with pytest.raises(ValueError, match="an image is"):
            make(1.0).sample(KEY, jnp.zeros(3))
