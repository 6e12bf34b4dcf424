"""The worst of a corruption as a composition threat: the contract of transforms, closed forms, what each kind of attack can choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.corruptions import cifar_c, mnist_c, searched
from jrobust.testing import check_oracle

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.uniform(0.2, 0.8, size=(2, 6, 5, 3)).astype(np.float32)
WEIGHTS = jnp.asarray(RNG.normal(size=X.shape[1:]), jnp.float32)

# the table that every form of search enters: transform, and which entries of theta have a gradient
ROWS = {
    "strength alone": (searched(cifar_c["contrast"], over=None), (0,)),
    "a draw of any corruption": (searched(cifar_c["elastic_transform"]), (0,)),
    "one severity only": (searched(mnist_c["dotted_line"], draws=4), (0,)),
    "a field of noise": (searched(cifar_c["gaussian_noise"], over="values"), (0, 1)),
    "speckles": (searched(cifar_c["speckle_noise"], over="values"), (0, 1)),
    "a landscape of fog": (searched(cifar_c["fog"], over="values"), (0, 1)),
    "an angle": (searched(cifar_c["motion_blur"], over="values"), (0,)),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_contract_of_transforms(row):
    t, climbs = ROWS[row]
    x, *first = t.inputs(X)
    theta = tuple(jnp.asarray(a[0]) for a in first)
    s = t.threat()((x[0], *theta))
    some = s.sample(KEY)[1:]

    @jax.jit
    def judged(theta):
        height = lambda theta: jnp.vdot(WEIGHTS, t.render(jnp.asarray(x[0]), *theta))  # noqa: E731
        return t.render(jnp.asarray(x[0]), *theta), jax.grad(height)(theta)

    same, _ = judged(theta)
    np.testing.assert_array_equal(same, x[0])  # the identity, to the bit
    image, gradient = judged(some)
    assert np.all((image >= 0) & (image <= 1))
    assert not np.array_equal(image, x[0])
    for i, g in enumerate(gradient):
        assert np.all(np.isfinite(g))
        assert np.any(np.asarray(g) != 0) == (i in climbs)
    # at no share the strength is 0, and the image itself; the randomness has its whole range
    still = t.threat(0.0)((x[0], *theta)).sample(KEY)[1:]
    np.testing.assert_array_equal(judged(still)[0], x[0])
    half = np.asarray([t.threat(0.5)((x[0], *theta)).sample(k)[1] for k in jax.random.split(KEY, 20)])
    assert half.max() <= t.ranges[0][1] / 2 + 1e-6


def test_strengths_are_severities_and_mixes_between():
    t = searched(cifar_c["gaussian_noise"], draws=7, seed=3)
    render = jax.jit(t.render)
    key = jax.random.fold_in(jax.random.key(3), 5)
    images = [X[0], *(np.clip(cifar_c["gaussian_noise"].corrupt(key, X[0], s), 0, 1) for s in range(1, 6))]
    for k in range(6):
        np.testing.assert_allclose(render(X[0], float(k), 5.7), images[k], atol=1e-6)
    np.testing.assert_allclose(render(X[0], 2.25, 5.0), 0.75 * images[2] + 0.25 * images[3], atol=1e-6)
    # the field of noise: exactly what is said
    field = RNG.normal(size=X[0].shape).astype(np.float32)
    t = searched(cifar_c["gaussian_noise"], over="values")
    np.testing.assert_allclose(jax.jit(t.render)(X[0], 5.0, field), np.clip(X[0] + 0.1 * field, 0, 1), atol=1e-6)


def bright(x):
    mean = jnp.mean(x, axis=(1, 2, 3))
    return jnp.stack([0.7 - mean, mean - 0.7], -1)


def test_the_worst_brightness_is_known():
    """Of a grey image the margin grows with the strength: the worst is the greatest, +0.3 at strength 5, +0.15 at 3."""
    t = searched(cifar_c["brightness"], over=None)
    z = tuple(jnp.asarray(a[0]) for a in t.inputs(np.full((1, 4, 4, 3), 0.45, np.float32)))
    f = jr.objectives.classification(lambda z: t.model(bright)(jax.tree.map(lambda a: a[None], z))[0], jnp.asarray(0))
    for share, shift in ((1.0, 0.3), (0.6, 0.15)):
        exact = 2 * (0.45 + shift - 0.7)
        if share == 1.0:
            check_oracle(jr.attacks.grid(points=3), f, t.threat(share)(z), key=KEY, exact=exact, samples=32)
        found = jax.jit(jr.attacks.pgd(steps=8).solve)(KEY, f, t.threat(share)(z))
        assert float(found.value) == pytest.approx(exact, abs=1e-4)


def test_noise_is_climbed_to_its_corner():
    """Of a linear model the worst field is 3 standard deviations along its signs; a draw of the noise comes nowhere near."""
    x = np.full((1, 6, 5, 3), 0.5, np.float32)  # far from the clips: 0.1 * 3 < 0.5

    def net(z):
        height = jnp.sum((z - 0.5) * WEIGHTS, (1, 2, 3))
        return jnp.stack([1.0 - height, 0 * height], -1)

    exact = 0.1 * 3 * float(jnp.abs(WEIGHTS).sum()) - 1.0
    y = np.zeros(1, int)
    values, draw = (searched(cifar_c["gaussian_noise"], over=over) for over in ("values", "draw"))
    ask = {"oracles": {"pgd": jr.attacks.pgd(steps=40)}, "key": KEY}
    ev = jr.evaluate(values.model(net), values.inputs(x), y, threat=values.threat(), **ask)
    assert ev["clean"].holds.all()
    assert not ev["pgd"].holds.any()
    assert 0.9 * exact < ev["pgd"].value[0] <= exact + 1e-3
    ask = {"oracles": {"sampling": jr.attacks.sampling(samples=20)}, "key": KEY}
    drawn = jr.evaluate(draw.model(net), draw.inputs(x), y, threat=draw.threat(), **ask)
    assert -1.0 < drawn["sampling"].value[0] < 0.3 * exact
    _, strength, number = (np.asarray(a[0]) for a in drawn["sampling"].witness)
    assert 0 <= strength <= 5
    assert 0 <= number <= 1000


def test_bad_input():
    with pytest.raises(
        ValueError,
        match="is for gaussian_noise, speckle_noise, fog, motion_blur of imagenet_c and cifar_c; got another snow",
    ):
        searched(cifar_c["snow"], over="values")
    with pytest.raises(ValueError, match="draws must be an int >= 1"):
        searched(cifar_c["snow"], draws=0)
    with pytest.raises(ValueError, match="images of 3 channels"):
        searched(cifar_c["saturate"], over=None).inputs(X[..., :1])
    with pytest.raises(ValueError, match="spatter takes images of 1 or 3 channels, got 2"):
        searched(cifar_c["spatter"]).render(X[0, ..., :2], 1.0, 0.0)
