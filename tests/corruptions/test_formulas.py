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
from jrobust.corruptions._blur import moved, shuffled
from jrobust.corruptions._digital import elastic_transform
from jrobust.corruptions._edges import canny_bytes, joined
from jrobust.corruptions._jpeg import jpeg_compression
from jrobust.corruptions._linear import mirrored, reflected, sampled
from jrobust.corruptions._noise import normals, uniforms
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


def zoomed(x, factor):
    """The middle of an image enlarged, as the authors do it."""
    tops, kept = zip(
        *(((n - int(np.ceil(n / factor))) // 2, int(np.ceil(n / factor))) for n in x.shape[:2]), strict=True
    )
    out = ndimage.zoom(x[tops[0] : tops[0] + kept[0], tops[1] : tops[1] + kept[1]], (factor, factor, 1), order=1)
    trim = [(a - n) // 2 for a, n in zip(out.shape, x.shape, strict=True)]
    return out[trim[0] : trim[0] + x.shape[0], trim[1] : trim[1] + x.shape[1]]


def shifted(x, radius, sigma, angle):
    """The sum of shifts that a motion is."""
    step = np.arange(2 * radius + 1)
    weight = np.exp(-(step**2) / (2 * sigma**2))
    total = np.zeros_like(x)
    for i, w in zip(step, weight / weight.sum(), strict=True):
        down, right = (int(np.ceil(i * f(np.deg2rad(angle)) - 0.5)) for f in (np.sin, np.cos))
        rows, columns = (np.clip(np.arange(n) + by, 0, n - 1) for n, by in zip(x.shape[:2], (down, right), strict=True))
        total += np.float32(w) * x[rows][:, columns]
    return total


@BOTH
def test_blurs_are_scipys(suite):
    for severity in (1, 5):
        (sigma,) = suite["gaussian_blur"].settings[severity - 1]
        blurred = ndimage.gaussian_filter(IMAGE.astype(float), (sigma, sigma, 0), mode="nearest")
        np.testing.assert_allclose(corrupt(suite["gaussian_blur"], severity), blurred, atol=1e-5)
        radius, softness = suite["defocus_blur"].settings[severity - 1]
        reach, half = (8, 1) if radius <= 8 else (radius, 2)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        kernel = (x**2 + y**2 <= radius**2) / np.sum(x**2 + y**2 <= radius**2)
        y, x = np.mgrid[-half : half + 1, -half : half + 1]
        rim = np.exp(-(x**2 + y**2) / (2 * softness**2))
        kernel = ndimage.correlate(kernel, rim / rim.sum(), mode="mirror")
        spread = ndimage.correlate(IMAGE.astype(float), kernel[..., None], mode="mirror")
        np.testing.assert_allclose(corrupt(suite["defocus_blur"], severity), spread, atol=1e-5)


@BOTH
def test_zoom_is_scipys(suite):
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
        grey = corrupt(suite["brightness"], severity, corners[..., :1])
        np.testing.assert_allclose(grey, np.minimum(corners[..., :1] + shift, 1), atol=1e-6)
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


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_of_jpeg_is_whole_at_black_and_white_and_nothing_outside(channels):
    slope = jax.grad(lambda a: jpeg_compression(None, a, 50).sum())
    for value, whole in ((0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (1.2, 0.0), (-0.1, 0.0)):
        np.testing.assert_allclose(slope(jnp.full((16, 16, channels), value)).mean(), whole, atol=1e-5)


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
        wanted = shifted(IMAGE, 6, 2.0, angle)
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


def test_elastic_of_given_draws_is_scipys():
    """Both samplings; a place is off by at most 1/2048 of a pixel along each axis."""
    for strength, smoothness, corners in (cifar_c["elastic_transform"].settings[i] for i in (1, 4)):
        for_corners, *for_field = jax.random.split(KEY, 3)
        shifts = np.asarray(jax.random.uniform(for_corners, (3, 2), minval=-1.0, maxval=1.0), float) * corners * 21
        points = np.array([11, 10]) + 7 * np.array([[1, 1], [-1, 1], [-1, -1]])
        a = np.linalg.solve(np.c_[points + shifts, np.ones(3)], points)
        places = np.stack([*np.mgrid[:22, :21], np.ones((22, 21))], -1) @ a
        field = [
            strength
            * 21
            * ndimage.gaussian_filter(
                np.asarray(uniforms(k, (22, 21), jnp.float32, -1.0, 1.0), float),
                smoothness * 21,
                mode="reflect",
                truncate=3,
            )
            for k in for_field
        ]
        out = np.zeros_like(IMAGE)
        for c in range(3):
            out[..., c] = ndimage.map_coordinates(
                IMAGE[..., c].astype(float), np.moveaxis(places, 2, 0), order=1, mode="mirror"
            )
            out[..., c] = ndimage.map_coordinates(out[..., c], np.mgrid[:22, :21] + field, order=1, mode="reflect")
        np.testing.assert_allclose(
            elastic_transform(KEY, jnp.asarray(IMAGE), strength, smoothness, corners), out, atol=2.1e-3
        )


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


@BOTH
def test_weather_of_given_draws_is_the_authors(suite):
    """Their formulas in NumPy, SciPy and Pillow's bytes, from the random numbers that ours draw: within one level."""
    for severity in (1, 5):
        thickness, decay = suite["fog"].settings[severity - 1]
        fog = IMAGE + thickness * np.asarray(plasma(KEY, 32, decay))[:22, :21, None]
        wanted = np.clip(fog * IMAGE.max() / (IMAGE.max() + thickness), 0, 1)
        np.testing.assert_allclose(corrupt(suite["fog"], severity), wanted, atol=1e-5)

        mean, sd, zoom, least, radius, sigma, share = suite["snow"].settings[severity - 1]
        flakes, wind = jax.random.split(KEY)
        layer = zoomed(mean + sd * np.asarray(normals(flakes, (22, 21, 1), jnp.float32), float), zoom)
        layer = np.floor(255 * np.clip(np.where(layer < least, 0, layer), 0, 1)) / 255
        layer = (
            np.round(
                255 * shifted(layer, radius, sigma, float(jax.random.uniform(wind, (), minval=-135.0, maxval=-45.0)))
            )
            / 255
        )
        white = np.maximum(IMAGE, IMAGE @ [[0.299], [0.587], [0.114]] * 1.5 + 0.5)
        wanted = np.clip(share * IMAGE + (1 - share) * white + layer + np.rot90(layer, 2), 0, 1)
        got = corrupt(suite["snow"], severity)
        np.testing.assert_allclose(got, wanted, atol=1.01 / 255)  # a flake on a tie of two levels
        assert np.mean(np.abs(got - wanted) > 1e-5) < 0.01

        mean, sd, sigma, least, strength, mud = suite["spatter"].settings[severity - 1]
        drop = mean + sd * np.asarray(normals(KEY, (22, 21), jnp.float32), float)
        drop = ndimage.gaussian_filter(drop, sigma, mode="nearest")
        drop[drop < least] = 0
        if mud:
            m = ndimage.gaussian_filter((drop > least).astype(float), strength, mode="nearest")
            m = np.where(m < 0.8, 0, m)[..., None]
            wanted = IMAGE * (1 - m) + np.array([63, 42, 20]) / 255 * m
        else:
            drop = np.floor(255 * np.clip(drop, 0, 1))
            away = ndimage.distance_transform_edt(~np.asarray(canny_bytes(jnp.asarray(drop, jnp.float32), 50.0, 150.0)))
            rank = equalised(jnp.floor(ndimage.uniform_filter(np.minimum(away, 20), 3, mode="mirror") + 1e-6), 20)
            lit = ndimage.correlate(np.asarray(rank, float), [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], mode="mirror")
            m = drop * np.round(ndimage.uniform_filter(np.clip(lit, 0, 255), 3, mode="mirror"))
            wanted = np.clip(IMAGE + (strength * m / m.max())[..., None] * np.array([175, 238, 238]) / 255, 0, 1)
        np.testing.assert_allclose(corrupt(suite["spatter"], severity), wanted, atol=1 / 255)
        assert np.abs(wanted - IMAGE).max() > 0.05


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
