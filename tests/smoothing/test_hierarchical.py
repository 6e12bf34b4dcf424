"""Hierarchical smoothing: published numbers, Cohen's radius as a special case, and an exact worst case on few pixels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jrobust import objectives, sets, smoothing

KEY = jax.random.key(0)
P, SIGMA = 0.8535, 0.25


PUBLISHED = 1 - 150 / 1024  # entities noised in the paper's setting for images


def closed(a, r, p=P, sigma=SIGMA):
    s = p**r
    return sigma * (norm.ppf((a - 1 + s) / s) - norm.ppf(1 / (2 * s)))


def test_the_two_sided_condition_is_the_closed_form():
    a = np.linspace(0.5, 0.9999, 60)
    for r in (1, 2, 3):
        got = smoothing.hierarchical(SIGMA, p=P, touched=r).certify(a)
        want = np.maximum(np.nan_to_num(closed(np.maximum(a, 1 - P**r + 1e-9), r), nan=0.0), 0)
        assert (got <= want + 1e-12).all()
        np.testing.assert_allclose(got, want, atol=1e-7)


def test_with_every_pixel_noised_it_is_cohens():
    a, b = np.array([0.6, 0.8, 0.99, 0.4]), np.array([0.3, 0.2, 0.01, 0.1])
    whole = smoothing.hierarchical(0.5, p=1.0, touched=7)
    np.testing.assert_allclose(whole.certify(a), smoothing.gaussian(0.5).certify(a), atol=1e-7)
    np.testing.assert_allclose(whole.certify(a, b), smoothing.gaussian(0.5).certify(a, b), atol=1e-7)


def test_it_decreases_in_the_pixels_touched_and_gains_by_the_runner_up():
    noises = [smoothing.hierarchical(SIGMA, p=P, touched=r) for r in range(1, 7)]
    radii = np.array([n.certify(np.linspace(0.5, 1 - 1e-6, 40)) for n in noises])
    assert (np.diff(radii, axis=0) <= 1e-9).all()
    assert noises[0].certify(0.8, 0.01) > noises[0].certify(0.8)
    assert noises[4].certify(0.99) == 0  # 1 - p**5 is above 1/2: nothing is left


def test_what_it_draws():
    x = jnp.full((6, 5, 2), 0.5)
    noise = smoothing.hierarchical(0.3, p=0.7, touched=1)
    z = jax.vmap(noise.sample, (0, None))(jax.random.split(KEY, 400), x)
    assert z.shape == (400, 6, 5, 3)
    mark = np.asarray(z[..., 2])
    assert set(np.unique(mark)) == {0.0, 1.0}
    np.testing.assert_allclose(mark.mean(), 0.7, atol=0.02)
    moved = np.asarray(z[..., :2]) - 0.5
    assert (moved[mark == 0] == 0).all()
    np.testing.assert_allclose(moved[mark == 1].std(), 0.3, atol=0.01)
    other = smoothing.hierarchical(0.3, p=0.7, touched=3)
    np.testing.assert_array_equal(other.sample(KEY, x), noise.sample(KEY, x))


def test_the_worst_case_of_two_pixels_is_attained():
    # the classifier of the proof: class 0 iff all touched pixels are noised and <w, z> <= t, or x itself is seen where they are not.
    # Its probability of class 0 is a at x and, moved by eps along w, falls to 1/2 exactly at the radius.
    p, sigma, r, a = 0.9, 0.4, 2, 0.95
    s, eps = p**r, float(smoothing.hierarchical(0.4, p=0.9, touched=2).certify(0.95))
    t = norm.ppf((a - (1 - s)) / s) * sigma
    probability = {0.0: 0.0, eps: 0.0, 1.01 * eps: 0.0}
    for shift in probability:
        for noised in itertools.product((0, 1), repeat=r):
            weight = np.prod([p if m else 1 - p for m in noised])
            kept = norm.cdf((t - shift) / sigma) if all(noised) else float(shift == 0)
            probability[shift] += weight * kept
    assert probability[0.0] == pytest.approx(a)
    assert probability[eps] == pytest.approx(0.5, abs=1e-6)
    assert probability[1.01 * eps] < 0.5 < probability[eps] + 1e-6


def test_it_certifies_end_to_end():
    noise = smoothing.hierarchical(SIGMA, p=0.9, touched=1)

    def model(z):
        score = z[..., 0].mean((1, 2)) - 0.5
        return jnp.stack([score, -score], 1)

    x = jnp.stack([jnp.full((4, 4, 1), v) for v in (0.9, 0.5, 0.1)])
    done = smoothing.certify(model, x, noise=noise, n=2000, key=KEY, batch_size=1000)
    assert done.prediction.tolist() == [0, -1, 1]
    assert done.radius[1] == 0 < done.radius[0]
    assert done.norm == "l2 of 1 entity"
    f = objectives.classification(lambda z: model(z[None])[0], 0)
    with pytest.raises(ValueError, match="the threat is l2"):
        smoothing.cohen(noise).solve(KEY, f, sets.l2(0.1), x[0])


@pytest.mark.parametrize(("p", "touched"), [(0.0, 1), (1.2, 1), (0.5, 0)])
def test_bad_input(p, touched):
    with pytest.raises(ValueError, match="hierarchical"):
        smoothing.hierarchical(0.1, p=p, touched=touched)
    with pytest.raises(ValueError, match=r"\[..., C\]"):
        smoothing.hierarchical(0.1, p=0.5, touched=1).sample(KEY, jnp.zeros(3))


def test_the_figures_of_the_published_setting():
    radii = [float(smoothing.hierarchical(SIGMA, p=PUBLISHED, touched=r).certify(0.99)) for r in (1, 2, 3, 5)]
    np.testing.assert_allclose(radii, [0.5124, 0.4299, 0.3215, 0.0], atol=6e-5)


BITS_P, ADD, DELETE = 0.8, 0.15, 0.3


def outcomes(bits):
    """Every sample of two entities of one bit: its probability, noised entities and bits drawn."""
    out = {}
    for marks in itertools.product((0, 1), repeat=2):
        for drawn in itertools.product((0, 1), repeat=2):
            weight = 1.0
            for bit, mark, new in zip(bits, marks, drawn, strict=True):
                flip = DELETE if bit else ADD
                seen = (flip if new != bit else 1 - flip) if mark else float(new == bit)
                weight *= (BITS_P if mark else 1 - BITS_P) * seen
            out[marks, drawn] = weight
    return out


@pytest.mark.parametrize("touched", [1, 2])
@pytest.mark.parametrize("a", [0.55, 0.7, 0.85, 0.93, 0.97, 0.995])
def test_bits_against_the_worst_classifier_there_is(touched, a):
    # Neyman-Pearson over all samples: the set of probability a at x that has least probability at z
    lost = []
    for x in itertools.product((0, 1), repeat=2):
        for moved in itertools.product((0, 1), repeat=2):
            if not 0 < sum(moved) <= touched:
                continue
            z = tuple(b ^ m for b, m in zip(x, moved, strict=True))
            at_x, at_z = outcomes(x), outcomes(z)
            left, kept = a, 0.0
            for key in sorted(at_x, key=lambda k: at_z[k] / at_x[k] if at_x[k] else np.inf):
                part = min(left, at_x[key])
                kept += at_z[key] * (part / at_x[key] if at_x[key] else 0.0)
                left -= part
            lost.append((sum(moved), kept <= 0.5))
    exact = max(r for r in range(touched + 1) if not any(gone for size, gone in lost if size <= r))
    got = smoothing.hierarchical_flips(ADD, DELETE, p=BITS_P, touched=touched).certify(a, shape=(2, 1))
    if touched == 1:
        assert got == exact
    else:  # s is that of two entities for one changed bit, too
        assert got <= exact
        assert exact < 2 or got == 2


def test_bits_of_every_entity_are_flips():
    a, b = np.linspace(0.51, 0.9999, 30), np.linspace(0.3, 1e-5, 30)
    every = smoothing.hierarchical_flips(0.05, 0.3, p=1.0, touched=3)
    plain = smoothing.flips(0.05, 0.3)
    np.testing.assert_array_equal(every.certify(a, shape=(9, 7)), plain.certify(a, shape=(3, 7)))
    np.testing.assert_array_equal(every.certify(a, b, shape=(9, 7)), plain.certify(a, b, shape=(3, 7)))
    x = jax.random.bernoulli(KEY, 0.4, (30, 20)).astype(jnp.float32)
    z = smoothing.hierarchical_flips(0.2, 0.4, p=0.5, touched=1).sample(KEY, x)
    rows = np.asarray(z[:, -1]) == 0
    np.testing.assert_array_equal(z[rows, :-1], x[rows])
    changed = np.asarray(z[:, :-1] != x)[~rows]
    np.testing.assert_allclose(changed[np.asarray(x)[~rows] == 1].mean(), 0.4, atol=0.1)
    np.testing.assert_allclose(changed[np.asarray(x)[~rows] == 0].mean(), 0.2, atol=0.1)
