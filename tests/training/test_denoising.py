"""Losses of denoisers: their formulas, their minima on Gaussian data, a frozen classifier, and training by `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jrobust as jr
from jrobust import models, smoothing, training
from jrobust.training._noisy import noises, streams
from tests.training.nets import blobs, dense, dense_params

KEY = jax.random.key(0)
HOW = {"key": KEY, "train": True}
X, Y = (jnp.asarray(a[:8]) for a in blobs())
ABAR = smoothing.cosine_schedule()


def affine(params, rest, x, *, train):
    return x * params["w"] + params["b"], rest


HALF = {"w": jnp.asarray(0.5), "b": jnp.asarray(0.1)}


def classify(x):
    return dense(dense_params(), None, x, train=False)[0]


def test_losses_are_their_formulas():
    noisy = X + noises(streams(KEY)[0], X, 0.3, 1)[0]
    found = 0.5 * noisy + 0.1
    losses, rest = training.denoise(affine, 0.3)(HALF, "rest", X, Y, **HOW)
    assert rest == "rest"
    np.testing.assert_allclose(losses, np.mean(np.square(found - X), (1, 2, 3)), rtol=1e-5)
    logits, clean = classify(found), classify(X)
    targets = {
        "class": jax.nn.one_hot(jnp.argmax(clean, -1), 4),
        "soft": jax.nn.softmax(clean),
        "label": jax.nn.one_hot(Y, 4),
    }
    for target, wanted in targets.items():
        losses, _ = training.denoise_stably(affine, 0.3, classify, target=target)(HALF, None, X, Y, **HOW)
        np.testing.assert_allclose(losses, -jnp.sum(wanted * jax.nn.log_softmax(logits), -1), rtol=1e-4)
    assert not bool(jnp.all(jnp.argmax(clean, -1) == Y))  # or "class" and "label" would be one


def test_the_soft_target_is_a_constant():
    """Its gradient is that of the student's side alone: at x itself (no noise, D the identity) it is softmax minus softmax, zero."""
    loss = training.denoise_stably(affine, 0.0, classify, target="soft")
    slope = jax.grad(lambda p: loss(p, None, X, Y, **HOW)[0].sum())({"w": jnp.asarray(1.0), "b": jnp.asarray(0.0)})
    np.testing.assert_allclose(slope["w"], 0.0, atol=1e-5)


def test_fit_finds_the_wiener_filter():
    """Of data of one variance: w = s^2 / (s^2 + sigma^2), through `make_step` and `fit`, labels unseen."""
    x = 0.5 + 0.2 * jax.random.normal(KEY, (2000, 4, 4, 1))
    tx = optax.adam(optax.cosine_decay_schedule(0.03, 400))
    step = training.make_step(training.denoise(affine, 0.3), tx)
    start = training.init({"w": jnp.asarray(1.0), "b": jnp.asarray(0.0)}, None, tx)
    args = {"epochs": 4, "batch_size": 20, "key": KEY, "box": None, "show": False}
    state = training.fit(step, start, x, jnp.zeros(2000, int), **args)
    gain = 0.04 / (0.04 + 0.09)
    assert float(state.params["w"]) == pytest.approx(gain, abs=0.02)
    assert float(state.params["b"]) == pytest.approx(0.5 * (1 - gain), abs=0.02)


def test_the_loss_of_a_diffusion_model_is_least_at_the_best_predictor():
    """Data N(mean, s^2) in [0, 1]: the loss of the exact predictor is the mean over t of ``abar v / (abar v + 1 - abar)``, v = 4 s^2."""
    x = 0.5 + 0.2 * jax.random.normal(KEY, (4000, 8))
    variance = 4 * 0.2**2

    def best(scale, rest, given, *, train):
        x_t, t = given
        a = jnp.asarray(ABAR, jnp.float32)[t][:, None]
        return scale * jnp.sqrt(1 - a) * x_t / (a * variance + 1 - a), rest

    def at(scale):
        return float(training.diffusion(best, ABAR)(scale, None, x, jnp.zeros(4000, int), **HOW)[0].mean())

    expected = float(np.mean(ABAR * variance / (ABAR * variance + 1 - ABAR)))
    assert at(1.0) == pytest.approx(expected, rel=0.05)
    assert at(0.9) > at(1.0) < at(1.1)


def test_labels_are_told_and_withheld():
    seen = {}

    def look(p, rest, given, *, train):
        seen["y"] = given[2]
        return given[0], rest

    y = jnp.arange(1000) % 4
    loss = training.diffusion(look, ABAR, classes=4, drop=0.25)
    loss(None, None, jnp.zeros((1000, 2)), y, **HOW)
    withheld = seen["y"] == 4
    assert float(withheld.mean()) == pytest.approx(0.25, abs=0.05)
    assert bool(jnp.all(withheld | (seen["y"] == y)))


def test_a_unet_learns_both_ways():
    """A class-conditional diffusion model and a plain denoiser of blobs: better than "no noise", and than the noise."""
    x, y = blobs()
    tx = optax.adam(3e-3)
    run = {"epochs": 40, "batch_size": 48, "key": KEY, "show": False}

    def trained(net, loss_of, **how):
        f = jr.nnx.functional(net, **how)
        step, start = training.make_step(loss_of(f.apply), tx), training.init(f.params, f.rest, tx)
        state = training.fit(step, start, x, y, **run)
        return jr.nnx.merge(net, state.params, state.rest)

    rngs = nnx.Rngs(0)
    net = models.unet((4, 4, 1), widths=(8, 8), classes=4, rngs=rngs)
    net = trained(net, lambda apply: training.diffusion(apply, ABAR, classes=4), call=type(net).of)
    noisy = jnp.asarray(x) + 0.3 * jax.random.normal(KEY, x.shape)
    denoised = smoothing.one_step(net, ABAR, 0.3)(noisy)
    plain = trained(models.unet((4, 4, 1), widths=(8,), time=False, rngs=rngs), lambda a: training.denoise(a, 0.3))
    for found in (denoised, plain(noisy)):
        assert float(jnp.mean((found - x) ** 2)) < 0.5 * 0.3**2
    assert float(jnp.mean((denoised - plain(noisy)) ** 2)) > 0  # two nets


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="sigma is one finite number"):
        training.denoise(affine, -0.1)
    with pytest.raises(ValueError, match="target is 'class', 'soft' or 'label'"):
        training.denoise_stably(affine, 0.1, classify, target="hard")
    with pytest.raises(ValueError, match=r"abar \[T\]"):
        training.diffusion(affine, [0.1, 0.2])
    with pytest.raises(ValueError, match=r"drop lies in \[0, 1\]"):
        training.diffusion(affine, ABAR, classes=3, drop=2)
    with pytest.raises(ValueError, match="images of the shape of its input"):
        training.denoise(lambda p, rest, x, *, train: (x[:, :2], rest), 0.1)(None, None, X, Y, **HOW)
