"""Regularisers: closed forms on linear and quadratic models, where each is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import training
from tests.training.nets import blobs, dense

X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
HOW = {"key": jax.random.key(0), "train": True}


def flat(x):
    return x.reshape(x.shape[0], -1)


def linear(p, rest, x, *, train):
    return flat(x) @ p, rest


MARGIN = jr.Loss(jax.tree_util.Partial(linear), jax.tree_util.Partial(lambda out, y: out[:, 0] - out[:, 1]))
W = jax.random.normal(jax.random.key(1), (16, 4))
SLOPE = W[:, 0] - W[:, 1]
QUADRATIC = jr.Loss(jax.tree_util.Partial(linear), jax.tree_util.Partial(lambda out, y: 0.5 * jnp.sum(out**2, -1)))
HESSIAN = W @ W.T


def extra(robust, loss=MARGIN, params=W, how=HOW):
    return robust(params, None, X, Y, **how)[0] - loss(params, None, X, Y)[0]


def test_gradient_penalties_of_a_linear_loss_and_of_cross_entropy():
    squares = extra(training.gradient_penalty(MARGIN, weight=0.25))
    np.testing.assert_allclose(squares, jnp.full(8, 0.25 * jnp.sum(SLOPE**2)), rtol=1e-4)
    loss = jr.objectives.cross_entropy(linear)
    p = jax.nn.softmax(flat(X) @ W)
    by_hand = (p - jax.nn.one_hot(Y, 4)) @ W.T
    for norm, size in (("l2", by_hand**2), ("l1", jnp.abs(by_hand))):
        found = extra(training.gradient_penalty(loss, weight=2.0, norm=norm), loss)
        np.testing.assert_allclose(found, 2.0 * jnp.sum(size, -1), rtol=1e-3, atol=1e-5)


def test_the_l1_penalty_is_fgsm_on_what_is_linear():
    threat = jr.sets.linf(0.1)
    fgsm = jr.worst_case(MARGIN, threat, jr.attacks.fgsm())
    robust = training.gradient_penalty(MARGIN, weight=0.1, norm="l1")
    of = lambda loss: jax.value_and_grad(lambda p: jnp.mean(loss(p, None, X, Y, **HOW)[0]))(W)  # noqa: E731
    for a, b in zip(of(robust), of(fgsm), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_penalties_are_differentiated_twice():
    found = jax.grad(lambda p: jnp.mean(extra(training.gradient_penalty(MARGIN, weight=0.5), params=p)))(W)
    np.testing.assert_allclose(found, jnp.outer(SLOPE, jnp.array([1.0, -1.0, 0.0, 0.0])), rtol=1e-4, atol=1e-4)


def test_the_jacobian_penalty_is_exact_and_in_expectation_the_same():
    loss = jr.objectives.cross_entropy(linear)
    frobenius = float(jnp.sum(W**2))
    exact = extra(training.jacobian_penalty(loss, weight=0.5, projections=None), loss)
    np.testing.assert_allclose(exact, 0.25 * frobenius, rtol=1e-3)
    drawn = extra(training.jacobian_penalty(loss, weight=0.5, projections=1), loss)
    assert float(jnp.std(drawn)) > 0.01 * frobenius  # each example has its own draw
    many = extra(training.jacobian_penalty(loss, weight=0.5, projections=4000), loss)
    np.testing.assert_allclose(many, 0.25 * frobenius, rtol=0.03)


def test_curvature_is_nothing_on_what_is_linear_and_the_hessian_along_the_signs():
    np.testing.assert_allclose(extra(training.cure(MARGIN, weight=9.0)), 0.0, atol=1e-5)
    slope = jax.grad(lambda p: jnp.sum(training.cure(MARGIN)(p, None, X, Y, **HOW)[0]))(W)
    assert bool(jnp.all(jnp.isfinite(slope)))  # at a norm of 0
    signs = jnp.sign(flat(X) @ HESSIAN) / 4.0
    expected = 2.0 * 0.5 * jnp.linalg.norm(signs @ HESSIAN, axis=-1)
    np.testing.assert_allclose(extra(training.cure(QUADRATIC, weight=2.0, h=0.5), QUADRATIC), expected, rtol=1e-3)


def test_llr_is_its_linear_part_on_what_is_linear():
    robust = training.llr(MARGIN, jr.sets.linf(0.1), weight=100.0, mu=3.0)
    z = robust.craft(W, None, X, Y, key=HOW["key"])
    np.testing.assert_allclose(extra(robust), 3.0 * jnp.abs(flat(z - X) @ SLOPE), rtol=1e-2, atol=1e-3)


def test_llr_climbs_the_gap_and_is_its_formula():
    threat = jr.sets.l2(0.5)
    robust = training.llr(QUADRATIC, threat, weight=2.0, mu=3.0, attack=20)
    z = robust.craft(W, None, X, Y, key=HOW["key"])
    d = flat(z - X)
    gap = 0.5 * jnp.sum((d @ W) ** 2, -1)
    most = 0.5 * 0.25 * jnp.linalg.eigvalsh(HESSIAN)[-1]  # of a quadratic form over a ball
    assert bool(jnp.all(gap <= 1.001 * most))
    assert bool(jnp.all(gap > 0.6 * most))  # a sample of the ball has an eighth of it
    rise = jnp.sum(d * (flat(X) @ HESSIAN), -1)
    np.testing.assert_allclose(extra(robust, QUADRATIC), 2.0 * gap + 3.0 * jnp.abs(rise), rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.jacobian_penalty(LOSS, projections=0), "projections must be an int >= 1, got 0"),
        (lambda: training.llr(LOSS, jr.sets.linf(0.1), attack=jr.bounds.ibp()), "side lower"),
        (lambda: training.llr(LOSS, jr.sets.linf(0.1), attack=jr.attacks.pgd(early_stop=True)), "early"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
