"""Orthogonality of kernels: by hand, group by group, and what it is 0 on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import training
from jrobust.training._orthogonal import orthogonality

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
FILTERS = np.asarray(KERNEL).reshape(36, 8).T


@pytest.mark.parametrize("kind", ["inter", "intra"])
def test_groups_are_what_the_paper_draws(kind):
    rows = [range(4), range(4, 8)] if kind == "inter" else [(j, 4 + j) for j in range(4)]
    each = [FILTERS[list(r)] for r in rows]
    expected = sum(((w @ w.T - np.eye(len(w))) ** 2).sum() for w in each)
    params = {"conv": {"kernel": KERNEL, "bias": jnp.ones(8)}, "head": {"kernel": jnp.ones((5, 5))}}
    np.testing.assert_allclose(orthogonality(params, groups=2, kind=kind), expected, rtol=1e-4)
    np.testing.assert_allclose(orthogonality(params, groups=9, kind=kind), expected, rtol=1e-4)  # 8 // 4 groups


def test_orthonormal_filters_cost_nothing_and_training_finds_them():
    wide, _ = np.linalg.qr(FILTERS.T)
    assert float(orthogonality([jnp.asarray(wide).reshape(3, 3, 4, 8)], groups=1)) < 1e-8
    tall = jnp.asarray(wide.T)  # 36 filters of 8 entries: W W^T cannot be I, W^T W is
    assert float(orthogonality([tall], groups=1, dense=True)) < 1e-8
    kernel = {"kernel": 0.1 * KERNEL}
    for _ in range(200):
        kernel = jax.tree.map(
            lambda w, g: w - 0.05 * g, kernel, jax.jit(jax.grad(lambda k: orthogonality(k, groups=1)))(kernel)
        )
    w = kernel["kernel"].reshape(36, 8)
    np.testing.assert_allclose(w.T @ w, np.eye(8), atol=1e-2)


def test_a_loss_in_two_stages_stays_one():
    loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    base = jr.worst_case(loss, jr.sets.linf(0.1), jr.attacks.fgsm())
    robust = training.gor(base, groups=1, weight=0.5, dense=True)
    w, how = jax.random.normal(jax.random.key(1), (3, 2)), {"key": jax.random.key(0), "train": True}
    args = w, None, jnp.eye(3), jnp.array([0, 1, 0])
    found, plain = robust(*args, **how)[0], base(*args, **how)[0]
    np.testing.assert_allclose(found - plain, 0.5 * float(jnp.sum((w.T @ w - jnp.eye(2)) ** 2)), rtol=1e-4)
    assert training.awp(robust)(*args, **how)[0].shape == (3,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: orthogonality([jnp.eye(4)], groups=1), "no kernel .* give dense=True"),
        (lambda: orthogonality([jnp.ones((4, 9))], groups=2, dense=True), "2 groups do not divide the 9 filters"),
        (lambda: orthogonality([KERNEL], groups=0), "groups must be an int >= 1"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
