"""Denoisers in front: exact against Gaussian data, for which the best denoiser is known; through `certify`, traced and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrobust import smoothing

KEY = jax.random.key(0)
LINEAR, COSINE = smoothing.linear_schedule(), smoothing.cosine_schedule()
MEAN = np.array([0.3, 0.6, 0.5])
ROOT = np.array([[0.2, 0.0, 0.0], [0.1, 0.05, 0.0], [-0.1, 0.1, 0.15]])
COVARIANCE = ROOT @ ROOT.T  # of the data, in units of [0, 1]


def exact(schedule):
    """The best predictor of the noise for data u = 2 x - 1, x ~ N(MEAN, COVARIANCE), by its conditional expectation."""
    mean, covariance = 2 * MEAN - 1, 4 * COVARIANCE
    gains = [np.sqrt(1 - a) * np.linalg.inv(a * covariance + (1 - a) * np.eye(3)) for a in schedule]

    def predict(x_t, t):
        shift = jnp.sqrt(jnp.asarray(schedule, jnp.float32))[t][:, None] * jnp.asarray(mean, jnp.float32)
        return jnp.einsum("bij,bj->bi", jnp.asarray(np.stack(gains), jnp.float32)[t], x_t - shift)

    return predict


def wiener(z, sigma):
    return MEAN + (z - MEAN) @ np.linalg.solve(COVARIANCE + sigma**2 * np.eye(3), COVARIANCE)


def data(n, sigma):
    first, second = jax.random.split(KEY)
    x = np.asarray(MEAN + jax.random.normal(first, (n, 3)) @ ROOT.T)
    return x, np.asarray(x + sigma * jax.random.normal(second, (n, 3)), np.float32)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("t", [20, 300, 600])
def test_one_step_of_the_best_predictor_is_the_best_denoiser(schedule, t):
    """Where sigma is exactly that of a step, the Wiener filter of the data in [0, 1]: so t, the factor 2, scale and way back are right."""
    sigma = float(np.sqrt((1 - schedule[t]) / schedule[t])) / 2
    assert smoothing.timestep(schedule, sigma) == t
    assert smoothing.timestep(schedule, sigma * 1.0001) == t + 1
    _, z = data(50, sigma)
    found = smoothing.one_step(exact(schedule), schedule, sigma, clip=False)(z)
    np.testing.assert_allclose(found, wiener(z, sigma), atol=2e-5)
    clipped = smoothing.one_step(exact(schedule), schedule, sigma)(z)
    np.testing.assert_allclose(clipped, np.clip(wiener(z, sigma), 0, 1), atol=2e-5)


def test_forgetting_the_factor_2_or_the_scale_is_worse():
    x, z = data(4000, 0.25)
    predict = exact(LINEAR)

    def error(denoise):
        return float(jnp.mean((denoise(z) - x) ** 2))

    right = error(smoothing.one_step(predict, LINEAR, 0.25, clip=False))
    assert right == pytest.approx(float(np.mean((wiener(z, 0.25) - x) ** 2)), rel=1e-3)
    assert right < 0.5 * 0.25**2
    assert error(smoothing.one_step(predict, LINEAR, 0.125, clip=False)) > 1.1 * right  # t for 2 sigma = 0.25, not 0.5
    t = smoothing.timestep(LINEAR, 0.25)
    keep, noise = np.sqrt(LINEAR[t]), np.sqrt(1 - LINEAR[t])

    def unscaled(z):
        u = 2 * z - 1
        return ((u - noise * predict(u, jnp.full(len(z), t))) / keep + 1) / 2

    assert error(unscaled) > 1.005 * right


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_schedules_are_theirs(steps):
    """By their definitions, written out: a product of 1 - beta, and the cosine's ratio."""
    beta = np.linspace(0.1 / steps, min(20 / steps, 0.999), steps)
    expected = [np.prod(1 - beta[: t + 1]) for t in range(steps)]
    np.testing.assert_allclose(smoothing.linear_schedule(steps), expected, rtol=1e-9)
    curve = [np.cos((t / steps + 0.008) / 1.008 * np.pi / 2) ** 2 for t in range(steps + 1)]
    cosine = smoothing.cosine_schedule(steps)
    np.testing.assert_allclose(cosine[:-1], np.array(curve[1:-1]) / curve[0], rtol=1e-9)
    assert cosine[-1] == pytest.approx(1e-3 * cosine[-2])  # the last beta is cut to 0.999


def test_timestep_traced_is_timestep():
    sigmas = np.linspace(0.02, 3.0, 40)
    traced = jax.jit(jax.vmap(lambda s: smoothing.timestep(LINEAR, s)))(jnp.asarray(sigmas))
    assert traced.tolist() == [smoothing.timestep(LINEAR, s) for s in sigmas]
    assert int(jax.jit(lambda s: smoothing.timestep(LINEAR, s))(1e4)) == 999
    _, z = data(5, 0.3)
    swept = jax.jit(lambda s: smoothing.one_step(exact(COSINE), COSINE, s)(z))(0.3)
    np.testing.assert_allclose(swept, smoothing.one_step(exact(COSINE), COSINE, 0.3)(z), atol=1e-5)


def test_edm_is_the_same_denoiser():
    """EDM's own D of the Gaussian data, at 2 sigma."""
    t = 400
    sigma = float(np.sqrt((1 - COSINE[t]) / COSINE[t])) / 2
    mean, covariance = jnp.asarray(2 * MEAN - 1, jnp.float32), jnp.asarray(4 * COVARIANCE, jnp.float32)

    def denoise(z, s):
        gain = jax.vmap(lambda v: jnp.linalg.solve(covariance + v**2 * jnp.eye(3), covariance))(s)
        return mean + jnp.einsum("bi,bij->bj", z - mean, gain)

    predict = smoothing.edm_noise(denoise, COSINE)
    _, z = data(20, sigma)
    np.testing.assert_allclose(smoothing.one_step(predict, COSINE, sigma, clip=False)(z), wiener(z, sigma), atol=2e-5)
    times = jnp.arange(0, 1000, 50)
    np.testing.assert_allclose(predict(jnp.ones((20, 3)), times), exact(COSINE)(jnp.ones((20, 3)), times), atol=5e-3)


def test_a_denoiser_certifies_what_the_classifier_cannot():
    """Data on a line, a classifier that is right on the line alone: under noise it guesses, behind the best denoiser it knows."""
    along = np.array([0.0, 0.0, 0.2])
    x = jnp.asarray(np.array([0.5, 0.5, 0.5]) + np.linspace(-1.5, 1.5, 6)[:, None] * along, jnp.float32)

    def classify(z):
        off = jnp.sum(jnp.abs(z[:, :2] - 0.5), -1)
        score = jnp.where(off < 0.1, z[:, 2] - 0.5, 0.5 - z[:, 2])
        return jnp.stack([score, -score], -1)

    covariance = 4 * np.outer(along, along)

    def predict(x_t, t):
        a = jnp.asarray(LINEAR, jnp.float32)[t][0]
        gain = jnp.sqrt(1 - a) * jnp.linalg.inv(a * jnp.asarray(covariance, jnp.float32) + (1 - a) * jnp.eye(3))
        return x_t @ gain

    y = (np.linspace(-1.5, 1.5, 6) < 0).astype(int)
    how = {"noise": smoothing.gaussian(0.2), "n": 500, "key": KEY, "batch_size": 250}
    bare = smoothing.certify(classify, x, **how)
    behind = smoothing.certify(smoothing.denoised(smoothing.one_step(predict, LINEAR, 0.2), classify), x, **how)
    assert bare.accuracy(y, 0.0).value < 0.5
    assert behind.accuracy(y, 0.0).value == 1.0
    assert bool((behind.radius <= np.abs(np.asarray(x[:, 2]) - 0.5) + 1e-6).all())  # no further than the boundary
    assert behind.average_radius(y).value > 0.1


def test_the_arrays_of_both_are_leaves():
    denoise, classify = (jax.tree_util.Partial(jnp.multiply, jnp.asarray(a)) for a in (2.0, 3.0))
    both = smoothing.denoised(denoise, classify)
    assert len(jax.tree.leaves(both)) == 2
    np.testing.assert_allclose(both(jnp.ones(2)), 6.0)


def test_nonsense_is_refused():
    with pytest.raises(
        ValueError, match=r"no step of the schedule has the noise of sigma = 100; the last has that of 78"
    ):
        smoothing.timestep(LINEAR, 100.0)
    with pytest.raises(ValueError, match="sigma is one finite number"):
        smoothing.one_step(exact(LINEAR), LINEAR, -1.0)
    with pytest.raises(ValueError, match=r"abar \[T\], decreasing"):
        smoothing.one_step(exact(LINEAR), LINEAR[::-1], 0.25)
    with pytest.raises(ValueError, match="steps must be an int >= 2"):
        smoothing.cosine_schedule(1)
    with pytest.raises(ValueError, match="0 < first <= last < 1"):
        smoothing.linear_schedule(10, first=0.5, last=0.1)
