"""Smoothed segmentation: against exact probabilities, a simulated null, and certificates made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jrobust import smoothing
from jrobust.smoothing._segment import _joined
from jrobust.smoothing._votes import votes

KEY = jax.random.key(0)
SIGMA, TAU = 0.5, 0.75
NOISE = smoothing.gaussian(SIGMA)


def signs(x):
    """Two classes for every entry: its sign."""
    return jnp.stack([x, -x], -1)


def null(x):
    """Class 0 at every entry of x = 0 with probability exactly TAU: no output may be certified."""
    return signs(x + SIGMA * stats.norm.ppf(TAU))


def test_certified_outputs_lie_farther_than_the_radius():
    x = jax.random.normal(jax.random.key(1), (5, 6, 7)) * 0.8
    done = smoothing.segment(signs, x, noise=NOISE, n0=20, n=400, key=KEY, batch_size=64)
    assert done.prediction.shape == (5, 6, 7)
    assert done.prediction.dtype == np.int32
    assert done.radius == pytest.approx(SIGMA * stats.norm.ppf(0.75))
    sure = done.prediction >= 0
    assert (done.prediction == (np.asarray(x) < 0))[sure].all()
    assert (np.abs(x)[sure] >= done.radius).all()  # the exact radius of an entry is its distance to 0
    assert sure[np.abs(x) > 0.75].all()
    assert (done.side, done.confidence, done.norm, done.noise) == ("lower", 0.999, "l2", "gaussian 0.5")
    y = (np.asarray(x) < 0).astype(int)
    assert done.accuracy(y).value == pytest.approx(sure.mean())
    assert done.accuracy(y).n == 5  # examples, not outputs: those of one example are not independent
    assert done.abstained() == pytest.approx(1 - sure.mean())
    assert done.information_gain(y) == pytest.approx(sure.mean())
    assert done.information_gain(1 - y) == 0


def test_it_does_not_depend_on_the_batch_size():
    x = jax.random.normal(jax.random.key(1), (3, 6)) * 0.8
    one, other = (smoothing.segment(signs, x, noise=NOISE, key=KEY, batch_size=b) for b in (7, 64))
    np.testing.assert_array_equal(one.p_value, other.p_value)


M, ALPHA, N0, N = 40, 0.1, 10, 100


@pytest.mark.parametrize("method", ["holm", "bonferroni"])
def test_the_null_is_certified_with_probability_alpha_at_most(method):
    done = smoothing.segment(
        null, jnp.zeros((500, M)), noise=NOISE, n0=N0, n=N, alpha=ALPHA, method=method, key=KEY, batch_size=4096
    )
    wrong = int((done.prediction >= 0).any(1).sum())
    assert stats.binomtest(wrong, 500, ALPHA, alternative="greater").pvalue > 0.001


def test_trials_that_are_not_those_counted_overclaim():
    # a public implementation counts n draws and tests with n - n0 trials; exact family-wise error under the null, m outputs
    k = np.arange(N + 1)

    def error(trials):
        fails = stats.binom.sf(k - 1, trials, TAU) <= ALPHA / M
        return 1 - (1 - stats.binom.pmf(k, N, TAU)[fails].sum()) ** M

    assert error(N) <= ALPHA
    assert error(N - N0) > 5 * ALPHA
    done = smoothing.segment(null, jnp.zeros((100, M)), noise=NOISE, n0=N0, n=N, alpha=ALPHA, key=KEY, batch_size=4096)
    counts = np.array([np.flatnonzero(np.isclose(stats.binom.sf(k - 1, N, TAU), p))[0] for p in done.p_value.ravel()])
    public = (stats.binom.sf(counts - 1, N - N0, TAU) <= ALPHA / M).reshape(100, M).any(1).mean()
    assert public > 5 * ALPHA


def test_holm_certifies_no_less():
    x = jnp.full((4, 30), 0.62).at[:, :15].set(2.0)
    holm, bonferroni = (
        smoothing.segment(signs, x, noise=NOISE, n=100, method=m, key=KEY).prediction >= 0
        for m in ("holm", "bonferroni")
    )
    assert (holm >= bonferroni).all()
    assert holm.sum() > bonferroni.sum()


TREE = smoothing.hierarchy([0, 1, 1], [0, 0, 0], thresholds=[0.0, 0.25])


def torn(x):
    """Entry 0 is class 0; entry 1 is class 1 or 2, as a coin falls; entry 2 any."""
    flip = 5 * jnp.sign(x)
    zero = jnp.zeros_like(x[:, 0])
    first = jnp.stack([zero + 9, zero, zero], -1)
    second = jnp.stack([zero - 9, flip[:, 1], -flip[:, 1]], -1)
    third = jnp.stack([3 * flip[:, 0], flip[:, 1], flip[:, 2]], -1)
    return jnp.stack([first, second, third], 1)


def test_a_torn_output_is_certified_one_level_up():
    x, y = jnp.zeros((6, 3)), np.tile([0, 2, 1], (6, 1))
    fine = smoothing.segment(torn, x, noise=NOISE, n0=50, n=200, key=KEY)
    assert fine.prediction[:, 0].tolist() == [0] * 6
    assert (fine.prediction[:, 1:] == -1).all()
    done = smoothing.segment(torn, x, noise=NOISE, n0=50, n=200, hierarchy=TREE, key=KEY)
    assert (done.level[:, 0] == 0).all()
    assert (done.prediction[:, 0] == 0).all()
    assert (done.level[:, 1] == 1).all()
    assert (done.prediction[:, 1] == 1).all()  # the vertex of classes 1 and 2
    assert (done.prediction[:, 2] == -1).all()
    assert done.correct(y)[:, :2].all()
    gain = (1 + (1 - np.log(2) / np.log(3)) + 0) / 3
    assert done.information_gain(y) == pytest.approx(gain)
    root = smoothing.hierarchy([0, 1, 1], [0, 0, 0], thresholds=[0.99, 0.99])  # everything torn: the root says nothing
    told = smoothing.segment(torn, x, noise=NOISE, n0=50, n=200, hierarchy=root, key=KEY)
    assert (told.prediction[:, 1:] == 0).all()
    assert told.information_gain(y) == pytest.approx(1 / 3)


SHARES = np.array([0.24, 0.19, 0.19, 0.19, 0.19])


def fifths(x):
    """Five classes with the probabilities SHARES at x = 0."""
    of = jnp.searchsorted(jnp.asarray(np.cumsum(SHARES)[:-1]), jax.scipy.special.ndtr(x / SIGMA))
    return 9.0 * jax.nn.one_hot(of, 5)


def test_a_certified_vertex_is_the_most_likely_of_its_level_and_may_miss_the_most_likely_class():
    x, tree = jnp.zeros((1, 1)), smoothing.hierarchy([0, 1, 1, 1, 1], thresholds=[0.99])
    done = smoothing.segment(fifths, x, noise=NOISE, tau=0.7, n0=200, n=2000, hierarchy=tree, key=KEY)
    assert (done.prediction.item(), done.level.item()) == (1, 1)
    assert done.tree[1][SHARES.argmax()] == 0  # the likeliest class is not below the vertex
    assert smoothing.predict(lambda z: fifths(z)[:, 0], x, noise=NOISE, n=4000, key=KEY).prediction.item() == 0
    assert done.correct(np.array([[0]])).item() is False
    # what is guaranteed: more than tau, and half of it is left at the radius, on either side
    ends = stats.norm.cdf((stats.norm.ppf(SHARES[0]) * SIGMA + np.array([-1, 1]) * done.radius) / SIGMA)
    assert 1 - SHARES[0] > 0.7
    assert (1 - ends > 0.5).all()
    words = " ".join(str(smoothing.segment.__doc__).split())
    assert "most likely vertex of its level" in words
    assert "need not lie below it" in words


def test_void_outputs_do_not_count_and_other_strange_labels_are_refused():
    x = jnp.array([[2.0, 0.0, -2.0, 2.0]])  # certified 0, abstains, certified 1, certified 0
    done = smoothing.segment(signs, x, noise=NOISE, key=KEY)
    assert done.prediction.tolist() == [[0, -1, 1, 0]]
    void = np.array([[0, -1, 1, -1]])
    assert done.correct(void).tolist() == [[True, False, True, False]]
    assert (done.accuracy(void).value, done.accuracy(void).n) == (1, 1)
    assert done.information_gain(void) == 1
    assert done.accuracy(np.array([[0, 1, -1, -1]])).value == 0.5
    with pytest.raises(ValueError, match="every output is void"):
        done.accuracy(np.full((1, 4), -1))
    for y, error, message in [
        (
            np.array([[0, 1, 255, 0]], np.uint8),
            ValueError,
            r"y\[0, 2\] = 255 is out of range: labels are 0\.\.1, or -1",
        ),
        (np.array([[0, 1, -2, 0]]), ValueError, "out of range"),
        (np.zeros(4, int), ValueError, r"\(1, 4\).*got shape \(4,\)"),
        (np.zeros((1, 4)), TypeError, "integer labels.*float64"),
    ]:
        for of in (done.correct, done.accuracy, done.information_gain):
            with pytest.raises(error, match=message):
                of(y)


def test_votes_are_joined_by_the_level():
    counts = np.array([[5, 3, 2], [5, 3, 2], [5, 3, 2]])
    joined = _joined(counts, TREE.levels, np.array([0, 1, 2]))
    assert joined.tolist() == [[5, 3, 2], [5, 5, 0], [10, 0, 0]]


def test_the_mean_posterior_is_that_of_the_selection_draws():
    from jrobust._placement import Placement

    x, n = jnp.array([[0.3, -0.2]]), 9
    mean = votes(
        NOISE, (), KEY, 0, jnp.array([4]), x, 0, n, 1,
        apply=lambda leaves, z: signs(z), batch_size=4, placement=Placement(), tally=jax.nn.softmax,
    )  # fmt: skip
    key = jax.random.fold_in(jax.random.fold_in(KEY, 4), 0)
    draws = jnp.stack([NOISE.sample(jax.random.fold_in(key, j), x[0]) for j in range(n)])
    np.testing.assert_allclose(mean[0], jax.nn.softmax(signs(draws)).sum(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tau": 0.5}, ValueError, "tau lies in"),
        ({"alpha": 0.0}, ValueError, "alpha lies in"),
        ({"n": 0}, ValueError, "n must be an int"),
        ({"method": "fdr"}, ValueError, "holm or bonferroni"),
        ({"noise": 0.5}, TypeError, "gaussian|Noise"),
        ({"key": 0}, TypeError, "typed PRNG key"),
        ({"x": np.zeros((2, 3), np.uint8)}, TypeError, "divide images by 255"),
        ({"hierarchy": TREE}, ValueError, "3 classes, the model 2"),
        ({"hierarchy": [[0, 1]]}, TypeError, r"jr\.smoothing\.hierarchy"),
        ({"model": lambda x: x[0]}, ValueError, r"\[B, ..., K\]"),
    ],
)
def test_bad_input(change, error, message):
    call = {"model": signs, "x": np.zeros((2, 3)), "noise": NOISE, "key": KEY} | change
    with pytest.raises(error, match=message):
        smoothing.segment(call.pop("model"), call.pop("x"), **call)


@pytest.mark.parametrize(
    ("levels", "thresholds", "message"),
    [
        (([0, 1, 1], [0, 1, 0]), [0, 0], "splits a vertex"),
        (([0, 1, 1], [0, 1]), [0, 0], "one length"),
        (([0, 1, 1],), [0, 0], "1 numbers"),
        (([0, 1, 1],), [1.5], "1 numbers"),
        (([0, 5],), [0.99], r"0\.\.1"),
        (([0, -1],), [0.99], "negative"),
        (([0, 0.5],), [0.99], "lists of ints"),
        ((3,), [0.99], "lists of ints"),
    ],
)
def test_bad_trees(levels, thresholds, message):
    with pytest.raises(TypeError if "ints" in message else ValueError, match=message):
        smoothing.hierarchy(*levels, thresholds=thresholds)


def test_a_hierarchy_of_other_classes_is_refused_before_any_draw(monkeypatch):
    monkeypatch.setattr("jrobust.smoothing._run.votes", lambda *_, **__: pytest.fail("it has drawn"))
    with pytest.raises(ValueError, match="3 classes, the model 2"):
        smoothing.segment(signs, np.zeros((2, 3)), noise=NOISE, hierarchy=TREE, key=KEY)
