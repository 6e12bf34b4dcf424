"""Radii of every noise against the worst classifier there is (Neyman-Pearson), and samples against their distribution."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jrobust import smoothing
from jrobust.smoothing._discrete import share
from jrobust.smoothing._noise import check_norm

KEY = jax.random.key(0)
D, N = 3, 100_000


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def gamma(rng, shape):
    return stats.gamma(shape).rvs((N, 1), random_state=rng)


# name -> (noise, samples of it by NumPy, log density up to a constant)
ADDITIVE = {
    "gaussian": (smoothing.gaussian, lambda r: r.normal(size=(N, D)), lambda z: -(z**2).sum(1) / 2),
    "laplace": (smoothing.laplace, lambda r: r.laplace(size=(N, D)), lambda z: -np.abs(z).sum(1)),
    "exponential l2": (
        lambda s, norm: smoothing.exponential(s, of="l2", norm=norm),
        lambda r: gamma(r, D) * unit(r.normal(size=(N, D))),
        lambda z: -np.linalg.norm(z, axis=1),
    ),
    "exponential linf": (
        lambda s, norm: smoothing.exponential(s, of="linf", norm=norm),
        lambda r: gamma(r, D + 1) * r.uniform(-1, 1, (N, D)),
        lambda z: -np.abs(z).max(1),
    ),
    "uniform": (
        smoothing.uniform,
        lambda r: r.uniform(-1, 1, (N, D)),
        lambda z: np.where(np.abs(z).max(1) <= 1, 0, -np.inf),
    ),
    "uniform ball": (
        smoothing.uniform_ball,
        lambda r: unit(r.normal(size=(N, D))) * r.uniform(size=(N, 1)) ** (1 / D),
        lambda z: np.where(np.linalg.norm(z, axis=1) <= 1, 0, -np.inf),
    ),
}
LENGTH = {"l1": lambda v: np.abs(v).sum(), "l2": np.linalg.norm, "linf": lambda v: np.abs(v).max()}
DIRECTIONS = [np.array([1.0, 0, 0]), np.ones(3), np.array([0.3, -1.0, 0.5])]
# where the radius is exact: the norm, and a direction in which the next larger one is wrong
TIGHT = {
    ("gaussian", "l2"): 0,
    ("gaussian", "linf"): 1,
    ("laplace", "l1"): 0,
    ("uniform", "l1"): 0,
    ("uniform", "linf"): 1,
    ("uniform ball", "l2"): 0,
}


def worst(z, log_density, delta, p, q):
    """The least probability at x + delta of a set of probability p at x, and the largest of one of probability q."""
    with np.errstate(invalid="ignore"):
        ratio = np.sort(np.exp(log_density(z - delta) - log_density(z)))
    outside = max(0.0, 1 - ratio.mean())  # what lies where x's noise never goes
    k = round((1 - q) * len(z))
    return ratio[: round(p * len(z))].sum() / len(z), ratio[k:].sum() / len(z) + outside


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("name", ADDITIVE)
def test_no_classifier_breaks_a_radius(name, norm):
    make, draw, log_density = ADDITIVE[name]
    z, noise = draw(np.random.default_rng(0)), make(1.0, norm=norm)
    for p, q in ((0.75, 0.25), (0.95, 0.05), (0.6, 0.1)):
        radius = noise.certify(p, q, shape=(D,))
        assert radius > 0
        for i, direction in enumerate(DIRECTIONS):
            at = radius / LENGTH[norm](direction) * direction
            ours, theirs = worst(z, log_density, 0.99 * at, p, q)
            assert ours > theirs - 0.02, (p, q, direction, ours, theirs)
            if TIGHT.get((name, norm)) == i and q == 1 - p:
                ours, theirs = worst(z, log_density, 1.1 * at, p, q)
                assert ours < theirs, "the radius is exact, a larger one must be broken"


def test_known_radii_at_three_quarters():
    p = 0.75
    radius = lambda noise, d=(7,): float(noise.certify(p, shape=d))  # noqa: E731
    phi = float(stats.norm.ppf(p))
    assert math.isclose(radius(smoothing.gaussian(2.0)), 2 * phi, rel_tol=1e-12)
    assert math.isclose(radius(smoothing.gaussian(2.0, norm="linf")), 2 * phi / math.sqrt(7), rel_tol=1e-12)
    assert math.isclose(radius(smoothing.laplace(2.0)), 2 * math.log(2), rel_tol=1e-12)  # -L log(2 (1 - p))
    assert math.isclose(radius(smoothing.uniform(2.0)), 1.0, rel_tol=1e-12)  # 2 L (p - 1/2)
    assert math.isclose(radius(smoothing.uniform(2.0, norm="linf")), 4 * (1 - 0.75 ** (1 / 7)), rel_tol=1e-12)
    beta = stats.beta(4, 4).ppf(0.75 - p / 2)
    assert math.isclose(radius(smoothing.uniform_ball(2.0)), 2 * (2 - 4 * beta), rel_tol=1e-12)
    assert math.isclose(radius(smoothing.anisotropic(jnp.array([2.0, 3.0]))), 2 * phi, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("noise", "of", "law"),
    [
        (smoothing.laplace(0.5), lambda z: z[:, 0], stats.laplace(scale=0.5)),
        (smoothing.uniform(0.5), lambda z: z[:, 0], stats.uniform(-0.5, 1.0)),
        (smoothing.exponential(0.5, of="l2"), lambda z: np.linalg.norm(z, axis=1), stats.gamma(D, scale=0.5)),
        (smoothing.exponential(0.5), lambda z: np.abs(z).max(1), stats.gamma(D, scale=0.5)),
        (smoothing.uniform_ball(0.5), lambda z: (np.linalg.norm(z, axis=1) / 0.5) ** D, stats.uniform()),
        (smoothing.anisotropic(jnp.array([0.5, 1.0, 2.0])), lambda z: z[:, 2], stats.norm(scale=2.0)),
    ],
    ids=["laplace", "uniform", "exponential l2", "exponential linf", "uniform ball", "anisotropic"],
)
def test_samples_are_of_the_distribution(noise, of, law):
    x = jnp.array([0.1, -2.0, 0.5])
    z = np.asarray(jax.vmap(lambda k: noise.sample(k, x) - x)(jax.random.split(KEY, 4000)), np.float64)
    assert stats.kstest(of(z), law.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(z[:, 0], z[:, 1])[0, 1]) < 0.06
    assert (np.abs(np.median(z, axis=0)) < 0.15).all()


def test_flips_against_every_outcome():
    """The least probability over all classifiers, by sorting all outcomes of a few bits."""
    rng = np.random.default_rng(0)
    for add, delete, added, deleted in ((0.1, 0.3, 2, 2), (0.05, 0.6, 0, 4), (0.2, 0.2, 3, 0), (0.01, 0.9, 1, 3)):
        x = np.r_[np.zeros(added), np.ones(deleted), rng.integers(0, 2, 2)]
        z = x.copy()
        z[: added + deleted] = 1 - z[: added + deleted]

        def chance(of, outcome, add=add, delete=delete):
            one = np.where(of == 1, 1 - delete, add)
            return np.prod(np.where(outcome == 1, one, 1 - one))

        outcomes = [np.array(o) for o in itertools.product((0, 1), repeat=len(x))]
        at_x, at_z = (np.array([chance(of, o) for o in outcomes]) for of in (x, z))
        order = np.argsort(at_z / at_x)
        before, after = (np.r_[0, np.cumsum(a[order])] for a in (at_x, at_z))
        for p, q in ((0.6, 0.4), (0.9, 0.1), (0.99, 0.001), (0.7, 0.05), (0.55, 0.2)):
            least, most = np.interp(p, before, after), 1 - np.interp(1 - q, before, after)
            said = smoothing.certified_flips(p, q, add=add, delete=delete, added=added, deleted=deleted)
            assert said == (least > most), (p, q, least, most)


def test_flips_radius_is_over_all_ways():
    noise = smoothing.flips(0.02, 0.3)
    for p in (0.8, 0.95, 0.999):
        r = int(noise.certify(p, shape=(20,)))
        how = {"add": 0.02, "delete": 0.3}
        assert all(smoothing.certified_flips(p, **how, added=a, deleted=r - a) for a in range(r + 1)) or r == 0
        assert not all(smoothing.certified_flips(p, **how, added=a, deleted=r + 1 - a) for a in range(r + 2))
    # deep in the tails, where products of probabilities underflow
    assert smoothing.certified_flips(0.9, add=1e-4, delete=0.99, added=0, deleted=400) in (True, False)
    z = np.asarray(
        jax.vmap(lambda k: smoothing.flips(0.02, 0.3).sample(k, jnp.array([0.0, 1.0])))(jax.random.split(KEY, 4000))
    )
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_allclose(z.mean(0), [0.02, 0.7], atol=0.03)


def test_ablation_against_every_choice():
    d, keep = 7, 2
    noise = smoothing.ablation(keep)
    subsets = list(itertools.combinations(range(d), keep))
    for p in (0.6, 0.85, 0.97):
        radius = int(noise.certify(p, shape=(d,)))
        for r in range(d + 1):
            touched = sum(any(i < r for i in s) for s in subsets) / len(
                subsets
            )  # draws in which anything can have changed
            assert (p - touched > 1 - p + touched) == (r <= radius), (p, r)
    x = jnp.arange(1.0, 8.0) / 10
    z = noise.sample(KEY, x)
    shown = np.asarray(z.sum(-1) > 0)
    assert z.shape == (7, 2)
    assert shown.sum() == keep
    np.testing.assert_allclose(z[shown], np.stack([x, 1 - x], -1)[shown])
    image = smoothing.ablation(3, pixels=True).sample(KEY, jnp.full((4, 4, 3), 0.25))
    assert image.shape == (4, 4, 6)
    assert (np.asarray(image).sum(-1) > 0).sum() == 3


def test_flips_of_one_probability_need_one_way_only():
    heavy = smoothing.flips(0.45, 0.45).certify(0.999, shape=(784,))  # 28,000 regions, were all ways looked at
    assert heavy > 100
    for r, holds in (
        (heavy, True),
        (heavy + 1, False),
    ):  # the worst set is a threshold on how many entries were flipped
        at_x, at_z = (np.r_[0, np.cumsum(stats.binom(int(r), p).pmf(np.arange(r + 1)))] for p in (0.45, 0.55))
        assert (np.interp(0.999, at_x, at_z) > 0.5) == holds


def test_shares_of_large_examples_keep_their_digits():
    for d, keep, r in ((5, 2, 1), (10**8, 1, 19), (10**7, 45, 3), (784, 45, 700)):
        exact = math.prod(1 - r / (d - j) for j in range(keep))
        assert abs(share(d - r, d, keep) - exact) < 1e-13
    assert smoothing.ablation(1).certify(0.5 + 5e-9, shape=(10**8,)) == 0


def test_bad_noises():
    for make in (
        smoothing.gaussian,
        smoothing.laplace,
        smoothing.uniform,
        smoothing.uniform_ball,
        smoothing.exponential,
    ):
        with pytest.raises(ValueError, match="finite number > 0"):
            make(-1.0)
    with pytest.raises(ValueError, match="pass shape="):
        smoothing.uniform_ball(1.0).certify(0.9)
    with pytest.raises(ValueError, match="pass shape="):
        smoothing.gaussian(1.0, norm="linf").certify(0.9)
    with pytest.raises(ValueError, match="norm is"):
        check_norm("l3")
    for lower, upper in ((1.5, None), (-0.1, None), (0.3, -0.2), (np.nan, None), (0.6, np.nan)):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            smoothing.gaussian(1.0).certify(lower, upper)
    for change in ({"added": -1}, {"deleted": 1.5}, {"added": True}):
        with pytest.raises(ValueError, match="must be an int >= 0"):
            smoothing.certified_flips(0.9, add=0.1, delete=0.1, **({"added": 1, "deleted": 0} | change))
    with pytest.raises(ValueError, match="probability in"):
        smoothing.flips(0.0, 0.5)
    with pytest.raises(ValueError, match="keep=9 of only 4 entries"):
        smoothing.ablation(9).sample(KEY, jnp.zeros(4))
    x = np.array([[0.0, 1.0], [0.5, 1.0]])
    with pytest.raises(ValueError, match=r"zeros and ones, got 0\.5 in example 1"):
        smoothing.certify(lambda x: x, x, noise=smoothing.flips(0.1, 0.1), n=10, key=KEY)


def test_the_probability_needed_for_a_radius():
    """In closed form: Phi(r / sigma), and of a uniform noise of half-width w, 1/2 + r / 2w up to its l1 limit."""
    assert smoothing.needed(smoothing.gaussian(0.5), 0.7) == pytest.approx(stats.norm.cdf(1.4), abs=1e-11)
    uniform = smoothing.uniform(0.5)
    for r in (0.1, 0.3):
        p = smoothing.needed(uniform, r, shape=(4,))
        assert p == pytest.approx(0.5 + r, abs=1e-9)
        assert uniform.certify(p, shape=(4,)) >= r > uniform.certify(p - 1e-9, shape=(4,))
    assert smoothing.needed(uniform, 0.6, shape=(4,)) == 1.0  # no probability certifies that
    with pytest.raises(ValueError, match="radius is a number > 0"):
        smoothing.needed(uniform, 0.0)
