"""Margin-CS: its margins and its hinge by their formulas, what is not finite, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

import jrobust as jr
from jrobust import training
from jrobust.training._margin_cs import gaussian_margins, hinge
from jrobust.training._noisy import streams
from tests.training.nets import blobs, dense, dense_params

X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
HOW = {"key": jax.random.key(0), "train": True}
COSTS = np.array([[0, 0, 0, 0], [1, 9, 0, 2], [0, 0, 0, 0], [0.5, 0.5, 0.5, 0]])  # a pairwise row, a seedwise one


def by_hand(logits, y, *, sigma, weight, gamma, sharpness):
    """One example [M, K], in float64."""
    logits = np.asarray(logits, np.float64)
    soft = lambda v: np.exp(v - v.max(1, keepdims=True)) / np.exp(v - v.max(1, keepdims=True)).sum(1, keepdims=True)  # noqa: E731
    p, q = soft(logits).mean(0), soft(sharpness * logits).mean(0)
    omega = [j for j in range(4) if j != y and COSTS[y, j] > 0]
    m = norm.ppf(q[y]) - norm.ppf(max(q[j] for j in (omega or set(range(4)) - {y})))
    if omega:
        lost = gamma[0] - m if abs(m) < gamma[0] else 0.0
    else:
        lost = gamma[1] - m if 0 < m < gamma[1] else 0.0
    return -np.log(p[y]) + weight * sigma / 2 * lost


def test_the_loss_is_its_formula():
    options = {"sigma": 0.25, "weight": 2.0, "gamma": (1.5, 1.0), "sharpness": 3.0}
    robust = training.margin_cs(LOSS, COSTS, samples=6, **options)
    losses, _ = robust(dense_params(), None, X, Y, **HOW)
    noise = jax.random.normal(jax.random.split(streams(HOW["key"])[0], 1)[0], (6, *X.shape))
    logits = dense(dense_params(), None, (X + 0.25 * noise).reshape(-1, 4, 4, 1), train=True)[0].reshape(6, 8, 4)
    expected = [by_hand(logits[:, i], int(y), **options) for i, y in enumerate(Y)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    plain = training.margin_cs(LOSS, COSTS, samples=6, **options | {"weight": 0.0})(dense_params(), None, X, Y, **HOW)[
        0
    ]
    assert float(jnp.max(losses - plain)) > 0.1


def test_the_hinge_reaches_misclassified_examples_of_sensitive_classes_only():
    m = jnp.linspace(-6.0, 6.0, 49)
    got = {s: np.asarray(hinge(m, jnp.full(m.shape, s), (4.0, 2.0))) for s in (True, False)}
    for i, v in enumerate(np.asarray(m)):
        assert got[True][i] == pytest.approx(4 - v if abs(v) < 4 else 0)
        assert got[False][i] == pytest.approx(2 - v if 0 < v < 2 else 0)


def test_margins_that_are_not_numbers_are_masked_and_leave_finite_gradients():
    p = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1 - 1e-7, 1e-7, 1e-30], [0.2, 0.8, 0.0], [0.5, 1e-45, 0.5]])
    against = jnp.array([[False, True, False]] * 5)
    m, finite = gaussian_margins(p, jnp.zeros(5, int), against)
    assert finite.tolist() == [False, False, True, True, False]
    assert float(m[3]) == pytest.approx(2 * norm.ppf(0.2), rel=1e-5)
    assert bool(jnp.all(m[~finite] == 0))

    def total(scale, y):
        loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (p * x, rest))
        robust = training.margin_cs(loss, np.ones((3, 3)), sigma=0.01, samples=4)
        return jnp.sum(robust(scale, None, jnp.eye(3), y, **HOW)[0])

    for scale in (0.0, 0.3, 2.0, 10.0, 100.0, 1e4):
        for y in (jnp.arange(3), jnp.array([1, 2, 0])):
            value, slope = jax.value_and_grad(total)(scale, y)
            assert bool(jnp.isfinite(value))
            assert bool(jnp.isfinite(slope))


def trained(robust):
    x, y = map(jnp.asarray, blobs())
    tx = optax.adam(0.01)
    step, state = jax.jit(training.make_step(robust, tx)), training.init(dense_params(), None, tx)
    for t in range(150):
        state, _ = step(state, (x, y), key=jax.random.key(t))
    return lambda x: dense(state.params, None, x, train=False)[0]


def test_the_sensitive_class_gains_certified_radius():
    x, y = map(jnp.asarray, blobs(seed=1))
    costs = np.zeros((4, 4))
    costs[2] = 1

    def radius(weight):
        net = trained(training.margin_cs(LOSS, costs, sigma=1.0, weight=weight, sharpness=4.0))
        found = jr.smoothing.certify(
            net,
            x[y == 2],
            noise=jr.smoothing.gaussian(1.0),
            n0=50,
            n=1000,
            alpha=1e-3,
            key=jax.random.key(0),
            batch_size=500,
        )
        return float(np.mean(np.where(found.prediction == 2, found.radius, 0.0)))

    assert radius(3.0) > radius(0.0) + 0.02


@pytest.mark.parametrize("costs", [np.ones(4), np.ones((3, 4)), -np.ones((4, 4)), np.full((4, 4), np.nan)])
def test_costs_of_another_form_are_refused(costs):
    with pytest.raises(ValueError, match="costs are"):
        training.margin_cs(LOSS, costs)
    with pytest.raises(ValueError, match="3 classes, a model of 4"):
        training.margin_cs(LOSS, np.ones((3, 3)))(dense_params(), None, X, Y, **HOW)
