"""FARE and LORE: their formulas, two descents and one ascent by hand, and a constraint that holds where FARE drifts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training
from jrobust.training._embedding import multipliers
from tests.training.nets import blobs, dense, dense_params

X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
LINF = jr.sets.linf(0.1, clip=(0, 1))
HOW = {"key": jax.random.key(0), "train": True}


def original(x):
    return dense(dense_params(1), None, x, train=False)[0]


def embedded(params, x=X):
    return dense(params, None, x, train=True)[0]


def test_fare_moves_an_embedding_as_far_as_a_linear_encoder_lets_it():
    identity = jr.Loss(lambda p, rest, x, *, train: (x * p, rest), lambda out, y: jnp.sum(out, -1))
    args = jnp.float32(2.0), None, jnp.full((1, 5), 0.5), jnp.array([0])
    robust = training.fare(identity, jr.sets.linf(0.1, clip=(0, 1)), lambda x: 2 * x)
    np.testing.assert_allclose(robust(*args, **HOW)[0], 5 * 0.2**2, rtol=1e-5)
    shifted = training.fare(identity, jr.sets.linf(0.1, clip=(0, 1)), lambda x: 2 * x - 1, weight=3.0)
    np.testing.assert_allclose(
        shifted(*args, **HOW)[0], 5 * 1.2**2 + 3 * 5, rtol=1e-5
    )  # away from it, and the clean penalty


def test_fare_is_its_formula_and_does_not_look_at_labels():
    params = dense_params()
    robust = training.fare(LOSS, LINF, original, weight=0.5)
    z = robust.craft(params, None, X, Y, key=HOW["key"])
    far, near = (jnp.sum((embedded(params, v) - original(X)) ** 2, -1) for v in (z, X))
    assert bool(jnp.all(far > near))
    np.testing.assert_allclose(robust(params, None, X, Y, **HOW)[0], far + 0.5 * near, rtol=1e-5)
    np.testing.assert_array_equal(robust(params, None, X, 0 * Y, **HOW)[0], robust(params, None, X, Y, **HOW)[0])


def test_a_step_of_lore_is_two_descents_at_one_witness_and_one_ascent():
    rho, params = 0.3, dense_params()
    tx, dual = optax.sgd(0.05), optax.sgd(0.1)
    memory = training.duals(jax.random.key(2), 4, hidden=6, dual=dual)
    step = jax.jit(training.lore(LOSS, LINF, tx, original, rho=rho, descents=2, dual=dual))
    start = training.init(params, None, tx, memory=memory)
    after, metrics = step(start, (X, Y), key=HOW["key"])

    z = training.fare(LOSS, LINF, original).craft(params, None, X, Y, key=HOW["key"])
    target = original(X)
    square = lambda p, v: jnp.sum((embedded(p, v) - target) ** 2, -1)  # noqa: E731
    over = lambda p: square(p, X) - rho * jnp.sum(target**2, -1)  # noqa: E731
    weights = multipliers(memory.net, target)
    lagrangian = lambda p: jnp.mean(square(p, z) + weights * over(p))  # noqa: E731
    values = []
    for _ in range(2):
        values.append(lagrangian(params))
        params = jax.tree.map(lambda a, g: a - 0.05 * g, params, jax.grad(lagrangian)(params))
    slope = jax.grad(lambda net: jnp.mean(multipliers(net, target) * over(params)))(memory.net)
    net = jax.tree.map(lambda a, g: a + 0.1 * g, memory.net, slope)
    for found, expected in ((after.params, params), (after.memory.net, net)):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(slope)) > 1e-2
    assert float(metrics["loss"]) == pytest.approx(float(np.mean(values)), rel=1e-4)
    assert float(metrics["moved"]) == pytest.approx(
        float(jnp.mean(square(dense_params(), X) / jnp.sum(target**2, -1))), rel=1e-4
    )
    assert int(after.step) == 1
    assert float(metrics["multiplier"]) == pytest.approx(float(jnp.mean(weights)), rel=1e-5)


def test_lore_keeps_clean_embeddings_where_fare_lets_them_drift():
    x, y = map(jnp.asarray, blobs())
    wide, tx, key = jr.sets.linf(0.4, clip=(0, 1)), optax.adam(0.01), jax.random.key(0)
    first, target = dense_params(1), original(x)
    fare = training.make_step(training.fare(LOSS, wide, original, attack=3), tx)
    rho, dual = 0.02, optax.adam(0.05)
    lore = training.lore(LOSS, wide, tx, original, rho=rho, dual=dual, descents=1, attack=3)
    moved = {}
    for name, step, memory in (("fare", fare, None), ("lore", lore, training.duals(key, 4, hidden=16, dual=dual))):
        state, step = training.init(first, None, tx, memory=memory), jax.jit(step)
        for t in range(80):
            state, _ = step(state, (x, y), key=jax.random.fold_in(key, t))
        now = jnp.sum((embedded(state.params, x) - target) ** 2, -1) / jnp.sum(target**2, -1)
        moved[name] = float(jnp.mean(now))
    assert moved["lore"] < 2 * rho
    assert moved["fare"] > 3 * moved["lore"]


def test_what_they_refuse():
    narrow = lambda x: x.reshape(x.shape[0], -1)[:, :2]  # noqa: E731
    with pytest.raises(ValueError, match=r"shape \(.*4\), the reference of shape \(.*2\)"):
        training.fare(LOSS, LINF, narrow)(dense_params(), None, X, Y, **HOW)
    with pytest.raises(ValueError, match="rho is >= 0, got -1"):
        training.lore(LOSS, LINF, optax.sgd(0.1), original, rho=-1)
    step = training.lore(LOSS, LINF, optax.sgd(0.1), original)
    with pytest.raises(ValueError, match="no multipliers"):
        step(training.init(dense_params(), None, optax.sgd(0.1)), (X, Y), key=HOW["key"])
    state = training.init(dense_params(), None, optax.sgd(0.1), memory=training.duals(HOW["key"], 3))
    with pytest.raises(ValueError, match=r"duals\(key, 3\) are for embeddings of 3 entries, the reference gives 4"):
        step(state, (X, Y), key=HOW["key"])
