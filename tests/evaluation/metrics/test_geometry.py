"""Slopes, strips, walks and gradients of models whose answers are known in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import metrics
from tests.evaluation.common import compilations

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3)).astype(np.float32)
X = RNG.uniform(0.3, 0.7, (5, 4)).astype(np.float32)
Y = (X @ W).argmax(1)


def linear(x):
    return x @ W


def test_steepest_secant_of_a_linear_model(key):
    corners = np.array(list(itertools.product([-1, 1], repeat=4)))
    exact = np.abs(corners @ W).sum(1).max()  # the operator norm from Linf to L1
    options = {"threat": jr.sets.linf(0.1), "key": key, "restarts": 8, "steps": 20}
    found = metrics.local_lipschitz(linear, X, Y, **options)
    np.testing.assert_allclose(found.values, exact, rtol=1e-3)
    assert (found.values <= exact * (1 + 1e-4)).all()
    assert found.side == found.average().side == "lower"
    again = metrics.local_lipschitz(linear, X, Y, batch_size=2, **options)
    np.testing.assert_allclose(again.values, found.values, rtol=1e-4)
    euclid = metrics.local_lipschitz(linear, X, Y, threat=jr.sets.l2(0.1), output="l2", key=key, steps=50)
    np.testing.assert_allclose(euclid.values, np.linalg.norm(W, 2), rtol=2e-2)


def test_intervals_end_where_the_quantity_does(key):
    x = np.array([[0.0, 1.0], [0.3, 0.4]], np.float32)  # a gradient along the one example, not the other
    model = lambda x: x * jnp.array([0.0, 1.0])  # noqa: E731
    strip = lambda x: jnp.stack([0 * x[:, 0], 1.5 - x[:, 1] ** 2], 1)  # noqa: E731
    found = {
        "cosine": (metrics.gradient_structure(model, x, [1, 1]).cosine, 0.0, 1.0),
        "ebd1": (metrics.ebd1(strip, x, [1, 1], magnitudes=np.arange(1, 91) / 10, key=key, directions=2), 0.1, 9.0),
        "ebd2": (metrics.ebd2(model, x, [1, 1], step=0.3, limit=9, clip=None), 1.0, 9.0),
        "slope": (metrics.loss_sensitivity(model, 30 * x, [0, 1]), 0.0, np.inf),
        "clever": (metrics.clever(model, x, [1, 1], threat=jr.sets.l2(0.7), key=key, samples=2, batches=5), 0.0, 0.7),
    }
    for name, (scores, least, most) in found.items():
        assert (scores.least, scores.most) == (least, most), name
        assert len(set(scores.values.tolist())) == 2, name  # else there is nothing to cut
        a = scores.average()
        assert least <= a.low <= a.value <= a.high <= most, name
        assert least == a.low or most == a.high, name


def test_steepest_secant_of_a_parabola(key):
    x = np.array([[1.0]], np.float32)
    model = lambda x: jnp.concatenate([x**2, 0 * x], 1)  # noqa: E731
    found = metrics.local_lipschitz(model, x, [0], threat=jr.sets.linf(0.5), key=key, restarts=4)
    assert found.values[0] == pytest.approx(2.5, rel=1e-4)  # x + x' at the far end
    flat = metrics.local_lipschitz(lambda x: jnp.ones((len(x), 2)), x, [0], threat=jr.sets.l2(0.5), key=key)
    assert flat.values[0] == 0
    shares = metrics.local_lipschitz(model, x, [0], threat=jr.sets.linf(0.5), key=key, restarts=4, of="probabilities")
    p = jax.nn.sigmoid(jnp.linspace(0.5, 1.5, 4001) ** 2)
    secants = (
        2 * np.abs(np.asarray(p) - float(jax.nn.sigmoid(1.0))) / np.maximum(np.abs(np.linspace(-0.5, 0.5, 4001)), 0.01)
    )
    assert 0.95 * secants.max() <= shares.values[0] <= 1.01 * secants.max()


def test_thickness_of_a_logistic_model():
    w = np.array([3.0, 4.0], np.float32)
    model = lambda x: jnp.stack([x @ w, 0 * x[:, 0]], 1)  # noqa: E731
    x = np.array([[0.6, 0.8], [0.6, 0.8]], np.float32)  # margin 5
    z = np.array([[-0.6, -0.8], [0.3, 0.4]], np.float32)  # margins -5, 2.5
    found = metrics.boundary_thickness(model, x, [0, 0], z, points=2000)
    strip = 2 * np.arctanh(0.75) / 5  # in margins, over the norm of w
    assert found.values[0] == pytest.approx(strip, abs=2.0 / 2000)
    assert np.isnan(found.values[1])  # no boundary on the way
    assert found.average().n == 1
    both = metrics.boundary_thickness(model, x, [0, 0], z, lower=-0.75, points=2000)
    assert both.values[0] == pytest.approx(2 * strip, abs=2.0 / 2000)
    with pytest.raises(ValueError, match="lower < upper"):
        metrics.boundary_thickness(model, x, [0, 0], z, lower=0.8)
    with pytest.raises(ValueError, match="one shape"):
        metrics.boundary_thickness(model, x, [0, 0], z[:1])


def test_walks_along_directions(key):
    grid = np.linspace(0.05, 2.0, 40)
    found = metrics.ebd1(linear, X, Y, magnitudes=grid, key=key, directions=4, batch_size=3)
    for i in range(len(X)):
        draws = jax.random.normal(jax.random.fold_in(key, i), (4, 4))
        basis = np.asarray(jnp.linalg.qr(draws)[0]).T
        np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-5)
        first = [m for u in basis for m in grid if ((X[i] + m * u) @ W).argmax() != Y[i]]
        assert found.values[i] == pytest.approx(min(first))
    assert found.info["flips"].all()
    short = metrics.ebd1(linear, X, Y, magnitudes=[1e-6, 1e-5], key=key, directions=1)
    assert not short.info["flips"].any()
    assert (short.values == 1e-5).all()
    with pytest.raises(ValueError, match="5 directions cannot be orthonormal"):
        metrics.ebd1(linear, X, Y, magnitudes=grid, key=key, directions=5)
    with pytest.raises(ValueError, match="increase from above 0"):
        metrics.ebd1(linear, X, Y, magnitudes=grid[::-1], key=key)


def test_walks_along_the_gradient():
    w = np.array([1.0, -2.0], np.float32)
    model = lambda x: jnp.stack([x @ w, 0 * x[:, 0]], 1)  # noqa: E731
    x = np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.1]], np.float32)  # margins 0.7, -1.7, 0.3
    found = metrics.ebd2(model, x, [0, 0, 0], step=0.01)
    assert found.values[0] == np.ceil(0.7 / 0.03)  # 0.01 times the L1 norm a step
    assert np.isnan(found.values[1])  # wrong from the start
    assert found.values[2] == 10 or found.values[2] == 11  # 0.3 / 0.03, to rounding
    assert found.info["right"].tolist() == [True, False, True]
    few = metrics.ebd2(model, x, [0, 0, 0], step=0.01, limit=15)
    assert few.info["flips"].tolist() == [False, False, True]
    # a box of 0.1 around: the first cannot leave its class
    boxed = metrics.ebd2(model, x, [0, 0, 0], step=0.01, clip=(0.1, 0.9))
    assert boxed.info["flips"][0]
    box = (x[0] - 0.1, x[0] + 0.1)
    assert not metrics.ebd2(model, x[:1], [0], step=0.01, clip=box).info["flips"][0]
    with pytest.raises(ValueError, match="box of allowed values"):
        metrics.ebd2(model, x, [0, 0, 0], step=0.01, clip=box)
    with pytest.raises(ValueError, match="step must be finite"):
        metrics.ebd2(model, x, [0, 0, 0], step=0)


def test_noise(key):
    x = np.full((3, 1), 30.0, np.float32)
    model = lambda x: jnp.concatenate([2 * x, 0 * x], 1)  # noqa: E731
    found = metrics.eni(model, x, [1, 1, 0], threat=jr.sets.linf(0.5), key=key, samples=5)
    np.testing.assert_allclose(found.values[:2], 2.0, rtol=1e-3)  # the loss is 2 x there
    assert found.values[2] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="needs a ball"):
        metrics.eni(model, x, [1, 1, 0], threat=jr.sets.box(0 * x[0], x[0]), key=key)


def test_size_of_the_loss_gradient():
    p = np.asarray(jax.nn.softmax(X @ W, 1))
    g = (p - np.eye(3)[Y]) @ W.T
    found = metrics.loss_sensitivity(linear, X, Y, batch_size=2)
    np.testing.assert_allclose(found.values, np.linalg.norm(g, axis=1), rtol=1e-5)
    s = metrics.gradient_structure(linear, X, Y)
    for scores, p in ((s.l1, 1), (s.l2, 2), (s.linf, np.inf)):
        np.testing.assert_allclose(scores.values, np.linalg.norm(g, ord=p, axis=1), rtol=1e-5)
    top = W[:, Y].T
    along = np.abs((X * top).sum(1)) / np.linalg.norm(top, axis=1)
    np.testing.assert_allclose(s.alignment.values, along, rtol=1e-5)
    np.testing.assert_allclose(s.cosine.values, along / np.linalg.norm(X, axis=1), rtol=1e-5)
    assert np.isnan(s.high_frequency.values).all()  # no images
    with pytest.raises(ValueError, match="cutoff"):
        metrics.gradient_structure(linear, X, Y, cutoff=2)


@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_frequencies_of_a_checkerboard(scale):
    board = (-1.0) ** np.indices((8, 8)).sum(0)[..., None]
    pattern = (scale * (3 + 2 * board)).astype(np.float32)
    model = lambda x: jnp.stack([jnp.sum(x * pattern, (1, 2, 3)), jnp.zeros(len(x))], 1)  # noqa: E731
    s = metrics.gradient_structure(model, np.zeros((1, 8, 8, 1), np.float32), [1])
    assert s.high_frequency.values[0] == pytest.approx(4 / 13, rel=1e-5)
    assert s.linf.values[0] == pytest.approx(2.5 * scale, rel=1e-5)
    assert np.isnan(s.cosine.values[0])
    all_of_it = metrics.gradient_structure(model, np.zeros((1, 8, 8, 1), np.float32), [1], cutoff=1.4)
    assert all_of_it.high_frequency.values[0] == pytest.approx(4 / 13, rel=1e-5)  # the corner, sqrt(2) of an axis's end


def test_other_weights_run_the_same_program(key):
    def model(kernel):
        def logits(x):
            h = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.tanh(h).sum((1, 2))

        return logits

    x, y = RNG.uniform(size=(3, 4, 4, 1)).astype(np.float32), np.array([0, 1, 0])
    one, two = (RNG.normal(size=(3, 3, 1, 2)).astype(np.float32) for _ in range(2))
    options = {"threat": jr.sets.l2(0.5), "key": key, "steps": 2}
    first = metrics.local_lipschitz(model(one), x, y, **options)
    with compilations() as seen:
        second = metrics.local_lipschitz(model(two), x, y, **{**options, "threat": jr.sets.l2(0.4)})
    assert not seen
    assert (first.values != second.values).all()


SLOPE = np.array([1.0, -2.0, 0.5], np.float32)


def shifted(draw, x):
    """Two classes whose margin is linear, shifted by the draw."""
    m = x @ SLOPE + jax.random.normal(draw)
    return jnp.stack([m, 0 * m], 1)


def kept(x, key):
    """The shifts that the examples keep under a key."""
    z = metrics.logits(jr.objectives.stochastic(shifted, 1), x, key=key)
    return z[:, 0] - z[:, 1] - x @ SLOPE


def test_a_random_model_keeps_its_draws_at_all_points_of_an_example(key):
    model, x = jr.objectives.stochastic(shifted, 1), RNG.uniform(size=(12, 3)).astype(np.float32)
    y = np.zeros(12, int)
    shifts = kept(x, key)
    assert np.ptp(shifts) > 1  # they are their own
    steepest = metrics.local_lipschitz(model, x, y, threat=jr.sets.linf(0.01), key=key)
    # the two logits of the mean move together by what the margin moves; a new shift would move them without bound
    np.testing.assert_allclose(steepest.values, np.abs(SLOPE).sum(), rtol=1e-2)
    noise = metrics.eni(model, x, y, threat=jr.sets.linf(1e-3), key=key)
    assert (noise.values < np.abs(SLOPE).sum() * 1.05).all()
    radii = metrics.clever(model, x, y, threat=jr.sets.l2(9.0), key=key, samples=4, batches=5)
    margin = np.maximum(x @ SLOPE + shifts, 0)
    np.testing.assert_allclose(radii.values, np.minimum(margin / np.linalg.norm(SLOPE), 9), atol=1e-3)


def test_the_strip_of_a_random_model_is_one_models(key):
    x = np.zeros((8, 3), np.float32) + 6 * SLOPE / (SLOPE @ SLOPE)
    far = x - 12 * SLOPE / (SLOPE @ SLOPE)  # the margin goes from 6 to -6, both shifted by one draw
    found = metrics.boundary_thickness(
        jr.objectives.stochastic(shifted, 1), x, np.zeros(8, int), far, points=600, key=key
    )
    exact = 2 * np.arctanh(0.75) / np.linalg.norm(SLOPE)
    np.testing.assert_allclose(found.values, exact, atol=2 * 12 / np.linalg.norm(SLOPE) / 600)


def test_a_walk_meets_the_boundary_of_the_kept_draws(key):
    def well(draw, x):  # left at distance 2 + shift in any direction
        m = 2 + 0.3 * jax.random.normal(draw) - jnp.sqrt(jnp.sum(x**2, 1) + 1e-12)
        return jnp.stack([m, 0 * m], 1)

    model, x = jr.objectives.stochastic(well, 1), np.zeros((20, 3), np.float32)
    z = metrics.logits(model, x, key=key)
    grid = np.arange(1, 400) / 100
    found = metrics.ebd1(model, x, np.zeros(20, int), magnitudes=grid, key=key, directions=3)
    np.testing.assert_allclose(found.values, z[:, 0] - z[:, 1], atol=0.011)
    assert found.info["flips"].all()


def test_steps_do_not_fit_the_draws_that_judge_them(key):
    def wavering(draw, x):  # by the sign of the draw the second entry helps or harms; in the mean it does nothing
        m = 1 - x[:, 0] + 2 * jax.random.rademacher(draw, (), x.dtype) * x[:, 1]
        return jnp.stack([m, 0 * m], 1)

    model, x = jr.objectives.stochastic(wavering, 1), np.zeros((40, 2), np.float32)
    found = metrics.ebd2(model, x, np.zeros(40, int), step=0.05, limit=200, clip=None, key=key)
    assert found.info["flips"].all()
    assert (found.values >= 7).all()  # 7 steps of the draw's own gradient leave the label
    assert found.values.mean() > 10
    steady = lambda x: jnp.stack([1 - x[:, 0] + 2 * x[:, 1], 0 * x[:, 0]], 1)  # noqa: E731
    assert metrics.ebd2(steady, x[:1], [0], step=0.05, clip=None).values == 7
