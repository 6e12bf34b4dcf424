"""Minimum-norm attacks on linear two-class models, where the closest violation is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust._tree import bind
from tests.contracts.oracles import RADIUS

THREATS = {
    "linf": jr.sets.linf,
    "l2": jr.sets.l2,
    "l1": jr.sets.l1,
    "l0": lambda eps, clip=None: jr.sets.l0(eps, clip=clip or (0.0, 1.0)),
}
SHAPES = [((6,), 8, None), ((5, 4), 3, (0.0, 1.0)), ((4, 3, 2), 1, (0.0, 1.0))]  # of an example, batch, clip
SLOW = {"lbfgs"}  # to compile: in the sweep, and in one test of its own
CASES = [(name, kind) for name, (_, figures) in RADIUS.items() for kind in figures]
# a program for each shape: in turn by default, all of them in the sweep
CASES = [
    case
    for i, (name, kind) in enumerate(CASES)
    for case in ((name, kind, SHAPES[i % 3 :][:1]), pytest.param(name, kind, SHAPES, marks=pytest.mark.sweep))
    if name not in SLOW or case[0] is not name
]


def logits(w, z):
    return jnp.tensordot(w, z, jnp.ndim(z))


def problem(shape, n, seed=0):
    """A random linear model and n examples with their labels."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=(2, *shape)), rng.uniform(0.1, 0.9, size=(n, *shape))
    y = np.argmax(np.tensordot(x, w, [range(1, x.ndim), range(1, w.ndim)]), axis=1)
    return jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32), jnp.asarray(y)


@jax.jit
def solve(oracle, threat, w, x, y):
    def one(i, x, y):
        f = jr.objectives.classification(bind(logits, w), y)
        r = oracle.solve(jax.random.fold_in(jax.random.key(7), i), f, threat, x)
        return r, f.value(f.outputs(r.witness)), threat(x).distance(r.witness)

    return jax.vmap(one)(jnp.arange(len(x)), x, y)


def optimum(kind, w, x, y, clip):
    """The closest point where the two logits are equal: how far each entry goes follows from one number, found by sorting."""
    g = np.asarray((w[1] - w[0]) if y == 0 else (w[0] - w[1]), np.float64).ravel()
    x = np.asarray(x, np.float64).ravel()
    need, a = -g @ x, np.abs(g)
    room = np.where(g > 0, 1 - x, x) if clip or kind == "l0" else np.full(a.shape, np.inf)
    if kind == "l0":
        return 1 + np.sum(np.cumsum(np.sort(a * room)[::-1]) < need)
    if kind == "l1":
        total = 0.0
        for i in np.argsort(-a):
            step = min(room[i], need / a[i])
            total, need = total + step, need - a[i] * step
        return total if need < 1e-12 else np.inf
    rate = np.ones_like(a) if kind == "linf" else a
    # entries saturate in the order of room / rate
    order = np.argsort(room / rate)
    for k in range(len(a)):
        full, free = order[:k], order[k:]
        t = (need - a[full] @ room[full]) / (a[free] @ rate[free])
        if t <= room[free[0]] / rate[free[0]]:
            d = np.minimum(t * rate, room)
            return d.max() if kind == "linf" else np.sqrt(np.sum(d**2))
    return np.inf


@pytest.mark.parametrize(("name", "kind", "shapes"), CASES)
def test_the_closest_violation_is_found(name, kind, shapes):
    oracle, figures = RADIUS[name]
    for shape, n, clip in shapes:
        w, x, y = problem(shape, n)
        best = np.array([optimum(kind, w, x[i], int(y[i]), clip) for i in range(n)])
        assert np.all(np.isfinite(best))
        r, value, distance = solve(oracle, THREATS[kind](0.3, clip=clip), w, x, y)
        assert np.all(value >= 0)
        np.testing.assert_allclose(r.value, distance, rtol=1e-6)
        np.testing.assert_allclose(r.info.get("value", value), value, atol=1e-5)
        assert np.all(r.value >= best * (1 - 1e-4))
        assert np.max(r.value / best) <= figures[kind]
        assert np.all(r.value <= (np.ceil(1.25 * best) if kind == "l0" else 1.25 * best))
        if clip:
            assert np.all((r.witness >= 0) & (r.witness <= 1))


# the coordinates of an end lie far from those of the middle: more steps than within the clip
@pytest.mark.parametrize(("kind", "steps", "figure"), [("l2", 1000, 1.01), ("linf", 50, 1.12)])
def test_carlini_wagner_moves_entries_at_an_end_of_the_clip(kind, steps, figure):
    w, x, _ = problem((6,), 4)
    x = jnp.stack([x[0].at[:3].set(jnp.array([0, 1, 0])), x[1].at[3:].set(jnp.array([1, 0, 1])), *jnp.round(x[2:])])
    y = jnp.argmax(x @ w.T, axis=1)
    best = np.array([optimum(kind, w, x[i], int(y[i]), True) for i in range(4)])
    assert np.all(np.isfinite(best))
    oracle = jr.attacks.carlini_wagner(steps=steps, step=0.02)
    r = solve(oracle, THREATS[kind](0.3, clip=(0.0, 1.0)), w, x, y)[0]
    assert np.max(r.value / best) <= figure


# the same code on another kind of set or by another loop
ALIKE = {"fab-t", "carlini_wagner on linf", "carlini_wagner on l0", "bim by bisection"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.sweep) if n in SLOW | ALIKE else n for n in RADIUS])
def test_neither_batch_nor_eps_matter_and_keys_reproduce(name):
    oracle, figures = RADIUS[name]
    threat = THREATS[next(iter(figures))]
    w, x, y = problem((6,), 8)
    whole = solve(oracle, threat(0.3, clip=(0, 1)), w, x, y)[0]
    part = solve(oracle, threat(2.0, clip=(0, 1)), w, x[:3], y[:3])[0]
    np.testing.assert_allclose(part.value, whole.value[:3], rtol=1e-3)  # rounding, over hundreds of steps
    again = solve(oracle, threat(0.3, clip=(0, 1)), w, x, y)[0]
    np.testing.assert_array_equal(again.witness, whole.witness)
    wrong = solve(oracle, threat(0.3, clip=(0, 1)), w, x[:3], 1 - y[:3])[0]
    np.testing.assert_array_equal(wrong.value, 0.0)
    np.testing.assert_array_equal(wrong.witness, x[:3])


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_within_a_set(kind, key):
    attack = jr.attacks.within(jr.attacks.fab(steps=20, rank=1))
    assert (attack.side, attack.adapt("linf", 2).stages[0].steps) == ("lower", 20)
    w, x, y = problem((5, 4), 8)
    best = np.array([optimum(kind, w, x[i], int(y[i]), True) for i in range(8)])

    @jax.jit
    @jax.vmap
    def one(x, y, eps):
        s = THREATS[kind](eps, clip=(0.0, 1.0))(x)
        f = jr.objectives.classification(bind(logits, w), y)
        b = attack.solve(key, f, s)
        return b, f.value(f.outputs(b.witness)), s.contains(b.witness, 1e-6)

    for times, breaks in ((1.02, True), (0.98, False)):
        b, value, inside = one(x, y, jnp.asarray(times * best, jnp.float32))
        assert np.all(inside)
        np.testing.assert_allclose(b.value, value, atol=1e-5)
        assert np.all((b.value >= 0) == breaks)
        # early stop: 1 pass at the start and 1 at the end, 2 a step
        assert np.all(b.info["forwards"] == 2 + 2 * b.info["backwards"])
        assert np.all(b.info["backwards"] <= 10) if breaks else np.all(b.info["backwards"] == 20)


def test_lbfgs_counts_its_passes(key):
    seen = {"forwards": 0, "backwards": 0}

    def see(name, number):
        del number
        seen[name] += 1

    def forward(z):
        jax.debug.callback(lambda number: see("forwards", number), z[0])
        return z, None

    def backward(_, g):
        jax.debug.callback(lambda number: see("backwards", number), g[0])
        return (g,)

    watched = jax.custom_vjp(lambda z: forward(z)[0])
    watched.defvjp(forward, backward)
    w = jax.random.normal(key, (6, 5))
    x = jax.random.uniform(key, (6,))
    f = jr.objectives.classification(lambda z: jnp.tanh(watched(z) @ w), jnp.argmax(x @ w))
    found = jax.jit(jr.attacks.lbfgs(steps=20, searches=6).solve)(key, f, jr.sets.l2(0.0, clip=(0, 1)), x)
    jax.effects_barrier()
    assert found.value > 0
    assert found.info["value"] >= 0
    assert {name: int(found.info[name]) for name in seen} == seen


@pytest.mark.parametrize("name", ["pdpgd", "alma"])
def test_entries_of_very_different_weight(name):
    rng = np.random.default_rng(0)
    w, x, y = problem((100,), 4)
    w = w * jnp.asarray(np.exp(1.5 * rng.normal(size=100)), jnp.float32)
    y = jnp.argmax(x @ w.T, axis=1)
    best = np.array([optimum("l2", w, x[i], int(y[i]), True) for i in range(4)])
    r, _, _ = solve(getattr(jr.attacks, name)(steps=400), jr.sets.l2(0.3, clip=(0.0, 1.0)), w, x, y)
    assert np.max(r.value / best) <= 1.01


def test_alma_enters_a_target_among_many_classes(key):
    w, x = jax.random.normal(key, (8, 6)), jax.random.uniform(key, (4, 8))

    @jax.jit
    @jax.vmap
    def one(x):
        fourth = jnp.argsort(-(x @ w))[3]
        f = jr.objectives.classification(lambda z: z @ w, jnp.argmax(x @ w), target=fourth)
        r = jr.attacks.alma(steps=200).solve(key, f, jr.sets.l2(0.0), x)
        return r.value, jnp.argmax(r.witness @ w) == fourth

    radius, entered = one(x)
    assert np.all(np.isfinite(radius))
    assert np.all(entered)


def test_ead_keeps_what_its_rule_prefers():
    w, x, y = problem((5, 4), 3)
    threat = jr.sets.l1(0.3, clip=(0.0, 1.0))
    found = {}
    for rule in ("l1", "en"):
        r = solve(jr.attacks.ead(steps=200, searches=8, rule=rule), threat, w, x, y)[0]
        d = (r.witness - x).reshape(3, -1)
        l1, squares = jnp.sum(jnp.abs(d), axis=1), jnp.sum(d**2, axis=1)
        np.testing.assert_allclose(r.value, l1, rtol=1e-5)
        found[rule] = {"l1": l1, "en": 0.01 * l1 + squares}
    assert np.all(found["l1"]["l1"] < found["en"]["l1"])
    assert np.all(found["en"]["en"] < found["l1"]["en"])


def test_ranks_are_one_program_in_a_cascade(key):
    attack = jr.cascade(*(jr.attacks.within(jr.attacks.fab(steps=10, rank=r)) for r in (1, 2, 3)))
    w = jax.random.normal(key, (4, 6))
    x = jax.random.uniform(key, (6,))
    order = jnp.argsort(-w @ x)
    f = jr.objectives.classification(bind(logits, w), order[0])
    # aimed at one class only: the radius towards it, in the order of the ranks
    towards = jax.jit(lambda r: jr.attacks.fab(steps=20, rank=r).solve(key, f, jr.sets.l2(0.0), x).value)
    radii = [towards(r) for r in (1, 2, 3)]
    margins = [(w[order[0]] - w[order[r]]) for r in (1, 2, 3)]
    exact = [float(m @ x / jnp.linalg.norm(m)) for m in margins]
    np.testing.assert_allclose(radii[int(np.argmin(exact))], min(exact), rtol=0.02)
    bound = jax.jit(attack.solve)(key, f, jr.sets.l2(1.02 * min(exact))(x))
    assert int(bound.info["stage"]) >= 0
    text = str(jax.make_jaxpr(lambda: attack.solve(key, f, jr.sets.l2(0.1)(x)))())
    one = str(jax.make_jaxpr(lambda: attack.stages[0].solve(key, f, jr.sets.l2(0.1)(x)))())
    assert len(text) < 1.5 * len(one)


def test_what_is_refused():
    with pytest.raises(ValueError, match="minimum-norm attack"):
        jr.attacks.within(jr.critical_radius(jr.attacks.fgsm(), upper=1.0))
    with pytest.raises(ValueError, match="steps"):
        jr.attacks.fab(steps=0)
    with pytest.raises(ValueError, match="start"):
        jr.attacks.fab(start="edge")
    with pytest.raises(ValueError, match="searches"):
        jr.attacks.ead(searches=0)
    with pytest.raises(ValueError, match="rule"):
        jr.attacks.ead(rule="l2")
    f = jr.objectives.classification(lambda z: z, 0)
    with pytest.raises(ValueError, match="l3"):
        jr.attacks.fab().solve(jax.random.key(0), f, jr.sets.lp(3.0, 0.1), jnp.ones(2))
