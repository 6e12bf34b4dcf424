"""Linear and mixed-integer programs against enumerated activation patterns, vertices, grids and `crown`."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jrobust as jr
from tests.thin import thinned

KEY = jax.random.key(0)
X = jnp.array([0.3, -0.2])


def weights(seed, *sizes):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    return [jax.random.normal(k, (o, i)) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)]


def dense(seed, act, width=6):
    u, v, w = weights(seed, 2, width, width, 2)
    b = jnp.linspace(-0.5, 0.5, width)
    return lambda z: w @ act(v @ act(u @ z + b) - 0.3)


def pooled(seed):
    u, w = weights(seed, 2, 16, 2)[:2]
    w = weights(seed + 50, 4, 2)[0]

    def net(z):
        image = (u @ z + jnp.linspace(-1, 1, 16)).reshape(1, 4, 4, 1)
        out = jax.lax.reduce_window(image, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        return w @ out.ravel()

    return net


def residual(seed):
    u, v, w = weights(seed, 2, 5, 5, 2)

    def net(z):
        h = jax.nn.relu(u @ z)
        return w @ (h + jax.nn.relu(v @ h - 0.2)) + z

    return net


def stacked_max(seed):
    u, v = weights(seed, 2, 12, 2)
    return lambda z: (
        jnp.max((u @ z).reshape(3, 4), axis=0)[:2] - jnp.min((u @ z).reshape(4, 3), axis=(0, 1)) + v @ (u @ z)
    )


def gated(seed):
    u, w = weights(seed, 2, 6, 2)

    def net(z):
        h = u @ z + 0.1
        either = (h > 0.5) | (h < -0.5)
        return w @ (
            jnp.where(h > 0, h, 0.3 * h) + jnp.where(either & ~(h > 2.0), jnp.sign(h[0] * 0 + 1.0), jnp.abs(2 * h))
        )

    return net


NETS = {
    "relu": dense(0, jax.nn.relu),
    "steep leaky": dense(2, lambda h: jax.nn.leaky_relu(h, 1.7)),
    "leaky by hand": dense(3, lambda h: jnp.where(h >= 0, h, 0.1 * h)),
    "abs": dense(4, jnp.abs),
    "clip": dense(5, lambda h: jnp.clip(h, -0.4, 0.6)),
    "hard tanh": dense(8, jax.nn.hard_tanh),
    "min and max": dense(9, lambda h: jnp.maximum(h, h[::-1]) - jnp.minimum(0.5 * h, 1.0)),
    "max pooling": pooled(10),
    "reduced maxima": stacked_max(11),
    "residual": residual(12),
}
SETS = {
    "linf": jr.sets.linf(0.8),
    "box": jr.sets.box(jnp.array([-1.0, -0.5]), jnp.array([0.5, 0.9])),
    "l1": jr.sets.l1(0.9, clip=(-0.5, 1.0)),
    "l0": jr.sets.l0(1, clip=(-1.0, 1.0)),
}


def grid(threat, n=401):
    """A grid over the set: of its hull, kept where it lies inside, and of the lines through the centre."""
    s = threat(X)
    axes = [np.unique(np.append(np.linspace(lo, hi, n), x)) for lo, hi, x in zip(*s.hull(), np.asarray(X), strict=True)]
    points = jnp.asarray(np.stack(np.meshgrid(*axes), -1).reshape(-1, 2), jnp.float32)
    return points[jax.jit(jax.vmap(s.contains))(points)]


def highest(f, threat):
    return np.max(jax.jit(jax.vmap(f))(grid(threat)), axis=0)


def crown(f, s):
    return np.asarray(jax.jit(jr.bounds.crown().solve)(KEY, f, s).info["elements"])


@pytest.mark.parametrize("name", thinned(NETS, 3))
def test_milp_is_the_maximum_and_lp_lies_between(name):
    net, threat = NETS[name], SETS["linf"]
    f = jr.objectives.objective(net)
    s = threat(X)
    top = highest(f, threat)
    solved = jr.bounds.milp(exact=True).solve(KEY, f, s)
    exact = np.asarray(solved.info["elements"])
    assert np.all(exact >= top - 1e-5)
    assert np.all(exact <= top + 0.05 * np.maximum(1, np.abs(top)))  # a step of the grid is 1/250
    assert bool(s.contains(solved.witness))
    assert float(f.value(f.outputs(solved.witness))) == pytest.approx(float(solved.value), abs=1e-4)
    assert float(solved.info["gap"]) == pytest.approx(0, abs=1e-4)
    relaxed = np.asarray(jr.bounds.lp().solve(KEY, f, s).info["elements"])
    assert np.all(exact <= relaxed + 1e-4)
    if name in ("relu", "max pooling", "reduced maxima"):
        assert np.all(relaxed <= crown(f, s) + 1e-4)


@pytest.mark.parametrize("name", thinned(SETS, 2))
def test_sets(name):
    f = jr.objectives.objective(NETS["relu"])
    s, top = SETS[name](X), highest(f, SETS[name])
    bound = jr.bounds.milp(exact=True).solve(KEY, f, s)
    np.testing.assert_allclose(bound.info["elements"], top, rtol=0.02, atol=0.02)
    assert np.all(np.asarray(bound.info["elements"]) >= top - 1e-5)
    assert bool(s.contains(bound.witness))


def patterns(u, v, w, lo, hi):
    """The maximum of ``w relu(v relu(u z))`` over a box, one linear program for each activation pattern."""
    best = -np.inf
    for first in itertools.product((0.0, 1.0), repeat=len(u)):
        inner = np.array(first)[:, None] * u
        for second in itertools.product((0.0, 1.0), repeat=len(v)):
            signs = np.concatenate(
                [(1 - 2 * np.array(first))[:, None] * u, (1 - 2 * np.array(second))[:, None] * (v @ inner)]
            )
            c = w @ (np.array(second)[:, None] * (v @ inner))
            found = linprog(-c, signs, np.zeros(len(signs)), bounds=list(zip(lo, hi, strict=True)))
            best = max(best, -found.fun if found.status == 0 else -np.inf)
    return best


@pytest.mark.parametrize("seed", range(2))
def test_against_every_activation_pattern(seed):
    u, v, w = (np.asarray(m, np.float64) for m in weights(seed, 3, 4, 3, 1))
    f = jr.objectives.objective(
        lambda z: jnp.asarray(w, jnp.float32) @ jax.nn.relu(v.astype("f4") @ jax.nn.relu(u.astype("f4") @ z))
    )
    s = jr.sets.linf(1.0)(jnp.array([0.1, -0.3, 0.2]))
    expected = patterns(u, v, w[0], *(np.asarray(end, np.float64) for end in s.hull()))
    bound = jr.bounds.milp(exact=True).solve(KEY, f, s)
    assert float(bound.value) == pytest.approx(expected, abs=2e-5)
    assert float(bound.value) >= expected - 1e-6


@pytest.mark.parametrize(
    "oracle", [jr.bounds.lp(), jr.bounds.milp(), jr.bounds.milp(exact=True)], ids=["lp", "milp", "exact"]
)
def test_affine_nets_at_their_vertices(oracle):
    w, v = weights(3, 4, 5, 3)
    f = jr.objectives.classification(lambda z: v @ (w @ z.ravel() - 1.0), 1)
    s = jr.sets.linf(0.4, clip=(0, 1))(jax.random.uniform(KEY, (2, 2)))
    lo, hi = (np.asarray(end) for end in s.hull())
    corners = [np.where(np.reshape(c, (2, 2)), hi, lo) for c in itertools.product((False, True), repeat=4)]
    expected = np.max([f(jnp.asarray(c)) for c in corners], axis=0)
    np.testing.assert_allclose(oracle.solve(KEY, f, s).info["elements"], expected, atol=1e-5)


def test_products_and_powers():
    def net(z):
        return jnp.stack([jnp.sum(jax.nn.relu(z[0] - z[1])), jnp.max(z[0]) + jnp.sum(jnp.abs(z[1]))])

    s = jr.sets.product(jr.sets.l1(0.5), jr.sets.linf(0.25))((jnp.zeros(2), jnp.zeros(2)))
    bound = jr.bounds.milp(exact=True).solve(KEY, jr.objectives.objective(net), s)
    np.testing.assert_allclose(bound.info["elements"], [1.0, 1.0], atol=1e-5)
    batch = jr.sets.power(jr.sets.l1(0.5))(jnp.zeros((2, 3)))
    f = jr.objectives.objective(lambda z: jnp.sum(jax.nn.relu(z)))
    assert float(jr.bounds.milp(exact=True).solve(KEY, f, batch).value) == pytest.approx(1.0, abs=1e-5)
    pixels = jr.sets.l0(1, clip=(0.0, 1.0), pixels=True)(jnp.zeros((2, 2, 3)))
    assert float(jr.bounds.milp(exact=True).solve(KEY, f, pixels).value) == pytest.approx(3.0, abs=1e-5)


def test_curves_are_relaxed_and_refused_where_exactness_is_asked():
    f = jr.objectives.objective(dense(0, lambda h: jnp.tanh(h) + jax.nn.relu(h)))
    s = SETS["linf"](X)
    top = highest(f, SETS["linf"])
    solved, relaxed = (np.asarray(o.solve(KEY, f, s).info["elements"]) for o in (jr.bounds.milp(), jr.bounds.lp()))
    propagated = crown(f, s)
    assert np.all(top <= solved)
    assert np.all(solved <= relaxed + 1e-4)
    assert np.all(relaxed <= propagated + 1e-4)
    assert np.any(solved < relaxed - 1e-3)
    assert np.any(relaxed < propagated - 1e-3)
    with pytest.raises(NotImplementedError, match=r"'tanh', used at .*test_milp"):
        jr.bounds.milp(exact=True).solve(KEY, f, s)


def test_selections_with_jumps_are_bounded():
    f = jr.objectives.objective(gated(1))
    top = highest(f, SETS["linf"])
    solved, relaxed = (
        np.asarray(o.solve(KEY, f, SETS["linf"](X)).info["elements"]) for o in (jr.bounds.milp(), jr.bounds.lp())
    )
    assert np.all(top <= solved + 1e-5)
    assert np.all(solved <= top + 0.2)
    assert np.all(solved <= relaxed + 1e-4)


def test_a_time_limit_is_kept_and_the_bound_is_still_one():
    u, v, w = weights(5, 20, 60, 60, 3)
    f = jr.objectives.objective(lambda z: w @ jax.nn.relu(v @ jax.nn.relu(u @ z)) / 60)
    s = jr.sets.linf(0.5)(jax.random.normal(KEY, (20,)))
    jr.bounds.milp(time_limit=0.01).solve(KEY, f, s)  # compiles
    start = time.perf_counter()
    bound = jr.bounds.milp(time_limit=2.0).solve(KEY, f, s)
    assert time.perf_counter() - start < 10
    attack = jr.attacks.pgd(steps=30).solve(KEY, f, s)
    assert float(attack.value) <= float(bound.value) <= np.max(crown(f, s)) + 1e-4
    assert float(bound.info["gap"]) > 1e-3  # it did not finish
    with pytest.raises(RuntimeError, match="out of time"):
        jr.bounds.milp(time_limit=0.5, exact=True).solve(KEY, f, s)


def test_nan_and_infinity():
    for fn in (jnp.log, lambda z: jnp.log(z) * 0, lambda z: jnp.clip(1 / z, -1, 1) + jnp.log(z)):
        f = jr.objectives.objective(fn)
        for oracle in (jr.bounds.lp(), jr.bounds.milp()):
            assert oracle.solve(KEY, f, jr.sets.linf(2.0)(jnp.ones(2))).value == jnp.inf
        with pytest.raises(NotImplementedError, match="infinite or NaN"):
            jr.bounds.milp(exact=True).solve(KEY, f, jr.sets.linf(2.0)(jnp.ones(2)))
    # an infinity inside says nothing, and does not stand in the way of what is finite
    f = jr.objectives.objective(lambda z: jnp.minimum(jnp.exp(1000 * jax.nn.relu(z)), 2.0) + jax.nn.relu(z))
    assert float(jr.bounds.milp().solve(KEY, f, jr.sets.linf(1.0)(jnp.zeros(1))).value) == pytest.approx(3.0, abs=1e-4)


def test_errors():
    f = jr.objectives.objective(NETS["relu"])
    with pytest.raises(NotImplementedError, match="lp: a set of kind l2"):
        jr.bounds.lp().solve(KEY, f, jr.sets.l2(0.1)(X))
    with pytest.raises(NotImplementedError, match="milp: no rule for primitive 'bessel_i1e'"):
        jr.bounds.milp().solve(KEY, jr.objectives.objective(jax.lax.bessel_i1e), SETS["linf"](X))
    with pytest.raises(ValueError, match="time_limit"):
        jr.bounds.milp(time_limit=0)
    with pytest.raises(TypeError, match="lp\\(intermediates=\\)"):
        jr.bounds.lp(intermediates=jr.attacks.fgsm())
    with pytest.raises(TypeError, match="milp runs on the host"):
        jax.jit(jr.bounds.milp().solve)(KEY, f, SETS["linf"](X))


def test_with_drivers_and_combinations():
    w = weights(0, 2, 8, 3)
    model = lambda x: jax.nn.relu(x @ w[0].T) @ w[1].T  # noqa: E731
    x = jax.random.normal(jax.random.key(4), (6, 2))
    y = jnp.argmax(model(x), axis=1)
    threat = jr.sets.linf(0.3)
    ev = jr.evaluate(
        model,
        x,
        y,
        threat=threat,
        key=KEY,
        oracles={
            "pgd": jr.attacks.pgd(steps=20),
            "crown": jr.bounds.crown(),
            "milp": jr.bounds.milp(),
            "exact": jr.bounds.milp(exact=True),
        },
    )
    attacked, crown, milp, exact = (np.asarray(ev[name].value) for name in ("pgd", "crown", "milp", "exact"))
    assert np.all(attacked <= milp + 1e-4)
    assert np.all(milp <= crown + 1e-4)
    np.testing.assert_allclose(milp, exact, atol=1e-5)
    f, s = jr.objectives.classification(lambda z: model(z[None])[0], y[0]), threat(x[0])
    verdict = jr.verify(f, s, key=KEY, lower=jr.bounds.milp(exact=True), upper=jr.bounds.milp(exact=True))
    assert verdict.status == ("violated" if exact[0] >= 0 else "verified")
    both = jr.tightest(jr.bounds.crown(), jr.bounds.milp()).solve(KEY, f, s)
    assert float(both.value) == pytest.approx(float(milp[0]), abs=1e-5)
    ladder = jr.cascade(jr.bounds.ibp(), jr.bounds.milp()).solve(KEY, f, s)
    assert bool(ladder.value < 0) == bool(milp[0] < 0)
    lo, hi = jr.bounds.output_bounds(lambda z: jax.nn.relu(w[0] @ z), s, method=jr.bounds.milp())
    exact_lo, exact_hi = jr.bounds.output_bounds(lambda z: jax.nn.relu(w[0] @ z), s, method=jr.bounds.ibp())
    np.testing.assert_allclose([lo, hi], [exact_lo, exact_hi], atol=1e-4)
