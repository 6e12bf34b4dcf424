"""On affine functions every method is exact, for every set; last layers are bounded as one map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from tests.bounds.problems import SETS

METHODS = [jr.bounds.ibp(), jr.bounds.crown_ibp(), jr.bounds.crown()]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", SETS)
def test_linear_models(method, name):
    k_w, k_v, k_x = jax.random.split(jax.random.key(0), 3)
    w, v = jax.random.normal(k_w, (5, 6)), jax.random.normal(k_v, (4, 5))
    s = SETS[name](jax.random.uniform(k_x, (6,)))
    f = jr.objectives.classification(lambda z: v @ (w @ z - 1.0) + 0.5, 2)
    m = (v @ w)[jnp.array([0, 1, 3])] - (v @ w)[2]
    exact = jax.vmap(s.support)(m) + f(jnp.zeros(6))
    np.testing.assert_allclose(method.solve(jax.random.key(0), f, s).info["elements"], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_product_sets(method):
    threat = jr.sets.product(jr.sets.l2(0.5), jr.sets.box(-1.0, 1.0))
    s = threat((jnp.array([1.0, 2.0]), jnp.zeros(3)))
    lo, hi = jr.bounds.output_bounds(lambda z: (jnp.sum(z[0] * 3.0) - jnp.sum(z[1]))[None], s, method=method)
    reach = 0.5 * 3 * np.sqrt(2) + 3
    np.testing.assert_allclose([lo[0], hi[0]], [9 - reach, 9 + reach], rtol=1e-5)


def test_ibp_folds_the_margins_into_the_last_layer():
    w = jax.random.normal(jax.random.key(0), (3, 8))
    s = jr.sets.linf(0.2)(jax.random.normal(jax.random.key(1), (8,)))
    h = jax.nn.relu
    lo, hi = h(s.center - 0.2), h(s.center + 0.2)
    c = w[1:] - w[0]
    exact = c @ (lo + hi) / 2 + jnp.abs(c) @ (hi - lo) / 2
    f = jr.objectives.classification(lambda z: w @ h(z), 0)
    np.testing.assert_allclose(jr.bounds.ibp().solve(None, f, s).info["elements"], exact, rtol=1e-5)


def test_the_label_may_be_traced():
    w = jax.random.normal(jax.random.key(0), (4, 3))
    s = jr.sets.l2(0.1)(jnp.ones(3))

    def solve(y):
        f = jr.objectives.classification(lambda z: w @ jax.nn.relu(z), y)
        return jr.bounds.crown().solve(None, f, s).info["elements"]

    y = jnp.arange(4)
    np.testing.assert_allclose(jax.jit(jax.vmap(solve))(y), jnp.stack([solve(int(i)) for i in y]), rtol=1e-5)


def test_batch_statistics_free_power_sets():
    s = jr.sets.power(jr.sets.linf(0.1))(jnp.ones((3, 2)))
    lo, hi = jr.bounds.output_bounds(lambda z: jnp.abs(z).sum(axis=1), s, method=jr.bounds.ibp())
    np.testing.assert_allclose(jnp.stack([lo, hi]), [[1.8] * 3, [2.2] * 3], rtol=1e-6)


def test_a_constant_function():
    f = jr.objectives.objective(lambda z: jnp.array([1.0, 2.0]) + 0 * jnp.sum(jnp.zeros(3)))
    assert jr.bounds.crown().solve(None, f, jr.sets.linf(0.1)(jnp.ones(3))).value == 2.0


def test_nan_is_infinity():
    f = jr.objectives.objective(lambda z: jnp.log(z))
    bound = jr.bounds.crown().solve(None, f, jr.sets.linf(2.0)(jnp.ones(2)))
    assert bound.value == jnp.inf or bound.value >= np.log(3.0) - 1e-6
    f = jr.objectives.objective(lambda z: -jnp.log(z))
    assert jr.bounds.ibp().solve(None, f, jr.sets.linf(2.0)(jnp.ones(2))).value == jnp.inf
