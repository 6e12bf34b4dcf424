"""What a new user did wrong, and what was said: before the work, in one line, and nothing certified that should not be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import smoothing

KEY = jax.random.key(0)
X = jnp.array([[0.5, 0.2], [-0.4, 0.1]])


def linear(x):
    return jnp.stack([x[:, 0], -x[:, 0]], 1)


def test_an_attack_on_the_model_does_not_contradict_a_certificate_of_the_smoothed_one():
    def spiky(x):  # wrong on a narrow strip around the examples, which noise does not see
        strip = jnp.abs(jnp.abs(x[:, 0]) - 0.5) < 0.02
        return linear(x) * jnp.where(strip, -1.0, 1.0)[:, None]

    x, y = jnp.array([[1.0, 0.2], [-1.0, 0.1]]), jnp.array([0, 1])
    ev = jr.evaluate(
        spiky, x, y, threat=jr.sets.l2(0.6), key=KEY,
        oracles={"smoothed": smoothing.cohen(smoothing.gaussian(0.5), n0=20, n=2000), "sampled": jr.attacks.sampling(samples=2000)},
    )  # fmt: skip
    assert ev["smoothed"].holds.all()
    assert not ev["sampled"].holds.any()
    assert ev.contradictions() == []
    assert "smoothed speaks of the smoothed model, the other rows of the model itself" in str(ev.table())


@pytest.mark.parametrize(("lower", "upper"), [(1.2, None), (-0.1, None), (np.nan, None), (0.6, -1.0)])
def test_flips_refuse_what_is_no_probability(lower, upper):
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        smoothing.certified_flips(lower, upper, add=0.1, delete=0.1, added=1, deleted=0)


def test_medians_are_of_gaussian_noise_and_of_one_example():
    with pytest.raises(ValueError, match="under gaussian or anisotropic noise, got laplace"):
        smoothing.noisy_outputs(lambda x: x, X, noise=smoothing.laplace(0.1), n=10, key=KEY)
    whole = smoothing.noisy_outputs(lambda x: x, X, noise=smoothing.gaussian(0.1), n=10, key=KEY)
    with pytest.raises(ValueError, match="of one example"):
        smoothing.median_bounds(whole, 0.5)
    with pytest.raises(ValueError, match="have 1 NaNs"):
        smoothing.median_bounds([1.0, np.nan], 0.5)


def test_a_model_of_nan_is_told():
    how = {"noise": smoothing.gaussian(0.2), "n0": 10, "n": 100, "key": KEY}
    with pytest.warns(UserWarning, match="NaN for all of 2 noisy examples"):
        lost = smoothing.certify(lambda x: linear(x) * jnp.nan, X, **how)
    assert lost.prediction.tolist() == [-1, -1]


@pytest.mark.parametrize("driver", ["predict", "dual", "along"])
def test_too_few_draws_are_told(driver):
    images = jax.random.uniform(KEY, (1, 4, 4, 1))
    net = lambda z: linear(z.reshape(len(z), -1))  # noqa: E731
    noise, path = smoothing.gaussian(0.2), smoothing.rotation_path()
    calls = {
        "predict": lambda: smoothing.predict(linear, X, noise=noise, n=2, key=KEY),
        "dual": lambda: smoothing.dual((net, net), images, sigma=0.2, n0=5, n=2, key=KEY),
        "along": lambda: smoothing.along(net, images, path, reach=2.0, step=1.0, noise=noise, n0=5, n=2, key=KEY),
    }
    with pytest.warns(UserWarning, match="n=2 draws cannot certify anything"):
        calls[driver]()


def test_bands_refuse_bytes_and_tell_of_silence():
    kept = smoothing.bands(2)
    net = lambda z: jnp.zeros((len(z), 10)) + 0 * z.sum((1, 2))[:, :1]  # noqa: E731
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        smoothing.derandomized(net, 255 * jnp.ones((1, 6, 6, 1)), bands=kept)
    with pytest.warns(UserWarning, match="probabilities instead of logits"):
        silent = smoothing.derandomized(net, jnp.ones((1, 6, 6, 1)), bands=kept)
    assert silent.prediction.tolist() == [-1]
    assert not silent.certified(1).any()


def test_numbers_that_make_no_sense_are_refused(tmp_path):
    cert = smoothing.certify(linear, X, noise=smoothing.gaussian(0.2), n0=10, n=100, key=KEY)
    y = np.array([0, 1])
    for radius in (-1.0, np.nan, [0.0, 0.1]):
        with pytest.raises(ValueError, match="one number >= 0"):
            cert.accuracy(y, radius)
    with pytest.raises(ValueError, match="a file in a directory that is there"):
        cert.write_tsv(tmp_path, y)
    with pytest.raises(ValueError, match="a file in a directory that is there"):
        cert.write_tsv(tmp_path / "nowhere" / "a.tsv", y)
    with pytest.raises(ValueError, match="weights, eta and many"):
        smoothing.collective([[25, 1.5], [1.5, 2]], [9, 9], 0.3, many=[3, -4])
    with pytest.raises(TypeError, match=r"mesh is a jax\.sharding\.Mesh"):
        smoothing.certify(linear, X, noise=smoothing.gaussian(0.2), n=100, key=KEY, mesh=2)


def test_an_average_radius_lies_where_radii_can():
    y = np.array([0, 0])
    few = {"noise": smoothing.gaussian(0.2), "n0": 10, "n": 100, "key": KEY}
    lost = smoothing.certify(linear, X[1:], **few).average_radius(y[:1])  # one example, and wrong
    assert lost.value == lost.low == 0
    assert 0.29 < lost.high < 0.31  # almost what 100 unanimous draws certify, 0.3: one example says little
    mixed = smoothing.certify(linear, X, **few).average_radius(y)
    assert mixed.low == 0
    assert mixed.high <= 0.31


@pytest.mark.parametrize(
    "noise",
    [smoothing.gaussian(0.5), smoothing.laplace(0.25), smoothing.uniform_ball(0.5), smoothing.brightness(0.2)],
    ids=lambda noise: noise.name,
)
def test_inputs_that_the_noise_hardly_moves_are_told(noise):
    images = jax.random.uniform(KEY, (2, 4, 4, 1))
    net, how = lambda x: linear(x.reshape(len(x), -1)), {"n0": 10, "n": 200, "key": KEY}
    with pytest.warns(UserWarning, match="divide by 255"):
        smoothing.certify(net, 255 * images, noise=noise, **how)
    smoothing.certify(net, images, noise=noise, **how)  # -W error: no warning
    smoothing.certify(net, 255 * images, noise=dataclasses.replace(noise, scale=255 * noise.scale), **how)


def test_noises_that_add_nothing_to_the_values_are_not_told_of():
    flat = 200 * jnp.ones((1, 4, 4, 1))  # moved and blurred it is itself
    net = lambda x: linear(x.reshape(len(x), -1))  # noqa: E731
    for noise in (smoothing.translation(1.0), smoothing.blur(1.0), smoothing.contrast(0.001), smoothing.ablation(4)):
        smoothing.predict(net, flat, noise=noise, n=20, key=KEY)


def test_a_certificate_is_printed_in_a_line():
    found = smoothing.certify(
        linear, jnp.array([[0.5, 0.2], [-0.4, 0.1], [0.0, 0.1]]), noise=smoothing.gaussian(0.25), n=1000, key=KEY
    )
    assert found.prediction.tolist() == [0, 1, -1]
    said = str(found)
    assert said == repr(found)
    assert "3 examples, gaussian 0.25 noise: 33.3% abstain" in said
    assert "confidence 0.999 each" in said
    shown = float(said.split("median l2 radius at least ")[1].split()[0])
    assert 0 < shown <= sorted(found.radius)[1] < shown + 1e-4
    assert "array" not in said
    assert len(said) < 200
