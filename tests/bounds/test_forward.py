"""Forward CROWN and zonotopes: sound for every rule, exact on affine functions, ordered, and DeepZ's figures by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from tests.bounds.problems import SETS, along, mlp, weights
from tests.bounds.test_rules import RULES, check_rule
from tests.thin import thinned

METHODS = {"forward-crown": jr.bounds.forward_crown(), "zonotope": jr.bounds.zonotope()}


@pytest.mark.parametrize("name", thinned(RULES, 8, ["relu", "products"]))
def test_rule(name):
    check_rule(name, METHODS.values())


TWO = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@TWO
def test_affine_functions_are_exact_for_every_norm(method):
    k_w, k_v, k_x = jax.random.split(jax.random.key(0), 3)
    w, v = jax.random.normal(k_w, (5, 6)), jax.random.normal(k_v, (4, 5))
    m = (v @ w)[jnp.array([0, 1, 3])] - (v @ w)[2]
    for threat in SETS.values():
        s = threat(jax.random.uniform(k_x, (6,)))
        f = jr.objectives.classification(lambda z: v @ (w @ z - 1.0) + 0.5, 2)
        exact = jax.vmap(s.support)(m) + f(jnp.zeros(6))
        np.testing.assert_allclose(method.solve(None, f, s).info["elements"], exact, rtol=1e-5, atol=1e-5)


@TWO
def test_product_sets(method):
    s = jr.sets.product(jr.sets.l2(0.5), jr.sets.box(-1.0, 1.0))((jnp.array([1.0, 2.0]), jnp.zeros(3)))

    def fn(z):  # the ReLU is active on the whole set: affine in both
        return jax.nn.relu(jnp.sum(z[0] * 3.0) - jnp.sum(z[1]))[None] - jnp.sum(z[0])

    reach = 0.5 * 2 * np.sqrt(2) + 3
    np.testing.assert_allclose(jr.bounds.output_bounds(fn, s, method=method), [[6 - reach], [6 + reach]], rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2 clipped", "l1"])
def test_order_on_random_nets(norm):
    """Below interval arithmetic in every entry; CROWN backward is tighter on the average, and points of the set lie below all."""
    oracles = METHODS | {"ibp": jr.bounds.ibp(), "crown": jr.bounds.crown()}

    def elements(key):
        s = SETS[norm](jax.random.uniform(jax.random.fold_in(key, 1), (4,)))
        f = jr.objectives.classification(lambda z: mlp(weights(key), z), 0)
        points = jax.vmap(lambda k: f(s.sample(k)))(jax.random.split(key, 300))
        return {name: o.solve(None, f, s).info["elements"] for name, o in oracles.items()} | {"points": points.max(0)}

    seen = jax.jit(jax.vmap(elements))(jax.random.split(jax.random.key(3), 20))
    for name in METHODS:
        assert jnp.all(seen[name] <= seen["ibp"] + 1e-5), name
        assert jnp.mean(seen[name]) < jnp.mean(seen["ibp"]) - 0.05, name
        assert jnp.all(seen["points"] <= seen[name] + 1e-5), name
    assert jnp.mean(seen["crown"]) <= jnp.mean(seen["forward-crown"]) + 1e-4


@TWO
def test_a_grid_of_the_plane(method):
    w = weights(jax.random.key(5), (2, 6, 6, 2))
    s = jr.sets.linf(0.5)(jnp.array([0.2, -0.1]))
    axis = jnp.linspace(-0.5, 0.5, 201)
    out = jax.vmap(jax.vmap(lambda a, b: mlp(w, s.center + jnp.stack([a, b])), (0, None)), (None, 0))(axis, axis)
    lo, hi = jr.bounds.output_bounds(lambda z: mlp(w, z), s, method=method)
    assert jnp.all((lo <= out.min((0, 1)) + 1e-6) & (out.max((0, 1)) <= hi + 1e-6))
    assert jnp.all(hi - lo <= 3 * (out.max((0, 1)) - out.min((0, 1))))


def test_the_figure_of_deepz():
    """One hidden layer by hand: slope u / (u - l), error -u l / (2 (u - l)), and symbols that cancel."""
    s = jr.sets.linf(1.0)(jnp.zeros(2))
    first, out = jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([[1.0, 1.0], [1.0, -1.0]])
    bias = jnp.array([1.0, 0.0])
    # h1 in [-1, 3]: slope 3/4, error 3/8, centre 3/4 + 3/8; h2 in [-2, 2]: slope 1/2, error 1/2, centre 1/2
    # their sum: 13/8 + 5/4 a + 1/4 b +- 7/8; their difference: 5/8 + 1/4 a + 5/4 b +- 7/8
    lo, hi = jr.bounds.output_bounds(lambda z: out @ jax.nn.relu(first @ z + bias), s, method=METHODS["zonotope"])
    np.testing.assert_allclose(hi, [13 / 8 + 12 / 8 + 7 / 8, 5 / 8 + 12 / 8 + 7 / 8], rtol=1e-6)
    # the first intersected with interval arithmetic (a sum of ReLUs is not negative), the second 5/8 - 12/8 - 7/8
    np.testing.assert_allclose(lo, [0.0, -14 / 8], atol=1e-6)
    # a symbol that leaves and comes back cancels: relu(h) - relu(h) is 0, which no box knows
    lo, hi = jr.bounds.output_bounds(
        lambda z: jnp.diff(jnp.stack([jax.nn.relu(z)] * 2), axis=0)[0], s, method=METHODS["zonotope"]
    )
    np.testing.assert_allclose([lo, hi], 0.0, atol=1e-6)


def test_less_memory_is_sound_and_looser():
    w = weights(jax.random.key(0), (4, 30, 30, 30, 3))
    s = jr.sets.linf(0.3)(jnp.ones(4) / 2)
    f = jr.objectives.objective(lambda z: mlp(w, z))
    points = jax.vmap(lambda k: f(s.sample(k)))(jax.random.split(jax.random.key(1), 1000)).max(0)
    bounds = [jr.bounds.zonotope(memory=30 * 4 * rows).solve(None, f, s).info["elements"] for rows in (4, 10, 50, 94)]
    for b in bounds:
        assert jnp.all(points <= b + 1e-5)
    means = [float(b.mean()) for b in bounds]
    assert np.all(np.diff(means) <= 1e-5)
    assert means[0] > means[3] + 1e-4
    np.testing.assert_allclose(bounds[3], METHODS["zonotope"].solve(None, f, s).info["elements"], rtol=1e-5)
    for method in (jr.bounds.zonotope(memory=30 * 4 * 3), jr.bounds.forward_crown(memory=30 * 4 * 7)):
        with pytest.raises(ValueError, match="raise memory="):
            method.solve(None, f, s)
    with pytest.raises(ValueError, match="an int >= 1"):
        jr.bounds.zonotope(memory=0)


@TWO
def test_pure(method):
    value = along(method, SETS["linf"](jnp.ones(4) / 2))
    batch = jax.jit(jax.vmap(value))(jnp.zeros(3), jnp.arange(3))
    np.testing.assert_allclose(batch, [value(0.0, y) for y in range(3)], rtol=1e-5)
    # away from t = 0, where CROWN's adaptive slope of a ReLU turns over
    slope, difference = jax.jit(jax.grad(value))(2e-3), (value(3e-3) - value(1e-3)) / 2e-3
    np.testing.assert_allclose(slope, difference, rtol=0.05)


def test_nan_and_overflow_reach_the_bound():
    s = jr.sets.linf(0.5)(jnp.array([0.1, -0.2, 0.3]))
    for method in METHODS.values():
        for fn in (jnp.log, lambda z: z / z, lambda z: jnp.tanh(jnp.log(z)), lambda z: z * 3e38 * 10.0 * 1e-38):
            assert jnp.all(jr.bounds.output_bounds(fn, s, method=method)[1] == jnp.inf)


def test_every_affine_primitive_is_pushed():
    """A new affine primitive needs its absolute value here, else its interval serves."""
    from jrobust.bounds._affine import PUSHED
    from jrobust.bounds._tables import AFFINE

    assert set(AFFINE) <= PUSHED
