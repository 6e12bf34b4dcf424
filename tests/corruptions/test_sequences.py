"""Sequences of frames: the moved ones are Pillow's, SciPy's or a literal loop's; noise starts at the image; the metrics take them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import jrobust as jr
from jrobust.corruptions import cifar_c, cifar_p, imagenet_c, imagenet_p
from jrobust.corruptions._blur import moved
from jrobust.corruptions._sequences import tilts
from jrobust.corruptions._weather import flakes_of, snowed

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGE = ndimage.zoom(RNG.uniform(size=(5, 6, 3)), (4, 4, 1), order=1).astype(np.float32)  # 20 x 24
BOTH = pytest.mark.parametrize("suite", [cifar_p, imagenet_p], ids=["cifar", "imagenet"])


def frames(p, x=IMAGE, **options):
    return np.asarray(jax.jit(lambda x: p.sequence(KEY, x, **options))(jnp.asarray(x)))


def pillow(matrix, x=IMAGE):
    planes = [Image.fromarray(np.ascontiguousarray(x[..., c])) for c in range(x.shape[2])]
    size = planes[0].size
    moved = [p.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR) for p in planes]
    return np.stack([np.asarray(p) for p in moved], -1)


def affine(angle, scale):
    """The six numbers that torchvision handed to Pillow."""
    c = IMAGE.shape[1] / 2 + 0.5, IMAGE.shape[0] / 2 + 0.5
    m = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    at = np.array(c) - m @ c
    return (*m[0], at[0], *m[1], at[1])


@BOTH
def test_affine_frames_are_pillows(suite):
    cifar = suite is cifar_p
    got = frames(suite["rotate"])
    assert got.shape == (31, *IMAGE.shape)
    for i in (0, 7, 15, 30):
        np.testing.assert_allclose(got[i], pillow(affine(np.deg2rad(i - 15), 1.0)), atol=2e-3)
    got = frames(suite["scale"])
    for i in (0, 12, 30):  # at 13 of CIFAR's an edge falls on a tie
        factor = (2 * i + 70 if cifar else 2.5 * i + 40) / 100
        np.testing.assert_allclose(got[i], pillow(affine(0.0, factor)), atol=2e-3)
    got, total = frames(suite["zoom_blur"]), IMAGE.astype(float)
    np.testing.assert_array_equal(got[0], IMAGE)
    for i in range(1, 31):
        total = total + pillow(affine(0.0, 1 + 0.004 * i))
        if i in (1, 30):
            np.testing.assert_allclose(got[i], total / (i + 1), atol=2e-3)


@BOTH
def test_shifts_and_light(suite):
    got, first = frames(suite["translate"]), -7 if suite is cifar_p else -20
    assert len(got) == (16 if suite is cifar_p else 41)
    for i in (0, 5, -first, len(got) - 1):
        np.testing.assert_array_equal(got[i], ndimage.shift(IMAGE, (0, first + i, 0), order=0))
    got, step = frames(suite["brightness"]), 0.015 if suite is cifar_p else 0.02
    np.testing.assert_allclose(got[15], IMAGE, atol=1e-6)
    light = cifar_c["brightness"].render(KEY, jnp.asarray(IMAGE), 10 * step)
    np.testing.assert_allclose(got[25], light, atol=1e-6)
    np.testing.assert_allclose(got[0].max(-1), np.maximum(IMAGE.max(-1) - 15 * step, 0), atol=1e-6)


@BOTH
def test_tilts(suite):
    got, step = frames(suite["tilt"]), 0.75 if suite is cifar_p else 1.0
    height, width = IMAGE.shape[:2]
    for i in (0, 15, 30):
        # the authors' five matrices, whose image lies one pixel deep: without any angle it is a little smaller
        a, far = np.deg2rad(step * (i - 15)), np.sqrt(width**2 + height**2)
        lift = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1], [0, 0, 1]])
        about_x, about_y, away = np.eye(4), np.eye(4), np.eye(4)
        about_x[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
        about_y[:3:2, :3:2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
        away[2, 3] = far
        screen = np.array([[far, 0, width / 2, 0], [0, far, height / 2, 0], [0, 0, 1, 0]])
        m = screen @ away @ about_x @ about_y @ lift
        np.testing.assert_allclose(tilts(width, height, np.array([step * (i - 15)]))[0], m)
        down, right = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        place = np.linalg.inv(m) @ np.stack([right.ravel(), down.ravel(), np.ones(right.size)])
        columns, rows = (place[:2] / place[2]).reshape(2, height, width)
        padded = np.pad(IMAGE.astype(float), ((3, 3), (3, 3), (0, 0)))
        for c in range(3):
            wanted = ndimage.map_coordinates(padded[..., c], [rows + 3, columns + 3], order=1)
            np.testing.assert_allclose(got[i][..., c], wanted, atol=2e-3)


@BOTH
def test_blur_and_snow_turn(suite):
    got = frames(suite["motion_blur"])
    cifar = suite is cifar_p
    radius, sigma, step, n = (6, 1.8, 9, 21) if cifar else (10, 3.0, 4, 31)
    assert len(got) == n
    for i in (0, 5, n - 1):
        np.testing.assert_allclose(got[i], moved(jnp.asarray(IMAGE), radius, sigma, (i - n + 1) * step), atol=1e-5)
    got = frames(suite["snow"])
    zoom, radius, sigma = (2.0, 10, 2.0) if cifar else (3.0, 14, 4.0)
    layer = flakes_of(KEY, jnp.asarray(IMAGE), 0.05, 0.3, zoom, 0.5)
    for i in (0, 30):
        wanted = snowed(jnp.asarray(IMAGE), layer, radius, sigma, 4.0 * i - 150, 0.85)
        np.testing.assert_allclose(got[i], wanted, atol=1.01 / 255)  # a flake on a tie of two levels
    assert np.abs(got[0] - got[30]).max() > 0.02


@BOTH
def test_noise_begins_at_the_image(suite):
    grey = np.full((40, 40, 3), 0.5, np.float32)
    sds, photons = ((0.02, 0.04, 0.06), (700, 400, 200)) if suite is cifar_p else ((0.03, 0.05, 0.08), (300, 120, 60))
    for difficulty in (1, 3):
        for name, sd in (
            ("gaussian_noise", sds[difficulty - 1]),
            ("shot_noise", np.sqrt(0.5 / photons[difficulty - 1])),
        ):
            got = frames(suite[name], grey, difficulty=difficulty)
            assert got.shape == (31, *grey.shape)
            np.testing.assert_array_equal(got[0], grey)
            assert got[1:].std() == pytest.approx(sd, rel=0.03)
            assert abs(np.corrcoef(got[1].ravel(), got[2].ravel())[0, 1]) < 0.06
            assert suite[name].noise


def test_the_suites():
    assert tuple(cifar_p) == tuple(imagenet_p)
    assert len(cifar_p) == 10
    assert [p.name for p in cifar_p.values() if p.noise] == ["gaussian_noise", "shot_noise"]
    assert all(p.name == name for name, p in imagenet_p.items())


def test_a_crop_shows_what_lies_around():
    x = jnp.asarray(IMAGE)
    inner = np.asarray(imagenet_p["translate"].sequence(KEY, x, crop=10))
    whole = np.asarray(imagenet_p["translate"].sequence(KEY, x))
    np.testing.assert_array_equal(inner, whole[:, 5:15, 7:17])
    np.testing.assert_array_equal(inner[22], IMAGE[5:15, 5:15])  # two to the right: pixels of the image, not black
    # light and snow see the crop alone
    for name in ("snow", "motion_blur"):
        alone = cifar_p[name].sequence(KEY, x[5:15, 7:17])
        np.testing.assert_array_equal(cifar_p[name].sequence(KEY, x, crop=10), alone)


def test_metrics_take_them():
    """Of a net that says how bright an image is: noise flips nothing, light flips at every change of the step."""
    p = cifar_p["brightness"]
    x = np.full((5, 8, 8, 3), 0.4, np.float32)
    keys = jax.random.split(KEY, len(x))
    seq = np.asarray(jax.jit(jax.vmap(p.sequence))(keys, x))
    brightness = seq.mean((2, 3, 4))
    predictions = np.digitize(brightness, [0.3, 0.5])
    assert jr.metrics.flip_probability(predictions, noise=p.noise) == pytest.approx(2 / 30)
    noisy = np.asarray(jax.jit(jax.vmap(cifar_p["gaussian_noise"].sequence))(keys, x))
    assert jr.metrics.flip_probability(np.digitize(noisy.mean((2, 3, 4)), [0.3, 0.5]), noise=True) == 0
    logits = -np.abs(brightness[..., None] - np.linspace(0, 1, 11))
    assert 0 < jr.metrics.top5_distance(logits) < 10


def test_bad_input():
    p = imagenet_p["snow"]
    with pytest.raises(ValueError, match=r"difficulty is an int in 1\.\.3, got 4"):
        p.sequence(KEY, IMAGE, difficulty=4)
    with pytest.raises(ValueError, match="at least 2 x 2 pixels"):
        p.sequence(KEY, IMAGE[:1])
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        p.sequence(KEY, IMAGE[..., :2])
    with pytest.raises(ValueError, match=r"crop is an int in 2\.\.20"):
        p.sequence(KEY, IMAGE, crop=21)
    with pytest.raises(TypeError, match="typed PRNG key"):
        p.sequence(0, IMAGE)
    with pytest.raises(TypeError, match="got uint8; divide it by 255"):
        p.sequence(KEY, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="severity"):
        imagenet_c["fog"].corrupt(KEY, IMAGE, 6)
