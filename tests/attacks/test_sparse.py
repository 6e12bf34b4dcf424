"""Attacks that change few pixels, on linear images where the least number that is enough is known: the largest gains first."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust._tree import bind
from jrobust.attacks._jsma import _best_pair
from jrobust.attacks._one_pixel import _three
from jrobust.attacks._sparse_rs import _init, _proposed
from tests.contracts.oracles import SPARSE

SHAPE, N = (5, 4, 3), 6


def logits(w, b, z):
    margin = jnp.vdot(w, z) + b
    return jnp.stack([-margin, margin])


def problem(enough, pixels, *, raising):
    """Images of class 0 that ``enough`` entries or pixels, and no fewer, turn into class 1 (by raising them only)."""
    rng = np.random.default_rng(3)
    x, w = rng.uniform(0.1, 0.9, size=(N, *SHAPE)), rng.normal(size=(N, *SHAPE))
    gains = np.where(w > 0, w * (1 - x), 0.0 if raising else -w * x)
    gains = gains.sum(-1) if pixels else gains
    total = np.cumsum(np.sort(gains.reshape(N, -1))[:, ::-1], axis=1)
    total = np.concatenate([np.zeros((N, 1)), total], axis=1)
    b = -np.sum(w * x, (1, 2, 3)) - 0.5 * (total[:, enough - 1] + total[:, enough])
    return tuple(jnp.asarray(a, jnp.float32) for a in (w, b, x))


@jax.jit
def solve(oracle, threat, w, b, x):
    def one(i, w, b, x):
        f = jr.objectives.classification(bind(logits, w, b), 0)
        s = threat(x)
        found = oracle.solve(jax.random.fold_in(jax.random.key(7), i), f, s)
        return found, f.value(f.outputs(found.witness)), s.contains(found.witness, 0.0)

    return jax.vmap(one)(jnp.arange(len(x)), w, b, x)


@jax.jit
def solve_radius(oracle, threat, w, b, x):
    def one(w, b, x):
        f = jr.objectives.classification(bind(logits, w, b), 0)
        found = oracle.solve(jax.random.key(7), f, threat, x)
        return found, f.value(f.outputs(found.witness))

    return jax.vmap(one)(w, b, x)


@pytest.mark.parametrize(("name", "pixels"), [(name, pixels) for name, row in SPARSE.items() for pixels in row.pixels])
def test_little_more_than_the_optimum_is_enough(name, pixels):
    row = SPARSE[name]
    w, b, x = problem(row.enough, pixels, raising=row.raising)
    threat = jr.sets.l0(float(np.ceil(row.times * row.enough)), clip=(0.0, 1.0), pixels=pixels)
    found, value, inside = solve(row.oracle, threat, w, b, x)
    assert np.all(inside)
    np.testing.assert_allclose(found.value, value, atol=1e-5)
    assert np.mean(found.value >= 0) >= row.figure
    assert np.all(solve(row.oracle, threat.family(row.enough - 1.0), w, b, x)[0].value < 0)
    # what the other images are does not matter
    others = solve(row.oracle, threat, *(jnp.concatenate([a[:2], a[:1], a[:1], a[:2]]) for a in (w, b, x)))[0]
    np.testing.assert_array_equal(others.witness[:2], found.witness[:2])
    if row.oracle.adapt:  # those that stop say what they spent
        iteration = row.oracle.adapt("l0-pixels" if pixels else "l0", 2).stages[0]
        forwards, backwards = iteration.algorithm.step_cost
        steps = (found.info["forwards"] - iteration.algorithm.best_cost[0]) // forwards
        np.testing.assert_array_equal(found.info["forwards"], forwards * steps + iteration.algorithm.best_cost[0])
        np.testing.assert_array_equal(found.info["backwards"], backwards * steps)
        assert np.all((steps >= 1) & (steps <= iteration.steps))


def test_fmn_counts_pixels():
    w, b, x = problem(4, True, raising=False)
    found, value = solve_radius(jr.attacks.fmn(steps=30), jr.sets.l0(0.0, clip=(0.0, 1.0), pixels=True), w, b, x)
    assert np.all(value >= 0)
    assert np.all((found.value >= 4) & (found.value <= 5))
    np.testing.assert_array_equal(found.value, jnp.sum(jnp.any(found.witness != x, axis=-1), axis=(1, 2)))


@pytest.mark.parametrize("name", ["sparse_rs", "one_pixel"])
def test_scores_are_enough(name):
    """A model without gradients is attacked just as well."""
    w, b, x = problem(SPARSE[name].enough, True, raising=False)
    f = jr.objectives.classification(lambda z: logits(w[0], b[0], jax.lax.stop_gradient(z)), 0)
    s = jr.sets.l0(5, clip=(0.0, 1.0), pixels=True)(x[0])
    assert jax.jit(SPARSE[name].oracle.solve)(jax.random.key(7), f, s).value >= 0


@pytest.mark.parametrize("name", ["sparse_rs", "jsma", "one_pixel"])
def test_a_target_is_reached(name, key):
    """Of three classes the last is wanted: the way there is one entry of its own."""
    w = jnp.zeros((3, 6)).at[1, 1].set(3.0).at[2, 2].set(2.0)
    f = jr.objectives.classification(lambda z: w @ z + jnp.array([1.0, 0.0, 0.0]) - 0.1 * z.sum(), 0, target=2)
    found = jax.jit(SPARSE[name].oracle.solve)(key, f, jr.sets.l0(1, clip=(0, 1))(jnp.full(6, 0.1)))
    assert found.value >= 0
    assert int(jnp.argmax(jnp.abs(found.witness - 0.1))) == 2


def test_sparse_rs_exchanges_as_many_pixels_as_published(key):
    f, s = jr.objectives.objective(jnp.sum), jr.sets.l0(8, clip=(0, 1), pixels=True)(jnp.full((6, 6, 2), 0.5))
    init, proposed = jax.jit(_init), jax.jit(_proposed)
    state = init(key, f, s)
    assert int(state.chosen.sum()) == 8
    for alpha, exchanged in ((0.3, 2), (0.01, 1), (1.0, 8)):
        z, chosen = proposed(jax.random.key(1), state, s, alpha)
        assert int(chosen.sum()) == 8
        assert int((state.chosen & ~chosen).sum()) == exchanged
        assert bool(jnp.all(jnp.any(z != 0.5, axis=-1) == chosen))
    # of a set of all pixels some are recoloured; of an empty one nothing
    whole = dataclasses.replace(s, params=(jnp.asarray(36.0), *s.params[1:]))
    assert int(proposed(key, init(key, f, whole), whole, 0.3)[1].sum()) == 36
    empty = s.resize(jnp.asarray(0.5))
    assert not bool(proposed(key, init(key, f, empty), empty, 0.3)[1].any())


def test_the_best_pair_is_the_best_of_all_pairs():
    rng = np.random.default_rng(0)
    up, rest = rng.normal(size=(2, 70)) + np.array([[0.5], [-0.5]])
    free, new = rng.uniform(size=(2, 70)) < 0.5
    pair = jax.jit(_best_pair)
    for left in (0, 1, 2):
        score, p, q = pair(*map(jnp.asarray, (up, rest, free, new)), jnp.asarray(left))
        best = max(
            -(up[i] + up[j]) * (rest[i] + rest[j])
            for i in range(70)
            for j in range(i, 70)
            if free[i] and free[j] and up[i] + up[j] > 0 > rest[i] + rest[j]
            if (left == 1 if i == j else int(new[i]) + int(new[j]) <= left)
        )
        np.testing.assert_allclose(score, best, rtol=1e-5)
        np.testing.assert_allclose(-(up[p] + up[q]) * (rest[p] + rest[q]), best, rtol=1e-5)


def test_three_parents_differ(key):
    parents = np.sort(np.asarray(_three(key, 5)), axis=0)
    assert np.all(np.diff(parents, axis=0) > 0)
    assert parents.min() >= 0
    assert parents.max() < 5


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: jr.attacks.sparse_rs(queries=0), "queries"),
        (lambda: jr.attacks.sparse_rs(alpha=0.0), "alpha"),
        (lambda: jr.attacks.one_pixel(pixels=0), "pixels"),
        (lambda: jr.attacks.one_pixel(population=2), "population"),
        (lambda: jr.attacks.jsma(steps=0), "steps"),
        (lambda: jr.attacks.jsma(theta=0), "theta"),
        (lambda: on_a_ball(jr.attacks.sparse_rs()), "sets of kind l0, l0-pixels; got l2"),
        (lambda: on_a_ball(jr.attacks.one_pixel()), "sets of kind l0, l0-pixels; got l2"),
        (lambda: on_a_ball(jr.attacks.jsma()), "sets of kind l0; got l2"),
        (lambda: on_a_ball(jr.attacks.sigma_zero(), jr.sets.l0(1, clip=(0, 1), pixels=True)), "got l0-pixels"),
        (lambda: on_a_ball(jr.attacks.frank_wolfe(), jr.sets.l0(1, clip=(0, 1))), "convex"),
    ],
)
def test_what_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def on_a_ball(attack, threat=None):
    f, x = jr.objectives.classification(lambda z: z.sum(0), 0), jnp.zeros((2, 2))
    threat = jr.sets.l2(1.0) if threat is None else threat
    if isinstance(attack, jr.RadiusOracle):
        return attack.solve(jax.random.key(0), f, threat, x)
    return attack.solve(jax.random.key(0), f, threat(x))
