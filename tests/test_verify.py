"""`verify` and the ladder: each stage is asked only about what is open, and says what it decided."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import Bound, Oracle
from jrobust._combinators import ask
from jrobust._tree import bind
from tests.bounds.test_optimise import weights

KEY = jax.random.key(0)
W = weights(jax.random.key(5), (2, 8, 8, 3))
SET = jr.sets.linf(0.6)(jnp.array([0.3, -0.2]))


def net(w, z):
    return jax.nn.relu(jax.nn.relu(z @ w[0]) @ w[1]) @ w[2]


def excess(w, c, z):
    return net(w, z) - c


def above(c):
    """Is the net's largest output below ``c``? Other numbers, the same program."""
    return jr.objectives.objective(bind(excess, W, jnp.asarray(c, jnp.float32)))


@pytest.fixture(scope="module")
def best():
    axes = [np.linspace(c - 0.6, c + 0.6, 401) for c in (0.3, -0.2)]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes)], axis=1).astype(np.float32)
    return float(jax.vmap(lambda z: net(W, z))(points).max())


def host(value, *, calls=None):
    def run(key, f, s):
        if calls is not None:
            calls.append(value)
        float(f.value(f.outputs(s.center)))  # concrete, or this fails
        return Bound(jnp.asarray(value), None, {"elements": jnp.full(1, value)})

    return Oracle("upper", bind(run), host=True, name=f"host {value}")


def test_each_stage_decides_what_is_hard_for_those_before(best):
    """Thresholds between the bounds of two stages: the tighter one decides."""
    ladder = jr.bounds.ladder()
    values = [best, *(float(ask(o, KEY, above(0.0), SET).value) for o in reversed(ladder.stages))]
    assert all(a < b for a, b in itertools.pairwise(values)), values
    names = ["branch-and-bound", "alpha-crown", "crown", "crown-ibp", "ibp"]
    for (low, high), name in zip(itertools.pairwise([*values, values[-1] + 1]), names, strict=True):
        verdict = jr.verify(above(0.5 * low + 0.5 * high), SET, key=KEY, lower=jr.attacks.fgsm(), budget=60)
        assert (verdict.status, verdict.decided_by) == ("verified", name)
        assert verdict.stages[int(verdict.stage)] == name
        assert low < best + 1e-4 or float(verdict.upper) < 0
    broken = jr.verify(above(best - 0.5), SET, key=KEY, budget=60)
    assert (broken.status, broken.decided_by, int(broken.stage)) == ("violated", broken.stages[0], 0)
    assert np.isinf(broken.upper)
    assert bool(SET.contains(broken.witness))


def test_the_search_brings_a_witness_and_gives_up_on_time(best):
    blind = jr.attacks.pgd(steps=1, step=0.0, start="center")
    found = jr.verify(above(best - 0.02), SET, key=KEY, lower=blind, budget=60, batch=16)
    assert (found.status, found.decided_by) == ("violated", "branch-and-bound")
    assert bool(SET.contains(found.witness))
    assert float(net(W, found.witness).max()) == pytest.approx(float(found.lower) + best - 0.02, abs=1e-5)
    without = jr.verify(above(best - 0.02), SET, key=KEY, lower=blind)
    assert (without.status, without.decided_by, int(without.stage)) == ("unknown", "open", -1)
    assert without.stages == found.stages[:-1]
    ended = jr.verify(above(best + 1e-3), SET, key=KEY, lower=blind, upper=jr.bounds.ibp(), budget=1e-9)
    assert ended.status == "unknown"
    assert float(ended.lower) <= 1e-3 <= best + float(ended.upper)


def test_stages_under_jit_and_vmap(best):
    attacks = jr.cascade(jr.attacks.fgsm(), jr.restarts(jr.attacks.pgd(steps=10), 4))
    ladder = jr.cascade(jr.bounds.ibp(), jr.bounds.crown_ibp())
    verdicts = lambda c: jr.verify(above(c), SET, key=KEY, lower=attacks, upper=ladder)  # noqa: E731
    at = jnp.array([best - 1.0, best - 0.02, best + 0.01, best + 1e3])
    many = jax.jit(jax.vmap(verdicts))(at)
    one = [verdicts(c) for c in at]
    assert many.stage.tolist() == [int(v.stage) for v in one]
    assert many.decided_by.tolist() == [v.decided_by for v in one]
    assert many.decided_by.tolist()[::3] == ["fgsm", "ibp"]
    assert many.decided_by.tolist()[2] == "open"
    np.testing.assert_allclose(many.upper, [v.upper for v in one], rtol=1e-5)
    # arrays that only the objective's closure holds are traced all the same
    hidden = lambda c: jr.objectives.objective(lambda z: net(W, z) - c)  # noqa: E731
    upper = lambda c: jr.verify(hidden(c), SET, key=KEY, lower=jr.attacks.fgsm(), upper=ladder).upper  # noqa: E731
    assert jax.grad(upper)(best + 9) == pytest.approx(-1.0)
    with pytest.raises(TypeError, match=r"cannot be traced .* let jr.evaluate"):
        jax.jit(lambda c: jr.verify(above(c), SET, key=KEY, budget=1).upper)(best)
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda c: jr.verify(above(c), SET, key=KEY, upper=jr.bounds.ladder(seconds=1)).upper)(best)
    with pytest.raises(TypeError, match=r"use \.stage"):
        jax.jit(lambda c: verdicts(c).decided_by == "ibp")(best)


def test_budgets_are_checked():
    with pytest.raises(ValueError, match="budget"):
        jr.verify(above(0.0), SET, key=KEY, budget=-1)
    with pytest.raises(ValueError, match="batch is for branch and bound"):
        jr.verify(above(0.0), SET, key=KEY, batch=8)
    with pytest.raises(ValueError, match="seconds"):
        jr.bounds.ladder(seconds=-1)


def test_stages_that_are_not_asked_do_not_run():
    """A host oracle may stand first; the others are not touched once the example is decided."""
    calls = []
    cascade = jr.cascade(host(0.5, calls=calls), host(-0.25, calls=calls), host(-1.0, calls=calls))
    bound = cascade.solve(KEY, above(0.0), SET)
    assert calls == [0.5, -0.25]
    assert (float(bound.value), int(bound.info["stage"])) == (-0.25, 1)
    never = jr.cascade(host(0.5), jr.bounds.ibp()).solve(KEY, above(0.0), SET)
    assert int(never.info["stage"]) == -1
    assert float(never.value) == 0.5


def test_one_program_a_stage_for_all_examples_and_none_for_stages_not_asked():
    traces = []

    def run(name, key, f, s):
        traces.append(name)
        value = f.value(f.outputs(s.center))
        return Bound(value, None, {"elements": value[None]})

    a, b = (Oracle("upper", bind(lambda *args, name=name: run(name, *args)), name=name) for name in "ab")
    cascade = jr.cascade(a, b)
    assert int(cascade.solve(KEY, above(1e3), SET).info["stage"]) == 0
    assert traces == ["a"]
    for c in (1e3, -1e3, -2e3):
        cascade.solve(KEY, above(c), SET)
    assert traces == ["a", "b"]


def test_evaluate_asks_the_ladder_of_what_is_open():
    x = np.random.default_rng(0).uniform(0.3, 0.7, (8, 2)).astype(np.float32)
    model = lambda x: jax.nn.relu(jax.nn.relu((4 * x - 2) @ W[0]) @ W[1]) @ W[2]  # noqa: E731
    y = np.asarray(model(x)).argmax(1)
    y[0] = (y[0] + 1) % 3
    threat, ladder = jr.sets.linf(jnp.geomspace(1e-4, 0.1, 8), clip=(0, 1)), jr.bounds.ladder(seconds=60)
    said = jr.evaluate(model, x, y, threat=threat, oracles={"ladder": ladder}, key=KEY)["ladder"]
    stage, last = said.info["stage"], len(ladder.stages) - 1
    np.testing.assert_array_equal(stage >= 0, said.holds)
    assert stage[0] == -1
    assert {0, last} <= set(stage.tolist()), stage
    searched = said.correct & ((stage == last) | (stage < 0))
    np.testing.assert_array_equal(np.isfinite(said.info["lower"]), searched)
    assert np.all((said.info["nodes"] > 0) <= searched)
    assert np.all(
        said.info["lower"][said.correct & (stage < 0)] >= 0
    )  # what is not proven has a witness: nothing is left
    i = int(np.flatnonzero(stage == 0)[0])  # one example by itself is decided at the same stage
    f = jr.objectives.classification(lambda z: model(z[None])[0], int(y[i]))
    s = jr.sets.linf(threat.eps[i], clip=(0, 1))(jnp.asarray(x[i]))
    assert int(ladder.solve(KEY, f, s).info["stage"]) == 0
