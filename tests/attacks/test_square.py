"""Square attack: the published schedule and pattern, queries that stay in the set and are counted, and what it finds."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.attacks._square import _bumps, _halvings, _window

BALLS = {"linf": (jr.sets.linf, 0.1), "l2": (jr.sets.l2, 0.5), "l1": (jr.sets.l1, 1.5)}


def published_share(it, queries, p_init, resc_schedule):
    it = int(it / queries * 10000) if resc_schedule else it
    table = [(8000, 512), (6000, 256), (4000, 128), (2000, 64), (1000, 32), (500, 16), (200, 8), (50, 4), (10, 2)]
    return p_init / next((by for after, by in table if it > after), 1)


@pytest.mark.parametrize("resc_schedule", [False, True])
def test_schedule_is_the_published_one(resc_schedule):
    its = np.arange(10_000)
    for queries in (5000, 10_000):
        halvings = np.sum(its[:, None] >= np.asarray(_halvings(queries, resc_schedule)), 1)
        expected = np.array([published_share(it, queries, 0.8, resc_schedule) for it in its])
        np.testing.assert_array_equal((0.8 * 0.5**halvings)[:queries], expected[:queries])
    shares = np.unique(expected).astype(np.float32)
    for height, width in ((28, 28), (32, 32), (224, 200)):
        sides = [max(round(math.sqrt(p * height * width)), 1) for p in shares]
        np.testing.assert_array_equal(_window(shares, height, width, least=1, odd=False)[0], sides)
        odd = [max(side, 3) + (max(side, 3) % 2 == 0) for side in sides]
        np.testing.assert_array_equal(_window(shares, height, width, least=3, odd=True)[1], odd)


def test_a_narrow_image_gets_a_band():
    assert [int(n) for n in _window(0.5, 1, 20, least=1, odd=False)] == [1, 10]
    assert [int(n) for n in _window(0.5, 20, 2, least=1, odd=False)] == [10, 2]


@pytest.mark.parametrize(("p", "power"), [(2, 2), (1, 4)])
def test_bumps_are_the_published_pattern(p, power):
    def half(rows, columns):
        i, j = np.indices((rows, columns))
        ring = np.maximum(abs(i - rows // 2), abs(j - columns // 2))
        outermost = max(rows // 2, columns // 2)
        bump = sum((ring <= k) / (k + 1.0) ** power for k in range(outermost + 1))
        return bump / np.linalg.norm(bump.ravel(), p)

    both = jax.jit(lambda side, across: _bumps(jnp.arange(12) - 2, jnp.arange(11) - 1, side, side, across, p))
    for side in (3, 8):
        expected = np.concatenate([half(side // 2, side), -half(side - side // 2, side)])
        expected /= np.linalg.norm(expected.ravel(), p)
        for across in (False, True):
            found = np.asarray(both(side, across))
            assert np.sum(found != 0) == side**2
            np.testing.assert_allclose(found[2 : 2 + side, 1 : 1 + side], expected.T if across else expected, atol=1e-6)


def walk(iteration, s, w, key):
    """The start, every point that the search asks about, and the state after each."""
    asked = []
    f = jr.objectives.objective(lambda z: jnp.sum(w * (z - s.center), keepdims=True).ravel() - 100.0)
    observed = dataclasses.replace(f, outputs=lambda z: asked.append(z) or f.outputs(z))

    def step(progress, _):
        asked.clear()
        state = iteration.algorithm.step(jax.random.fold_in(key, progress.queries), progress, observed, s)
        return state, (asked[-1], state)

    start = iteration.algorithm.init(key, f, s)
    _, (points, states) = jax.lax.scan(step, start, None, length=iteration.steps)
    return start.z, points, states, jax.vmap(s.contains)(points)


@pytest.mark.parametrize("shape", [(5, 7, 3), (13,)], ids=str)
@pytest.mark.parametrize("norm", BALLS)
def test_every_query_lies_in_the_set_and_the_margin_never_falls(norm, shape, key):
    ball, eps = BALLS[norm]
    (iteration,) = jr.attacks.square(queries=40, resc_schedule=True).adapt(norm, 2).stages
    x, w = jax.random.uniform(jax.random.fold_in(key, 1), shape), jax.random.normal(jax.random.fold_in(key, 2), shape)
    run = jax.jit(walk)
    for clip in ((-9.0, 9.0), (0.0, 1.0)):
        s = ball(eps, clip=clip)(x)
        start, asked, states, inside = run(iteration, s, w, key)
        assert np.all(inside)
        np.testing.assert_array_equal(asked[0], start)
        if clip[0] < 0:  # the clip is far away: the start lies on the boundary
            np.testing.assert_allclose(s.distance(start), eps, rtol=1e-4)
        assert np.all(np.diff(states.value) >= 0)
        assert float(states.value[-1]) > float(states.value[0])
        moved = np.abs(np.asarray(asked[1:]) - np.asarray(states.z[:-1])).reshape(39, -1).max(1)
        assert np.mean(moved > 0) > 0.3  # a recoloured window may have had its colours


def weights(key, shape, p):
    """What windows of three can find: a soft peak in a vector, a pair of bumps in an image."""
    if len(shape) == 1:
        return jnp.exp(-0.5 * (jnp.arange(shape[0]) - jax.random.uniform(key, minval=2.0, maxval=3.0)) ** 2)
    at = jax.random.randint(key, (2,), 0, 4)
    return _bumps(jnp.arange(6) - at[0], jnp.arange(6) - at[1], 3, 3, at[0] % 2 == 0, p)[..., None]


@pytest.mark.parametrize("shape", [(6,), (6, 6, 1)], ids=str)
@pytest.mark.parametrize("norm", BALLS)
def test_breaks_a_linear_problem_a_little_further_than_its_radius(norm, shape, key):
    oracle, ball = jr.attacks.square(queries=1000, resc_schedule=True), BALLS[norm][0]
    # the L1 optimum of an image is a single pixel, which bumps of three by three only approach
    further = 1.6 if norm == "l1" and len(shape) == 3 else 1.25

    @jax.jit
    @jax.vmap
    def solve(key):
        k_w, k_x, k = jax.random.split(key, 3)
        w, x = weights(k_w, shape, 1 if norm == "l1" else 2), jax.random.uniform(k_x, shape)
        radius = 0.2
        m0 = radius * ball(1.0)(jnp.zeros(shape)).support(w)  # so that the margin can be closed at this very radius
        f = jr.objectives.classification(
            lambda z: jnp.array([0.0, 1.0]) * jnp.sum(w * (z - x)) - jnp.array([0.0, m0]), 0
        )
        s = ball(further * radius)(x)
        found = oracle.solve(k, f, s)
        return found.value, s.contains(found.witness), f.value(f.outputs(found.witness))

    value, inside, again = solve(jax.random.split(key, 3))
    assert np.all(value >= 0)
    assert np.all(inside)
    np.testing.assert_allclose(again, value, atol=1e-5)


def test_queries_are_forward_passes_counted_exactly(key):
    calls = []
    x = jnp.full((4, 4, 1), 0.5)

    def margin(z):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(z - x, keepdims=True).ravel() - 1.0

    f = jr.objectives.objective(margin)
    for eps, broken in ((0.01, False), (0.1, True)):
        calls.clear()
        found = jax.jit(jr.attacks.square(queries=40).solve)(key, f, jr.sets.linf(eps)(x))
        jax.effects_barrier()
        assert (float(found.value) >= 0) == broken
        assert len(calls) == int(found.info["forwards"])
        assert (len(calls) < 40) == broken
        assert int(found.info["backwards"]) == 0


def test_a_surrogate_leads_and_the_objective_decides(key):
    # the surrogate is minus the margin: the search walks away, the worst case it met is kept
    x = jnp.full((4, 4), 0.5)
    f = jr.objectives.objective(lambda z: jnp.sum(z - x, keepdims=True).ravel() - 10.0)
    s = jr.sets.linf(0.1)(x)
    away = jax.jit(jr.attacks.square(queries=60, surrogate=lambda f, out: -f.value(out)).solve)(key, f, s)
    first = jax.jit(jr.attacks.square(queries=1).solve)(key, f, s)
    assert float(away.value) >= float(first.value)
    np.testing.assert_allclose(f.value(f.outputs(away.witness)), away.value, rtol=1e-6)


def test_channels_may_come_first(key):
    x = jax.random.uniform(key, (4, 5, 3))
    w = jax.random.normal(jax.random.fold_in(key, 1), x.shape)
    last = jr.objectives.objective(lambda z: jnp.sum(w * z, keepdims=True).ravel() - 50.0)
    first = jr.objectives.objective(lambda z: jnp.sum(w * jnp.moveaxis(z, 0, -1), keepdims=True).ravel() - 50.0)
    s = jr.sets.linf(0.1)
    a = jax.jit(jr.attacks.square(queries=20).solve)(key, last, s(x))
    b = jax.jit(jr.attacks.square(queries=20, channels=0).solve)(key, first, s(jnp.moveaxis(x, -1, 0)))
    np.testing.assert_allclose(jnp.moveaxis(b.witness, 0, -1), a.witness, atol=1e-6)


def test_reproducible_whatever_the_batch(key):
    w = jax.random.normal(key, (4, 4, 1, 3))

    def model(x):
        return jnp.tensordot(x, w, 3)

    x = np.asarray(jax.random.uniform(jax.random.fold_in(key, 1), (6, 4, 4, 1)))
    y = np.asarray(jnp.argmax(model(x), 1))
    oracles = {"square": jr.attacks.square(queries=80)}
    runs = [
        jr.evaluate(model, x, y, threat=jr.sets.l2(0.3, clip=(0, 1)), oracles=oracles, key=key, batch_size=b)["square"]
        for b in (8, 8, 2)
    ]
    np.testing.assert_array_equal(runs[0].witness, runs[1].witness)
    np.testing.assert_allclose(runs[0].witness, runs[2].witness, atol=1e-5)
    np.testing.assert_array_equal(runs[0].holds, runs[2].holds)


def test_bad_input_is_refused(key):
    with pytest.raises(ValueError, match="queries"):
        jr.attacks.square(queries=0)
    with pytest.raises(ValueError, match="p_init"):
        jr.attacks.square(p_init=0.0)
    both = jr.sets.product(jr.sets.linf(0.1), jr.sets.linf(0.1))((jnp.zeros(3), jnp.zeros(2)))
    f = jr.objectives.objective(lambda z: jnp.sum(z[0], keepdims=True))
    with pytest.raises(TypeError, match="one array"):
        jr.attacks.square(queries=5).solve(key, f, both)
