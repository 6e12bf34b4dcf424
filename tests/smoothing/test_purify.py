"""Purification and the diffusion classifier, exact against Gaussian data; as models that are attacked and certified."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import smoothing

KEY = jax.random.key(0)
LINEAR, COSINE = smoothing.linear_schedule(), smoothing.cosine_schedule()
MEAN, DEVIATION = np.array([0.4, 0.5, 0.7]), np.array([0.2, 0.05, 0.1])  # of the data in [0, 1]


def exact(schedule, mean, deviation):
    """The best predictor of the noise for data of independent normal entries, in [-1, 1]."""
    mean, variance = (jnp.asarray(a, jnp.float32) for a in (2 * mean - 1, (2 * deviation) ** 2))

    def predict(x_t, t):
        a = jnp.asarray(schedule, jnp.float32)[t][:, None]
        return (x_t - jnp.sqrt(a) * mean) * jnp.sqrt(1 - a) / (a * variance + 1 - a)

    return predict


def recursion(schedule, x, at):
    """Mean, deviation and slope of what comes out, by the recursion of the linear equation, in float64."""
    mean, variance = 2 * MEAN - 1, (2 * DEVIATION) ** 2
    a = schedule[at[0]]
    slope, spread = np.full(3, np.sqrt(a)), np.full(3, 1 - a)
    middle = np.sqrt(a) * (2 * x - 1)
    for t, after in itertools.pairwise(at):
        a, b = schedule[t], 1.0 if after < 0 else schedule[after]
        beta, pull = 1 - a / b, 1 / (a * variance + 1 - a)
        factor = 1 + beta / 2 - beta * pull
        middle = factor * middle + beta * pull * np.sqrt(a) * mean
        slope, spread = slope * factor, spread * factor**2 + (beta if after >= 0 else 0.0)
    return (middle + 1) / 2, np.sqrt(spread) / 2, slope


@pytest.mark.parametrize("steps", [None, 20])
def test_a_purified_example_is_distributed_as_the_equation_says(steps):
    x, n = np.array([0.1, 0.9, 0.7]), 4000
    at = np.arange(150, -2, -1) if steps is None else np.round(np.linspace(150, -1, 21)).astype(int)
    purify = smoothing.diffpure(exact(LINEAR, MEAN, DEVIATION), LINEAR, t_star=150, steps=steps)
    batch = jnp.asarray(np.tile(x, (n, 1)), jnp.float32)
    found = np.asarray(jax.jit(purify)(KEY, batch))
    middle, spread, slope = recursion(LINEAR, x, at)
    np.testing.assert_allclose(found.mean(0), middle, atol=4 * spread.max() / np.sqrt(n))
    np.testing.assert_allclose(found.std(0), spread, rtol=0.06)
    full = jax.jit(jax.grad(lambda z: purify(KEY, z).sum()))(batch[:2])  # through every step, computed again
    np.testing.assert_allclose(full, np.tile(slope, (2, 1)), rtol=1e-3)
    assert abs(middle[1] - 0.5) < 0.25 * abs(x[1] - 0.5)  # what is unlike the data goes


def test_data_stay_data():
    """The reverse equation of the best predictor leaves the data's distribution as it is."""
    x = jnp.asarray(MEAN + DEVIATION * np.random.default_rng(0).normal(size=(4000, 3)), jnp.float32)
    found = np.asarray(jax.jit(smoothing.diffpure(exact(LINEAR, MEAN, DEVIATION), LINEAR, t_star=200))(KEY, x))
    np.testing.assert_allclose(found.mean(0), MEAN, atol=0.015)
    np.testing.assert_allclose(found.std(0), DEVIATION, rtol=0.1)


def test_as_a_defence_it_is_attacked_both_ways():
    """Data along the last entry, a classifier that trusts the first too: purified it holds where the bare one falls, not at any radius."""
    mean, deviation = np.array([0.5, 0.5, 0.5]), np.array([0.01, 0.01, 0.2])
    x = np.tile(np.float32(0.5), (16, 3))
    x[:, 2] += np.tile([-0.3, 0.3], 8)
    y = np.tile([0, 1], 8)

    def classify(z):
        score = z[:, 2] - 0.5 + 5 * (z[:, 0] - 0.5)
        return jnp.stack([-score, score], -1)

    purify = smoothing.diffpure(exact(LINEAR, mean, deviation), LINEAR, t_star=60, steps=10)
    full = jr.objectives.eot(classify, purify, 8)
    bpda = jr.objectives.eot(classify, jr.objectives.straight_through(purify), 8)

    def accuracy(model, eps):
        threat, attack = jr.sets.linf(eps, clip=(0, 1)), jr.attacks.pgd(steps=10)
        found = jr.evaluate(model, x, y, threat=threat, oracles={"pgd": attack}, key=KEY, batch_size=16)
        return float(found["pgd"].holds.mean())

    assert accuracy(classify, 0.1) == 0.0
    assert min(accuracy(full, 0.1), accuracy(bpda, 0.1)) == 1.0
    assert accuracy(full, 0.5) == 0.0


CENTRES = np.array([[0.25, 0.6], [0.65, 0.55], [0.5, 0.2]])
WIDTHS = np.array([0.15, 0.2, 0.12])


def of_classes(x_t, t, y):
    """The best predictor of the noise for classes N(CENTRES[y], WIDTHS[y]^2)."""
    a = jnp.asarray(COSINE, jnp.float32)[t][:, None]
    centre, width = jnp.asarray(2 * CENTRES - 1, jnp.float32)[y], jnp.asarray(2 * WIDTHS, jnp.float32)[y][:, None]
    return (x_t - jnp.sqrt(a) * centre) * jnp.sqrt(1 - a) / (a * width**2 + 1 - a)


@pytest.mark.parametrize("sigma", [0.0, 0.25])
def test_its_logits_are_log_likelihoods(sigma):
    """Up to a constant, those of the noisy example under N(CENTRES[y], WIDTHS[y]^2 + sigma^2), in the mean over draws."""
    x = np.random.default_rng(0).uniform(size=(6, 2)).astype(np.float32)
    variance = WIDTHS**2 + sigma**2
    exactly = -np.sum((x[:, None] - CENTRES) ** 2, -1) / 2 / variance - np.log(variance)
    model = smoothing.diffusion_classifier(of_classes, COSINE, classes=3, levels=128, sigma=sigma)
    found = np.asarray(jax.jit(jax.vmap(model, (0, None)))(jax.random.split(KEY, 400), x))
    found = found - found.mean(-1, keepdims=True)
    error = 4 * found.std(0).max() / np.sqrt(400)
    assert error < 0.05
    wanted = exactly - exactly.mean(-1, keepdims=True)
    np.testing.assert_allclose(found.mean(0), wanted, rtol=0.01, atol=error + 0.03)


def test_an_answer_does_not_depend_on_the_batch():
    model = smoothing.diffusion_classifier(of_classes, COSINE, classes=3, levels=8)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 2)), jnp.float32)
    np.testing.assert_allclose(model(KEY, x)[3:4], model(KEY, x[3:4]), rtol=1e-5)


def test_a_classifier_of_noisy_examples_is_certified_and_a_random_one_attacked():
    x = jnp.asarray(CENTRES, jnp.float32)
    y, sigma = np.arange(3), 0.1
    model = smoothing.diffusion_classifier(of_classes, COSINE, classes=3, levels=200, sigma=sigma)
    how = {"noise": smoothing.gaussian(sigma), "n": 500, "key": KEY, "batch_size": 500}
    found = smoothing.certify(jax.tree_util.Partial(model, jax.random.key(3)), x, **how)

    def bayes(z):
        variance = WIDTHS**2 + sigma**2
        return -jnp.sum((z[:, None] - CENTRES.astype(np.float32)) ** 2, -1) / 2 / variance - np.log(variance)

    best = smoothing.certify(bayes, x, **how)
    assert found.prediction.tolist() == best.prediction.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.radius, best.radius, atol=0.05)
    assert bool((best.radius > 0.05).all())
    clean = jr.objectives.stochastic(smoothing.diffusion_classifier(of_classes, COSINE, classes=3, levels=24), 4)
    attack, key = {"pgd": jr.attacks.pgd(steps=10)}, KEY
    holds = [
        jr.evaluate(clean, x, y, threat=jr.sets.l2(eps), oracles=attack, key=key, batch_size=3)["pgd"].holds.tolist()
        for eps in (0.08, 0.4)
    ]
    assert holds == [[True] * 3, [False] * 3]  # half the way to the boundary, and beyond it


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="t_star < 1000"):
        smoothing.diffpure(of_classes, LINEAR, t_star=1000)
    with pytest.raises(ValueError, match="steps <= t_star"):
        smoothing.diffpure(of_classes, LINEAR, t_star=5, steps=7)
    with pytest.raises(ValueError, match="not 2000 levels"):
        smoothing.diffusion_classifier(of_classes, LINEAR, classes=3, levels=2000)
    with pytest.raises(ValueError, match="classes must be an int >= 2"):
        smoothing.diffusion_classifier(of_classes, LINEAR, classes=1)
