"""Every oracle satisfies `check_oracle` on linear models, where the supremum is known, for every kind of set."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust.testing import check_oracle, linear_problem
from tests.contracts.oracles import ALIKE, ESTIMATE, EXACT_BOUNDS, LOWER, THREATS, UPPER


@pytest.mark.parametrize("threat", ["linf in a box", pytest.param("l2", marks=pytest.mark.sweep)])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.sweep) if n in ALIKE else n for n in LOWER | UPPER])
def test_oracle_keeps_its_side(name, threat, key):
    problem = linear_problem(THREATS[threat], key=key)
    # DLR's sort makes trajectories bifurcate on rounding: two compilations climb to different points
    tol = 0.05 if "dlr" in name else 1e-4
    check_oracle((LOWER | UPPER)[name], problem.f, problem.s, key=key, exact=problem.exact, samples=128, tol=tol)


DECAYING = optax.chain(
    jr.attacks.steepest(relative=True), optax.scale_by_schedule(optax.exponential_decay(1.0, 5, 0.6))
)


@pytest.mark.parametrize("threat", THREATS)
def test_linear_models_are_solved_exactly(threat, key):
    # with two classes the margin is one linear function, and its linear maximiser is the answer
    one = linear_problem(THREATS[threat], key=key, classes=2)
    for name in ("fgsm", "fgsm on the margin"):
        found = LOWER[name].solve(key, one.f, one.s)
        np.testing.assert_allclose(found.value, one.exact[0], atol=2e-5, rtol=1e-5, err_msg=name)
    found = jr.attacks.pgd(steps=40, step=1.0, rule=DECAYING).solve(key, one.f, one.s)
    # Euclidean projections after L1 or L3 steps reach the maximiser slowly: there only the side is asserted
    assert float(found.value) <= float(one.exact[0]) + 1e-5
    if threat.startswith(("linf", "box", "l2")):
        np.testing.assert_allclose(found.value, one.exact[0], atol=0.02, rtol=0.02, err_msg="pgd")
    problem = linear_problem(THREATS[threat], key=key)
    for name in EXACT_BOUNDS:
        elements = UPPER[name].solve(key, problem.f, problem.s).info["elements"]
        np.testing.assert_allclose(elements, problem.exact, atol=2e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ESTIMATE)
def test_estimates_are_refused_wherever_a_side_counts(name, key):
    oracle = ESTIMATE[name]
    assert oracle.side == "estimate"
    for verb in (jr.strongest, jr.tightest, lambda o: jr.cascade(o, o), lambda o: jr.critical_radius(o, upper=1.0)):
        with pytest.raises(ValueError, match="side"):
            verb(oracle)
    problem = linear_problem(THREATS["linf"], key=key)
    assert np.isfinite(oracle.solve(key, problem.f, problem.s).value)


def test_sides_cannot_be_confused(key):
    problem = linear_problem(THREATS["linf"], key=key)
    attack, bound = jr.attacks.fgsm(), jr.bounds.ibp()
    for wrong in (
        lambda: jr.strongest(attack, bound),
        lambda: jr.tightest(attack, bound),
        lambda: jr.cascade(attack, bound),
        lambda: jr.restarts(bound, 2),
        lambda: jr.verify(problem.f, problem.s, key=key, lower=bound, upper=attack),
    ):
        with pytest.raises(ValueError, match="side"):
            wrong()


def test_joint_confidence_of_probabilistic_bounds():
    import dataclasses

    risky = dataclasses.replace(jr.bounds.ibp(), confidence=0.99)
    assert jr.tightest(risky, risky, jr.bounds.ibp()).confidence == pytest.approx(0.98)


@pytest.mark.parametrize("side", ["attack", "certificate"])
@pytest.mark.parametrize("threat", ["linf", "l2", "l1"])
def test_critical_radius_of_a_linear_model(side, threat, key):
    problem = linear_problem(THREATS[threat], key=key)
    # margins grow linearly in eps: m(eps) = m0 + slope * eps
    m0 = problem.f(problem.s.center)
    slope = (problem.exact - m0) / THREATS[threat].eps
    radius = float(jnp.min(-m0 / slope))
    oracle = jr.attacks.fgsm(surrogate=jr.objectives.largest) if side == "attack" else jr.bounds.ibp()
    found = jr.critical_radius(oracle, THREATS[threat], upper=2.0).solve(key, problem.f, None, problem.s.center)
    if side == "certificate":
        assert radius - 1e-4 <= float(found.value) <= radius + 1e-5
    else:
        assert float(found.value) >= radius - 1e-5
        assert float(found.value) <= 1.5 * radius  # the margin's gradient follows one class only
        assert float(problem.f.value(problem.f.outputs(found.witness))) >= -1e-6


def test_eps_and_step_sweep_in_one_program(key):
    problem = linear_problem(THREATS["linf"], key=key)

    @jax.jit
    def sweep(eps):
        return jax.vmap(
            lambda e: jr.attacks.pgd(steps=5, step=e).solve(key, problem.f, jr.sets.linf(e)(problem.s.center)).value
        )(eps)

    values = sweep(jnp.array([0.0, 0.05, 0.1]))
    assert values[0] < values[1] < values[2]
    np.testing.assert_allclose(values[0], jnp.max(problem.f(problem.s.center)), rtol=1e-5)


def test_nan_never_holds(key):
    f = jr.objectives.classification(lambda z: jnp.array([1.0, 0.0]) * jnp.where(z[0] > 0.5, jnp.nan, 1.0), 0)
    s = jr.sets.linf(0.2)(jnp.array([0.45]))
    verdict = jr.verify(f, s, key=key, lower=jr.restarts(jr.attacks.pgd(steps=3), 8), upper=jr.bounds.ibp())
    assert verdict.status == "violated"


def test_host_oracles_refuse_a_trace(key):
    import dataclasses

    oracle = dataclasses.replace(jr.attacks.fgsm(), host=True)
    problem = linear_problem(THREATS["linf"], key=key)
    with pytest.raises(TypeError, match="host"):
        jax.jit(oracle.solve)(key, problem.f, problem.s)
    assert np.isfinite(oracle.solve(key, problem.f, problem.s).value)


def test_arguments_in_the_wrong_place_are_named(key):
    problem, threat = linear_problem(THREATS["linf"], key=key), THREATS["linf"]
    for oracle in (jr.attacks.fgsm(), jr.bounds.crown()):
        with pytest.raises(TypeError, match=r"got a threat: call it, threat\(x\)"):
            oracle.solve(key, problem.f, threat)
        with pytest.raises(TypeError, match=r"an oracle solves .key, objective, set. in this order, got Set and"):
            oracle.solve(problem.f, problem.s, key)
    with pytest.raises(TypeError, match="call it"):
        jr.bounds.output_bounds(lambda z: z, threat)
    with pytest.raises(TypeError, match=r"RadiusOracle.solve takes .key, objective, threat, x., got Objective and Set"):
        jr.critical_radius(jr.attacks.fgsm(), upper=1.0).solve(key, problem.f, problem.s, None)


def test_the_status_of_several_examples_is_an_array(key):
    problem = linear_problem(THREATS["linf"], key=key)
    verify = lambda t: jr.verify(  # noqa: E731
        problem.f, problem.s.scale(t), key=key, lower=jr.attacks.fgsm(), upper=jr.bounds.ibp()
    )
    several = jax.vmap(verify)(jnp.array([0.0, 1e3]))
    assert several.status.tolist() == ["verified", "violated"]
    assert verify(0.0).status == "verified"
    with pytest.raises(TypeError, match=r"use \.violated and \.verified"):
        jax.jit(lambda: verify(jnp.asarray(0.0)).status == "verified")()
