import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jrobust import models
from jrobust.nnx import functional


def shapes(name, shape, **options):
    """Parameters and logits of a model without computing anything."""

    def build():
        apply, params, rest = functional(models.create(name, shape=shape, classes=10, **options))
        return params, apply(params, rest, jnp.zeros((2, *shape)), train=True)[0]

    return jax.eval_shape(build)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", models.registry)
def test_every_model_takes_a_batch(name):
    _, logits = shapes(name, (32, 32, 3))
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "cnn-small",
        "cnn-medium",
        "cnn-7",
        "preact-resnet-18",
        "vit-tiny",
        "lipschitz-mlp",
        "lipschitz-cnn",
        "spectral-mlp",
    ],
)
def test_small_and_odd_images(name):
    shape = (8, 8, 1) if name == "vit-tiny" else (7, 9, 1)
    assert shapes(name, shape)[1].shape == (2, 10)


def test_parameter_counts():
    # By hand, and for the last two the numbers of the literature (11.17 M and 36.5 M).
    assert count(shapes("mlp", (28, 28, 1))[0]) == 784 * 256 + 256 + 256 * 256 + 256 + 2570
    assert count(shapes("cnn-small", (28, 28, 1))[0]) == 16 * 17 + 32 * 257 + (7 * 7 * 32 + 1) * 100 + 1010
    medium = (
        32 * 10
        + 32 * (16 * 32 + 1)
        + 64 * (9 * 32 + 1)
        + 64 * (16 * 64 + 1)
        + (7 * 7 * 64 + 1) * 512
        + 513 * 512
        + 5130
    )
    assert count(shapes("cnn-medium", (28, 28, 1))[0]) == medium
    assert round(count(shapes("preact-resnet-18", (32, 32, 3))[0]) / 1e6, 2) == 11.17
    assert round(count(shapes("wide-resnet-28-10", (32, 32, 3))[0]) / 1e6, 1) == 36.5


def test_normalisation_is_inside_and_not_trained():
    x = jax.random.uniform(jax.random.key(0), (3, 8, 8, 2))
    options = {"shape": (8, 8, 2), "classes": 4}
    plain = models.create("cnn-small", **options)
    normal = models.create("cnn-small", **options, mean=(0.25, 0.5), std=(0.5, 0.125))
    mean, std = jnp.array([0.25, 0.5]), jnp.array([0.5, 0.125])
    np.testing.assert_allclose(normal(x), plain((x - mean) / std), atol=1e-5)
    _, params, rest = functional(normal)
    assert "normalise" not in params
    np.testing.assert_array_equal(rest["normalise"]["mean"], mean)


def test_create_is_deterministic_and_starts_in_inference_mode():
    a, b, c = (models.create("cnn-7", shape=(8, 8, 1), classes=3, seed=s, width=4, hidden=8) for s in (0, 0, 1))
    x = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
    np.testing.assert_array_equal(a(x), b(x))
    assert not jnp.allclose(a(x), c(x))
    np.testing.assert_allclose(a(x)[:1], a(x[:1]), atol=1e-5)  # no batch statistics
    assert functional(a).apply == functional(c).apply


def test_training_mode_moves_the_statistics_of_a_residual_net():
    model = models.preact_resnet18((8, 8, 1), 3, rngs=nnx.Rngs(0), width=4)
    apply, params, rest = functional(model)
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
    logits, after = jax.jit(apply, static_argnames="train")(params, rest, x, train=True)
    assert jnp.isfinite(logits).all()
    assert jax.tree.structure(after) == jax.tree.structure(rest)
    assert not jnp.allclose(after["norm"]["mean"], rest["norm"]["mean"])


def test_ibp_init():
    _, params, _ = functional(models.create("cnn-medium", shape=(8, 8, 1), classes=10))
    new = models.ibp_init(jax.random.key(0), params)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    kernels = [layer["kernel"] for layer in new["body"].values()]
    assert len(kernels) == 6
    for kernel in kernels[1:]:
        fan_in = np.prod(kernel.shape[:-1])
        np.testing.assert_allclose(kernel.std() * fan_in, np.sqrt(2 * np.pi), rtol=0.03)
    np.testing.assert_array_equal(new["head"]["kernel"], params["head"]["kernel"])
    np.testing.assert_array_equal(new["body"][0]["bias"], params["body"][0]["bias"])
    renamed = {"body": params["body"], "last": params["head"]}
    with pytest.raises(ValueError, match=r"no layer is named 'head'; give head= one of body, .*last"):
        models.ibp_init(jax.random.key(0), renamed)
    kept = models.ibp_init(jax.random.key(0), renamed, head="last")
    drawn = models.ibp_init(jax.random.key(0), renamed, head=None)
    np.testing.assert_array_equal(kept["last"]["kernel"], params["head"]["kernel"])
    assert not np.array_equal(drawn["last"]["kernel"], params["head"]["kernel"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.create("cnn_smal", shape=(8, 8, 1), classes=10), "did you mean 'cnn-small'"),
        (lambda: models.create("mlp", shape=(8,), classes=0), "classes is >= 1, not 0"),
        (
            lambda: models.create("cnn-small", shape=(64,), classes=10),
            r"images \[H, W, C\], got the example shape \(64,\)",
        ),
        (lambda: models.create("vit-tiny", shape=(9, 9, 1), classes=10), "do not tile a 9x9 image"),
        (lambda: models.create("vit-tiny", shape=(8, 8, 1), classes=10, width=64), "not a multiple of heads 3"),
        (lambda: models.create("wide-resnet-28-10", shape=(8, 8, 1), classes=10, depth=18), "6 n"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "name", ["mlp", "cnn-7", "preact-resnet-18", "vit-tiny", "lipschitz-mlp", "lipschitz-cnn", "spectral-mlp"]
)
def test_every_model_parts_after_its_first_layer(name):
    net = models.create(name, shape=(8, 8, 1), classes=4)
    apply, params, rest = functional(net)
    begin, finish = (functional(net, call=part).apply for part in (type(net).begin, type(net).finish))

    def both(params, rest, x):
        h, _ = begin(params, rest, x, train=False)
        return (
            finish(params, rest, h, train=False)[0],
            apply(params, rest, x, train=False)[0],
            h - begin(params, rest, 0 * x, train=False)[0],
        )

    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    (parted, whole, change), twice = jax.jit(both)(params, rest, x), jax.jit(both)(params, rest, 2 * x)
    np.testing.assert_allclose(parted, whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(twice[2], 2 * change, rtol=1e-3, atol=1e-4)  # a layer with weights, and affine
    assert float(jnp.max(jnp.abs(change))) > 0


def test_a_unet_takes_any_image_the_time_and_a_class():
    net = models.unet((7, 5, 2), widths=(4, 6, 8), blocks=2, classes=3, rngs=nnx.Rngs(0))
    apply, params, rest = functional(net, call=type(net).of)
    x, t, y = jax.random.normal(jax.random.key(0), (3, 7, 5, 2)), jnp.array([0, 5, 9]), jnp.array([0, 1, 2])
    assert not net(x, t, y).any()  # it starts as 0
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    leaves = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(jax.tree.leaves(params), keys)]
    params = jax.tree.unflatten(jax.tree.structure(params), leaves)
    run = jax.jit(lambda *given: apply(params, rest, given, train=False)[0])
    out = run(x, t, y)
    assert out.shape == x.shape
    np.testing.assert_allclose(run(x[1:2], t[1:2], y[1:2]), out[1:2], atol=1e-5)  # each image for itself
    assert bool(jnp.all(jnp.abs(run(x, t + 1, y) - out).max((1, 2, 3)) > 1e-4))
    assert bool(jnp.all(jnp.abs(run(x, t, (y + 1) % 3) - out).max((1, 2, 3)) > 1e-4))
    np.testing.assert_allclose(run(x, t), run(x, t, jnp.full(3, 3)), atol=1e-6)  # no class is "any"


def test_a_unet_says_what_it_takes():
    timed, plain = (
        models.unet((4, 4, 1), widths=(4,), rngs=nnx.Rngs(0)),
        models.unet((4, 4, 1), widths=(4,), time=False, rngs=nnx.Rngs(0)),
    )
    x, t = jnp.zeros((1, 4, 4, 1)), jnp.zeros(1, int)
    with pytest.raises(ValueError, match="takes x and t"):
        timed(x)
    with pytest.raises(ValueError, match="takes x alone"):
        plain(x, t)
    with pytest.raises(ValueError, match="takes no label"):
        timed(x, t, t)
    with pytest.raises(ValueError, match="widths are channels"):
        models.unet((4, 4, 1), widths=(), rngs=nnx.Rngs(0))
