"""What an adversarial review of the bounds broke, so that it stays mended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr
from jrobust import io

B = jr.bounds


@pytest.mark.parametrize(
    "method", [B.ibp(), B.crown(), B.outward(B.crown()), B.lipschitz(), B.forward_crown()], ids=lambda m: m.name
)
def test_a_padding_value_that_depends_on_the_input_keeps_its_coefficient(method):
    fn = lambda z: jnp.array([[1e8, 1.0]]) @ lax.pad(z[:1], z[1], [(0, 1, 0)])  # noqa: E731
    s = jr.sets.box(jnp.zeros(2), jnp.array([0.0, 1.0]))(jnp.array([0.0, 0.5]))
    lo, hi = B.output_bounds(fn, s, method=method)
    assert float(lo[0]) <= 0
    assert 1 <= float(hi[0]) < 1.5


def test_an_affine_function_has_nothing_to_cut():
    f = jr.objectives.objective(lambda z: jnp.array([z[0] - z[1] - 0.5]))
    found = B.branch(f, jr.sets.linf(0.5)(jnp.zeros(2)), over="neurons")
    assert (found.lower, found.upper, found.open) == (0.5, 0.5, None)


def test_what_a_gather_fills_in_is_not_taken_for_an_index():
    f = jr.objectives.objective(lambda z: 1.0 - 3 * z.at[jnp.array([5])].get(mode="fill", fill_value=0))
    with pytest.raises(NotImplementedError, match="out of bounds"):
        B.prove(f, jr.sets.linf(0.1)(jnp.array([1.0, 2.0])))


def test_a_search_is_not_resumed_on_a_larger_set():
    f = jr.objectives.objective(lambda z: jnp.sum(jax.nn.relu(z), keepdims=True) - 1.0)
    options = {"method": B.ibp(), "over": "input"}
    small = B.branch(f, jr.sets.linf(0.1)(jnp.zeros(2)), **options)
    assert small.upper < 0
    with pytest.raises(ValueError, match="another problem"):
        B.branch(f, jr.sets.linf(5.0)(jnp.zeros(2)), resume=small, **options)


def test_a_budget_is_positive_and_one_step_is_always_done():
    f = jr.objectives.objective(lambda z: jnp.sum(jax.nn.relu(z), keepdims=True) - 0.3)
    s = jr.sets.linf(0.1)(jnp.zeros(2))
    for budget in ({"nodes": 0}, {"seconds": -1.0}):
        with pytest.raises(ValueError, match="nodes and seconds are > 0"):
            B.branch(f, s, **budget)
    found = B.branch(f, s, method=B.ibp(), seconds=1e-9)
    assert found.nodes == 1
    assert found.upper == pytest.approx(-0.1, abs=1e-5)


class Twice:
    shape = (1,)
    __call__ = staticmethod(lambda x: jnp.concatenate([x, x], 1))


def test_coefficients_that_are_no_float32_numbers_do_not_prove_what_is_false():
    rows = np.array([[16777217.0, -16777216.0]]), np.array([-0.5])  # y <= -0.5, for y in [-2, -1]
    spec = io.Specification([io.Case(np.array([-2.0]), np.array([-1.0]), [rows])], 1, 2, "")
    assert spec.cases[0].unsafe([-1.5], [-1.5, -1.5])
    assert io.verify_files(Twice(), spec, timeout=20).verdict != "unsat"


def test_the_solver_does_not_drop_what_is_small():
    f = lambda z: jax.nn.relu(1e-10 * z[:1] + 1e-10 * z[1:]) - jax.nn.relu(1e-10 * z[:1] - 1e-10 * z[1:])  # noqa: E731
    s = jr.sets.linf(1e9)(jnp.zeros(2))
    lo, hi = B.output_bounds(f, s, method=B.milp())
    assert float(lo[0]) <= -0.2 + 1e-6
    assert float(hi[0]) >= 0.2 - 1e-6


@pytest.mark.parametrize("method", [B.ibp(), B.crown()], ids=lambda m: m.name)
def test_outward_holds_where_numbers_underflow_or_overflow(method):
    s = jr.sets.box(1e-20, 2e-20)(jnp.array([1.5e-20]))
    cases = [
        (lambda z: (z * 1e-20) * 1e38, s, 0.01, 0.02),
        (lambda z: jnp.sqrt(z * 1e-20) * 1e20, s, 1.0, 2**0.5),
        (lambda z: z**-2, jr.sets.box(1e-19, 1.02e-19)(jnp.array([1.01e-19])), 9.7e37, 9.9e37),
        (lambda z: jnp.log(z * 1e-30), jr.sets.box(1e-10, 2e-10)(jnp.array([1e-10])), -92.2, -91.4),
        (lambda z: jnp.log(jnp.exp(z)), jr.sets.linf(1.0)(jnp.array([-95.0])), -96.0, -94.0),
    ]
    for fn, domain, least, most in cases:
        lo, hi = B.output_bounds(fn, domain, method=B.outward(method))
        assert float(lo[0]) <= least
        assert float(hi[0]) >= most
    # one order of this sum is 0, another infinite
    z = jnp.array([3e38, -3e38, 3e38, -3e38])
    lo, hi = B.output_bounds(lambda z: jnp.sum(z)[None], jr.sets.linf(0.0)(z), method=B.outward(method))
    assert not bool(jnp.isfinite(hi[0]) | jnp.isfinite(lo[0]))


def test_a_class_out_of_range_and_a_centre_outside_are_refused_by_verify(key):
    g, x = lambda z: z[:3] + jnp.array([0, 0, 5.0]), jnp.full(4, 0.5)
    with pytest.raises(ValueError, match="y = 7 is out of range"):
        jr.verify(jr.objectives.classification(g, 7), jr.sets.linf(0.01)(x), key=key)
    for wrong in (x + 5, x.at[0].set(jnp.nan)):
        with pytest.raises(ValueError, match="does not lie in its own set"):
            jr.verify(jr.objectives.classification(g, 2), jr.sets.linf(0.1, clip=(0, 1))(wrong), key=key)
    with pytest.raises(ValueError, match="the example is empty"):
        B.output_bounds(lambda z: z, jr.sets.linf(0.1)(jnp.zeros(0)))
