"""Defences with hidden gradients: attacked naively they look robust, through `bpda` and `eot` they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.objectives import bpda, eot, straight_through

W = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
X = np.random.default_rng(1).uniform(0.2, 0.8, (24, 12)).astype(np.float32)


def net(x):
    return x @ W


Y = np.argmax(X @ W, 1)


def rounded(x):
    return jnp.round(16 * x) / 16


def accuracy(model, oracle=None):
    oracle = jr.attacks.pgd(steps=20) if oracle is None else oracle
    options = {"threat": jr.sets.linf(0.3, clip=(0, 1)), "key": jax.random.key(0)}
    return jr.evaluate(model, X, Y, oracles={"attack": oracle}, **options)["attack"].holds.mean()


def test_a_rounding_defence_only_hides_the_gradient():
    through = straight_through(rounded)
    bare, defended, honest = (accuracy(m) for m in (net, lambda x: net(rounded(x)), lambda x: net(through(x))))
    # the gradient is zero: PGD stays at its random start
    assert defended >= 0.9
    assert max(bare, honest) <= 0.05


def test_a_random_defence_is_attacked_in_expectation(key):
    def shifted(
        key, x
    ):  # the input rolled by a random number of entries, and back by a fixed one: most draws see nonsense
        return x + 0.3 * jax.random.normal(key, x.shape, x.dtype)

    model = eot(net, shifted, 16)
    assert accuracy(model) < 0.2
    # the expectation: mean of the draws' probabilities, its gradient that of the mean surrogate
    f = jr.objectives.classification(eot(lambda z: z @ W, shifted, 500), int(Y[0])).at(key)
    exact = jr.objectives.classification(lambda z: z @ W, int(Y[0]))
    g, h = (jax.grad(lambda z, f=f: f.climb(jr.objectives.logit_difference, z)[0])(X[0]) for f in (f, exact))
    assert float(g @ h / jnp.linalg.norm(g) / jnp.linalg.norm(h)) > 0.9
    both = eot(jr.objectives.stochastic(lambda key, x: net(shifted(key, x)), 1), shifted, 8)
    assert both.draws(key, X).shape == (8, 24, 4)


def test_values_are_the_forward_ones_and_derivatives_the_backward_ones(key):
    scale = jnp.asarray(3.0)

    def total(x, scale):
        def soft(z):  # closes over what is differentiated
            return scale * jnp.tanh(z)

        return jnp.sum(bpda(lambda z: jnp.sign(z) * scale, soft)(x))

    x = jax.random.normal(key, (5,))
    np.testing.assert_array_equal(jax.jit(total)(x, scale), jnp.sum(jnp.sign(x) * scale))
    for order in (jax.grad, lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x, scale) ** 2))):
        got = order(total)(x, scale) if order is jax.grad else order(total)(x)
        smooth = lambda x, scale: jnp.sum(scale * jnp.tanh(x))  # noqa: E731
        wanted = order(smooth)(x, scale) if order is jax.grad else order(smooth)(x)
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(total, 1)(x, scale), jnp.sum(jnp.tanh(x)), rtol=1e-5)
    # vmap, and a function that jax cannot differentiate at all
    host = straight_through(
        lambda z: jax.pure_callback(np.round, jax.ShapeDtypeStruct(z.shape, z.dtype), z, vmap_method="sequential")
    )
    np.testing.assert_array_equal(jax.vmap(jax.grad(lambda z: jnp.sum(host(z))))(x[:, None]), jnp.ones((5, 1)))
    np.testing.assert_array_equal(jax.vmap(host)(x[:, None]), jnp.round(x)[:, None])


def test_bounds_see_the_defence_itself():
    s = jr.sets.linf(0.1)(jnp.full(12, 0.5))
    lo, hi = jr.bounds.output_bounds(lambda z: straight_through(jax.nn.relu)(z - 0.5), s, method=jr.bounds.ibp())
    np.testing.assert_allclose((lo, hi), (jnp.zeros(12), jnp.full(12, 0.1)), atol=1e-6)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="must return alike"):
        jax.grad(lambda z: jnp.sum(straight_through(lambda z: z[:2])(z)))(jnp.ones(3))
    with pytest.raises(ValueError, match="n must be an int >= 1"):
        eot(net, lambda key, x: x, 0)
