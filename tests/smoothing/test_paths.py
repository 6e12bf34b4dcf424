"""Rotation and scaling: the bridged gap is a bound, not a loose one; what ends at a known angle is certified up to it, no further."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrobust import smoothing
from jrobust.smoothing import along, gaussian, rotation_path, scaling_path
from jrobust.transforms._geometric import rotated

KEY = jax.random.key(0)
PATHS = {"rotation": (rotation_path(), 40.0, 3.0), "scaling": (scaling_path(), 0.4, 0.05)}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 10, 3), (1, 6, 1)])
def test_no_image_in_between_is_further_than_the_gap(name, shape):
    path, most, width = PATHS[name]
    near, ratios = jnp.linspace(-0.5, 0.5, 21), []
    for i in range(6):
        image = jax.random.uniform(jax.random.fold_in(KEY, i), shape)
        t = jax.random.uniform(jax.random.fold_in(KEY, 100 + i), (), minval=-most, maxval=most)
        far = jax.vmap(
            lambda s, image=image, t=t: jnp.linalg.norm(path.render(image, t + s * width) - path.render(image, t))
        )(near).max()
        gap = path.gap(image, t, width)
        assert far <= gap + 1e-5
        ratios.append(float(far / gap))
    if min(shape[:2]) > 1:
        assert np.mean(ratios) > 0.25  # of noise images, the worst there are


@pytest.mark.parametrize("name", PATHS)
def test_the_gap_sees_the_cells_that_a_place_comes_to(name):
    """One bright pixel, and steps that move a place by almost half a pixel: the cell under the place alone would miss it."""
    path, most, _ = PATHS[name]
    width = {"rotation": 9.0, "scaling": 0.16}[name]
    missed = 0
    for i in range(25):
        image = jnp.zeros((8, 8, 1)).at[i % 8, (3 * i) % 8].set(1.0)
        t = jax.random.uniform(jax.random.fold_in(KEY, i), (), minval=-most, maxval=most)
        reach = float(path.places((8, 8), t, width).reach.max())
        assert 0.3 < reach <= 0.5 or name == "scaling"
        if reach > 0.5:
            assert path.gap(image, t, width) == jnp.inf
            missed += 1
            continue
        far = jax.vmap(
            lambda s, image=image, t=t: jnp.linalg.norm(path.render(image, t + s * width) - path.render(image, t))
        )(jnp.linspace(-0.5, 0.5, 41)).max()
        assert far <= path.gap(image, t, width) + 1e-5
    assert missed < 20


def test_a_path_of_ones_own_is_held_to_its_reach_at_both_ends():
    def runs(shape, t, width):  # the first pixel runs to the right for t > 0, eight pixels a unit
        rows, columns = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in shape), indexing="ij")
        at, reach = 8 * jnp.maximum(t, 0), 8 * width / 2 * (t + width / 2 > 0)
        ones = jnp.ones(shape)
        return smoothing.Places(rows, columns + at, reach * ones, 0 * ones, ones)

    image = jnp.zeros((1, 2, 16, 1)).at[:, 0, 6].set(1.0)
    path = smoothing.Path(runs, "pixels")
    net = lambda z: jnp.stack([0.5 - z[:, 0, 0, 0], 0 * z[:, 0, 0, 0]], 1)  # noqa: E731
    with pytest.raises(ValueError, match="take a smaller step"):
        along(net, image, path, reach=1.4, step=1.0, noise=gaussian(0.2), n=500, key=KEY)
    assert path.gap(image[0], 0.5, 1.0) == jnp.inf


def test_rotations_are_those_of_the_transforms():
    image = jax.random.uniform(KEY, (9, 6, 2))
    for degrees in (-70.0, 0.0, 12.5):
        np.testing.assert_allclose(rotation_path().render(image, degrees), rotated(image, degrees), atol=1e-5)


def test_sizes_grow_and_the_centre_stays():
    image = jnp.zeros((9, 9, 1)).at[3:6, 3:6].set(1.0)
    assert float(scaling_path().render(image, 0.0).sum()) == 9
    large = scaling_path().render(image, np.log(2.0))
    assert float(large.sum()) > 30
    assert float(large[4, 4, 0]) == 1


def beyond(degrees):
    """A linear net that says 1 once a bar along the columns has turned by more than so many degrees."""
    bar = jnp.zeros((15, 15, 1)).at[7, :].set(1.0)
    turned = jax.vmap(lambda t: rotated(bar, t))(jnp.array([degrees - 12.0, degrees + 12.0]))
    w = (turned[1] - turned[0]).ravel()
    at = w @ rotated(bar, degrees).ravel()
    return bar, lambda z: jnp.stack([jnp.zeros(len(z)), z.reshape(len(z), -1) @ w - at], 1)


def test_certified_up_to_the_angle_at_which_the_class_ends_and_not_beyond():
    bar, model = beyond(10.0)
    done = along(
        model,
        bar[None],
        rotation_path(),
        reach=40.0,
        step=0.5,
        noise=gaussian(0.3),
        n0=100,
        n=2000,
        key=KEY,
        batch_size=2000,
    )
    angles = np.linspace(0, 40, 4001)
    margin = np.asarray(jax.vmap(lambda t: model(rotated(bar, t)[None])[0, 1])(jnp.asarray(angles)))
    ends = angles[np.argmax(margin > 0)]  # of a linear net the smoothed class changes where the net's does
    assert done.prediction.tolist() == [0]
    assert ends / 3 < done.radius[0] <= ends
    assert done.norm == "degrees of rotation"
    assert done.draws[0] == 2000 * (2 * round(done.radius[0] / 0.5 - 0.5) + 2)  # and one look that failed


def test_a_constant_class_is_certified_over_the_whole_reach_and_a_coin_not_at_all():
    image = jax.random.uniform(KEY, (2, 8, 8, 1))
    how = {"reach": 4.0, "step": 1.0, "noise": gaussian(5.0), "n": 200, "key": KEY, "batch_size": 100}
    sure = along(lambda z: jnp.stack([jnp.ones(len(z)), jnp.zeros(len(z))], 1), image, rotation_path(), **how)
    assert sure.radius.tolist() == [4.0, 4.0]
    assert sure.counts.tolist() == [[200, 0]] * 2
    assert sure.draws.tolist() == [1800, 1800]
    coin = along(
        lambda z: jnp.stack([z[:, 0, 0, 0] - image[0, 0, 0, 0], jnp.zeros(len(z))], 1),
        image[:1],
        rotation_path(),
        **how,
    )
    assert coin.prediction.tolist() == [-1]
    assert coin.radius.tolist() == [0.0]


def test_does_not_depend_on_the_batch():
    bar, model = beyond(8.0)
    images = jnp.stack([bar, bar * 0.7, bar * 0.4])
    how = {"reach": 5.0, "step": 1.0, "noise": gaussian(0.4), "n0": 20, "n": 300, "key": KEY}
    a, b = (along(model, images, rotation_path(), batch_size=size, **how) for size in (64, 1000))
    assert a.counts.tolist() == b.counts.tolist()
    assert a.radius.tolist() == b.radius.tolist()


def test_the_fixed_sequence_fails_no_more_often_than_alpha():
    """A model that is sure of the image itself and a coin from the first step on, either way: one test at alpha decides, not many."""
    image = jnp.zeros((300, 5, 5, 1)).at[:, 2, 2].set(1.0)
    path = scaling_path()
    still = float(path.render(image[0], 0.0).sum())

    def net(z):  # under noise of 0.001 the sum tells the size exactly; the last pixel is a coin
        moved = jnp.abs(z.sum((1, 2, 3)) - still) > 0.05
        coin = z[:, 0, 0, 0]
        return jnp.stack([jnp.where(moved, coin, 1.0), jnp.zeros(len(z))], 1)

    done = along(
        net, image, path, reach=0.3, step=0.1, noise=gaussian(0.002), n0=10, n=100, alpha=0.1, key=KEY, batch_size=3000
    )
    looked = done.draws // 100
    # the gap of a step is far beyond this noise: the radius is 0, and nobody looks further than the first look that failed
    assert (done.prediction == 0).all()
    assert (done.radius == 0).all()
    assert (looked == 1).all()


def test_no_look_is_made_after_one_that_failed(monkeypatch):
    """Gaps taken for 0: then look k passes iff its coin does, and a coin passes at alpha. Passed looks must be a run from the first on."""
    monkeypatch.setattr(smoothing.Path, "gap", lambda self, image, t, width: jnp.zeros(()))
    image = jnp.zeros((400, 5, 5, 1)).at[:, 2, 2].set(1.0)
    still = 1.0

    def net(z):
        moved = jnp.abs(z.sum((1, 2, 3)) - still) > 0.05
        return jnp.stack([jnp.where(moved, z[:, 0, 0, 0], 1.0), jnp.zeros(len(z))], 1)

    done = along(
        net,
        image,
        scaling_path(),
        reach=0.3,
        step=0.1,
        noise=gaussian(0.001),
        n0=10,
        n=100,
        alpha=0.1,
        key=KEY,
        batch_size=4000,
    )
    failures = int((done.radius > 0.051).sum())  # of the first false look on either side, both would have to pass
    assert (done.radius >= 0.049).all()
    assert failures <= 62  # 400 at 0.1: 40, and four deviations more
    assert (done.draws[done.radius < 0.051] <= 300).all()


BAD = {
    "a path": ({"path": "rotation"}, TypeError, "rotation_path"),
    "the norm": ({"noise": smoothing.laplace(0.2)}, ValueError, "radius in l2"),
    "reach": ({"reach": -1.0}, ValueError, "reach must be"),
    "step": ({"step": float("nan")}, ValueError, "step must be"),
    "a step too large": ({"step": 9.0}, ValueError, "does not fit"),
    "a coarse step": ({"reach": 90.0, "step": 60.0}, ValueError, "take a smaller step"),
    "no images": ({"x": jnp.ones((2, 5))}, ValueError, r"images \[N, H, W, C\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    changed, error, words = BAD[case]
    how = {
        "x": jnp.ones((1, 8, 8, 1)),
        "path": rotation_path(),
        "reach": 4.0,
        "step": 1.0,
        "noise": gaussian(1.0),
    } | changed
    with pytest.raises(error, match=words):
        along(lambda z: z.reshape(len(z), -1)[:, :2], **how, n=10, key=KEY)
