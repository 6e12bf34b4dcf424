"""De-randomised patch smoothing: no patch of a certified size, tried exhaustively, changes a vote."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrobust import smoothing


@pytest.mark.parametrize("kind", ["columns", "rows", "blocks"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_positions_touched_against_a_count(kind, size):
    shape, bands = (5, 6, 1), smoothing.bands(size, kind=kind)
    kept = [np.asarray(bands.at(jnp.ones(shape), p))[..., 0] > 0 for p in range(bands.positions(shape))]
    for h, w in itertools.product((1, 2, 5), (1, 3, 6)):
        most = max(sum(k[r : r + h, c : c + w].any() for k in kept) for r in range(5 - h + 1) for c in range(6 - w + 1))
        assert bands.touched(shape, h, w) == most


def test_erased_is_told_from_black():
    z = smoothing.bands(1).at(jnp.zeros((2, 3, 1)), 1)
    assert z[:, 1].tolist() == [[0.0, 1.0]] * 2
    assert (z[:, ::2] == 0).all()
    draws = jax.vmap(smoothing.bands(1).sample, (0, None))(
        jax.random.split(jax.random.key(0), 300), jnp.ones((2, 3, 1))
    )
    shares = draws[:, 0, :, 0].mean(0)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.1)


def bright(z):
    """Class 1 where the band is bright, class 0 where it is dark."""
    return 99.0 * jnp.stack([z[..., 1].sum((1, 2)), z[..., 0].sum((1, 2))], 1)


def columns(*values):
    return jnp.broadcast_to(jnp.array(values, jnp.float32)[None, None, :, None], (1, 2, len(values), 1))


@pytest.mark.parametrize(
    ("values", "prediction", "slack", "certified"),
    [
        ((0, 0, 0, 0, 1), 0, 3, True),
        ((0, 0, 0, 1, 1), 0, 1, False),
        ((0, 0, 0, 1), 0, 2, True),  # down to a tie, which the smaller index wins
        ((0, 1, 1, 1), 1, 1, False),  # the same votes the other way: lost
    ],
)
def test_the_tie_goes_by_index(values, prediction, slack, certified):
    x = columns(*values)
    done = smoothing.derandomized(bright, x, bands=smoothing.bands(1))
    assert (done.prediction.tolist(), done.slack.tolist()) == ([prediction], [slack])
    assert done.certified(1).tolist() == [certified]
    worst = [x.at[:, :, c].set(1.0 - prediction) for c in range(len(values))]
    kept = all(smoothing.derandomized(bright, z, bands=smoothing.bands(1)).prediction[0] == prediction for z in worst)
    assert kept == certified  # the certificate is tight here


@pytest.mark.parametrize(
    ("kind", "size", "patch"), [("columns", 2, (2, 1)), ("rows", 1, (1, 2)), ("blocks", 2, (1, 1))]
)
def test_no_patch_breaks_a_certificate(kind, size, patch):
    bands = smoothing.bands(size, kind=kind)
    keys = jax.random.split(jax.random.key(3), 4)
    shape, (h, w) = (5, 6, 1), patch
    weights = jax.random.normal(keys[0], (60, 8)), jax.random.normal(keys[1], (8, 3)), jnp.array([1.0, 0.0, 0.0])

    def net(z):
        return 0.6 * jnp.tanh(z.reshape(len(z), -1) @ weights[0]) @ weights[1] + weights[2]

    x = jax.random.bernoulli(keys[2], 0.5, (24, *shape)).astype(jnp.float32)
    done = smoothing.derandomized(net, x, bands=bands, threshold=0.3, batch_size=64)
    held = done.certified(*patch)
    assert 0 < held.sum() < 24  # the test sees both
    values = list(itertools.product((0.0, 1.0), repeat=h * w))
    places = [(r, c) for r in range(5 - h + 1) for c in range(6 - w + 1)]
    changed = np.zeros(24, bool)
    attacked = []
    for (r, c), value in itertools.product(places, values):
        attacked.append(x.at[:, r : r + h, c : c + w, 0].set(jnp.array(value).reshape(h, w)))
    after = smoothing.derandomized(net, jnp.concatenate(attacked), bands=bands, threshold=0.3, batch_size=4000)
    changed = (after.prediction.reshape(-1, 24) != done.prediction).any(0)
    assert not (changed & held).any()
    assert changed.any()


def test_batches_and_queries():
    x = jax.random.uniform(jax.random.key(0), (5, 4, 6, 2))
    net = jax.tree_util.Partial(lambda w, z: z.reshape(len(z), -1) @ w, jax.random.normal(jax.random.key(1), (96, 3)))
    one, other = (smoothing.derandomized(net, x, bands=smoothing.bands(2), batch_size=b) for b in (5, 100))
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.counts <= 6).all()
    sides = one.largest()
    for m in range(1, 5):
        assert (one.certified(m) == (sides >= m)).all()
    y = one.prediction
    assert one.accuracy(y).value == 1
    assert one.accuracy(y, 2).count == one.certified(2).sum()
    assert one.accuracy(y, 2).confidence == 1


def test_labels_and_patches_that_are_refused():
    done = smoothing.derandomized(bright, columns(0, 1, 1, 1), bands=smoothing.bands(1))
    with pytest.raises(ValueError, match="width=8 alone"):
        done.accuracy([1], width=8)
    for y, error in [([-1], ValueError), ([2], ValueError), ([1, 1], ValueError), ([1.0], TypeError)]:
        with pytest.raises(error, match=r"out of range: labels are 0\.\.1|integer labels"):
            done.accuracy(np.array(y))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bands": 4}, TypeError, "jr.smoothing.bands"),
        ({"threshold": 0.0}, ValueError, "threshold lies in"),
        ({"x": np.zeros((2, 4, 4))}, ValueError, r"\[N, H, W, C\]"),
        ({"bands": smoothing.bands(5)}, ValueError, "larger than the images"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_bad_input(change, error, message):
    call = {"model": bright, "x": np.zeros((2, 4, 4, 1)), "bands": smoothing.bands(1)} | change
    with pytest.raises(error, match=message):
        smoothing.derandomized(call.pop("model"), call.pop("x"), **call)
    with pytest.raises(ValueError, match="columns, rows or blocks"):
        smoothing.bands(1, kind="diagonal")
