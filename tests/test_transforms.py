"""Transforms: the identity to the bit, what is known of each rendering, finite gradients where formulas have corners."""

import colorsys
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.transforms._geometric import rotated
from jrobust.transforms._recolour import _displacement, luv, rgb

_rng = np.random.default_rng(0)
IMAGE = jnp.asarray(_rng.uniform(size=(6, 5, 3)), jnp.float32)
# grey, black, white and pure pixels: where hue is not defined, and where clips begin
CORNERS = IMAGE.at[0].set(0.5).at[1].set(0.0).at[2].set(1.0).at[3, 0].set(jnp.array([1.0, 0.0, 0.0]))

T = jr.transforms
TRANSFORMS = {
    "rotation": T.rotation(),
    "translation": T.translation(),
    "rotation_translation": T.rotation_translation(),
    "flow": T.flow(),
    "hue": T.hue(),
    "saturation": T.saturation(),
    "brightness": T.brightness(),
    "contrast": T.contrast(),
    "pixels": T.pixels(),
    "hsv_shift": T.hsv_shift(),
    "colour_filter": T.colour_filter(pieces=8),
    "recolour": T.recolour(resolution=(3, 4, 5)),
    "caa": T.caa(),
}


def test_all_of_them_are_here():
    makers = set(T.__all__) - {"Transform", "any_order", "caa_any_order", "chain", "interpolate"}
    assert makers == set(TRANSFORMS)


@partial(jax.jit, static_argnames="render")
def judged(images, weights, theta, *, render):
    def height(theta, image):
        return jnp.vdot(weights, render(image, *theta))

    gradients = jax.vmap(jax.grad(height), in_axes=(None, 0))(theta, images)
    return jax.vmap(lambda image: render(image, *theta))(images), gradients


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_identity_is_exact_and_everything_stays_an_image(name):
    t = TRANSFORMS[name]
    images = jnp.stack([IMAGE, CORNERS])
    x, *theta = t.inputs(images)
    first = tuple(jnp.asarray(a[0]) for a in theta)
    weights = jnp.asarray(_rng.normal(size=IMAGE.shape), jnp.float32)
    same, gradients = judged(images, weights, first, render=t.render)
    np.testing.assert_array_equal(same, x)
    s = t.threat()((IMAGE, *first))
    ends = s.argsup(jax.tree.map(jnp.ones_like, s.center))[1:]
    for g in (gradients, judged(images, weights, ends, render=t.render)[1]):
        assert all(np.all(np.isfinite(leaf)) for leaf in g)
        assert all(np.any(np.asarray(leaf) != 0) for leaf in g)  # an attack from here has somewhere to go
    some, _ = judged(images, weights, s.sample(jax.random.key(0))[1:], render=t.render)
    assert np.all((some >= 0) & (some <= 1))
    assert not np.array_equal(some, images)
    # of no share of the ranges nothing moves
    for leaf, at in zip(t.threat(0.0)((IMAGE, *first)).sample(jax.random.key(0)), (IMAGE, *first), strict=True):
        np.testing.assert_array_equal(leaf, at)


def test_whole_turns_and_whole_shifts_are_known():
    square = IMAGE[:5]
    turn = jax.jit(rotated)
    for quarter in range(4):
        turned = turn(square, 90.0 * quarter)
        np.testing.assert_allclose(turned, np.rot90(square, quarter), atol=1e-5)
    np.testing.assert_allclose(turn(IMAGE, 180.0), IMAGE[::-1, ::-1], atol=1e-5)
    shift_by, turn_and_shift, fetch = (jax.jit(t.render) for t in (T.translation(), T.rotation_translation(), T.flow()))
    for down, right in ((2, 0), (0, -1), (-3, 2), (6, 0)):
        shifted = np.zeros_like(IMAGE)
        for r in range(6):
            for c in range(5):
                if 0 <= r - down < 6 and 0 <= c - right < 5:
                    shifted[r, c] = IMAGE[r - down, c - right]
        shift = jnp.array([down, right], jnp.float32)
        np.testing.assert_array_equal(shift_by(IMAGE, shift), shifted)
        np.testing.assert_array_equal(turn_and_shift(IMAGE, 0.0, shift), shifted)
        # a flow says where to fetch from
        half = -shift / jnp.array([3.0, 2.5])
        np.testing.assert_allclose(fetch(IMAGE, jnp.broadcast_to(half, (6, 5, 2))), shifted, atol=1e-5)
    # turned, then shifted: not the other way round
    both = turn_and_shift(square, 90.0, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(both[1:], np.rot90(square)[:-1], atol=1e-5)
    back = turn(turn(jnp.ones((31, 31, 1)), 20.0), -20.0)
    np.testing.assert_allclose(back[10:-10, 10:-10], 1.0, atol=1e-5)


def test_colours_are_those_of_the_standard_library():
    def reference(change):
        rgb = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*map(float, p)))) for p in CORNERS.reshape(-1, 3)]
        return np.asarray(rgb, np.float32).reshape(CORNERS.shape)

    for angle in (1.0, -2.5, 2 * math.pi):
        turned = reference(lambda h, s, v, a=angle: ((h + a / (2 * math.pi)) % 1, s, v))
        np.testing.assert_allclose(T.hue().render(CORNERS, jnp.float32(angle)), turned, atol=2e-5)
    np.testing.assert_allclose(T.hue().render(CORNERS, jnp.float32(2 * math.pi)), CORNERS, atol=2e-5)
    for factor in (0.0, 0.7, 1.3, 9.0):
        scaled = reference(lambda h, s, v, f=factor: (h, min(s * f, 1.0), v))
        np.testing.assert_allclose(T.saturation().render(CORNERS, jnp.float32(factor)), scaled, atol=2e-5)
    for turns, shift in ((0.25, 0.3), (-0.4, -0.5), (0.0, 1.0)):
        shifted = reference(lambda h, s, v, t=turns, d=shift: ((h + t) % 1, min(max(s + d, 0.0), 1.0), v))
        out = T.hsv_shift().render(CORNERS, jnp.float32(turns), jnp.float32(shift))
        np.testing.assert_allclose(out, shifted, atol=2e-5)


def test_a_colour_filter_is_the_published_curve():
    x = jnp.linspace(0.0, 1.0, 101, dtype=jnp.float32)[:, None, None]
    theta = np.asarray(_rng.uniform(1.0, 8.0, size=(1, 64)), np.float32)
    k = np.arange(64)
    published = (64 / theta.sum()) * np.sum(theta[0] * np.clip(np.asarray(x)[:, 0] - k / 64, 0.0, 1 / 64), axis=1)
    curve = np.asarray(T.colour_filter().render(x, jnp.asarray(theta))).ravel()
    np.testing.assert_allclose(curve, published, atol=1e-5)
    assert curve[0] == 0.0
    assert curve[-1] == 1.0
    assert np.all(np.diff(curve) > 0)
    assert T.colour_filter(1.0).ranges == ((1.0, 1.0),)


def test_a_lattice_maps_colours():
    # of sRGB red, as tables of colours have it: L = 53.24, u = 175.0, v = 37.8
    np.testing.assert_allclose(luv(jnp.array([1.0, 0.0, 0.0])), [0.5324, 1.375, 0.689], atol=1e-3)
    np.testing.assert_allclose(luv(jnp.ones(3)), [1.0, 0.5, 0.5], atol=1e-3)
    there_and_back = jax.jit(lambda c: rgb(luv(c)))
    np.testing.assert_allclose(there_and_back(CORNERS), CORNERS, atol=2e-4)
    lattice = jnp.asarray(_rng.uniform(-0.06, 0.06, size=(3, 4, 5, 3)), jnp.float32)
    image = IMAGE.at[5].set(IMAGE[0])
    out = jax.jit(T.recolour().render)(image, lattice)
    np.testing.assert_array_equal(out[5], out[0])  # the same colours
    assert np.max(np.abs(out - image)) > 0.03
    # between two points of the lattice it is linear, and at a point the point's own
    at = jnp.array([[0.5, 2 / 3, 0.25], [0.75, 2 / 3, 0.25]])
    moved = _displacement(lattice, at)
    np.testing.assert_allclose(moved[0], lattice[1, 2, 1], atol=1e-6)
    np.testing.assert_allclose(moved[1], 0.5 * (lattice[1, 2, 1] + lattice[2, 2, 1]), atol=1e-6)


def test_a_chain_takes_its_transforms_in_turn():
    a, b = T.brightness(), T.contrast()
    one = T.chain(a, b).render(IMAGE, jnp.float32(0.1), jnp.float32(0.8))
    np.testing.assert_array_equal(one, b.render(a.render(IMAGE, jnp.float32(0.1)), jnp.float32(0.8)))
    assert not np.allclose(one, T.chain(b, a).render(IMAGE, jnp.float32(0.8), jnp.float32(0.1)))
    assert T.chain(a, T.hue()).channels == 3
    assert [t.shape for t in T.caa().inputs(IMAGE[None])] == [(1, 6, 5, 3)] + [(1,)] * 5 + [(1, 6, 5, 3)]


def test_any_order_is_the_chain_in_that_order():
    some = (T.brightness(), T.contrast(), T.translation())
    t = T.any_order(*some)
    theta = (jnp.float32(0.2), jnp.float32(1.3), jnp.array([1.0, 0.5], jnp.float32))
    render = jax.jit(t.render)
    for number, order in enumerate(itertools.permutations(range(3))):
        expected = T.chain(*(some[i] for i in order)).render(IMAGE, *(theta[i] for i in order))
        np.testing.assert_allclose(render(IMAGE, jnp.float32(number + 0.4), *theta), expected, atol=1e-6)
    identity = t.inputs(IMAGE[None])[1:]
    for number in (0.0, 5.0, 6.0):
        np.testing.assert_array_equal(
            render(IMAGE, jnp.float32(number), *(jnp.asarray(a[0]) for a in identity[1:])), IMAGE
        )
    # an order is no amount: a share is one of the others
    lo, hi = t.threat(0.5)((IMAGE, *(jnp.asarray(a[0]) for a in identity))).hull()
    np.testing.assert_allclose(np.stack([lo[1], hi[1], lo[2], hi[2]]), [0.0, 6.0, -0.1, 0.1])
    assert T.chain(T.hue(), t).free == (1,)
    assert T.caa(order=None).ranges[0] == (0.0, 720.0)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: T.rotation(-1.0), "degrees"),
        (lambda: T.translation(math.inf), "pixels"),
        (lambda: T.flow(-0.1), "bound"),
        (lambda: T.hue(4.0), "radians"),
        (lambda: T.saturation((1.1, 1.3)), "1, where nothing changes"),
        (lambda: T.contrast((-0.1, 1.3)), "factor is >= 0"),
        (lambda: T.brightness((0.2, -0.2)), "lo <= hi"),
        (lambda: T.hsv_shift(0.7), "turns"),
        (lambda: T.colour_filter(0.5), "eps must be a number >= 1"),
        (lambda: T.colour_filter(pieces=0), "pieces"),
        (lambda: T.recolour(-1.0), "bound"),
        (lambda: T.recolour(resolution=(1, 2, 2)), "resolution"),
        (lambda: T.caa(order=(0, 0)), "different numbers"),
        (lambda: T.any_order(T.hue()), "2 to 6"),
        (lambda: T.hue().inputs(np.zeros((2, 4, 4, 1))), "3 channels"),
        (lambda: T.rotation().inputs(np.zeros((2, 4))), "images"),
        (lambda: T.rotation().threat(-0.5), "eps must be"),
    ],
)
def test_what_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()
    with pytest.raises(TypeError, match="transforms"):
        T.chain()
