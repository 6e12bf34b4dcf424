"""Point clouds: certificates against every change of small clouds."""

import itertools
from fractions import Fraction
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrobust import smoothing
from jrobust.smoothing import _discrete

KEY = jax.random.key(0)


def shares(table, cloud, k):
    """Probability of each class among the subsamples of k points of a cloud of point names."""
    return np.mean([table[tuple(sorted(s))] for s in itertools.combinations(cloud, k)], 0)


NAMES = range(10)


def lost(table, n, k, r, change):
    """Whether some cloud of named points, r changes away from the first n, is voted another class."""
    for m in range(n - r, n + r + 1):
        if m < k or not {"modify": m == n, "add": m == n + r, "delete": m == n - r, "any": True}[change]:
            continue
        for cloud in itertools.combinations(NAMES, m):
            if sum(i < n for i in cloud) >= max(n, m) - r and np.subtract(*shares(table, cloud, k)) <= 0:
                return True
    return False


@pytest.mark.parametrize("change", ["modify", "add", "delete", "any"])
@pytest.mark.parametrize("k", [1, 2])
def test_no_change_of_certified_size_turns_the_vote(change, k):
    rng = np.random.default_rng(k)
    n, seen, broken_above = 7, 0, 0
    noise = smoothing.subsample(k, change=change)
    for bias in np.linspace(0.6, 0.99, 12):
        # every vote with a point that is not in the cloud is for the other class
        table = {s: np.eye(2)[int(max(s) >= n or rng.random() > bias)] for s in itertools.combinations(NAMES, k)}
        p = shares(table, range(n), k)
        if p[0] <= 0.5:
            continue
        r = int(noise.certify(p[0], p[1], shape=(n, 3)))
        seen += r > 0

        assert not any(lost(table, n, k, s, change) for s in range(1, r + 1))
        broken_above += lost(table, n, k, r + 1, change)
    assert seen > 2
    assert broken_above > 0  # the test can fail


def test_the_bound_is_attained_for_one_point_votes():
    # k = 1: every changed point is a vote, so p - q > 2 r / n is exact
    for votes in range(6, 11):
        got = smoothing.subsample(1, change="modify").certify(votes / 10, 1 - votes / 10, shape=(10, 3))
        assert got == max(r for r in range(5) if r == 0 or votes - r > 10 - votes + r)


def test_subsamples_are_subsets_in_random_order():
    x = jnp.arange(30.0).reshape(10, 3)
    draws = jax.vmap(smoothing.subsample(4).sample, (0, None))(jax.random.split(KEY, 200), x)
    assert draws.shape == (200, 4, 3)
    names = np.asarray(draws[..., 0]) / 3
    assert all(len(set(row)) == 4 for row in names)
    np.testing.assert_allclose(np.bincount(names.astype(int).ravel(), minlength=10) / 200, 0.4, atol=0.12)
    assert len(np.unique(names[:, 0])) == 10


def above(z):
    """Are the marked points above 0, on the whole?"""
    s = (z[..., 2] * z[..., 3]).sum(1)
    return jnp.stack([s + 0.01, -s], 1)


def test_pointguard_end_to_end():
    def model(z):
        s = z[..., 2].mean(1)
        return jnp.stack([s, -s], 1)

    x = jax.random.normal(KEY, (3, 50, 3)).at[0, :, 2].add(3.0)
    done = smoothing.certify(model, x, noise=smoothing.subsample(4), n=1000, key=KEY, batch_size=500)
    assert done.prediction[0] == 0
    assert done.radius[0] >= 4
    assert done.norm == "points (any)"


def test_parts_are_disjoint_and_depend_on_the_point_alone():
    x, cut = jax.random.normal(KEY, (200, 3)), smoothing.parts(7)
    of = np.asarray(cut.of(x))
    assert (np.bincount(of, minlength=7) > 12).all()
    shuffled = jax.random.permutation(jax.random.key(1), 200)
    np.testing.assert_array_equal(cut.of(x[shuffled]), of[np.asarray(shuffled)])
    np.testing.assert_array_equal(cut.of(x[:50]), of[:50])
    whole = sum(cut.at(x, g) for g in range(7))
    np.testing.assert_array_equal(whole[:, :3], x)
    assert (whole[:, 3] == 1).all()
    assert (cut.of(jnp.array([[-0.0, 1, 2]])) == cut.of(jnp.array([[0.0, 1, 2]]))).all()


@pytest.mark.parametrize("change", ["add", "delete", "modify"])
def test_no_change_breaks_pointcert(change):
    cut = smoothing.parts(5)
    x = jax.random.normal(KEY, (20, 9, 3)).at[..., 2].add(jnp.linspace(-1.5, 1.5, 20)[:, None])
    done = smoothing.pointcert(above, x, parts=cut, batch_size=33)
    far = [jnp.array([a, b, s * 50.0]) for a, b, s in itertools.product((0.0, 1.0, 2.0), (0.0, 1.0), (1, -1))]
    if change == "add":
        changed = [jnp.concatenate([x, jnp.broadcast_to(p, (20, 1, 3))], 1) for p in far]
    elif change == "delete":
        changed = [jnp.delete(x, i, axis=1) for i in range(9)]
    else:
        changed = [x.at[:, i].set(p) for i in range(9) for p in far]
    after = smoothing.pointcert(above, jnp.concatenate(changed), parts=cut).prediction.reshape(-1, 20)
    lost = (after != done.prediction).any(0)
    held = done.certified(change) >= 1
    assert held.any()
    assert not (lost & held).any()
    assert lost.any()
    assert (done.counts.sum(1) == 5).all()
    assert done.accuracy(done.prediction, 1, change).count == held.sum()


def test_an_ordered_model_is_refused():
    def first(z):
        return z[:, 0, :2]

    with pytest.raises(ValueError, match="marked points"):
        smoothing.pointcert(first, jax.random.normal(KEY, (2, 9, 3)), parts=smoothing.parts(1))
    with pytest.raises(ValueError, match="any number of points"):
        smoothing.pointcert(lambda z: z.reshape(-1, 36)[:, :2], jnp.ones((2, 9, 3)), parts=smoothing.parts(3))


def both(z):
    """Are there marked and unmarked rows? A maximum over all rows, unmasked."""
    seen = jnp.stack([z[..., -1], 1 - z[..., -1]], -1).max(1)
    return jnp.stack([seen.min(-1), 0.5 * jnp.ones(len(z))], 1)


def ends(z):
    """The first and the last row of the list, whatever they are."""
    return jnp.stack([z[:, 0, 0], z[:, -1, 1]], 1)


def share(z):
    """The marked rows' mean over all rows."""
    return jnp.stack([(z[..., 2] * z[..., 3]).mean(1), jnp.full(len(z), 0.1)], 1)


def crowd(z):
    """More than two rows that are not marked?"""
    return jnp.stack([(z[..., 3] == 0).sum(1) - 2.5, jnp.zeros(len(z))], 1)


def one_and_five(cut):
    """A cloud of 5 points of one part and 1 of the other, and that one."""
    x = jax.random.normal(jax.random.key(7), (64, 3))
    of = np.asarray(cut.of(x))
    return jnp.concatenate([x[of == 0][:5], x[of == 1][:1]])[None]


def test_a_maximum_over_unmasked_rows_is_refused_for_its_certificate_would_be_false():
    cut = smoothing.parts(2)
    x = one_and_five(cut)

    def votes(cloud):
        return np.sum([np.asarray(both(cut.at(cloud, g)[None])).argmax(1) == 0 for g in range(2)])

    assert (votes(x[0]), votes(x[0, :5])) == (2, 0)  # a lead of two votes, of which one deletion takes both
    with pytest.raises(ValueError, match="marked points"):
        smoothing.pointcert(both, x, parts=cut)


@pytest.mark.parametrize("groups", [1, 4, 16, 64])
@pytest.mark.parametrize("model", [ends, share, crowd])
def test_a_model_that_sees_more_than_the_marked_rows_is_refused(model, groups):
    x = jax.random.normal(KEY, (2, 40, 3))
    if groups == 64:
        assert (np.bincount(smoothing.parts(64).of(x[0]), minlength=64) == 0).any()
    with pytest.raises(ValueError, match="marked points"):
        smoothing.pointcert(model, x, parts=smoothing.parts(groups))


@pytest.mark.parametrize("groups", [1, 5, 64])
def test_models_of_the_marked_rows_are_taken(groups):
    w = jax.random.normal(KEY, (3, 8))

    def masked_maximum(z):
        return (jax.nn.relu(z[..., :3] @ w) * z[..., 3:]).max(1)

    def mean_of_the_marked(z):  # NaN of an empty part, which then votes for nobody
        return (z[..., :3] @ w * z[..., 3:]).sum(1) / z[..., 3:].sum(1)

    x = jax.random.normal(KEY, (6, 40, 3))
    assert (smoothing.pointcert(masked_maximum, x, parts=smoothing.parts(groups)).counts.sum(1) == groups).all()
    full = [np.unique(smoothing.parts(groups).of(cloud)).size for cloud in x]
    assert smoothing.pointcert(mean_of_the_marked, x, parts=smoothing.parts(groups)).counts.sum(1).tolist() == full


def test_the_share_of_subsamples_keeps_its_digits():
    for n, k, r in [(10, 3, 2), (1024, 16, 40), (10_000_000, 64, 3), (10_000_000, 1000, 1)]:
        for m in (n - r, n + r):
            exact = prod(Fraction(m - j, n - j) for j in range(k))
            assert _discrete.share(m, n, k) == pytest.approx(float(exact), rel=1e-13)


def test_labels():
    done = smoothing.pointcert(above, jnp.ones((2, 9, 3)), parts=smoothing.parts(3))
    assert done.accuracy(np.array([0, 1])).count == 1
    for y, error in [([0, -1], ValueError), ([0, 2], ValueError), ([0], ValueError), ([0.0, 1.0], TypeError)]:
        with pytest.raises(error, match=r"out of range: labels are 0\.\.1|integer labels"):
            done.accuracy(np.array(y))


def test_bad_input():
    with pytest.raises(TypeError, match=r"jr\.smoothing\.parts"):
        smoothing.pointcert(above, np.zeros((2, 9, 3)), parts=5)
    with pytest.raises(ValueError, match=r"\[N, n, C\]"):
        smoothing.pointcert(above, np.zeros((2, 9)), parts=smoothing.parts(2))
    with pytest.raises(ValueError, match="change is one of"):
        smoothing.subsample(3, change="swap")
    with pytest.raises(ValueError, match="keep must be"):
        smoothing.subsample(0)
    with pytest.raises(ValueError, match="n >= 5 points"):
        smoothing.subsample(5).sample(KEY, jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="pass shape="):
        smoothing.subsample(5).certify(0.9)
