"""Hooks and what goes with a training: held-out accuracy, early stopping, the best state, logs, statistics, precision, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jrobust as jr
from jrobust import models, training
from tests.training.nets import Net, blobs, dense, dense_params

LOSS = jr.objectives.cross_entropy(dense)
THREAT = jr.sets.linf(0.05, clip=(0, 1))
TX = optax.adam(0.01)


def fit(step=None, **options):
    x, y = blobs()
    options = {"epochs": 5, "batch_size": 16, "key": jax.random.key(0), "show": False} | options
    step = training.make_step(LOSS, TX) if step is None else step
    return training.fit(step, training.init(dense_params(), None, TX), x, y, **options)


def test_held_out_robust_accuracy_is_that_of_the_attack_and_picks_the_best(tmp_path):
    x, y = blobs(40, seed=3)
    hook = training.held_out(LOSS, THREAT, x, y, key=jax.random.key(1), batch_size=16)
    state = fit(hook=hook, best="held_out_robust", run=tmp_path / "run")
    numbers = hook(5, state)
    oracles = {"pgd": jr.attacks.pgd(steps=10)}
    model = lambda v: dense(state.params, None, v, train=False)[0]  # noqa: E731
    report = jr.evaluate(model, x, y, threat=THREAT, oracles=oracles, key=jax.random.key(1))
    assert numbers["held_out_accuracy"] == pytest.approx(float(report["clean"].holds.mean()))
    assert numbers["held_out_robust"] == pytest.approx(float(report["pgd"].holds.mean()), abs=0.05)
    assert numbers["held_out_robust"] > 0.5
    assert int(training.restore(tmp_path / "run", state, best=True).step) % 6 == 0


def test_patience_ends_the_training_with_the_best_state():
    x, y = blobs(16, seed=3)

    def breaking(state, batch, *, key):
        state, metrics = training.make_step(LOSS, TX)(state, batch, key=key)
        worse = jax.tree.map(lambda p: jnp.where(state.step > 12, 0 * p, p), state.params)
        return training.TrainState(worse, state.rest, state.opt_state, state.step), metrics

    hook = training.held_out(LOSS, THREAT, x, y, key=jax.random.key(1), patience=2)
    state = fit(breaking, hook=hook, epochs=30)
    assert int(state.step) == 12
    assert all(bool(jnp.any(p)) for p in jax.tree.leaves(state.params))


def test_hooks_join_and_lines_go_to_a_log_and_to_tensorboard(tmp_path):
    lines = []
    hook = training.together(lambda epoch, state: {"a": epoch}, lambda epoch, state: {"b": 2.0 * epoch})
    board = training.tensorboard(tmp_path / "board")

    def log(line):
        lines.append(line)
        board(line)

    fit(hook=hook, log=log, epochs=2)
    assert [(line["step"], line["a"], line["b"]) for line in lines] == [(6, 1.0, 2.0), (12, 2.0, 4.0)]
    (events,) = (tmp_path / "board").iterdir()
    written = events.read_bytes()
    assert all(name.encode() in written for name in ("loss", "grad_norm", "a", "b"))
    with pytest.raises(ValueError, match="named a"):
        training.together(lambda epoch, state: {"a": 1}, lambda epoch, state: {"a": 1})(1, None)


def test_statistics_estimated_anew_are_those_of_the_data():
    apply, params, rest = jr.nnx.functional(Net(nnx.Rngs(0)))
    x = blobs()[0]
    found = training.batch_statistics(apply, params, rest, x, batch_size=16)
    net = jr.nnx.merge(Net(nnx.Rngs(0)), params, rest)
    inside = np.asarray(net.conv(jnp.asarray(x)))
    per_batch = inside.reshape(6, 16, -1, 3)
    np.testing.assert_allclose(found["norm"]["mean"], inside.reshape(-1, 3).mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["norm"]["var"], per_batch.reshape(6, -1, 3).var(1).mean(0), rtol=1e-3, atol=1e-5)
    same = lambda a, b: bool(jnp.all(jax.random.key_data(a) == jax.random.key_data(b)))  # noqa: E731
    assert same(found["drop"]["rngs"]["key"], rest["drop"]["rngs"]["key"])
    with pytest.raises(ValueError, match="at least one batch of 128"):
        training.batch_statistics(apply, params, rest, x, batch_size=128)


@pytest.mark.parametrize("name", ["cnn-small", "preact-resnet-18", "vit-tiny"])
def test_bfloat16_is_for_the_layers_alone(name):
    options = {"width": 8} if name == "preact-resnet-18" else {}
    model = models.create(name, shape=(8, 8, 3), classes=4, **options)
    full, params, rest = jr.nnx.functional(model)
    half, *_ = jr.nnx.functional(model, dtype=jnp.bfloat16)
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    a, b = full(params, rest, x, train=True), half(params, rest, x, train=True)
    dtypes = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]  # noqa: E731
    assert dtypes(a) == dtypes(b)
    quiet = [np.asarray(f(params, rest, x, train=False)[0]) for f in (full, half)]
    gap = np.abs(quiet[0] - quiet[1]).max()
    assert 0 < gap < 0.05 * np.abs(quiet[0]).max()
    text = str(jax.make_jaxpr(lambda x: half(params, rest, x, train=False)[0])(x))
    assert "bf16" in text
    products = [line for line in text.splitlines() if "conv_general_dilated" in line or "dot_general" in line]
    assert products
    assert sum("bf16" in line for line in products) > 0.5 * len(products)
    # a step of training keeps float32: state and perturbation
    loss = jr.objectives.cross_entropy(half)
    robust = jr.worst_case(loss, jr.sets.linf(0.01, clip=(0, 1)), jr.attacks.fgsm())
    assert robust.craft(params, rest, x, jnp.arange(4), key=jax.random.key(0)).dtype == jnp.float32
    step, start = training.make_step(robust, TX), training.init(params, rest, TX)
    after, _ = jax.eval_shape(lambda s: step(s, (x, jnp.arange(4)), key=jax.random.key(0)), start)
    assert dtypes(after) == dtypes(start)


def test_remat_changes_the_memory_and_not_the_numbers():
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))

    def gradient(remat):
        apply, params, rest = jr.nnx.functional(
            models.create("preact-resnet-18", shape=(8, 8, 3), classes=4, width=4, remat=remat)
        )

        def total(params):
            logits, after = apply(params, rest, x, train=True)
            return jnp.sum(logits**2), after

        return jax.make_jaxpr(jax.grad(total, has_aux=True))(params), jax.jit(jax.grad(total, has_aux=True))(params)

    (plain, a), (saving, b) = gradient(False), gradient(True)
    assert "remat" not in str(plain)
    assert "remat" in str(saving)
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(u, v, rtol=2e-3, atol=1e-4)


def test_a_direction_of_a_power_iteration_is_no_average():
    from jrobust._running import of_batch

    matrix = jnp.diag(jnp.array([3.0, 1.0]))

    def passed(rest):
        v = matrix @ rest["direction"]
        return None, {"direction": v / jnp.linalg.norm(v), "mean": 0.9 * rest["mean"] + 0.1 * 5.0}

    rest = {"direction": jnp.array([0.6, 0.8]), "mean": jnp.ones(())}
    found = of_batch(passed, rest)
    np.testing.assert_allclose(found["direction"], passed(rest)[1]["direction"], rtol=1e-5)
    np.testing.assert_allclose(found["mean"], 5.0, rtol=1e-4)
