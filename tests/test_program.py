"""Flat programs: control flow is unrolled where the perturbed input enters it, and nowhere else."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr
from jrobust._program import flatten

Z = jnp.linspace(-1.0, 1.0, 4)


def names(fn, *args):
    return [eqn.name for eqn in flatten(fn, *args).equations]


def test_a_long_while_over_a_dependent_carry():
    """A thousand steps take seconds, not minutes, and no recursion of that depth."""

    def fn(z):
        return lax.while_loop(lambda c: c[0] < 1000, lambda c: (c[0] + 1, 0.999 * c[1] + 0.001), (0, z))[1]

    start = time.perf_counter()
    program = flatten(fn, Z)
    assert time.perf_counter() - start < 30
    found = [eqn.name for eqn in program.equations]
    assert found.count("mul") == found.count("add") == 1000
    assert "while" not in found


def test_known_loops_stay_one_equation():
    def fn(z):
        total = lax.scan(lambda c, v: (0.5 * c + v, None), 0.0, jnp.arange(100_000.0))[0]
        count = lax.while_loop(lambda c: c < 100_000, lambda c: c + 1, 0)
        least = lax.cond(total > 3, lambda v: v, lambda v: -v, total)
        return z * total + count + least

    found = names(fn, Z)
    assert [found.count(n) for n in ("scan", "while", "cond")] == [1, 1, 1]
    lo, hi = jr.bounds.output_bounds(fn, jr.sets.linf(0.5)(Z))
    np.testing.assert_allclose(0.5 * (lo + hi), fn(Z), rtol=1e-5)


def test_a_known_counter_of_a_long_chain():
    """What decides a loop may itself be long in the making: here 3000 additions, known, before the loop is met."""

    def fn(z):
        n = jnp.asarray(0)
        for _ in range(3000):
            n = n + 1
        return lax.while_loop(lambda c: c[0] < n - 2998, lambda c: (c[0] + 1, 2 * c[1]), (0, z))[1]

    assert names(fn, Z) == ["mul", "mul"]


@pytest.mark.parametrize("method", [jr.bounds.ibp(), jr.bounds.crown()], ids=lambda m: m.name)
def test_known_control_flow_of_traced_constants(method):
    """Known does not mean concrete: loops over traced weights run as loops, under jit, vmap and grad."""

    def normalised(w):
        spectral = lax.fori_loop(0, 5, lambda _, v: w.T @ (w @ v) / jnp.linalg.norm(w.T @ (w @ v)), jnp.ones(3))
        steps = lax.while_loop(lambda c: c[1] > 0.5, lambda c: (c[0] + 1, c[1] / 2), (0.0, jnp.abs(w[0, 0])))[0]
        sign = lax.cond(w[0, 1] > 0, lambda v: v, lambda v: -v, jnp.sum(w))
        return sign * w / jnp.linalg.norm(w @ spectral) + steps

    def fn(w, z):
        return jax.nn.relu(normalised(w) @ z)

    def bounds(w):
        return jr.bounds.output_bounds(lambda z: fn(w, z), jr.sets.linf(0.1)(Z[:3]), method=method)

    ws = jax.random.normal(jax.random.key(0), (3, 4, 3))
    lo, hi = jax.jit(jax.vmap(bounds))(ws)
    for w, a, b in zip(ws, lo, hi, strict=True):
        c = normalised(w)
        reach = 0.1 * jnp.sum(jnp.abs(c), 1)
        np.testing.assert_allclose(a, jax.nn.relu(c @ Z[:3] - reach), atol=1e-5)
        np.testing.assert_allclose(b, jax.nn.relu(c @ Z[:3] + reach), atol=1e-5)


def test_a_loop_that_the_input_decides_is_named():
    def fn(z):
        return lax.while_loop(lambda c: c[0] < 3.0, lambda c: c + 1.0, z)

    assert jr.bounds.supported(fn, Z, method=jr.bounds.ibp()) == ["while"]


def test_loops_over_both():
    """Known carries beside dependent ones, in either direction, with outputs stacked."""

    def fn(z):
        def step(c, v):
            n, h = c
            return (n + 1.0, jnp.tanh(h + v) * n), h - v

        (n, h), rows = lax.scan(step, (0.0, z[0]), z, reverse=True)
        return jnp.append(rows, h * n)

    s = jr.sets.linf(0.1)(Z)
    lo, hi = jax.jit(lambda: jr.bounds.output_bounds(fn, s))()
    v = jax.vmap(fn)(Z + jax.random.uniform(jax.random.key(0), (500, 4), minval=-0.1, maxval=0.1))
    assert jnp.all((v >= lo - 1e-5) & (v <= hi + 1e-5))
    assert jnp.all(hi - lo < 4 * jnp.ptp(v, axis=0))
