"""What a new user did wrong, and what was said: before the work, in one line, and nothing certified that should not be."""

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
