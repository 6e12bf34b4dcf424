"""Lipschitz bounds: norms from above, gradients sampled densely, functions that jump, exactness on linear models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr
from jrobust.bounds._norms import gram, operator
from tests.bounds.problems import SETS, along, mlp, weights
from tests.thin import thinned

METHODS = {
    "global": jr.bounds.lipschitz(),
    "local": jr.bounds.lipschitz(local=True),
    "local crown": jr.bounds.lipschitz(local=True, method=jr.bounds.crown()),
}
EVERY = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (20, 20), (64, 300)])
def test_operator_norms_are_bounded_from_above(shape):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for a in (w, w[:, :1] * w[:1], np.eye(*shape, dtype=np.float32), 0 * w):
        true = np.linalg.norm(a.astype(np.float64), 2)
        assert true <= gram(jnp.asarray(a)) * (1 + 1e-6) <= 1.1 * true + 1e-6
        assert true <= operator(jnp.asarray(a), 2.0, 2.0) * (1 + 1e-6)
        for p in (1.0, np.inf):
            np.testing.assert_allclose(operator(jnp.asarray(a), p, p), np.linalg.norm(a, p), rtol=1e-5)
    d = np.random.default_rng(1).normal(size=(shape[1], 2000)).astype(np.float32)
    for p, q in ((3.0, 3.0), (1.5, 1.5), (1.0, np.inf), (2.0, np.inf), (np.inf, 2.0)):
        reached = np.linalg.norm(w @ d, q, axis=0) / np.linalg.norm(d, p, axis=0)
        assert reached.max() <= operator(jnp.asarray(w), p, q) * (1 + 1e-5)


@EVERY
def test_linear_models_are_exact(method):
    w = jax.random.normal(jax.random.key(0), (3, 6))
    for name, threat in SETS.items():
        s = threat(jax.random.uniform(jax.random.key(1), (6,)))
        f = jr.objectives.objective(lambda z: w @ (z - 1) + 1)
        exact = jax.vmap(s.support)(w) + f(jnp.zeros(6))
        np.testing.assert_allclose(method.solve(None, f, s).info["elements"], exact, rtol=1e-4, atol=1e-5, err_msg=name)


def net(w, z):
    h = jnp.tanh(w[0] @ z)
    h = h + jax.nn.gelu(w[1] @ h)
    return w[2] @ jax.nn.softmax(jax.nn.leaky_relu(w[3] @ h))


def pooled(w, z):
    h = lax.reduce_window(jax.nn.relu(w[0] @ z), -jnp.inf, lax.max, (3,), (2,), "SAME")
    return w[2][:, : h.size] @ h + jnp.max(z)


NETS = {"relu": mlp, "mixed": net, "pooled": pooled}


def drawn(name, key):
    if name == "relu":
        return weights(key)
    shapes = [(8, 4), (8, 8), (3, 8), (8, 8)]
    return [jax.random.normal(k, n) / 2 for k, n in zip(jax.random.split(key, 4), shapes, strict=True)]


@pytest.mark.parametrize("norm", thinned(["l2", "linf clipped", "l1", "box"], 4))
@pytest.mark.parametrize("name", thinned(NETS, 2))
def test_bounds_and_constants_hold(name, norm):
    order = {"linf clipped": 1, "l2": 2, "l1": np.inf, "box": 1}[norm]

    def facts(key):
        w = drawn(name, key)
        fn = lambda z: NETS[name](w, z)  # noqa: E731
        s = SETS[norm](jax.random.uniform(jax.random.fold_in(key, 1), (4,)))
        f = jr.objectives.objective(fn)
        points = jax.vmap(s.sample)(jax.random.split(key, 500))
        steep = jnp.linalg.norm(jax.vmap(jax.jacrev(fn))(points), order, axis=-1).max(0)
        return {
            "points": jax.vmap(f)(points).max(0),
            "steep": steep,
            "bounds": [METHODS[m].solve(None, f, s).info["elements"] for m in ("global", "local")],
            "constants": [jr.bounds.lipschitz_constant(fn, s, local=local) for local in (False, True)],
            "ibp": jr.bounds.ibp().solve(None, f, s).info["elements"],
        }

    seen = jax.jit(jax.vmap(facts))(jax.random.split(jax.random.key(0), 5))
    for bound, constant in zip(seen["bounds"], seen["constants"], strict=True):
        assert jnp.all(seen["points"] <= bound + 1e-5)
        assert jnp.all(bound <= seen["ibp"] + 1e-5)
        assert jnp.all(jnp.isfinite(constant))
        assert jnp.all(seen["steep"] <= constant * (1 + 1e-5))


JUMPS = {
    "sign": jnp.sign,
    "comparison": lambda z: (z > 0.05).astype(float),
    "select": lambda z: jnp.where(z > 0.05, z + 5, z),
    "round": jnp.round,
    "through integers": lambda z: (z * 9).astype(int).astype(float),
    "argmax": lambda z: z * 0 + jnp.argmax(z),
}
HIDDEN = {
    "stop_gradient": lambda z: lax.stop_gradient(z) * 3,
    "straight through": lambda z: _through(z),
}


@jax.custom_vjp
def _through(x):
    return jnp.tanh(5 * x)


_through.defvjp(lambda x: (_through(x), None), lambda _, g: (0 * g,))


@pytest.mark.parametrize("name", JUMPS | HIDDEN)
def test_what_a_derivative_does_not_say(name):
    fn = (JUMPS | HIDDEN)[name]
    s = jr.sets.linf(0.3)(jnp.array([0.0, 0.1, -0.1]))
    points = jax.vmap(fn)(jax.vmap(s.sample)(jax.random.split(jax.random.key(0), 300)))
    for method in METHODS.values():
        lo, hi = jr.bounds.output_bounds(fn, s, method=method)
        assert jnp.all((lo <= points.min(0)) & (points.max(0) <= hi)), method.name
    constants = [jr.bounds.lipschitz_constant(fn, s, local=local) for local in (False, True)]
    assert jnp.all(jnp.stack(constants) == jnp.inf) if name in JUMPS else jnp.all(jnp.stack(constants) >= 2.9)


def test_products_and_other_sets():
    w = jax.random.normal(jax.random.key(0), (3, 4))
    s = jr.sets.product(jr.sets.l2(0.5), jr.sets.box(-1.0, 1.0))((jnp.array([1.0, 2.0]), jnp.zeros(2)))
    two = lambda z: w @ jnp.concatenate(z)  # noqa: E731
    exact = jax.vmap(lambda r: s.support((r[:2], r[2:])))(w)
    sets = {"l0": jr.sets.l0(1, clip=(0, 1)), "batch": jr.sets.power(jr.sets.l2(0.1))}
    for method in METHODS.values():
        f = jr.objectives.objective(two)
        np.testing.assert_allclose(method.solve(None, f, s).info["elements"], exact, rtol=1e-5)
        for name, threat in sets.items():
            point = threat(jnp.full((2, 2), 0.5))
            fn = lambda z: jnp.tanh(w @ jnp.ravel(z))  # noqa: E731
            reached = jax.vmap(lambda k: fn(point.sample(k)))(jax.random.split(jax.random.key(1), 200)).max(0)  # noqa: B023
            assert jnp.all(reached <= method.solve(None, jr.objectives.objective(fn), point).info["elements"] + 1e-6), (
                name
            )


@EVERY
def test_pure(method):
    value = along(method, SETS["l2"](jnp.ones(4) / 2))
    batch = jax.jit(jax.vmap(value))(jnp.zeros(2), jnp.arange(2))
    np.testing.assert_allclose(batch, [value(0.0, y) for y in range(2)], rtol=1e-5)
    assert jnp.isfinite(jax.jit(jax.grad(value))(0.0))


def test_nan_is_infinity_and_misuse_is_told():
    s = jr.sets.linf(0.5)(jnp.array([0.1, 0.3]))
    for method in METHODS.values():
        assert method.solve(None, jr.objectives.objective(jnp.log), s).value == jnp.inf
    with pytest.raises(ValueError, match="upper"):
        jr.bounds.lipschitz(local=True, method=jr.attacks.fgsm())
    with pytest.raises(NotImplementedError, match="bessel_i1e"):
        jr.bounds.lipschitz().solve(None, jr.objectives.objective(lax.bessel_i1e), s)
