"""HYDRA: masks by hand, straight-through gradients, and a net that is pruned by its robust loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.nnx import Rngs

import jrobust as jr
from jrobust import training
from tests.training.nets import Net, blobs, dense, dense_params

X, Y = (jnp.asarray(a) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
ROBUST = jr.worst_case(LOSS, jr.sets.linf(0.1, clip=(0, 1)), jr.attacks.pgd(steps=2))


def test_masks_keep_the_largest_scores_and_pass_gradients_straight_through():
    w, scores = jnp.arange(1.0, 7.0).reshape(2, 3), jnp.array([[0.5, -0.9, 0.1], [-0.2, 0.3, -0.05]])
    mask = np.array([[1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(training.hydra_masks(scores, 0.5), mask)
    slope = jnp.array([[3.0, -1.0, 2.0], [1.0, 5.0, -2.0]])
    linear = lambda p, rest, x, y, *, key, train: (jnp.sum(p * slope) * jnp.ones(1), rest)  # noqa: E731
    loss = lambda s: training.hydra(linear, w, keep=0.5)(s, None, X, Y, key=None, train=True)[0][0]  # noqa: E731
    assert float(loss(scores)) == pytest.approx(float(jnp.sum(w * mask * slope)))
    np.testing.assert_allclose(jax.grad(loss)(scores), w * slope * jnp.sign(scores), rtol=1e-5)  # of pruned ones too


def fitted(loss, params, tx, steps):
    step, state = jax.jit(training.make_step(loss, tx)), training.init(params, None, tx)
    for t in range(steps):
        state, metrics = step(state, (X, Y), key=jax.random.key(t))
    return state.params, float(metrics["loss"])


def test_a_net_is_trained_pruned_and_trained_again():
    params, _ = fitted(ROBUST, dense_params(), optax.adam(0.02), 60)
    scores = training.hydra_scores(params)
    assert scores["b"] is None
    loss = training.hydra(ROBUST, params, keep=0.2)
    value = lambda s: float(jnp.mean(loss(s, None, X, Y, key=jax.random.key(0), train=True)[0]))  # noqa: E731
    found, _ = fitted(loss, scores, optax.adam(0.02), 60)
    assert value(found) < 0.9 * value(scores)  # better than the largest weights
    masks = training.hydra_masks(found, 0.2)
    assert int(masks["w"].sum()) == 192 - int(0.8 * 192)
    again, last = fitted(training.finetuned(ROBUST, masks), training.pruned(params, masks), optax.adam(0.02), 60)
    assert last < value(found)
    np.testing.assert_array_equal(again["w"] * (1 - masks["w"]), 0.0)
    logits, _ = dense(training.pruned(again, masks), None, X, train=False)
    assert float(jnp.mean(jnp.argmax(logits, -1) == Y)) == 1.0


def test_statistics_go_on_and_normalisation_is_not_pruned():
    apply, params, rest = jr.nnx.functional(Net(Rngs(0)))
    loss = training.hydra(jr.objectives.cross_entropy(apply), params, keep=0.5)
    scores = training.hydra_scores(params)
    losses, after = loss(scores, rest, X[:8], Y[:8], key=jax.random.key(0), train=True)
    assert losses.shape == (8,)
    assert bool(jnp.any(after["norm"]["mean"] != rest["norm"]["mean"]))
    assert scores["norm"]["scale"] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.hydra(LOSS, dense_params(), keep=0.0), r"hydra: keep is the share .* got 0\.0"),
        (lambda: training.hydra_masks(dense_params(), 1.5), "got 1.5"),
        (lambda: training.hydra_scores({"b": jnp.ones(2)}), "nothing to prune"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
