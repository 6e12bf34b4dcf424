"""Students of fixed teachers: each loss is its formula in double, is 0 where the student is the teacher, and climbs what it says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training
from jrobust.training._distilled import distance
from jrobust.training._paired import near
from tests.training.nets import blobs, dense, dense_params

EPS = 0.1
THREAT = jr.sets.linf(EPS, clip=(0, 1))
X, Y = (jnp.asarray(a[:8]) for a in blobs())
Z = X + 0.05
LOSS = jr.objectives.cross_entropy(dense)
HOW = {"key": jax.random.key(0), "train": True}


def student(x, seed=0):
    return dense(dense_params(seed), None, x, train=False)[0]


def teacher(x):
    return 3 * student(x, 1)


def other(x):
    return 2 * student(x, 2)


def at(robust, z=Z):
    return robust.at(dense_params(), None, X, z, Y, **HOW)[0]


def softmax(logits, temperature=1.0):
    a = np.asarray(logits, np.float64) / temperature
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(target, logits, temperature=1.0):
    p, q = softmax(target, temperature), softmax(logits, temperature)
    return np.sum(p * np.log(p / q), -1)


def ce(logits):
    return -np.log(softmax(logits)[np.arange(8), np.asarray(Y)])


def test_the_square_of_the_temperature_keeps_the_gradient():
    target, logits = jax.random.normal(jax.random.key(0), (2, 5, 6))
    np.testing.assert_allclose(distance(target, logits, 4.0), 16 * kl(target, logits, 4.0), rtol=1e-4)
    slope = jax.grad(lambda a: jnp.sum(distance(target, a, 1000.0)))(logits)
    d = logits - target
    limit = (d - d.mean(-1, keepdims=True)) / 6  # of two soft distributions that are nearly uniform
    np.testing.assert_allclose(slope, limit, atol=2e-3)
    np.testing.assert_array_equal(distance(target, target, 30.0), 0.0)


def test_ard_is_its_formula():
    for alpha, temperature in ((1.0, 30.0), (0.25, 2.0)):
        robust = training.ard(LOSS, THREAT, teacher, alpha=alpha, temperature=temperature)
        soft = temperature**2 * kl(teacher(X), student(Z), temperature)
        np.testing.assert_allclose(at(robust), alpha * soft + (1 - alpha) * ce(student(X)), rtol=2e-3)


def test_ard_attacks_the_label_and_rslad_the_teacher():
    pgd = jr.worst_case(LOSS, THREAT, jr.attacks.pgd(steps=10, keep="last"))
    args = (dense_params(), None, X, Y)
    z = training.ard(LOSS, THREAT, teacher).craft(*args, key=HOW["key"])
    np.testing.assert_array_equal(z, pgd.craft(*args, key=HOW["key"]))
    robust = training.rslad(LOSS, THREAT, teacher)
    z = robust.craft(*args, key=HOW["key"])
    assert bool(jnp.all(jnp.abs(z - X) <= EPS + 1e-6))
    found = kl(teacher(X), student(z))
    signs = jax.random.rademacher(jax.random.key(1), (64, *X.shape), jnp.float32)
    assert np.all(found > [max(kl(teacher(X), student(X + EPS * s))[i] for s in signs) for i in range(8)])
    np.testing.assert_array_equal(z, robust.craft(*args[:3], (Y + 1) % 4, key=HOW["key"]))  # whatever the labels say
    against_label = kl(teacher(X), student(pgd.craft(*args, key=HOW["key"])))
    assert found.sum() > against_label.sum() + 1e-3


def test_rslad_is_its_formula():
    expected = 5 / 6 * kl(teacher(X), student(Z)) + 1 / 6 * kl(teacher(X), student(X))
    np.testing.assert_allclose(at(training.rslad(LOSS, THREAT, teacher)), expected, rtol=1e-4)


def trust(beta):
    return softmax(teacher(Z))[np.arange(8), np.asarray(Y)] ** beta


def test_iad_i_is_its_formula_and_ard_where_trust_is_whole():
    own = (1 - trust(0.7)) * kl(student(X), student(Z))
    expected = 0.75 * (4 * kl(teacher(X), student(Z), 2.0) + own) + 0.25 * ce(student(X))
    how = {"alpha": 0.75, "temperature": 2.0}
    np.testing.assert_allclose(at(training.iad_i(LOSS, THREAT, teacher, beta=0.7, **how)), expected, rtol=1e-4)
    whole = at(training.iad_i(LOSS, THREAT, teacher, beta=0.0, **how))
    np.testing.assert_allclose(whole, at(training.ard(LOSS, THREAT, teacher, **how)), rtol=1e-6)
    assert float(jnp.max(jnp.abs(whole - expected))) > 1e-4


def test_iad_ii_is_its_formula():
    a = trust(0.7)
    introspective = a * 4 * kl(teacher(Z), student(Z), 2.0) + (1 - a) * kl(student(X), student(Z))
    expected = 0.3 * ce(student(Z)) + 0.5 * introspective + 0.2 * 4 * kl(other(Z), student(Z), 2.0)
    robust = training.iad_ii(LOSS, THREAT, teacher, other, alpha=(0.5, 0.2), beta=0.7, temperature=2.0)
    np.testing.assert_allclose(at(robust), expected, rtol=1e-4)


def test_a_schedule_of_trust_is_a_traced_exponent():
    begun = training.scheduled(lambda t: training.iad_i(LOSS, THREAT, teacher, beta=5.0 * (t >= 3)))
    loss = jax.jit(lambda t: at(begun.build(t)))
    for t, beta in ((2, 0.0), (3, 5.0)):
        np.testing.assert_allclose(loss(t), at(training.iad_i(LOSS, THREAT, teacher, beta=beta)), rtol=1e-5)


def entropy(logits, temperature):
    p = softmax(logits, temperature)
    return -np.mean(np.sum(p * np.log(p), -1))


def test_b_mtard_is_its_formula_batch_after_batch():
    robust = training.b_mtard(LOSS, THREAT, teacher, other, rates=(0.3, 0.1))
    memory, tau, w, first = robust.start, np.ones(2), np.full(2, 0.5), None
    for seed in range(4):  # a student of its own in each batch, so that the losses differ
        params = dense_params(seed + 5)
        x = X[::-1] if seed % 2 else X
        y = Y[::-1] if seed % 2 else Y
        craft = jr.worst_case(LOSS, THREAT, jr.attacks.pgd(steps=10, start=near, keep="last")).craft
        z = craft(params, None, x, y, key=jax.random.key(seed))
        losses, _, memory = robust.loss(params, None, x, y, key=jax.random.key(seed), train=True, memory=memory)
        a, n = dense(params, None, z, train=True)[0], dense(params, None, x, train=True)[0]
        each = np.stack([kl(teacher(z) / tau[0], a), kl(other(x) / tau[1], n)])
        h = entropy(teacher(z), tau[0]), entropy(other(x), tau[1])
        now = each.mean(-1)
        first = now if first is None else first
        r = now / first
        w = w - 0.1 * (w - r / r.sum())
        w = w / w.sum()
        np.testing.assert_allclose(losses, w @ each, rtol=1e-3)
        tau = np.clip(tau - 0.3 * np.sign([h[0] / h[1] - 1, h[1] / h[0] - 1]), 1, 10)
        np.testing.assert_allclose(memory.temperature, tau, rtol=1e-5)
        np.testing.assert_allclose(memory.weight, w, rtol=1e-4)
    assert np.abs(w - 0.5).max() > 1e-3


def test_the_temperatures_of_b_mtard_draw_entropies_together():
    robust = training.b_mtard(LOSS, THREAT, teacher, lambda x: 6 * other(x), rates=(0.05, 0.025), attack=1)
    apart = lambda tau: abs(entropy(teacher(X), tau[0]) - entropy(6 * other(X), tau[1]))  # noqa: E731
    tx = optax.sgd(0.0)
    step = jax.jit(training.make_step(robust, tx))
    state = training.init(dense_params(), None, tx, memory=robust.start)
    for t in range(150):
        state, _ = step(state, (X, Y), key=jax.random.key(t))
    memory = state.memory
    assert apart(np.asarray(memory.temperature)) < 0.1 * apart(np.ones(2))
    assert float(memory.temperature.min()) < 1.051  # the surer teacher becomes hotter; at the end both take turns
    assert int(memory.batches) == 150


def test_b_mtard_of_teachers_already_reached_stays_finite():
    robust = training.b_mtard(LOSS, THREAT.family(0.0), student, student)
    losses, _, memory = robust.loss(dense_params(), None, X, Y, **HOW, memory=robust.start)
    np.testing.assert_allclose(losses, 0.0, atol=1e-6)
    *_, memory = robust.loss(dense_params(4), None, X, Y, **HOW, memory=memory)
    assert all(bool(jnp.all(jnp.isfinite(a))) for a in memory)
    assert float(jnp.sum(memory.weight)) == pytest.approx(1.0)


def test_defensive_distillation_is_its_formula():
    args = (dense_params(), None, X, Y)
    soft = softmax(teacher(X), 5.0)
    expected = -np.sum(soft * np.log(softmax(student(X), 5.0)), -1)
    robust = training.defensive_distillation(LOSS, teacher, temperature=5.0)
    np.testing.assert_allclose(robust(*args, **HOW)[0], expected, rtol=1e-5)
    first = training.defensive_distillation(LOSS, temperature=5.0)
    np.testing.assert_allclose(first(*args, **HOW)[0], ce(student(X) / 5.0), rtol=1e-5)
    same = training.defensive_distillation(LOSS, student, temperature=5.0)
    np.testing.assert_allclose(same(*args, **HOW)[0].mean(), entropy(student(X), 5.0), rtol=1e-5)
    slope = jax.grad(lambda p: jnp.sum(same(p, *args[1:], **HOW)[0]))(args[0])
    assert all(float(jnp.max(jnp.abs(g))) < 1e-5 for g in jax.tree.leaves(slope))


def test_defensive_distillation_hides_gradients_and_is_broken_by_an_attack_on_logits():
    x, y = map(jnp.asarray, blobs())
    tx = optax.adam(0.05)

    def trained(loss, seed):
        step, state = jax.jit(training.make_step(loss, tx)), training.init(dense_params(seed), None, tx)
        for t in range(400):
            state, _ = step(state, (x, y), key=jax.random.key(t))
        return lambda x: dense(state.params, None, x, train=False)[0]

    def held(model, surrogate):
        attack, threat = jr.attacks.pgd(steps=10, start="center", surrogate=surrogate), jr.sets.linf(0.3, clip=(0, 1))
        one = lambda xi, yi: attack.solve(  # noqa: E731
            jax.random.key(0), jr.objectives.classification(lambda z: model(z[None])[0], yi), threat(xi)
        )
        return float(jnp.mean(jax.vmap(one)(x, y).value < 0))

    first = trained(training.defensive_distillation(LOSS, temperature=50.0), 0)
    model, plain = trained(training.defensive_distillation(LOSS, first, temperature=50.0), 1), trained(LOSS, 1)
    assert bool(jnp.all(jnp.argmax(model(x), -1) == y))
    assert held(model, None) > held(plain, None) + 0.5  # so it seemed
    assert held(model, jr.objectives.logit_difference) < 0.1


def test_the_rates_of_b_mtard_may_follow_a_schedule():
    def build(t):
        rates = (0.5 * (t < 1), 0.025)
        return training.b_mtard(LOSS, THREAT, teacher, other, rates=rates, attack=1)

    tx = optax.sgd(0.0)
    step = jax.jit(training.make_step(training.scheduled(build), tx))
    state = training.init(dense_params(), None, tx, memory=build(0).start)
    seen = []
    for t in range(3):
        state, _ = step(state, (X, Y), key=jax.random.key(t))
        seen.append(state.memory.temperature.tolist())
    assert sorted(seen[0]) == [1.0, 1.5]
    assert seen[1] == seen[2] == seen[0]
    assert int(state.memory.batches) == 3


NAMES = {
    "ard": training.ard,
    "rslad": training.rslad,
    "iad_i": training.iad_i,
    "iad_ii": lambda loss, threat, teacher: training.iad_ii(loss, threat, teacher, teacher, alpha=(0.75, 0.25)),
}


@pytest.mark.parametrize("name", NAMES)
def test_who_is_the_teacher_already_learns_nothing_where_nothing_moved(name):
    robust = NAMES[name](LOSS, THREAT, student)
    np.testing.assert_allclose(at(robust, X), 0.0, atol=1e-5)
    slope = jax.grad(lambda p: jnp.sum(robust.at(p, None, X, X, Y, **HOW)[0]))(dense_params())
    assert all(float(jnp.max(jnp.abs(g))) < 1e-4 for g in jax.tree.leaves(slope))
    assert bool(jnp.all(at(NAMES[name](LOSS, THREAT, teacher), X) > 1e-3))


@pytest.mark.parametrize("name", [*NAMES, "b_mtard", "defensive"])
def test_a_teacher_of_other_classes_is_named(name):
    narrow = lambda x: student(x)[:, :3]  # noqa: E731
    if name == "b_mtard":
        robust = training.b_mtard(LOSS, THREAT, teacher, narrow)
        robust = partial(robust.loss, memory=robust.start)
    elif name == "defensive":
        robust = training.defensive_distillation(LOSS, narrow)
    else:
        robust = NAMES[name](LOSS, THREAT, narrow)
    with pytest.raises(ValueError, match="logits of the shape of the student's"):
        robust(dense_params(), None, X, Y, **HOW)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.ard(LOSS, THREAT, teacher, temperature=0.0), "ard: temperature is > 0, got 0"),
        (lambda: training.ard(LOSS, THREAT, teacher, alpha=1.5), "ard: alpha lies in"),
        (lambda: training.iad_i(LOSS, THREAT, teacher, beta=-1.0), "iad_i: beta is >= 0, got -1"),
        (lambda: training.iad_ii(LOSS, THREAT, teacher, other, alpha=(0.8, 0.4)), "iad_ii: the sum of alpha lies in"),
        (lambda: training.b_mtard(LOSS, THREAT, teacher, other, rates=(0.1, 2.0)), "b_mtard: rates.1. lies in"),
        (
            lambda: training.defensive_distillation(LOSS, teacher, temperature=-1.0),
            "defensive_distillation: temperature is > 0, got -1",
        ),
        (lambda: training.rslad(LOSS, THREAT, teacher, alpha=-0.1), "rslad: alpha lies in"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
