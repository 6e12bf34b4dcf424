"""Losses under noise: their limits without it, their formulas, and what they are on linear nets in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

import jrobust as jr
from jrobust import training
from jrobust.objectives._classification import divergence
from jrobust.training._noisy import inconsistency, noises, noisy_copies, streams
from jrobust.training._smooth_adv import stein
from jrobust.training._smooth_mix import mixed
from tests.training.nets import blobs, dense, dense_params

X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
PARAMS = dense_params()
KEY = jax.random.key(0)
HOW = {"key": KEY, "train": True}
NOISE = streams(KEY)[0]
BALL = jr.sets.l2(0.5, clip=(0, 1))


def apply_linear(params, rest, x, *, train):
    del train
    return x @ params, rest


LINEAR = jr.objectives.cross_entropy(apply_linear)


def logits_at(z):
    return dense(PARAMS, None, z.reshape(-1, *X.shape[1:]), train=True)[0].reshape(-1, 8, 4)


def of(robust, x=X, y=Y, params=PARAMS):
    return robust(params, None, x, y, **HOW)[0]


def ce(logits, y=Y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(y, logits.shape[:-1]))


WITHOUT_NOISE = {
    "noisy": training.noisy(LOSS, 0.0, samples=3),
    "stability": training.stability(LOSS, 0.0),
    "stability, clean": training.stability(LOSS, 0.0, at="clean"),
    "consistency": training.consistency(LOSS, 0.0, entropy=0.0),
    "macer": training.macer(LOSS, 0.0),
    "smooth_adv": training.smooth_adv(LOSS, jr.sets.l2(0.0), 0.0),
    "smooth_mix": training.smooth_mix(LOSS, 0.0, weight=0.0),
}


@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_without_noise_it_is_the_loss(name):
    np.testing.assert_allclose(of(WITHOUT_NOISE[name]), LOSS(PARAMS, None, X, Y)[0], rtol=1e-5)


def test_without_noise_smooth_adv_is_adversarial_training():
    attack = jr.attacks.pgd(steps=3, start="center", keep="last")
    found = of(training.smooth_adv(LOSS, BALL, 0.0, attack=attack))
    np.testing.assert_allclose(found, of(jr.worst_case(LOSS, BALL, attack)), rtol=1e-4)
    assert bool(jnp.all(found > LOSS(PARAMS, None, X, Y)[0] + 0.05))


def test_losses_are_their_formulas():
    noise = noises(NOISE, X, 0.3, 4)
    logits = logits_at(X + noise)
    p = jax.nn.softmax(logits)
    q = p.mean(0)
    np.testing.assert_allclose(of(training.noisy(LOSS, 0.3, samples=4)), ce(logits).mean(0), rtol=1e-5)
    away = jnp.sum(q * (jnp.log(q) - jnp.log(p)), -1).mean(0)
    spread = -jnp.sum(q * jnp.log(q), -1)
    consistent = ce(logits).mean(0) + 5.0 * away + 0.5 * spread
    np.testing.assert_allclose(of(training.consistency(LOSS, 0.3, samples=4, weight=5.0)), consistent, rtol=1e-4)
    clean, under = logits_at(X)[0], logits_at(X + noises(NOISE, X, 0.3, 1))[0]
    drift = divergence(clean, under)
    assert bool(jnp.all(drift > 1e-5))
    np.testing.assert_allclose(of(training.stability(LOSS, 0.3)), ce(under) + 2 * drift, rtol=1e-4)
    crossed = ce(clean) - 3 * jnp.sum(jax.nn.softmax(clean) * jax.nn.log_softmax(under), -1)
    by_entropy = training.stability(LOSS, 0.3, weight=3.0, distance="cross_entropy", at="clean")
    np.testing.assert_allclose(of(by_entropy), crossed, rtol=1e-4)


def test_a_constant_net_is_consistent():
    constant = jnp.broadcast_to(jnp.array([3.0, -1.0, 0.5, 0.0]), (5, 8, 4))
    np.testing.assert_allclose(inconsistency(constant, 20.0, 0.0), 0.0, atol=1e-5)
    wild = jax.random.normal(KEY, (5, 8, 4))
    assert bool(jnp.all(inconsistency(wild, 20.0, 0.0) > 0.1))


def test_noise_is_that_of_its_level():
    x = jnp.zeros((50, 40))
    assert float(jnp.std(noisy_copies(KEY, x, 0.7, 10))) == pytest.approx(0.7, rel=0.02)
    assert float(jnp.std(noisy_copies(KEY, x, jr.smoothing.gaussian(0.7), 10))) == pytest.approx(0.7, rel=0.02)
    copies = noisy_copies(KEY, x, jr.smoothing.gaussian(0.7), 2)
    assert abs(float(jnp.corrcoef(copies[0].ravel(), copies[1].ravel())[0, 1])) < 0.08
    assert abs(float(jnp.corrcoef(copies[0, 0], copies[0, 1])[0, 1])) < 0.6


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_the_radius_of_macer_is_that_of_a_linear_net(sigma):
    """Two classes split by ``w.x = 0``: under noise y has probability Phi(w.x / (sigma |w|)), so that the radius is ``w.x / |w|``."""
    w, samples, gamma = jnp.array([[3.0, -3.0], [4.0, -4.0]]), 20_000, 3.0
    x = sigma * jnp.array([[0.6, 0.8], [0.3, 0.4], [-0.6, -0.8]]) * jnp.array([[1.0], [1.2], [1.0]])
    hard = {"samples": samples, "gamma": gamma, "sharpness": 1e4}
    y = jnp.zeros(3, int)
    hinged, plain = (of(training.macer(LINEAR, sigma, weight=v, **hard), x, y, w) for v in (2.0, 0.0))
    radius = x @ jnp.array([0.6, 0.8])
    expected = np.where(radius > 0, sigma * gamma - 2 * radius, 0.0)  # 2 sigma / 2 (gamma - 2 R / sigma)
    np.testing.assert_allclose(hinged - plain, expected, atol=0.06 * sigma)
    p = norm.cdf(np.asarray(radius) / sigma)
    sharp = of(training.macer(LINEAR, sigma, weight=0.0, samples=samples), x, y, 1e3 * w)
    np.testing.assert_allclose(jnp.exp(-sharp), p, atol=0.02)  # the loss is -log of the mean, not the mean of -log


def test_what_macer_cannot_measure_it_drops():
    far = jnp.array([[50.0, -50.0], [0.0, 0.0]])
    x = jnp.array([[1.0, 0.0]])
    value, slope = jax.value_and_grad(lambda w: of(training.macer(LINEAR, 0.1), x, jnp.zeros(1, int), w).sum())(far)
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_smooth_adv_goes_straight_to_the_boundary_of_a_linear_net():
    w = jnp.array([[3.0, -1.0], [0.0, 2.0], [1.0, 1.0]])
    x, y = jnp.zeros((4, 3)), jnp.array([0, 1, 0, 1])
    towards = (w[:, 1] - w[:, 0]) / jnp.linalg.norm(w[:, 1] - w[:, 0])
    expected = 0.5 * jnp.where(y == 0, 1.0, -1.0)[:, None] * towards
    args = w, None, x, y
    z = training.smooth_adv(LINEAR, jr.sets.l2(0.5), 0.3, samples=4, attack=2).craft(*args, key=KEY)
    np.testing.assert_allclose(z, expected, atol=1e-4)
    guess = training.smooth_adv(LINEAR, jr.sets.l2(0.5), 0.3, samples=4000, attack=2, gradient="stein")
    z = guess.craft(*args, key=KEY)
    assert bool(jnp.all(jnp.sum(z * expected, -1) > 0.97 * 0.25))
    found = training.smooth_adv(LINEAR, jr.sets.l2(2.0), 0.3, samples=50, attack=jr.attacks.ddn(steps=40))
    x = jnp.tile(jnp.array([[0.3, 0.0, 0.0]]), (2, 1))
    z = found.craft(w, None, x, jnp.array([0, 1]), key=KEY)
    across = x @ (w[:, 0] - w[:, 1])
    np.testing.assert_allclose(z[1], x[1])  # misclassified from the start: the closest violation is the example
    assert float(z[0] @ (w[:, 0] - w[:, 1])) == pytest.approx(0.0, abs=0.2 * float(across[0]))
    np.testing.assert_allclose((z[0] - x[0]) / jnp.linalg.norm(z[0] - x[0]), towards, atol=0.05)


def test_the_noise_of_the_attack_is_that_of_the_loss():
    robust = training.smooth_adv(LOSS, BALL, 0.3, samples=3, attack=2)
    z = robust.craft(PARAMS, None, X, Y, key=KEY)
    expected = ce(logits_at(z + noises(NOISE, X, 0.3, 3))).mean(0)
    np.testing.assert_allclose(of(robust), expected, rtol=1e-5)
    both = training.smooth_adv(LOSS, BALL, 0.3, samples=3, attack=2, consistency=(2.0, 0.5))
    more = inconsistency(logits_at(z + noises(NOISE, X, 0.3, 3)), 2.0, 0.5)
    np.testing.assert_allclose(of(both), expected + more, rtol=1e-4)


@pytest.mark.parametrize("quadratic", [False, True])
def test_steins_estimate_is_unbiased(quadratic):
    """Against the gradients ``a`` and ``2 A z`` of the smoothed functions, within four of its standard errors."""
    a, A, z, sigma, m = (
        jnp.array([1.0, -2.0, 0.5]),
        jnp.diag(jnp.array([1.0, 3.0, -2.0])),
        jnp.array([0.4, 0.1, -0.3]),
        0.5,
        8,
    )

    def estimate(key):
        noise = sigma * jax.random.normal(key, (m, 3))
        v = z + noise
        values = jnp.einsum("mi,ij,mj->m", v, A, v) if quadratic else v @ a
        mean, slope = jax.value_and_grad(lambda z: stein(values[:, None], z, noise, sigma)[0])(z)
        return slope, mean - jnp.mean(values)

    slopes, off = jax.vmap(estimate)(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(off, 0.0, atol=1e-6)  # its value is the mean itself
    error = 4 * jnp.std(slopes, 0) / np.sqrt(len(slopes))
    assert bool(jnp.all(error < 0.15))
    assert bool(jnp.all(jnp.abs(slopes.mean(0) - (2 * A @ z if quadratic else a)) < error))


def test_smooth_mix_at_its_ends():
    z, q = X + 0.5, jax.nn.softmax(logits_at(X)[0])
    point, label = mixed(X, z, q, jnp.zeros(8))
    np.testing.assert_allclose(point, X)
    np.testing.assert_allclose(label, q)
    point, label = mixed(X, z, q, jnp.full(8, 0.5))
    np.testing.assert_allclose(point, X + 0.25, atol=1e-6)
    np.testing.assert_allclose(label, (q + 0.25) / 2, rtol=1e-6)
    robust = training.smooth_mix(LOSS, 0.3, samples=3, steps=4, step=0.5)
    z = robust.craft(PARAMS, None, X, Y, key=KEY)
    far = jnp.sqrt(jnp.sum((z - X) ** 2, (1, 2, 3)))
    assert bool(jnp.all((far > 1.0) & (far < 2.0 + 1e-4)))  # four steps of a half, beyond [0, 1]
    assert bool(jnp.any((z < 0) | (z > 1)))


def test_smooth_mix_is_its_formula_and_leaves_the_wrong_ones_alone():
    robust = training.smooth_mix(LOSS, 0.3, samples=3, steps=2, step=0.5, weight=4.0)
    noise = noises(NOISE, X, 0.3, 3)
    logits = logits_at(X + noise)
    q = jax.nn.softmax(logits).mean(0)
    y = jnp.where(jnp.arange(8) < 4, jnp.argmax(q, -1), (jnp.argmax(q, -1) + 1) % 4)
    share = jax.random.uniform(streams(KEY)[2], (8,), maxval=0.5)
    z = robust.craft(PARAMS, None, X, y, key=KEY)
    point, label = mixed(X, z, q, share)
    log_p = jax.nn.log_softmax(logits_at(point + noise))
    away = jnp.sum(label * (jnp.log(label) - log_p), -1).mean(0)
    expected = ce(logits, y).mean(0) + 4 * jnp.where(jnp.arange(8) < 4, away, 0.0)
    np.testing.assert_allclose(of(robust, y=y), expected, rtol=1e-4)


def test_what_they_are_for():
    """Natural training is sure and wrong under noise; consistency answers alike under all of it; MACER is right more often."""
    x, y = map(jnp.asarray, blobs())

    def trained(loss):
        tx = optax.adam(0.01)
        step, state = jax.jit(training.make_step(loss, tx)), training.init(dense_params(), None, tx)
        for t in range(150):
            state, _ = step(state, (x, y), key=jax.random.key(t))
        copies = noisy_copies(KEY, x, 0.5, 100)
        logits = dense(state.params, None, copies.reshape(-1, 4, 4, 1), train=False)[0].reshape(100, 96, 4)
        share = jnp.mean(jnp.argmax(logits, -1) == y, 0)
        return float(ce(logits, y).mean()), float(inconsistency(logits, 1.0, 0.0).mean()), float(share.mean())

    natural, noisy = trained(LOSS), trained(training.noisy(LOSS, 0.5))
    assert noisy[0] < 0.8 * natural[0]
    consistent, macer = (
        trained(training.consistency(LOSS, 0.5)),
        trained(training.macer(LOSS, 0.5, weight=2.0, sharpness=4.0)),
    )
    assert consistent[1] < 0.5 * noisy[1]
    assert macer[2] > natural[2] + 0.01


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="samples must be an int >= 1"):
        training.noisy(LOSS, 0.1, samples=0)
    with pytest.raises(ValueError, match="samples must be an int >= 2"):
        training.consistency(LOSS, 0.1, samples=1)
    with pytest.raises(ValueError, match="samples must be an int >= 2"):
        training.smooth_adv(LOSS, BALL, 0.1, samples=1, gradient="stein")
    with pytest.raises(ValueError, match="gradient is 'exact' or 'stein'"):
        training.smooth_adv(LOSS, BALL, 0.1, gradient="none")
    with pytest.raises(ValueError, match="distance is"):
        training.stability(LOSS, 0.1, distance="l2")
    with pytest.raises(ValueError, match="at is"):
        training.stability(LOSS, 0.1, at="both")
    with pytest.raises(ValueError, match="stops early"):
        training.smooth_adv(LOSS, BALL, 0.1, attack=jr.attacks.pgd(steps=2, early_stop=True))
    with pytest.raises(ValueError, match="side lower"):
        training.smooth_adv(LOSS, BALL, 0.1, attack=jr.bounds.ibp())
    with pytest.raises(ValueError, match="minimum-norm attack"):
        training.smooth_adv(LOSS, BALL, 0.1, attack=jr.smoothing.cohen(jr.smoothing.gaussian(0.1)))
    with pytest.raises(ValueError, match="steps must be an int >= 1"):
        training.smooth_mix(LOSS, 0.1, steps=0)
    for bad in (-0.1, jnp.nan, [0.1, 0.2]):
        with pytest.raises(ValueError, match="sigma is one finite number"):
            training.noisy(LOSS, bad)
    for of_gaussian in (
        training.macer,
        training.smooth_mix,
        lambda loss, noise: training.smooth_adv(loss, BALL, noise),
    ):
        with pytest.raises(TypeError, match="got gaussian noise"):
            of_gaussian(LOSS, jr.smoothing.gaussian(0.1))
