import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.nnx import Rngs

import jrobust as jr
from jrobust import nnx, training
from tests.training.nets import Net, blobs, dense, dense_params

LOSS = jr.objectives.cross_entropy(dense)
THREAT = jr.sets.linf(0.1, clip=(0, 1))


def run(loss, *, steps=60, tx=None, **options):
    tx = optax.adam(0.02) if tx is None else tx
    x, y = map(jnp.asarray, blobs())
    made, traces = training.make_step(loss, tx, measure=training.accuracy(dense), **options), []

    @jax.jit
    def step(state, batch, *, key):
        traces.append(key)
        return made(state, batch, key=key)

    state = training.init(dense_params(), None, tx)
    lines = []
    for t in range(steps):
        state, metrics = step(state, (x, y), key=jax.random.key(t))
        lines.append({name: float(value) for name, value in metrics.items()})
    assert len(traces) == 1
    return state, lines


def verified(params, eps):
    x, y = blobs(seed=1)

    def objective(xi, yi):
        return jr.objectives.classification(lambda z: dense(params, None, z[None], train=False)[0][0], yi)

    value = jax.vmap(
        lambda xi, yi: jr.bounds.ibp().solve(None, objective(xi, yi), jr.sets.linf(eps, clip=(0, 1))(xi)).value
    )
    return float(jnp.mean(value(jnp.asarray(x), jnp.asarray(y)) < 0))


@pytest.mark.parametrize(
    "loss",
    [
        LOSS,
        jr.worst_case(LOSS, THREAT, jr.attacks.pgd(steps=3)),
        jr.worst_case(LOSS, THREAT.family(0.03), jr.bounds.ibp()),
        training.blend((0.5, LOSS), (0.5, jr.worst_case(LOSS, THREAT, jr.attacks.fgsm()))),
    ],
    ids=["natural", "pgd", "ibp", "blend"],
)
def test_every_kind_of_training_is_the_same_line(loss):
    _, lines = run(loss)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["accuracy"] == 1.0
    assert all(np.isfinite(line["grad_norm"]) for line in lines)


def test_certified_training_certifies_where_natural_training_does_not():
    eps = training.smoothed(0.15, begin=20, end=150)
    kappa = training.linear(1.0, 0.5, begin=20, end=150)
    robust = training.certified(LOSS, THREAT, jr.bounds.ibp(), eps=eps, kappa=kappa)
    certified, _ = run(robust, steps=250)
    natural, _ = run(LOSS, steps=250)
    assert verified(certified.params, 0.15) > 0.9
    assert verified(natural.params, 0.15) < verified(certified.params, 0.15) - 0.1


def test_schedules_are_traced_and_reach_the_loss():
    traces, seen = [], []
    eps = training.linear(0.0, 0.3, end=4)

    def build(t):
        traces.append(t)
        robust = jr.worst_case(LOSS, THREAT.family(eps(t)), jr.attacks.fgsm())

        def loss(*args, **kwargs):
            jax.debug.callback(lambda e: seen.append(float(e)), eps(t))
            return robust(*args, **kwargs)

        return loss

    run(training.scheduled(build), steps=7)
    jax.effects_barrier()
    assert len(traces) == 1
    np.testing.assert_allclose(sorted(seen), [0, 0.075, 0.15, 0.225, 0.3, 0.3, 0.3], rtol=1e-5)


def test_certified_is_the_weighted_sum_of_clean_and_bounded():
    x, y = map(jnp.asarray, blobs())
    args, keys = (dense_params(), None, x, y), {"key": jax.random.key(0), "train": True}
    scheduled = training.certified(LOSS, THREAT, jr.bounds.ibp(), eps=lambda t: 0.01 * t, kappa=0.25)
    clean = LOSS(*args, **keys)[0]
    bounded = jr.worst_case(LOSS, THREAT.family(0.05), jr.bounds.ibp())(*args, **keys)[0]
    np.testing.assert_allclose(scheduled.build(5)(*args, **keys)[0], 0.25 * clean + 0.75 * bounded, rtol=1e-5)
    assert bool((bounded > clean).all())
    with pytest.raises(ValueError, match="certified takes oracles of side upper or estimate; pgd"):
        training.certified(LOSS, THREAT, jr.attacks.pgd(steps=1))


def test_smoothed_schedule_is_monotone_and_smooth():
    eps = np.array([float(training.smoothed(0.3, begin=100, end=1100)(t)) for t in range(0, 1200, 5)])
    assert eps[0] == 0.0
    assert eps[-1] == pytest.approx(0.3)
    slope = np.diff(eps)
    assert (slope >= -1e-7).all()
    middle = 70  # step 350: value alpha m^4 and slope 4 alpha m^3 on both sides
    assert slope[middle - 1] == pytest.approx(slope[middle], rel=0.05)
    assert slope[middle + 20] == pytest.approx(slope[middle + 100], rel=1e-2)
    with pytest.raises(ValueError, match="end >= begin"):
        training.smoothed(0.3, begin=10, end=5)


def test_a_jump_is_a_schedule():
    assert [float(training.linear(1.0, 0.0, begin=3, end=3)(t)) for t in (2, 3, 4)] == [1.0, 0.0, 0.0]


def test_moving_average_follows_its_ramp():
    tx = optax.sgd(0.5)
    x, y = map(jnp.asarray, blobs())
    state = training.init(dense_params(), None, tx, ema=True)
    step = jax.jit(training.make_step(LOSS, tx, decay=0.2))
    expected = state.params
    for t in range(5):
        state, _ = step(state, (x, y), key=jax.random.key(t))
        d = min(0.2, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda a, p, d=d: d * a + (1 - d) * p, expected, state.params)
    for a, b in zip(jax.tree.leaves(state.averaged), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert training.init(dense_params(), None, tx).averaged is not None


def normed():
    return nnx.functional(Net(Rngs(0)))


def changed(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_batch_norm_modes_are_explicit():
    apply, params, rest = normed()
    loss, tx = jr.objectives.cross_entropy(apply), optax.sgd(0.1)
    x, y = map(jnp.asarray, blobs(32))
    robust = {
        mode: jr.worst_case(loss, jr.sets.linf(0.2), jr.attacks.fgsm(), crafting=mode)
        for mode in ("inference", "batch")
    }
    after = {}
    for crafting in robust:
        for mode in ("train", "inference"):
            step = jax.jit(training.make_step(robust[crafting], tx, mode=mode))
            after[crafting, mode], _ = step(training.init(params, rest, tx), (x, y), key=jax.random.key(0))
            assert changed(after[crafting, mode].rest, rest) == (mode == "train")
    # the running statistics of a fresh net differ from those of the batch, so the two ways of crafting differ as well
    assert changed(after["inference", "train"].params, after["batch", "train"].params)
    assert changed(after["inference", "train"].params, after["inference", "inference"].params)


def test_blend_takes_the_statistics_of_its_first_loss():
    apply, params, rest = normed()
    loss = jr.objectives.cross_entropy(apply)
    x, y = map(jnp.asarray, blobs(32))
    robust = jr.worst_case(loss, jr.sets.linf(0.2), jr.attacks.fgsm())
    call = jax.jit(lambda f: f(params, rest, x, y, key=jax.random.key(0), train=True)[1], static_argnums=0)
    assert not changed(call(training.blend((0.5, loss), (0.5, robust))), call(loss))
    assert changed(call(training.blend((0.5, robust), (0.5, loss))), call(loss))


def test_a_loss_that_is_not_per_example_is_refused():
    tx = optax.sgd(0.1)
    step = training.make_step(lambda params, rest, x, y, *, key, train: (jnp.zeros(()), rest), tx)
    x, y = blobs(8)
    with pytest.raises(ValueError, match=r"returns \(\[B\], rest'\), got losses of shape \(\)"):
        step(training.init(dense_params(), None, tx), (x, y), key=jax.random.key(0))
