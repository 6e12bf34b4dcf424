"""Loss fusion: above every loss of the set, below interval arithmetic's, exact where nothing is relaxed, one walk back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training

X, Y = jax.random.uniform(jax.random.key(1), (6, 5)), jnp.arange(6) % 4
HOW = {"key": jax.random.key(0), "train": True}


def net(activation):
    def apply(params, rest, x, *, train):
        for w in params[:-1]:
            x = activation(x @ w)
        return x @ params[-1], rest

    return jr.objectives.cross_entropy(apply)


def weights(seed, scale=1.0, widths=(5, 9, 7, 4)):
    keys = jax.random.split(jax.random.key(seed), len(widths) - 1)
    return [
        scale * jax.random.normal(k, w) / w[0] ** 0.5 for k, w in zip(keys, itertools.pairwise(widths), strict=True)
    ]


def losses(robust, params):
    return robust.build(0)(params, None, X, Y, **HOW)[0]


@pytest.mark.parametrize(
    ("activation", "threat"),
    [(jax.nn.relu, jr.sets.linf(0.1)), (jnp.tanh, jr.sets.l2(0.4, clip=(0, 1)))],
    ids=["relu, linf", "tanh, l2"],
)
def test_it_lies_above_sampled_losses_and_below_intervals(activation, threat):
    loss = net(activation)
    fused = jax.jit(lambda p: losses(training.fused(loss, threat), p))
    by_ibp = jax.jit(lambda p: losses(training.certified(loss, threat, jr.bounds.ibp()), p))
    inside = jax.vmap(lambda k: jax.vmap(lambda x, i: threat(x).sample(jax.random.fold_in(k, i)))(X, jnp.arange(6)))
    z = inside(jax.random.split(jax.random.key(2), 100))
    attack = jr.worst_case(loss, threat, jr.attacks.pgd(steps=20))
    for seed in range(2):
        params = weights(seed, scale=2.0)
        found = fused(params)
        seen = jnp.max(jax.vmap(lambda v, p=params: loss(p, None, v, Y)[0])(z), 0)
        climbed = attack(params, None, X, Y, **HOW)[0]
        assert bool(jnp.all(found >= jnp.maximum(seen, climbed) - 1e-5))
        assert bool(jnp.all(found <= by_ibp(params) + 1e-4))
        assert bool(jnp.any(found < 0.98 * by_ibp(params)))  # and not only because it is the same


def test_of_a_set_of_one_point_it_is_the_loss_and_so_is_its_gradient():
    loss = net(jax.nn.relu)
    mean = lambda robust: jax.value_and_grad(lambda p: jnp.mean(robust(p)))(weights(0))  # noqa: E731
    value, slope = mean(lambda p: losses(training.fused(loss, jr.sets.linf(0.0)), p))
    expected, gradient = mean(lambda p: loss(p, None, X, Y)[0])
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for a, b in zip(slope, gradient, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_one_margin_has_its_own_bound_and_the_chord():
    """By hand, of a linear net with two classes: the margin's ends are m -+ eps |w|, and the bound is exact."""
    w = jnp.array([[1.0, -2.0], [0.5, 0.25]])
    loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    x, y = jnp.array([[0.2, 0.6], [0.9, 0.1]]), jnp.array([0, 1])
    found = training.fused(loss, jr.sets.linf(0.1)).build(0)(w, None, x, y, **HOW)[0]
    sign = jnp.array([-1.0, 1.0])
    margin = sign * (x @ (w[:, 0] - w[:, 1])) + 0.1 * jnp.sum(jnp.abs(w[:, 0] - w[:, 1]))
    np.testing.assert_allclose(found, jnp.log1p(jnp.exp(margin)), rtol=1e-5)


@pytest.mark.parametrize("scale", [30.0, 1e3])
def test_large_margins_do_not_overflow(scale):
    loss, threat = net(jax.nn.relu), jr.sets.linf(0.1)
    value = lambda p: jnp.mean(losses(training.fused(loss, threat), p))  # noqa: E731
    found, slope = jax.value_and_grad(value)(weights(3, scale=scale))
    assert bool(jnp.isfinite(found))
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in slope)
    params = weights(3, scale=scale)
    assert float(found) <= float(jnp.mean(losses(training.certified(loss, threat, jr.bounds.ibp()), params))) * 1.001


def test_schedules_and_weights_are_those_of_certified_training():
    loss, params = net(jax.nn.relu), weights(0)
    eps, kappa = (lambda t: 0.1 * t), (lambda t: 1.0 - 0.5 * t)
    robust = training.fused(loss, jr.sets.linf(9.0), eps=eps, kappa=kappa)
    at = lambda t: robust.build(t)(params, None, X, Y, **HOW)[0]  # noqa: E731
    clean = loss(params, None, X, Y)[0]
    np.testing.assert_allclose(at(0), clean, rtol=1e-5)
    full = losses(training.fused(loss, jr.sets.linf(0.1)), params)
    np.testing.assert_allclose(at(1), 0.5 * clean + 0.5 * full, rtol=1e-4)
    step = jax.jit(training.make_step(training.fused(loss, jr.sets.linf(0.02)), optax.adam(0.02)))
    state = training.init(params, None, optax.adam(0.02))
    seen = [(pair := step(state, (X, Y), key=jax.random.key(0)), state := pair[0])[0][1]["loss"] for _ in range(60)]
    assert float(seen[-1]) < 0.8 * float(seen[0])


def test_nonsense_is_refused():
    loss = net(jax.nn.relu)
    with pytest.raises(ValueError, match="fused"):
        training.fused(loss, jr.sets.linf(0.1), jr.attacks.fgsm())
    with pytest.raises(TypeError, match="fused takes ibp, crown_ibp, crown or alpha_crown, got zonotope"):
        training.fused(loss, jr.sets.linf(0.1), jr.bounds.zonotope())
