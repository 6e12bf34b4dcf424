"""Deterministic corruptions and the deterministic parts of random ones, against SciPy, Pillow, colorsys or a literal walk."""

import colorsys
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jrobust.corruptions import cifar_c, corrupted, imagenet_c
from jrobust.corruptions._blur import disk, moved, shuffled
from jrobust.corruptions._digital import elastic_transform
from jrobust.corruptions._edges import canny_bytes, joined
from jrobust.corruptions._jpeg import jpeg_compression
from jrobust.corruptions._linear import mirrored, reflected, sampled
from jrobust.corruptions._spatter import distances, equalised
from jrobust.corruptions._weather import plasma

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# smooth in parts and rough in parts, no side a multiple of 8
IMAGE = (
    0.7 * np.kron(RNG.uniform(size=(6, 7, 3)), np.ones((4, 3, 1)))[:22] + 0.3 * RNG.uniform(size=(22, 21, 3))
).astype(np.float32)
BYTES = np.round(255 * IMAGE).astype(np.uint8)
BOTH = pytest.mark.parametrize("suite", [cifar_c, imagenet_c], ids=["cifar", "imagenet"])


def corrupt(corruption, severity, x=IMAGE):
    return np.asarray(jax.jit(lambda x: corruption.corrupt(KEY, x, severity))(jnp.asarray(x)))


@BOTH
def test_blurs_are_scipys(suite):
    for severity in (1, 5):
        (sigma,) = suite["gaussian_blur"].settings[severity - 1]
        blurred = ndimage.gaussian_filter(IMAGE.astype(float), (sigma, sigma, 0), mode="nearest")
        np.testing.assert_allclose(corrupt(suite["gaussian_blur"], severity), blurred, atol=1e-5)
        kernel = disk(*suite["defocus_blur"].settings[severity - 1])
        assert kernel.sum() == pytest.approx(1, abs=0.02)  # the 5 x 5 rim of the largest is mirrored
        spread = ndimage.correlate(IMAGE.astype(float), kernel[..., None], mode="mirror")
        np.testing.assert_allclose(corrupt(suite["defocus_blur"], severity), spread, atol=1e-5)


@BOTH
def test_zoom_is_scipys(suite):
    def zoomed(x, factor):
        tops, kept = zip(
            *(((n - int(np.ceil(n / factor))) // 2, int(np.ceil(n / factor))) for n in x.shape[:2]), strict=True
        )
        out = ndimage.zoom(x[tops[0] : tops[0] + kept[0], tops[1] : tops[1] + kept[1]], (factor, factor, 1), order=1)
        trim = [(a - n) // 2 for a, n in zip(out.shape, x.shape, strict=True)]
        return out[trim[0] : trim[0] + x.shape[0], trim[1] : trim[1] + x.shape[1]]

    for severity in (2, 5):
        factors = np.arange(1, *suite["zoom_blur"].settings[severity - 1])
        wanted = (IMAGE + sum(zoomed(IMAGE.astype(float), f) for f in factors)) / (len(factors) + 1)
        np.testing.assert_allclose(corrupt(suite["zoom_blur"], severity), wanted, atol=1e-5)


@BOTH
def test_colours_are_those_of_the_standard_library(suite):
    corners = IMAGE.copy()
    corners[0], corners[1], corners[2], corners[3, 0] = 0.5, 0.0, 1.0, (1.0, 0.0, 0.0)

    def reference(change):
        rgb = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*map(float, p)))) for p in corners.reshape(-1, 3)]
        return np.reshape(rgb, corners.shape)

    for severity in (1, 5):
        (shift,) = suite["brightness"].settings[severity - 1]
        brighter = reference(lambda h, s, v, by=shift: (h, s, min(v + by, 1.0)))
        np.testing.assert_allclose(corrupt(suite["brightness"], severity, corners), brighter, atol=1e-5)
        a, b = suite["saturate"].settings[severity - 1]
        redder = reference(lambda h, s, v, a=a, b=b: (h, min(s * a + b, 1.0), v))
        np.testing.assert_allclose(corrupt(suite["saturate"], severity, corners), redder, atol=3e-5)
        (share,) = suite["contrast"].settings[severity - 1]
        mean = corners.mean((0, 1), keepdims=True)
        np.testing.assert_allclose(
            corrupt(suite["contrast"], severity, corners), (corners - mean) * share + mean, atol=1e-5
        )


@BOTH
def test_pixelate_is_pillows(suite):
    for severity in (1, 3, 5):
        (share,) = suite["pixelate"].settings[severity - 1]
        height, width = BYTES.shape[:2]
        small = Image.fromarray(BYTES).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
        wanted = np.asarray(small.resize((width, height), Image.Resampling.BOX))
        got = np.round(255 * corrupt(suite["pixelate"], severity, BYTES / np.float32(255)))
        assert np.abs(got - wanted).max() <= 1
        assert np.mean(got != wanted) < 0.01


def pictures(height, width):
    """Noise, something smooth, black and white by chance, flat colours."""
    rng = np.random.default_rng(height)
    smooth = ndimage.gaussian_filter(rng.uniform(size=(height, width, 3)), (3, 3, 0), mode="wrap")
    smooth = (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)
    flat = np.broadcast_to(rng.uniform(size=3), (height, width, 3))
    images = [rng.uniform(size=(height, width, 3)), smooth, rng.integers(0, 2, (height, width, 3)), flat]
    return np.round(255 * np.stack(images)).astype(np.uint8)


def pillows(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).reshape(image.shape)


ALL = (7, 10, 15, 18, 25, 40, 50, 58, 65, 80, 90)
SIZES = {
    (32, 32): ALL, (33, 47): (25, 80), (28, 28): (7, 90), (64, 48): (10, 50), (8, 8): (18, 65), (17, 16): (15, 90),
    (3, 4): (25, 90), (5, 70): (1, 100), (1, 1): (7, 90),
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_jpeg_is_libjpegs(size):
    """Pillow's bytes, every one."""
    colours = pictures(*size)
    for images in (colours, colours[..., :1]):
        for quality in SIZES[size]:
            code = jax.vmap(lambda x, q=quality: jpeg_compression(KEY, x, q))
            got = np.round(255 * np.asarray(code(images / np.float32(255))))
            wanted = [pillows(image, quality) for image in images]
            np.testing.assert_array_equal(got, wanted, err_msg=f"quality {quality}")


def test_jpeg_of_a_data_set_is_libjpegs():
    images = pictures(30, 20)
    got = corrupted(imagenet_c["jpeg_compression"], images, severity=3, key=KEY)
    np.testing.assert_array_equal(got, [pillows(image, 15) for image in images])
    # narrow floats do not hold the integers in between
    narrow = cifar_c["jpeg_compression"].corrupt(KEY, jnp.asarray(images[0] / 255, jnp.bfloat16), 1)
    exact = pillows(np.round(255 * np.asarray(images[0] / 255).astype(jnp.bfloat16).astype(float)).astype(np.uint8), 80)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, (exact / np.float32(255)).astype(jnp.bfloat16))


def test_the_gradient_of_jpeg_is_that_of_its_linear_maps():
    x = 0.3 + 0.4 * pictures(16, 20)[1].astype(np.float32) / 255  # nothing is cut off
    weight, change = np.random.default_rng(1).normal(size=(2, *x.shape)).astype(np.float32)

    def doubled(c):  # 3/4 of the nearer and 1/4 of the farther, the edge going on
        for axis in (0, 1):
            before, after = (
                np.take(c, np.clip(np.arange(c.shape[axis]) + s, 0, c.shape[axis] - 1), axis) for s in (-1, 1)
            )
            c = np.stack([0.75 * c + 0.25 * before, 0.75 * c + 0.25 * after], axis + 1)
            c = c.reshape(*c.shape[:axis], -1, *c.shape[axis + 2 :])
        return c

    def linear(v):
        luma = v @ [0.299, 0.587, 0.114]
        blue, red = ((v[..., i] - luma) / by for i, by in ((2, 1.772), (0, 1.402)))
        blue, red = (doubled(c.reshape(8, 2, 10, 2).mean((1, 3))) for c in (blue, red))
        green = -(0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
        return np.stack([luma + 1.402 * red, luma + green, luma + 1.772 * blue], -1)

    slope = jax.jit(jax.grad(lambda x: jnp.sum(weight * jpeg_compression(KEY, x, 80))))(x)
    assert np.vdot(slope, change) == pytest.approx(np.vdot(weight, linear(change)), rel=1e-3)
    # of greys: the weights themselves, but where the sum was cut to a byte
    grey, w = BYTES[..., :1] / np.float32(255), weight[:16, :20, :1]
    grey = np.where(grey > 0.5, np.float32(0.98), np.float32(0.02))[:16, :20]
    out, back = jax.vjp(jax.jit(lambda x: jpeg_compression(KEY, x, 10)), grey)
    inside = (out > 0) & (out < 1)
    assert inside.any()
    assert not inside.all()
    np.testing.assert_allclose(back(w)[0][inside], w[inside], rtol=1e-5)
    assert np.isfinite(back(w)[0]).all()


def test_motion_is_a_sum_of_shifts():
    for angle in (-40.0, 13.0, -100.0):
        weight = np.exp(-(np.arange(13) ** 2) / 8)
        wanted = np.zeros_like(IMAGE)
        for i, w in enumerate(weight / weight.sum()):
            rows, columns = (int(np.ceil(i * f(np.deg2rad(angle)) - 0.5)) for f in (np.sin, np.cos))
            r = np.clip(np.arange(22) + rows, 0, 21)
            wanted += np.float32(w) * IMAGE[r][:, np.clip(np.arange(21) + columns, 0, 20)]
        np.testing.assert_allclose(jax.jit(moved, static_argnums=(1, 2))(IMAGE, 6, 2.0, angle), wanted, atol=1e-5)


def test_glass_is_the_walk_of_the_authors():
    there = RNG.integers(-2, 2, (2, 18 * 17, 2))
    walk = jax.jit(shuffled, static_argnums=3)
    for image in (IMAGE, IMAGE[..., :1]):
        x = image.copy() if image.shape[2] == 3 else image[..., 0].copy()
        for steps in there:
            offsets = iter(steps)
            for h in range(22 - 2, 2, -1):
                for w in range(21 - 2, 2, -1):
                    dy, dx = next(offsets)
                    # of a colour NumPy gives views here, so the second assignment reads the first one's
                    x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
        np.testing.assert_array_equal(walk(image, jnp.asarray(there), None, 2), x.reshape(image.shape))
    stay = walk(IMAGE, jnp.asarray(there), jnp.zeros((2, 18 * 17), bool), 2)
    np.testing.assert_array_equal(stay, IMAGE)


def test_sampling_folds_as_scipy_does():
    rows, columns = RNG.uniform(-30, 50, (2, 9, 9)).astype(np.float32)
    for fold, mode in ((mirrored, "mirror"), (reflected, "reflect")):
        wanted = ndimage.map_coordinates(IMAGE[..., 0].astype(float), [rows, columns], order=1, mode=mode)
        np.testing.assert_allclose(sampled(IMAGE[..., :1], rows, columns, fold)[..., 0], wanted, atol=2e-3)
    flat = jnp.full((1, 4, 1), 0.25)
    np.testing.assert_allclose(sampled(flat, rows, columns, mirrored), 0.25, atol=1e-5)


def test_elastic_moves_a_ramp_by_an_affine_map():
    # without a field, a ramp (linear in the place) goes to a ramp: three corners determine it
    rows = np.broadcast_to(np.arange(64.0)[:, None], (64, 64))
    ramp = np.stack([rows, rows.T, np.full_like(rows, 32)], -1).astype(np.float32) / 64
    out = 64 * np.asarray(jax.jit(lambda x: elastic_transform(KEY, x, 0, 0, 0.05))(jnp.asarray(ramp)))[24:40, 24:40]
    assert np.abs(np.diff(out, 2, axis=0)).max() < 1e-3
    arm, middle = 64 // 3, 32
    shifts = np.asarray(jax.random.uniform(jax.random.split(KEY, 3)[0], (3, 2), jnp.float32, -1.0, 1.0)) * 0.05 * 64
    points = middle + arm * np.array([[1, 1], [-1, 1], [-1, -1]])
    a = np.linalg.solve(np.c_[points + shifts, np.ones(3)], points)
    np.testing.assert_allclose(out[8, 8, :2], np.array([32, 32, 1]) @ a, atol=1e-3)
    still = jax.jit(lambda x: elastic_transform(KEY, x, 0.05, 0.1, 0.0))(jnp.asarray(ramp))
    assert 1e-3 < np.abs(still - ramp).max() < 0.2


def test_plasma_is_diamonds_and_squares():
    size, decay = 16, 1.7
    draws = np.asarray(jax.random.uniform(KEY, (size * size - 1,), minval=-1.0, maxval=1.0))
    grid, step, w, used = np.zeros((size, size)), size, 100.0, 0
    while step >= 2:
        half, n = step // 2, size // step
        noise = w * w * draws[used : used + 3 * n * n].reshape(3, n, n)
        for i, j in np.ndindex(n, n):
            r, c = i * step, j * step
            around = (
                grid[r, c]
                + grid[(r + step) % size, c]
                + grid[r, (c + step) % size]
                + grid[(r + step) % size, (c + step) % size]
            )
            grid[r + half, c + half] = around / 4 + noise[0, i, j]
        for i, j in np.ndindex(n, n):
            r, c = i * step, j * step
            middle = grid[r + half, c + half]
            right = middle + grid[r - half, c + half] + grid[r, c] + grid[r, (c + step) % size]
            below = middle + grid[r + half, c - half] + grid[r, c] + grid[(r + step) % size, c]
            grid[r, c + half], grid[r + half, c] = right / 4 + noise[1, i, j], below / 4 + noise[2, i, j]
        used, step, w = used + 3 * n * n, half, w / decay
    grid -= grid.min()
    np.testing.assert_allclose(jax.jit(plasma, static_argnums=(1, 2))(KEY, size, decay), grid / grid.max(), atol=1e-4)


def test_edges_distances_and_ranks():
    square = np.zeros((24, 30), np.float32)
    square[8:16, 10:20] = 200.0
    edge = np.asarray(jax.jit(canny_bytes)(square, 50.0, 150.0))
    assert edge[7:9, 10:20].any(0).all()
    assert edge[8:16, 9:11].any(1).all()
    assert not edge[:6].any()
    assert not edge[10:14, 12:18].any()
    np.testing.assert_allclose(
        jax.jit(distances)(edge), np.minimum(ndimage.distance_transform_edt(~edge), 20), atol=1e-4
    )
    assert not canny_bytes(jnp.zeros((5, 5)), 50.0, 150.0).any()
    weak = RNG.uniform(size=(20, 20)) < 0.4
    strong = weak & (RNG.uniform(size=weak.shape) < 0.1)
    labels, _ = ndimage.label(weak, np.ones((3, 3)))
    np.testing.assert_array_equal(joined(weak, strong), weak & np.isin(labels, np.unique(labels[strong])))
    # equal counts go to equal steps: 0, 1/3, 2/3, 1 of 255
    np.testing.assert_array_equal(equalised(jnp.array([[3.0, 5.0], [9.0, 20.0]]), 20), [[0, 85], [170, 255]])
    np.testing.assert_array_equal(equalised(jnp.full((2, 2), 4.0), 20), np.full((2, 2), 4))
