"""Black-box attacks on linear two-class models: how close they come, what they cost, and that they see no more than they may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust._oracle import Oracle
from jrobust._tree import bind
from tests.attacks.test_minimum import THREATS, optimum, problem
from tests.contracts.oracles import BLACK_BOX

CASES = [
    pytest.param(
        name, kind, marks=[pytest.mark.sweep] if i else []
    )  # what differs between kinds of sets is the sets' own
    for name, (_, figures) in BLACK_BOX.items()
    for i, kind in enumerate(figures)
]
DECIDING = [name for name, (oracle, _) in BLACK_BOX.items() if not isinstance(oracle, Oracle) and name != "zoo"]
CLIP = (0.0, 1.0)
N = 8


@jax.custom_vjp
def opaque(z):
    return z


def no_gradient(*args):
    raise AssertionError("a black-box attack differentiates the model")


opaque.defvjp(no_gradient, no_gradient)


def logits(w, flat, count, z):
    """Two logits; ``flat``: only the sign of their difference is left. ``count`` is called at each query."""
    if count is not None:
        jax.debug.callback(count)
    out = jnp.tensordot(w, opaque(z), jnp.ndim(z))
    difference = jnp.sign(out[1] - out[0])
    return jnp.where(flat, jnp.stack([-difference, difference]), out)


def one(oracle, threat, key, eps, w, flat, x, y, *, count=None):
    f = jr.objectives.classification(bind(lambda w, flat, z: logits(w, flat, count, z), w, flat), y)
    s = threat.family(eps)(x)
    found = oracle.solve(key, f, s) if isinstance(oracle, Oracle) else oracle.solve(key, f, threat, x)
    return found, f.value(f.outputs(found.witness)), s.contains(found.witness, 1e-6), s.distance(found.witness)


@jax.jit
def several(oracle, threat, key, eps, w, flat, x, y):
    def example(i, e, x, y):
        return one(oracle, threat, jax.random.fold_in(key, i), e, w, flat, x, y)

    return jax.vmap(example)(jnp.arange(N), eps, x, y)


def linear(kind):
    """Eight examples, the last of them misclassified as it is, and the radii of the others."""
    w, x, y = problem((5, 4), N)
    best = np.array([optimum(kind, w, x[i], int(y[i]), True) for i in range(N - 1)] + [0.0], np.float32)
    return w, x, y.at[-1].set(1 - y[-1]), best


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_is_found_and_what_it_costs(name, kind, key):
    oracle, figures = BLACK_BOX[name]
    w, x, y, best = linear(kind)
    args = oracle, THREATS[kind](0.3, clip=CLIP), key, 1.25 * best, w, False, x, y
    found, value, inside, distance = several(*args)
    assert np.all(value >= 0)
    assert found.info["forwards"][-1] == 1  # misclassified: seen at the first query
    np.testing.assert_array_equal(found.witness[-1], x[-1])
    assert np.all(found.info["backwards"] == 0)
    if isinstance(oracle, Oracle):
        assert np.all(inside)
        np.testing.assert_allclose(found.value, value, atol=1e-5)
        assert np.max(found.info["forwards"]) <= figures[kind]
    else:
        np.testing.assert_allclose(found.info["value"], value, atol=1e-5)
        np.testing.assert_allclose(found.value, distance, rtol=1e-6)
        assert np.all((found.witness >= 0) & (found.witness <= 1))
        assert found.value[-1] == 0.0
        assert np.all(found.value[:-1] >= best[:-1] * (1 - 1e-4))
        assert np.max(found.value[:-1] / best[:-1]) <= figures[kind]
        if name in DECIDING:  # scores that say no more than their sign lead the same way
            flat = several(*args[:5], True, x, y)[0]
            np.testing.assert_array_equal(flat.witness, found.witness)
    others = [jnp.concatenate([a[:1], a[:0:-1]]) for a in (x, y)]  # the same key and other company
    np.testing.assert_array_equal(several(*args[:6], *others)[0].witness[0], found.witness[0])
    assert np.any(several(*args[:2], jax.random.key(1), *args[3:])[0].witness != found.witness)


COUNTED = ("nes", "hop_skip_jump")  # all share one way to ask; the sweep counts each


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in COUNTED else [pytest.mark.sweep]) for name in BLACK_BOX]
)
def test_alone_as_in_a_batch_and_every_query_is_counted(name, key):
    oracle, figures = BLACK_BOX[name]
    kind = next(iter(figures))
    w, x, y, best = linear(kind)
    threat, calls = THREATS[kind](0.3, clip=CLIP), []
    solve = jax.jit(
        lambda oracle, threat, key, eps, x, y: one(
            oracle, threat, key, eps, w, False, x, y, count=lambda: calls.append(1)
        )[0]
    )
    batch = several(oracle, threat, key, 1.25 * best, w, False, x, y)[0]
    costs = []
    for i, times in ((0, 1.25), (1, 0.8), (N - 1, 1.25)):
        calls.clear()
        alone = jax.block_until_ready(solve(oracle, threat, jax.random.fold_in(key, i), times * best[i], x[i], y[i]))
        jax.effects_barrier()
        costs.append(int(alone.info["forwards"]))
        assert len(calls) == costs[-1] + 1  # and our own look at the witness
        if times > 1 or not isinstance(oracle, Oracle):
            if isinstance(oracle, Oracle):
                np.testing.assert_allclose(alone.witness, batch.witness[i], atol=1e-3)
            else:  # at the boundary rounding decides, and another program rounds in another way
                np.testing.assert_allclose(alone.value, batch.value[i], rtol=0.05)
            assert costs[-1] == batch.info["forwards"][i]
    budget = int(oracle.name.rsplit("-", 1)[1])
    assert costs[1:] == [budget, 1]
    assert (costs[0] < budget) == isinstance(oracle, Oracle)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.sweep] if i else []) for i, n in enumerate(DECIDING)]
)
def test_within_a_set_without_a_clip_a_budget_is_a_budget(name, key):
    attack = jr.attacks.within(BLACK_BOX[name][0])
    w, x, y, _ = linear("l2")
    best = np.array([optimum("l2", w, x[i], int(y[i]), False) for i in range(N - 1)] + [0.0], np.float32)
    for times, breaks in ((1.25, True), (0.95, False)):
        found, value, inside, _ = several(attack, jr.sets.l2(0.3), key, times * best, w, False, x, y)
        assert np.all(inside)
        np.testing.assert_allclose(found.value, value, atol=1e-5)
        np.testing.assert_array_equal(found.value >= 0, [breaks] * (N - 1) + [True])
        assert np.all(found.info["forwards"] < 1000) if breaks else np.all(found.info["forwards"][:-1] == 1000)


def test_what_noise_cannot_start_and_what_has_no_score(key):
    @jax.jit
    def darker_than(level):
        f = jr.objectives.objective(lambda z: level - jnp.mean(z, keepdims=True))
        return jr.attacks.geoda(queries=60).solve(key, f, jr.sets.l2(1.0, clip=(0, 1)), jnp.full(64, 0.6))

    never, dark = darker_than(-1.0), darker_than(0.3)
    assert np.isposinf(never.value)
    assert never.info["forwards"] == 60
    # uniform noise has a mean of a half: noise of another brightness is a start
    np.testing.assert_allclose(dark.value, 0.3 * 8, rtol=0.2)
    # beside the set the model has no score: what such a query says is left out
    holes = jr.objectives.objective(lambda z: jnp.where(jnp.all(z <= 0.6), jnp.sum(z, keepdims=True) - 10.0, jnp.nan))
    attack = jr.attacks.nes(queries=100, samples=4, width=0.1)
    bound = jax.jit(lambda x: attack.solve(key, holes, jr.sets.linf(0.05)(x)))(jnp.full(3, 0.5))
    assert np.isfinite(bound.value)
    assert bound.value > -8.5


@pytest.mark.sweep
def test_priors_help_where_they_hold(key):
    # smooth weights: tiles and low cosines hold most of them
    w = jnp.outer(jnp.cos(jnp.pi * (jnp.arange(12) + 0.5) / 12), jnp.ones(12))[..., None]
    x = jax.random.uniform(key, (12, 12, 1), minval=0.3, maxval=0.7)
    f = jr.objectives.objective(lambda z: jnp.sum(w * (z - x), keepdims=True).ravel() - 2.0)
    keys = jax.random.split(key, 16)

    def mean(attack, what):
        return np.mean(jax.jit(jax.vmap(lambda k: what(attack, k)))(keys))

    s = jr.sets.l2(2.5 / float(jnp.linalg.norm(w)))(x)
    queries = lambda attack, k: attack.solve(k, f, s).info["forwards"]  # noqa: E731
    assert mean(jr.attacks.bandits(queries=2000, tiles=4), queries) < 0.7 * mean(
        jr.attacks.bandits(queries=2000), queries
    )
    low, all_of_them = (jr.attacks.simba(queries=2000, basis="dct", ratio=ratio) for ratio in (0.25, 1.0))
    assert mean(low, queries) < 0.7 * mean(all_of_them, queries)
    radius = lambda attack, k: attack.solve(k, f, jr.sets.l2(0.0, clip=(0, 1)), x).value  # noqa: E731
    assert mean(jr.attacks.geoda(queries=400, ratio=0.25), radius) < 0.9 * mean(jr.attacks.geoda(queries=400), radius)


@pytest.mark.sweep
def test_an_anchored_surrogate_takes_one_of_the_queries(key):
    x = jnp.array([0.5, 0.2])
    f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z.sum(), 0)
    for attack in (
        jr.attacks.nes(queries=20, samples=4, surrogate=jr.objectives.kl),
        jr.attacks.simba(queries=20, surrogate=jr.objectives.kl),
    ):
        assert jax.jit(attack.solve)(key, f, jr.sets.linf(0.01)(x)).info["forwards"] == 20


def test_a_budget_is_an_int_and_samples_come_in_pairs():
    for attack in (jr.attacks.nes, jr.attacks.bandits, jr.attacks.simba, jr.attacks.zoo, jr.attacks.geoda):
        with pytest.raises(ValueError, match="queries must be an int >= 1"):
            attack(queries=0)
    with pytest.raises(ValueError, match="even"):
        jr.attacks.nes(samples=3)
    with pytest.raises(ValueError, match="ratio"):
        jr.attacks.simba(ratio=0.0)
    with pytest.raises(ValueError, match="starts"):
        jr.attacks.sign_opt(starts=0)
    with pytest.raises(ValueError, match="decay"):
        jr.attacks.geoda(decay=1.0)
    f = jr.objectives.classification(lambda z: z, 0)
    with pytest.raises(ValueError, match="boundary works on sets of kind l2"):
        jr.attacks.boundary().solve(jax.random.key(0), f, jr.sets.linf(0.1), jnp.ones(2))
    both = jr.sets.product(jr.sets.linf(0.1), jr.sets.linf(0.1))((jnp.zeros(3), jnp.zeros(2)))
    f = jr.objectives.objective(lambda z: jnp.sum(z[0], keepdims=True))
    for attack in (jr.attacks.nes(), jr.attacks.simba()):
        with pytest.raises(TypeError, match="one array"):
            attack.solve(jax.random.key(0), f, both)
