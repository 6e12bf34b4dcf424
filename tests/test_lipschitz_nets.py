"""Nets that cannot stretch: each layer against its own singular values, the certificate against attacks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jrobust as jr
from jrobust import models, training
from jrobust.models._lipschitz import bjorck, cayley, max_min, squeeze
from tests.training.nets import blobs

THREAT = jr.sets.l2(1.0)


def singular(layer, x):
    """Of the layer's true linear map, by its Jacobian at x."""
    zero = layer(0 * x)
    jacobian = jax.jacobian(lambda v: layer(v) - zero)(x)
    return np.linalg.svd(np.asarray(jacobian).reshape(zero.size, x.size), compute_uv=False)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_bjorck_is_the_nearest_orthonormal_matrix_and_never_above_one(shape):
    w = jax.random.normal(jax.random.key(0), shape)
    u, _, v = np.linalg.svd(np.asarray(w), full_matrices=False)
    np.testing.assert_allclose(bjorck(w, 40), u @ v, atol=1e-4)
    for few in (1, 2, 5):
        assert np.linalg.svd(np.asarray(bjorck(w, few)), compute_uv=False).max() <= 1 + 1e-5


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 7, 4), (3, 4, 7)])
def test_cayley_is_unitary(shape):
    a, b = jax.random.normal(jax.random.key(0), (2, *shape))
    q = np.asarray(cayley(a + 1j * b))
    q = q if shape[1] >= shape[2] else q.conj().swapaxes(-1, -2)
    np.testing.assert_allclose(
        q.conj().swapaxes(-1, -2) @ q, np.broadcast_to(np.eye(min(shape[1:])), (3, *[min(shape[1:])] * 2)), atol=1e-5
    )


@pytest.mark.parametrize(("inputs", "outputs", "sides"), [(2, 2, (4, 4)), (2, 4, (5, 4)), (4, 2, (4, 5))])
def test_a_cayley_convolution_is_a_convolution_that_is_orthonormal(inputs, outputs, sides):
    layer = models.CayleyConv(inputs, outputs, 3, rngs=nnx.Rngs(0))
    layer.kernel[...] = 3.0 * layer.kernel[...]
    layer.bias[...] = jnp.arange(float(outputs))
    x = jax.random.normal(jax.random.key(0), (1, *sides, inputs))
    np.testing.assert_allclose(singular(layer, x), 1.0, atol=1e-4)
    shift = lambda v: jnp.roll(v, (1, 2), (1, 2))  # noqa: E731
    np.testing.assert_allclose(layer(shift(x)), shift(layer(x)), atol=1e-4)
    found = jax.grad(lambda v: jnp.sum(jnp.sin(layer(v))))(x)
    assert bool(jnp.all(jnp.isfinite(found)))
    with pytest.raises(ValueError, match="kernel of side 3 does not fit"):
        layer(jnp.zeros((1, 2, 4, inputs)))


def test_the_other_parts_keep_norms():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
    np.testing.assert_allclose(jnp.linalg.norm(squeeze(x)), jnp.linalg.norm(x), rtol=1e-5)
    assert squeeze(x).shape == (2, 3, 2, 24)
    np.testing.assert_allclose(singular(lambda v: max_min(v), x[0, 0, 0]), 1.0, atol=1e-6)


def trained(name):
    x, y = map(jnp.asarray, blobs())
    options = {"widths": (16,)} if name == "lipschitz-mlp" else {"widths": (16,), "channels": (4,)}
    net = models.create(name, shape=(4, 4, 1), classes=4, mean=0.5, std=0.5, **options)
    apply, params, rest = jr.nnx.functional(net)
    scaled = jr.Loss(apply, lambda out, y: optax.softmax_cross_entropy_with_integer_labels(8.0 * out, y))
    tx = optax.adam(0.02)
    step, state = jax.jit(training.make_step(scaled, tx)), training.init(params, rest, tx)
    for t in range(60):
        state, _ = step(state, (x, y), key=jax.random.key(t))
    return jr.nnx.merge(net, state.params, state.rest), x, y


@pytest.mark.parametrize("name", ["lipschitz-mlp", "lipschitz-cnn"])
def test_a_trained_net_learns_stays_at_its_constant_and_no_attack_breaks_its_radius(name):
    net, x, y = trained(name)
    constant = float(net.constant)
    assert constant == pytest.approx(2.0)
    assert float(jnp.mean(jnp.argmax(net(x), -1) == y)) == 1.0
    jacobians = jax.vmap(jax.jacobian(lambda v: net(v[None])[0]))(x[:8]).reshape(8, 4, 16)
    sizes = np.linalg.svd(np.asarray(jacobians), compute_uv=False)
    assert sizes.max() <= constant * (1 + 1e-4)
    assert sizes.max() > 0.9 * constant  # and it is not idle

    def both(k, xi, yi):
        f = jr.objectives.classification(lambda v: net(v[None])[0], yi)
        sure = jr.bounds.margin(net.constant).solve(None, f, jr.sets.l2(1.0), xi).value
        inside = jr.attacks.pgd(steps=40).solve(k, f, jr.sets.l2(0.999 * sure)(xi)).value
        beyond = jr.attacks.pgd(steps=40).solve(k, f, jr.sets.l2(3.0 * sure)(xi)).value
        return sure, inside, beyond

    sure, inside, beyond = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 16), x[:16], y[:16])
    assert bool(jnp.all(sure > 0.05))
    assert bool(jnp.all(inside < 0))
    assert bool(jnp.any(beyond >= 0))


def test_the_margin_of_a_linear_map_is_its_distance_to_the_boundary():
    oracle, x = jr.bounds.margin(2.0), jnp.array([3.0, 1.0, 0.0])
    assert (oracle.side, oracle.sup_side) == ("lower", "upper")
    logits = lambda z: 2.0 * z  # noqa: E731

    def solve(y, threat=THREAT):
        return oracle.solve(None, jr.objectives.classification(logits, y), threat, x).value

    assert float(solve(0)) == pytest.approx(2**0.5)
    assert float(solve(1)) == 0.0
    at = jr.objectives.classification(lambda z: z * jnp.nan, 0)
    assert float(oracle.solve(None, at, jr.sets.l2(1.0), x).value) == 0.0
    with pytest.raises(ValueError, match="margin certifies l2 radii, the threat is linf"):
        solve(0, jr.sets.linf(1.0))
    with pytest.raises(ValueError, match="constant is > 0, got 0"):
        jr.bounds.margin(0.0)
    with pytest.raises(TypeError, match="label"):
        oracle.solve(None, jr.objectives.objective(lambda z: z - 9), jr.sets.l2(1.0), x)
    random = jr.objectives.classification(jr.objectives.stochastic(lambda k, z: z, 2), 0)
    with pytest.raises(TypeError, match="random model"):
        oracle.solve(None, random, jr.sets.l2(1.0), x)


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match=r"every width is even and >= 2; got \(5,\)"):
        models.create("lipschitz-mlp", shape=(4,), classes=2, widths=(5,))


def test_spectral_normalisation_is_that_of_the_convolution_and_follows_its_training():
    conv = nnx.Conv(2, 3, (3, 3), strides=2, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(3.0)
    layer = models.Spectral(conv, (6, 5, 2), rngs=nnx.Rngs(1), start=100)
    x = jax.random.normal(jax.random.key(0), (1, 6, 5, 2))
    of = lambda net: singular(net, x)[0]  # noqa: E731
    layer.eval()
    assert of(layer) == pytest.approx(1.0, rel=1e-2)
    as_matrix = np.linalg.norm(np.asarray(conv.kernel[...]).reshape(-1, 3), 2)
    assert abs(of(conv) / as_matrix - 1) > 0.05  # the kernel as a matrix has another norm
    np.testing.assert_allclose(layer(0 * x), conv(0 * x), atol=1e-6)
    apply, params, rest = jr.nnx.functional(layer)
    params["layer"]["kernel"] = jax.random.normal(jax.random.key(2), (3, 3, 2, 3))
    same = apply(params, rest, x, train=False)[1]
    np.testing.assert_array_equal(same["direction"], rest["direction"])
    step = jax.jit(lambda rest: apply(params, rest, x, train=True)[1])
    for _ in range(100):
        rest = step(rest)
    net = lambda v: apply(params, rest, v, train=False)[0]  # noqa: E731
    assert of(net) == pytest.approx(1.0, rel=1e-2)
    grown = jax.tree.map(lambda a: a, params) | {"layer": params["layer"] | {"kernel": 5 * params["layer"]["kernel"]}}
    np.testing.assert_allclose(net(x), apply(grown, rest, x, train=False)[0], rtol=1e-3, atol=1e-4)
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(apply(p, rest, x, train=True)[0])))(params)["layer"]["kernel"]
    assert abs(float(jnp.vdot(slope, params["layer"]["kernel"]))) < 1e-2 * float(
        jnp.sum(jnp.abs(slope))
    )  # scale is free
