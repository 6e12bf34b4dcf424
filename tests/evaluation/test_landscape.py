"""Landscapes are the model's own values on a plane: checked point by point, and in closed form where the model has one."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jrobust as jr
from jrobust.evaluation import filter_normalised, landscape, weight_landscape

W = jax.random.normal(jax.random.key(5), (6, 4))
X = jax.random.uniform(jax.random.key(6), (3, 6))
Y = jnp.array([0, 3, 1])


def net(w, x):
    return jnp.tanh(x @ w) * 2.0


MODEL = jax.tree_util.Partial(net, W)


def xent(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def by_hand(found, at):
    k, i, j = at
    z = X[k] + found.a[i] * found.u[k] + found.b[j] * found.v[k]
    return net(W, z)


@pytest.mark.parametrize("directions", ["gradient", "random", "witnesses"])
@pytest.mark.parametrize("batch_size", [7, 1024])
def test_every_point_is_the_models_own_value(directions, batch_size, key):
    given = directions if directions != "witnesses" else (np.asarray(X) + 0.2, np.asarray(X)[:, ::-1])
    found = landscape(MODEL, X, Y, span=0.3, points=5, directions=given, key=key, batch_size=batch_size)
    assert found.loss.shape == found.margin.shape == found.prediction.shape == (3, 5, 5)
    np.testing.assert_allclose(np.sum(found.u * found.v, axis=1), 0.0, atol=1e-5)
    for at in [(0, 0, 0), (1, 2, 3), (2, 4, 1), (2, 2, 2)]:
        logits, y = by_hand(found, at), Y[at[0]]
        np.testing.assert_allclose(found.loss[at], xent(logits, y), rtol=1e-5)
        np.testing.assert_allclose(found.margin[at], jnp.max(jnp.delete(logits, y)) - logits[y], rtol=1e-4, atol=1e-6)
        assert found.prediction[at] == jnp.argmax(logits)


def test_the_first_axis_is_the_sign_of_the_gradient(key):
    found = landscape(MODEL, X, Y, span=1e-3, points=3, key=key)
    gradient = jax.vmap(jax.grad(lambda z, y: xent(net(W, z), y)))(X, Y)
    np.testing.assert_array_equal(found.u, np.sign(gradient))
    slope = (found.loss[:, 2, 1] - found.loss[:, 0, 1]) / 2e-3
    np.testing.assert_allclose(slope, jnp.abs(gradient).sum(1), rtol=1e-2)


@pytest.mark.parametrize("directions", ["gradient", "random"])
@pytest.mark.parametrize("shape", [(2,), (1, 3, 1)], ids=str)
def test_a_plane_is_two_dimensional(directions, shape, key):
    # two random signs in 2-D are parallel in half of the examples
    x = jax.random.uniform(key, (40, *shape))
    flat = lambda x: x.reshape(len(x), -1)[:, :2]  # noqa: E731
    found = landscape(flat, x, jnp.zeros(40, int), points=3, directions=directions, key=key)
    u, v = found.u.reshape(40, -1), found.v.reshape(40, -1)
    np.testing.assert_allclose((u * v).sum(1), 0, atol=1e-6)
    assert (np.linalg.norm(v, axis=1) > 0.9).all()
    if shape == (2,):
        assert len({tuple(row) for row in v.tolist()}) == (4 if directions == "random" else 2)


def test_no_plane_through_a_number(key):
    with pytest.raises(ValueError, match=r"at least 2 entries, got x of shape \(3, 1\)"):
        landscape(lambda x: jnp.concatenate([x, -x], 1), X[:, :1], jnp.zeros(3, int), key=key)


def test_the_witnesses_lie_where_the_marks_say(key):
    first, second = (np.asarray(jax.random.uniform(jax.random.key(k), (3, 6))) for k in (1, 2))
    found = landscape(MODEL, X, Y, span=1.0, points=3, directions=(first, second), key=key)
    for m, w in enumerate((np.asarray(X), first, second)):
        a, b = found.marks[:, m, :1], found.marks[:, m, 1:]
        np.testing.assert_allclose(X + a * found.u + b * found.v, w, atol=1e-5)
    np.testing.assert_allclose(found.loss[:, 2, 1], xent(net(W, jnp.asarray(first)), Y), rtol=1e-4)


def test_a_linear_models_boundary_is_where_it_must_be(key):
    # two classes, margin z[0] - z[1] of label 1: the plane of signs crosses zero on a straight line
    x, y = jnp.array([[0.3, 0.7]]), jnp.array([1])
    found = landscape(lambda x: x, x, y, span=0.5, points=11, key=key)
    np.testing.assert_allclose(found.margin[0], (-0.4 + 2 * found.a)[:, None] + 0 * found.b, atol=1e-6)
    off = np.abs(found.a - 0.2) > 1e-6  # there the two logits are equal
    np.testing.assert_array_equal(found.prediction[0][off, 0], np.where(found.a[off] > 0.2, 0, 1))


def test_the_clip_holds(key):
    seen = landscape(lambda x: x, X, jnp.zeros(3, int), span=5.0, points=3, clip=(0, 1), key=key)
    assert seen.loss.max() <= np.log(1 + 5 * np.e) + 1e-5  # logits in [0, 1]


def test_one_program_for_all_spans_and_models(key):
    from jrobust.evaluation._landscape import _inputs

    landscape(MODEL, X, Y, span=0.1, points=4, key=key)
    before = _inputs._cache_size()
    landscape(jax.tree_util.Partial(net, W + 1), X, Y, span=0.2, points=4, key=jax.random.key(1))
    assert _inputs._cache_size() == before


class Net(nnx.Module):
    def __init__(self, scale=1.0):
        self.conv = nnx.Conv(1, 3, (3, 3), rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(48, 4, rngs=nnx.Rngs(1))
        self.conv.kernel[...] *= scale

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.conv(x))).reshape(len(x), -1))


def test_filters_keep_their_norm(key):
    kernel = Net().conv.kernel[...]
    d = filter_normalised(key, kernel)
    np.testing.assert_allclose(
        jnp.linalg.norm(d.reshape(-1, 3), axis=0), jnp.linalg.norm(kernel.reshape(-1, 3), axis=0), rtol=1e-5
    )
    # the module was initialised from the same seed: the direction must not be its weights
    assert abs(float(jnp.vdot(d, kernel))) < 0.9 * float(jnp.vdot(kernel, kernel))


def test_weights_of_a_module(key):
    net = Net()
    net.eval()
    x = jax.random.uniform(key, (5, 4, 4, 1))
    y = jnp.array([0, 1, 2, 3, 0])
    found = weight_landscape(net, x, y, points=3, key=key)
    logits = net(x)
    np.testing.assert_allclose(found.loss[1, 1], xent(logits, y).mean(), rtol=1e-5)
    assert found.accuracy[1, 1] == np.float32((jnp.argmax(logits, 1) == y).mean())
    assert np.ptp(found.loss) > 0
    # a net whose first layer is scaled, undone by its statistics, is the same function: normalised directions see the same surface
    scaled = Net(scale=8.0)
    scaled.eval()
    scaled.norm.var[...] = 64.0 * (net.norm.var[...] + 1e-5) - 1e-5
    np.testing.assert_allclose(weight_landscape(scaled, x, y, points=3, key=key).loss, found.loss, rtol=1e-3)


def test_weights_between_models(key):
    """Towards given models the corners are these models."""
    first, second = (jax.tree_util.Partial(net, W + jax.random.normal(jax.random.key(k), W.shape)) for k in (1, 2))
    found = weight_landscape(MODEL, X, Y, directions=(first, second), points=3, key=key)
    for (i, j), model in {(1, 1): MODEL, (2, 1): first, (1, 2): second}.items():
        np.testing.assert_allclose(found.loss[i, j], xent(model(X), Y).mean(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["loss", "margin", "decision"])
def test_figures_of_inputs(kind, key):
    figure = landscape(MODEL, X, Y, span=2.0, points=5, key=key).plot(kind, most=2)
    figure.savefig(io.BytesIO())
    assert sum(axes.get_title(loc="left").startswith("label") for axes in figure.axes) == 2


@pytest.mark.parametrize("kind", ["loss", "accuracy"])
def test_figures_of_weights(kind, key):
    figure = weight_landscape(MODEL, X, Y, points=3, key=key).plot(kind)
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_xlabel() == "along u"


def test_a_flat_landscape_and_one_that_is_not_finite_have_figures(key):
    for model in (lambda x: 0.0 * x @ W, lambda x: jnp.nan * x @ W):
        for kind in ("loss", "margin", "decision"):
            landscape(model, X, Y, points=3, key=key).plot(kind).savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": 0.0}, "span is one number > 0"),
        ({"points": 1}, "points must be an int >= 2"),
        ({"directions": "up"}, 'directions is "gradient"'),
        ({"directions": (np.zeros((3, 6)), np.zeros((3, 5)))}, r"directions\[1\] must be witnesses of shape"),
        ({"clip": (1, 0)}, "lo <= hi"),
    ],
)
def test_bad_input_is_named(options, message, key):
    with pytest.raises(ValueError, match=message):
        landscape(MODEL, X, Y, **{"key": key} | options)


def test_bad_kinds_and_models_are_named(key):
    with pytest.raises(ValueError, match="kind is"):
        landscape(MODEL, X, Y, points=2, key=key).plot("height")
    with pytest.raises(ValueError, match="no floating array"):
        weight_landscape(lambda x: x[:, :4] * 2.0, X, Y, key=key)
    with pytest.raises(ValueError, match="another structure"):
        weight_landscape(MODEL, X, Y, directions=(MODEL, jax.tree_util.Partial(net, W[:, :3])), key=key)
    assert jr.evaluation.landscape is landscape
