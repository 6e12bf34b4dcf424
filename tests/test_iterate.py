"""The one driver of iterative attacks: pieces, early stop, traces, counted passes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust._combinators import iterations

_W = jax.random.normal(jax.random.key(3), (5, 8))
_X = jax.random.uniform(jax.random.key(4), (8,))
F = jr.objectives.classification(lambda z: jnp.tanh(_W @ z), jnp.argmax(jnp.tanh(_W @ _X)))
S = jr.sets.linf(0.2, clip=(0, 1))(_X)


@pytest.mark.parametrize("early_stop", [False, True])
def test_pieces_do_not_change_the_answer(early_stop, key):
    oracle = jr.attacks.pgd(steps=12, early_stop=early_stop)
    (iteration,) = oracle.stages
    progress = iteration.start(key, F, S)
    for steps in (1, 4, 2, 50):
        progress = iteration.advance(progress, F, S, steps=steps)
    pieces, whole = iteration.finish(progress, F, S), jax.jit(oracle.solve)(key, F, S)
    np.testing.assert_allclose(pieces.value, whole.value, rtol=1e-5)
    np.testing.assert_allclose(pieces.witness, whole.witness, atol=1e-5)
    assert int(pieces.info["backwards"]) == int(whole.info["backwards"])


def test_early_stop_stops_each_example_by_itself(key):
    oracle = jr.attacks.pgd(steps=50, early_stop=True, start="center")
    eps = jnp.array([0.0, 0.8])
    bounds = jax.jit(jax.vmap(lambda e: oracle.solve(key, F, jr.sets.linf(e)(_X))))(eps)
    steps = np.asarray(bounds.info["backwards"])
    assert steps[0] == 50  # nothing to be found in a point
    assert steps[1] < 50
    assert bool(bounds.value[1] >= 0)
    alone = jax.jit(oracle.solve)(key, F, jr.sets.linf(0.8)(_X))
    assert int(alone.info["backwards"]) == steps[1]


def test_passes_are_counted():
    bound = jr.restarts(jr.attacks.pgd(steps=7), 3).solve(jax.random.key(0), F, S)
    assert (int(bound.info["forwards"]), int(bound.info["backwards"])) == (3 * 8, 3 * 7)


def test_trace_records_each_step(key):
    trace = jr.attacks.pgd(steps=6, trace=True).solve(key, F, S).info["trace"]
    assert trace["value"].shape == trace["surrogate"].shape == (6,)
    assert trace["surrogate"][-1] > trace["surrogate"][0]


def test_best_so_far_is_never_worse_than_the_last(key):
    wild = optax.sgd(5.0)
    best = jr.attacks.pgd(steps=9, rule=wild).solve(key, F, S)
    last = jr.attacks.pgd(steps=9, rule=wild, keep="last").solve(key, F, S)
    assert float(best.value) >= float(last.value)


def test_given_starts(key):
    start = _X + 0.1
    at = jr.attacks.pgd(steps=1, step=0.0, start=start).solve(key, F, S)
    np.testing.assert_allclose(at.witness, S.project(start), atol=1e-6)
    noisy = jr.attacks.pgd(
        steps=1, step=0.0, start=lambda k, s: s.center + 0.001 * jax.random.normal(k, s.center.shape)
    )
    np.testing.assert_allclose(noisy.solve(key, F, S).witness, _X, atol=0.01)


def test_targeted_success_is_the_target(key):
    target = (F.label + 1) % 5
    f = jr.objectives.classification(lambda z: jnp.tanh(_W @ z), F.label, target=target)
    s = jr.sets.linf(2.0)(_X)
    for surrogate in (None, jr.objectives.dlr, jr.objectives.logit_difference):
        bound = jr.attacks.pgd(steps=60, surrogate=surrogate, start="center").solve(key, f, s)
        if float(bound.value) > 0:
            assert int(jnp.argmax(f.outputs(bound.witness))) == int(target)
    assert float(bound.value) > 0


def test_equal_factories_share_one_compiled_program(key):
    count = 0

    @jax.jit
    def solve(oracle, threat):
        nonlocal count
        count += 1
        return oracle.solve(key, F, threat(_X)).value

    for step, eps in ((0.01, 0.1), (0.02, 0.1), (0.02, 0.3)):
        solve(jr.attacks.pgd(steps=5, step=step), jr.sets.linf(eps, clip=(0.0, 1.0)))
    assert count == 1
    solve(jr.attacks.pgd(steps=6, step=0.1), jr.sets.linf(0.1, clip=(0.0, 1.0)))
    assert count == 2


def test_attack_is_differentiable_through_its_steps(key):
    def worst(scale):
        f = jr.objectives.classification(lambda z: scale * jnp.tanh(_W @ z), F.label)
        return jr.attacks.pgd(steps=3).solve(key, f, S).value

    assert np.isfinite(jax.grad(worst)(1.0))


def test_float64_agrees_with_float32(key):
    threat = jr.sets.l2(0.3, clip=(0.0, 1.0))
    low = jr.attacks.fgsm(surrogate=jr.objectives.largest).solve(key, F, threat(_X)).value
    with jax.enable_x64(True):
        w, x = np.asarray(_W, np.float64), np.asarray(_X, np.float64)
        f = jr.objectives.classification(lambda z: jnp.tanh(w @ z), int(F.label))
        high = jr.attacks.fgsm(surrogate=jr.objectives.largest).solve(key, f, threat(x)).value
        assert high.dtype == jnp.float64
    np.testing.assert_allclose(low, high, rtol=1e-4)


def test_iterations_are_found_however_deep():
    deep = jr.mix(jr.restarts(jr.attacks.pgd(steps=3), 2), jr.bounds.ibp(), 0.5)
    assert {it.steps for it in iterations(deep, "linf")} == {3}


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: jr.attacks.pgd(steps=0), "steps"),
        (lambda: jr.attacks.pgd(steps=2.5), "steps"),  # pyright: ignore
        (lambda: jr.attacks.pgd(start="middle"), "start"),
        (lambda: jr.attacks.pgd(keep="first"), "keep"),  # pyright: ignore
        (lambda: jr.attacks.pgd(early_stop=True, keep="last"), "early_stop"),
        (lambda: jr.attacks.pgd(early_stop=True, trace=True), "trace"),
        (lambda: jr.restarts(jr.attacks.fgsm(), 0), "n must be"),
        (lambda: jr.shrink(jr.attacks.fgsm(), 1.5), "factor"),
        (lambda: jr.critical_radius(jr.attacks.fgsm(), upper=0.0), "upper"),
        (lambda: jr.Oracle("sideways", print), "sideways"),  # pyright: ignore
    ],
)
def test_bad_arguments_are_one_clear_error(make, word):
    with pytest.raises((ValueError, TypeError), match=word):
        make()


def test_dlr_needs_four_classes(key):
    f = jr.objectives.classification(lambda z: z[:3], 0)
    with pytest.raises(ValueError, match="at least 4 classes, the model has 3"):
        jr.attacks.pgd(steps=2, surrogate=jr.objectives.dlr).solve(key, f, S)
