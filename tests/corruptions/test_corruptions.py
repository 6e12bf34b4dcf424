"""All of a suite: stay images, take keys, severities get worse, any shape, batches; moments of the random ones; bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jrobust as jr
from jrobust.corruptions import cifar_c, corrupted, corruption, held_out, imagenet_c, mnist_c, scored, with_textures
from jrobust.corruptions._noise import poisson_quantile

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = (
    0.7 * np.kron(RNG.uniform(size=(4, 3, 3, 3)), np.ones((1, 6, 6, 1))) + 0.3 * RNG.uniform(size=(4, 18, 18, 3))
).astype(np.float32)
RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"} | {
    "elastic_transform",
    "speckle_noise",
    "spatter",
}


def test_the_suites_have_all_names():
    assert tuple(cifar_c) == tuple(imagenet_c) == (*scored, *held_out)
    assert (len(scored), len(held_out)) == (15, 4)
    assert all(len(c.settings) == 5 for suite in (cifar_c, imagenet_c) for c in suite.values())
    assert jr.corruptions.cifar_c is cifar_c


def test_which_ones_draw_is_read_off_the_program():
    for suite in (cifar_c, imagenet_c):
        assert {name for name, c in suite.items() if c.draws((18, 18, 3), 2)} == RANDOM
    fixed = {"scale", "brightness", "stripe", "canny_edges"}
    assert {name for name, c in mnist_c.items() if not c.draws((28, 28, 1))} == fixed
    own = corruption(lambda key, x, sd: x + sd * jax.random.normal(key, x.shape) if sd else x, "own", [(0.0,), (0.1,)])
    assert [own.draws((4, 4, 1), s) for s in (1, 2)] == [False, True]


@pytest.mark.parametrize("name", imagenet_c)
def test_every_corruption(name):
    c = imagenet_c[name]

    @jax.jit
    def both(keys, x):  # severities 1 and 5 of every image, and the gradient of one
        mild, hard = (jax.vmap(lambda k, a, s=s: c.corrupt(k, a, s))(keys, x) for s in (1, 5))
        return mild, hard

    keys = jax.random.split(KEY, len(X))
    mild, hard = (np.asarray(a) for a in both(keys, X))
    for out in (mild, hard):
        assert out.shape == X.shape
        assert np.isfinite(out).all()
        assert out.min() >= -1e-6
        assert out.max() <= 1 + 1e-6
        assert not np.array_equal(out, X)
    if name not in ("elastic_transform", "pixelate", "saturate"):  # the authors' tables are not in order there
        assert np.mean((hard - X) ** 2) > np.mean((mild - X) ** 2)
    # the key decides, and nothing but the key
    repeated, other = both(keys, X), both(keys[::-1], X)
    np.testing.assert_array_equal(repeated[0], mild)
    assert np.array_equal(other[1], hard) == (name not in RANDOM)


def test_a_traced_severity_is_the_static_one():
    c = cifar_c["contrast"]
    one = jax.jit(c.corrupt)
    for severity in (1, 5):
        np.testing.assert_allclose(one(KEY, X[0], severity), c.corrupt(KEY, X[0], severity), atol=1e-6)
    many = jax.vmap(c.corrupt, (None, None, 0))(KEY, X[0], jnp.array([2, 4]))
    np.testing.assert_allclose(many[1], c.corrupt(KEY, X[0], 4), atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"])
def test_moments_of_noise(name):
    x, n = 0.4, 40_000
    grey = jnp.full((100, 100, 4), x)
    for suite, severity in ((cifar_c, 1), (cifar_c, 5), (imagenet_c, 1)):
        (c,) = suite[name].settings[severity - 1]
        mean, variance = {
            "gaussian_noise": (x, c**2),
            "shot_noise": (x, x / c),
            "impulse_noise": (x + c * (0.5 - x), c * (1 - c) * (0.5 - x) ** 2 + c / 4),
            "speckle_noise": (x, (x * c) ** 2),
        }[name]
        out = np.asarray(suite[name].corrupt(KEY, grey, severity), np.float64)
        assert abs(out.mean() - mean) < 5 * np.sqrt(variance / n)
        error = np.sqrt(np.var((out - mean) ** 2) / n)
        assert abs(out.var() - variance) < 5 * error
    if name == "shot_noise":
        levels = np.asarray(imagenet_c[name].corrupt(KEY, grey, 5)) * 3
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-5)
        rate = 1.2
        poisson = [np.exp(-rate) * rate**k / f for k, f in ((0, 1), (1, 1), (2, 2))]
        shares = np.bincount(np.round(levels).astype(int).ravel(), minlength=4) / n
        np.testing.assert_allclose(shares, [*poisson, 1 - sum(poisson)], atol=0.013)
        assert not np.asarray(imagenet_c[name].corrupt(KEY, jnp.zeros((4, 4, 1)), 5)).any()


def test_counts_are_scipys_quantiles():
    """Exact below a mean of 10; above, Giles' expansion differs by one at few of all probabilities."""
    u = (np.arange(20_000) + 0.5) / 20_000
    v = (2 * u - 1).astype(np.float32)
    means = np.array([0.0, 0.3, 3.0, 9.9, 10.0, 20.0, 60.0, 500.0], np.float32)[:, None]
    wanted = np.nan_to_num(stats.poisson.ppf((1 + v.astype(float)) / 2, means.astype(float)))
    got = np.asarray(jax.jit(poisson_quantile, static_argnums=2)(v, jnp.broadcast_to(means, (8, len(v))), 700))
    assert np.abs(got - wanted).max() <= 1
    off = (got != wanted).mean(1)
    assert (off[:4] < 1e-4).all()
    assert (off[4:] < 1e-3).all()
    few = jax.jit(poisson_quantile, static_argnums=2)(v, jnp.full(len(v), 12.0), 12)
    np.testing.assert_array_equal(few, np.minimum(stats.poisson.ppf((1 + v.astype(float)) / 2, 12.0), 12))


def test_other_shapes():
    for name in (*scored, *held_out):
        for channels in (1, 3, 5):
            c = cifar_c[name]
            shape = (7, 10, channels)
            if c.channels is None or channels in c.channels:
                assert jax.eval_shape(lambda x, c=c: c.corrupt(KEY, x, 5), jnp.ones(shape)).shape == shape
            else:
                with pytest.raises(ValueError, match="channels"):
                    c.corrupt(KEY, jnp.ones(shape), 5)


def test_the_driver_does_not_depend_on_batches():
    c, x = cifar_c["gaussian_noise"], np.tile(X, (2, 1, 1, 1))[:7]
    whole = corrupted(c, x, severity=3, key=KEY)
    np.testing.assert_array_equal(corrupted(c, x, severity=3, key=KEY, batch_size=3), whole)
    assert not np.array_equal(whole[0], whole[4])  # equal images, other keys
    # bytes are cut off, as the released arrays are
    as_bytes = np.round(255 * x).astype(np.uint8)
    cut = corrupted(c, as_bytes, severity=3, key=KEY)
    exact = corrupted(c, as_bytes / np.float32(255), severity=3, key=KEY)
    assert cut.dtype == np.uint8
    np.testing.assert_array_equal(cut, np.floor(255 * exact + 1e-3))


def test_frost_of_given_textures():
    textures = RNG.uniform(size=(3, 20, 22, 3)).astype(np.float32)
    icy = with_textures(cifar_c["frost"], textures)
    out = corrupted(icy, np.zeros_like(X), severity=2, key=KEY) / 0.3
    windows = np.lib.stride_tricks.sliding_window_view(textures, (18, 18, 3), axis=(1, 2, 3)).reshape(-1, 18, 18, 3)
    for image in out:
        assert np.abs(windows - image).max((1, 2, 3)).min() < 1e-5
    with pytest.raises(ValueError, match="smaller than the image"):
        with_textures(cifar_c["frost"], textures[:, :9]).corrupt(KEY, X[0], 1)
    with pytest.raises(ValueError, match="takes the frost"):
        with_textures(cifar_c["fog"], textures)
    with pytest.raises(ValueError, match=r"\[T, h, w, C\]"):
        with_textures(cifar_c["frost"], textures[0])


def test_bad_input():
    c = cifar_c["brightness"]
    for severity in (0, 6, 2.0):
        with pytest.raises(ValueError, match=r"severity is an int in 1\.\.5"):
            corrupted(c, X, severity=severity, key=KEY)
    with pytest.raises(ValueError, match="3 channels, got 1"):
        corrupted(cifar_c["saturate"], X[..., :1], severity=1, key=KEY)
    for name, least in (("pixelate", 4), ("fog", 2), ("elastic_transform", 3)):
        with pytest.raises(ValueError, match=f"at least {least} x {least} pixels, got 1 x 1"):
            corrupted(cifar_c[name], X[:, :1, :1], severity=1, key=KEY)
        assert cifar_c[name].least == least
    with pytest.raises(ValueError, match=r"\[N, H, W, C\]"):
        corrupted(c, X[0], severity=1, key=KEY)
    with pytest.raises(ValueError, match=r"\[H, W, C\]"):
        c.corrupt(KEY, X, 1)
    with pytest.raises(ValueError, match="at least one"):
        corrupted(c, X[:0], severity=1, key=KEY)
    with pytest.raises(ValueError, match="above the box"):
        corrupted(c, 255 * X, severity=1, key=KEY)
    with pytest.raises(TypeError, match="or floating point in"):
        corrupted(c, X.astype(int), severity=1, key=KEY)
    with pytest.raises(TypeError, match="one of a suite"):
        corrupted("fog", X, severity=1, key=KEY)
    with pytest.raises(TypeError, match="typed PRNG key"):
        corrupted(c, X, severity=1, key=0)
    assert dataclasses.replace(c, settings=((0.1,),)).corrupt(KEY, X[0], 1).shape == X[0].shape
    with pytest.raises(ValueError, match=r"1\.\.1"):
        corruption(c.render, "one", [(0.1,)]).corrupt(KEY, X[0], 2)


@pytest.mark.parametrize("suite", [cifar_c, imagenet_c, mnist_c], ids=["cifar", "imagenet", "mnist"])
def test_bad_input_to_any_of_a_suite(suite):
    pixel = np.full((1, 1, 1, 3), 0.5, np.float32)
    for name, c in suite.items():
        worst = len(c.settings)
        for severity in (0, worst + 1):
            with pytest.raises(ValueError, match=rf"{name}: severity is an int in 1\.\.{worst}, got {severity}"):
                c.corrupt(KEY, X[0], severity)
        if c.least > 1:
            with pytest.raises(ValueError, match=f"{name} needs at least {c.least} x {c.least} pixels, got 1 x 1"):
                corrupted(c, pixel, severity=1, key=KEY)
        elif suite is not imagenet_c:  # one pixel is an image, of the same renderings
            out = corrupted(c, pixel, severity=worst, key=KEY)
            assert out.shape == pixel.shape
            assert np.isfinite(out).all()
        if c.channels is not None:
            with pytest.raises(ValueError, match=f"{name} takes images of .*3 channels, got 2"):
                c.corrupt(KEY, X[0, ..., :2], 1)
        with pytest.raises(TypeError, match=f"{name} takes one image of floats in .*, got uint8; divide it by 255"):
            c.corrupt(KEY, np.zeros((8, 8, 3), np.uint8), 1)
        with pytest.raises(TypeError, match="typed PRNG key"):
            c.corrupt(0, X[0], 1)
        for bad, said in (
            (np.nan, "is not finite"),
            (np.inf, "is not finite"),
            (-0.5, "below the box"),
            (2.0, "above the box"),
        ):
            broken = X.copy()
            broken[1, 2, 3, 0] = bad
            with pytest.raises(ValueError, match=rf"x\[1, 2, 3, 0\] = .*{said}"):
                corrupted(c, broken, severity=1, key=KEY)
