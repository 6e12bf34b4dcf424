"""Small random nets: bounds are sound, ordered, pure, and independent of the memory budget; calls match by name and body."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr
from jrobust._program import flatten
from jrobust.bounds._tables import CANONICAL

METHODS = (
    jr.bounds.ibp(),
    jr.bounds.crown_ibp(),
    jr.bounds.crown(intermediates=jr.bounds.crown_ibp()),
    jr.bounds.crown(),
)
S = jr.sets.linf(0.05, clip=(0, 1))(jax.random.uniform(jax.random.key(9), (6, 6, 1)))


def net(w, z):
    """Conv, batch norm, leaky ReLU, a residual block, both kinds of pooling, dense."""
    dims = lax.conv_dimension_numbers((1, 6, 6, 1), (3, 3, 1, 4), ("NHWC", "HWIO", "NHWC"))
    conv = lambda h, k: lax.conv_general_dilated(h, k, (1, 1), "SAME", dimension_numbers=dims)  # noqa: E731
    h = conv(z[None], w["conv"])
    h = jax.nn.leaky_relu((h - w["mean"]) * lax.rsqrt(w["var"]))
    h = h + conv(jax.nn.relu(conv(h, w["block"])), w["block"])
    window = (1, 2, 2, 1)
    largest = lax.reduce_window(h, -jnp.inf, lax.max, window, window, "VALID")
    average = lax.reduce_window(h, 0.0, lax.add, window, window, "VALID") / 4
    return jnp.concatenate([largest.ravel(), average.ravel()]) @ w["dense"]


def weights(key):
    shapes = {"conv": (3, 3, 1, 4), "block": (3, 3, 4, 4), "mean": (4,), "dense": (72, 3)}
    drawn = {k: 0.3 * jax.random.normal(jax.random.fold_in(key, i), n) for i, (k, n) in enumerate(shapes.items())}
    return drawn | {"var": jnp.array([0.5, 1.0, 2.0, 1.0])}


W = weights(jax.random.key(0))


def margins(method, w, y=1):
    f = jr.objectives.classification(lambda z: net(w, z), y)
    return method.solve(None, f, S).info["elements"]


def test_sound_and_ordered():
    f = jr.objectives.classification(lambda z: net(W, z), 1)
    keys = jax.random.split(jax.random.key(1), 200)
    reached = jnp.max(jax.jit(jax.vmap(lambda k: f(S.argsup(jax.random.normal(k, (6, 6, 1))))))(keys), axis=0)
    previous = jnp.inf
    for method in (METHODS[0], METHODS[1]):
        bound = jax.jit(margins, static_argnums=0)(method, W)
        assert jnp.all(reached <= bound + 1e-5)
        assert jnp.all(bound <= previous + 1e-5)
        previous = bound
    for method in METHODS[2:]:
        bound = jax.jit(margins, static_argnums=0)(method, W)
        assert jnp.all((reached <= bound + 1e-5) & (bound <= jax.jit(margins, static_argnums=0)(METHODS[0], W) + 1e-5))


def test_memory_changes_nothing_but_memory():
    small, large = (jax.jit(lambda w, m=m: margins(jr.bounds.crown(memory=m), w))(W) for m in (2**14, 2**30))
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [METHODS[0], METHODS[1]], ids=lambda m: m.name)
def test_gradients_match_differences(method):
    direction = weights(jax.random.key(5))
    f = jax.jit(lambda t: jnp.sum(margins(method, jax.tree.map(lambda a, d: a + t * d, W, direction))))
    slope = jax.jit(jax.grad(f))(0.0)
    difference = (f(1e-3) - f(-1e-3)) / 2e-3
    np.testing.assert_allclose(slope, difference, rtol=0.05)


def test_vmap_over_models_and_labels():
    keys = jax.random.split(jax.random.key(3), 3)
    batch = jax.jit(jax.vmap(lambda k, y: margins(METHODS[1], weights(k), y)))(keys, jnp.arange(3))
    single = jax.jit(lambda k, y: margins(METHODS[1], weights(k), y))
    np.testing.assert_allclose(batch, jnp.stack([single(k, i) for i, k in enumerate(keys)]), rtol=1e-4, atol=1e-5)


def test_arrays_are_never_baked_into_the_program():
    traces = []

    @jax.jit
    def solve(w):
        traces.append(None)
        return margins(METHODS[0], w)

    first, second = solve(W), solve(weights(jax.random.key(7)))
    assert len(traces) == 1
    assert not np.allclose(first, second)


def test_calls_match_by_name_and_body():
    @jax.jit
    def leaky_relu(x, slope=0.01):  # an impostor: not jax.nn's
        return jnp.where(x >= 0, x, slope * x - 1.0)

    z = jnp.linspace(-1.0, 1.0, 5)
    names = lambda fn: [eqn.name for eqn in flatten(fn, z, keep=CANONICAL).equations]  # noqa: E731
    assert names(jax.nn.leaky_relu) == ["leaky_relu"]
    assert names(lambda z: jax.nn.leaky_relu(z, 0.2)) == ["leaky_relu"]
    assert names(lambda z: jax.nn.softplus(z)) == ["softplus"]
    assert "leaky_relu" not in names(leaky_relu)
    lo, _ = jr.bounds.output_bounds(leaky_relu, jr.sets.linf(0.1)(z))
    assert lo[0] <= -1.011 + 1e-5


def test_flatten_inlines_every_kind_of_call():
    @jax.custom_vjp
    def through(x):
        return jnp.maximum(x, 0)

    through.defvjp(lambda x: (through(x), None), lambda _, g: (g,))
    z = jnp.ones(3)
    program = flatten(lambda x: jax.checkpoint(jax.jit(lambda v: jax.nn.relu(through(v) * 2)))(x), z)
    assert [eqn.name for eqn in program.equations] == ["max", "mul", "max"]
    np.testing.assert_allclose(jr.bounds.output_bounds(through, jr.sets.linf(2.0)(z))[1], 3.0)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_primitive_without_a_rule_is_named_with_its_line(method):
    def fn(z):
        return lax.bessel_i1e(lax.bessel_i0e(z)) + jax.nn.relu(z)

    assert jr.bounds.supported(fn, jnp.ones(2), method=method) == ["bessel_i0e", "bessel_i1e"]
    assert jr.bounds.supported(lambda z: net(W, z), S.center, method=method) == []
    with pytest.raises(NotImplementedError, match=r"'bessel_i0e'.*test_nets\.py:\d+"):
        jr.bounds.output_bounds(fn, jr.sets.linf(0.1)(jnp.ones(2)), method=method)
    with pytest.raises(NotImplementedError, match=r"'elu'.*must not depend"):
        jr.bounds.output_bounds(lambda z: jax.nn.elu(z, z), jr.sets.linf(0.1)(jnp.ones(2)), method=method)
    with pytest.raises(NotImplementedError, match=r"dynamic_slice.*must not depend"):
        jr.bounds.output_bounds(lambda z: jnp.arange(3.0)[jnp.argmax(z)], jr.sets.linf(0.1)(jnp.ones(2)), method=method)


def test_unused_unsupported_code_is_no_obstacle():
    def fn(z):
        lax.bessel_i1e(z)
        return z * lax.bessel_i1e(jnp.ones(2))

    assert jr.bounds.supported(fn, jnp.ones(2), method=METHODS[0]) == []


def test_bad_arguments():
    with pytest.raises(ValueError, match="memory"):
        jr.bounds.crown(memory=0)
    with pytest.raises(TypeError, match="takes ibp"):
        jr.bounds.crown(intermediates=jr.attacks.fgsm())
    with pytest.raises(TypeError, match="one array"):
        jr.bounds.output_bounds(lambda z: (z, z), jr.sets.linf(0.1)(jnp.ones(2)))
