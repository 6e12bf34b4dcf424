"""The corruptions of MNIST-C: affine maps against SciPy, lines and edges against literal loops, and what all of the suite keep."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jrobust.corruptions import corrupted, imagenet_c, mnist_c, mnist_c_severity
from jrobust.corruptions._edges import canny_unit
from jrobust.corruptions._mnist import strokes

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
GREY = ndimage.gaussian_filter(RNG.uniform(size=(28, 28)), 1.5)
GREY = ((GREY - GREY.min()) / (GREY.max() - GREY.min())).astype(np.float32)[..., None]
COLOUR = np.stack([GREY[..., 0], GREY[::-1, :, 0], GREY.T[0]], -1)
STILL = {"scale", "brightness", "stripe", "canny_edges"}
DARK = np.zeros((28, 28, 1), np.float32)


def many(name, x=DARK, severity=1, n=64):
    corrupt = jax.jit(jax.vmap(lambda k: mnist_c[name].corrupt(k, jnp.asarray(x), severity)))
    return np.asarray(corrupt(jax.random.split(KEY, n)), float)


def test_the_suite():
    assert tuple(mnist_c) == tuple(mnist_c_severity)
    assert len(mnist_c) == 15
    for name, severity in mnist_c_severity.items():
        assert 1 <= severity <= len(mnist_c[name].settings)
        assert mnist_c[name].name == name
    for name in set(mnist_c) & set(imagenet_c) - {"spatter"}:  # "ImageNet constants"
        assert mnist_c[name].settings == imagenet_c[name].settings


@pytest.mark.parametrize("name", mnist_c)
def test_every_one_of_them(name):
    severity = mnist_c_severity[name]
    for x in (GREY, COLOUR):
        out = many(name, x, severity, 8) if x is GREY else np.asarray(mnist_c[name].corrupt(KEY, x, severity))[None]
        assert out.shape[1:] == x.shape
        assert out.min() >= -1e-6
        assert out.max() <= 1 + 1e-6
        assert not np.array_equal(out[0], x)
        if x is GREY:
            assert (out == out[0]).all() == (name in STILL)
    # equal channels stay equal where all channels change alike
    if name not in ("shot_noise", "impulse_noise", "glass_blur"):
        three = np.repeat(GREY, 3, 2)
        out = np.asarray(mnist_c[name].corrupt(KEY, three, severity))
        np.testing.assert_allclose(out, np.repeat(mnist_c[name].corrupt(KEY, GREY, severity), 3, 2), atol=1e-5)


def test_maps_of_places_are_scipys():
    def fetched(matrix):  # from (right, down) to (right, down)
        m = np.asarray(matrix)[::-1, ::-1]
        middle = np.array([13.5, 13.5])
        # beyond the edge SciPy fades over one pixel only with a border of zeros given
        padded = np.pad(GREY[..., 0].astype(float), 2)
        return ndimage.affine_transform(padded, m, middle + 2 - m @ (middle + 2), order=1)[2:-2, 2:-2]

    for severity in (1, 5):
        angle = 0.2 * severity
        for name, maps in (
            ("shear", [[[1, -np.sin(a)], [0, np.cos(a)]] for a in (-angle, angle)]),
            ("rotate", [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in (-angle, angle)]),
            ("scale", [np.eye(2) / (1 - 0.1 * severity)]),
        ):
            wanted = np.stack([fetched(m) for m in maps])
            away = np.abs(many(name, GREY, severity, 16)[:, None, ..., 0] - wanted).max((2, 3))
            assert away.min(1).max() < 1e-5, name
            assert set(away.argmin(1)) == set(range(len(maps))), name  # both directions are drawn
    out = many("translate", GREY, 3, 32)[..., 0]
    wanted = [ndimage.shift(GREY[..., 0], (3 * a, 3 * b), order=0) for a in (-1, 1) for b in (-1, 1)]
    away = np.abs(out[:, None] - np.stack(wanted)).max((2, 3))
    assert away.min(1).max() < 1e-6
    assert set(away.argmin(1)) == {0, 1, 2, 3}


def test_stripes():
    out = mnist_c["stripe"].corrupt(KEY, GREY, 1)
    np.testing.assert_array_equal(out[:, 7:21], GREY[:, 7:21])
    np.testing.assert_array_equal(out[:, :7], 1 - GREY[:, :7])
    np.testing.assert_array_equal(out[:, 21:], 1 - GREY[:, 21:])


def line(c0, r0, c1, r1):
    """One line of the authors."""
    rows, columns = np.arange(28.0)[:, None], np.arange(28.0)
    away = np.abs(rows - ((r1 - r0) / (c1 - c0) * (columns - c0) + r0))
    out = np.maximum(np.log(1 - np.minimum(away, 2.3 - 1e-10) / 2.3) + 1, 0)
    return out * ((columns >= np.floor(c0)) & (columns < np.ceil(c1)))


def test_dotted_lines():
    dots = np.zeros(28)
    dots[[c for c in range(28) if c % 4 in (2, 3)]] = 1
    ends = [(a, b) for a in range(27) for b in range(27)]
    lines = dots * np.stack([line(0, a, 27, b) for a, b in ends])
    found = []
    for out in many("dotted_line")[..., 0]:
        (fits,) = np.nonzero(np.abs(lines - out).max((1, 2)) < 1e-5)
        assert len(fits) == 1
        found.append(ends[fits[0]])
    assert len(set(found)) > 50
    assert np.max(found) > 20
    drawn = strokes((28, 28, 1), [3.3], [5.0], [0.7], [3.0], [20.0])[0]
    np.testing.assert_allclose(drawn, line(3.3, 5.0, 19.3, 5 + 0.7 * 16), atol=1e-5)


def zigzags():
    """All that the authors' code can draw on black, from row 13."""
    for rise in range(-5, 5):
        turn = np.arctan(rise / 23)
        length = 23 / np.cos(turn)
        points = [(0.0, 0.0)]
        for i in range(int((length - 2) // 4) + 1):
            points.append((4 * i + 2.0, (-1) ** i * 2.0))
        points.append((length, points[-1][1] / (2 * (length - 4 * (length // 4)))))
        cos, sin = np.cos(turn), np.sin(turn)
        turned = [(cos * c - sin * r + 2, sin * c + cos * r) for c, r in points]
        yield rise, turned


def test_zigzags():
    rises = set()
    for out in many("zigzag", n=24)[..., 0]:
        fits = []
        for rise, points in zigzags():
            first = int(np.argmax(out[:, 2]))
            for s in range(max(first - 1, 0), min(first + 2, 27)):
                drawn = sum(line(a, b + s, c, d + s) for (a, b), (c, d) in itertools.pairwise(points))
                if np.abs(np.clip(drawn, 0, 1) - out).max() < 1e-4:
                    fits.append(rise)
        assert len(fits) == 1
        rises.add(fits[0])
    assert rises <= set(range(-5, 5))
    assert len(rises) > 5


def literal_canny(x):
    """Scikit-image's Canny as it is written, point by point."""
    smooth = ndimage.gaussian_filter(x, 1.0, mode="constant")
    smooth = smooth / ndimage.gaussian_filter(np.ones_like(x), 1.0, mode="constant")
    i, j = ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)
    size = np.hypot(i, j)
    peak = np.zeros(x.shape, bool)
    for r in range(1, x.shape[0] - 1):
        for c in range(1, x.shape[1] - 1):
            a, b = i[r, c], j[r, c]
            if a == b == 0:
                continue
            down, right = (1 if a >= 0 else -1), (1 if b >= 0 else -1)
            steep = abs(a) >= abs(b)
            share = abs(b / a) if steep else abs(a / b)
            ends = []
            for s in (1, -1):
                near = size[r + s * down, c] if steep else size[r, c + s * right]
                ends.append((1 - share) * near + share * size[r + s * down, c + s * right])
            peak[r, c] = max(ends) <= size[r, c] * (1 + 1e-9)
    labels, _ = ndimage.label(peak & (size >= 0.1), np.ones((3, 3)))
    strong = np.unique(labels[peak & (size >= 0.2)])
    return (labels > 0) & np.isin(labels, strong)


def test_edges():
    find = jax.jit(lambda x: canny_unit(x, 0.1, 0.2))
    square = np.zeros((28, 28))
    square[10:16, 6:13] = 1.0
    faint = ndimage.gaussian_filter(RNG.uniform(size=(28, 28)), 2) * np.linspace(0.1, 1, 28)
    for x in (GREY[..., 0].astype(float), square, faint, RNG.uniform(size=(9, 13))):
        wanted = literal_canny(x)
        assert wanted.any()
        np.testing.assert_array_equal(find(x.astype(np.float32)), wanted)
    assert not find(np.full((5, 5), 0.3, np.float32)).any()
    out = mnist_c["canny_edges"].corrupt(KEY, square[..., None].astype(np.float32), 1)
    assert set(np.unique(out)) == {0.0, 1.0}


def test_noise_and_weather_of_grey_digits():
    # a blur down the columns alone leaves the first one, which no exchange of reach 1 touches; in others grey is exchanged
    columns = np.zeros((28, 28, 1), np.float32)
    columns[:, ::2] = 1.0
    out = many("glass_blur", columns, 1, 2)[..., 0]
    np.testing.assert_allclose(out[..., 0], 1.0, atol=1e-5)
    assert 0.2 < out[..., 10].mean() < 0.8
    mud = many("spatter", DARK, 4, 8)
    assert mud.max() <= 63 / 255 + 1e-6
    assert mud.max() > 0.2
    # fog: the corner of a landscape of 256 x 256, whose extremes lie elsewhere: smoother than one of 32
    fog, thin = many("fog", GREY * 0 + 0.5, 5, 4), np.asarray(imagenet_c["fog"].corrupt(KEY, GREY * 0 + 0.5, 5))
    assert fog.reshape(4, -1).std(1).mean() < 0.8 * thin.std()


def test_a_data_set():
    x = np.round(255 * np.repeat(GREY[None], 3, 0)).astype(np.uint8)
    out = corrupted(mnist_c["rotate"], x, severity=2, key=KEY, batch_size=2)
    assert (out.dtype, out.shape) == (np.uint8, x.shape)
    np.testing.assert_array_equal(corrupted(mnist_c["rotate"], x, severity=2, key=KEY), out)
    with pytest.raises(ValueError, match=r"stripe: severity is an int in 1\.\.1, got 2"):
        corrupted(mnist_c["stripe"], x, severity=2, key=KEY)
    for name, least in (("stripe", 4), ("zigzag", 4), ("canny_edges", 3)):
        with pytest.raises(ValueError, match=f"at least {least} x {least} pixels"):
            corrupted(mnist_c[name], x[:, :1, :1], severity=1, key=KEY)
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        mnist_c["canny_edges"].corrupt(KEY, np.zeros((8, 8, 2), np.float32), 1)
