"""Attacks at the edges of what they are given: ranks, clips, precision, budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust._objective import is_anchored
from jrobust._tree import bind
from jrobust.attacks._state import wrong_class
from jrobust.sets._sparse import budget


def two(z):
    return jnp.stack([z.sum(), 1.2 + 0 * z.sum()])


def test_a_rank_beyond_the_classes_is_refused_or_the_last(key):
    logits = jnp.array([1.0, 2.0, 3.0])
    assert [int(wrong_class(logits, 2, rank)) for rank in (1, 2)] == [1, 0]
    traced = jax.jit(lambda rank: wrong_class(logits, 2, rank))
    assert [int(traced(rank)) for rank in (0, 1, 2, 3, 7)] == [1, 1, 0, 0, 0]
    f, x = jr.objectives.classification(two, 0), jnp.full(4, 0.6)
    for rank in (0, 2, np.int32(2), jnp.asarray(2)):
        with pytest.raises(ValueError, match=r"rank must lie in 1\.\.1"):
            jax.eval_shape(lambda rank=rank: jr.attacks.apgd(rank=rank).solve(key, f, jr.sets.linf(0.1)(x)).value)


def test_what_is_not_finite_lies_at_no_distance(key):
    # at the example the slope is NaN
    f = jr.objectives.objective(lambda z: jnp.atleast_1d(jnp.sqrt(jnp.maximum(z[0] - 0.5, 0.0)) - 0.5))
    x, threat = jnp.array([0.5, 0.2, 0.3]), jr.sets.l0(0.0, clip=(0, 1))
    for bad in (jnp.nan, jnp.inf):
        assert np.isposinf(threat(x).distance(x.at[1].set(bad)))
    found = jax.jit(jr.attacks.sigma_zero(steps=5).solve)(key, f, threat, x)
    assert np.isposinf(found.value)
    assert np.all(np.isfinite(found.witness))


@pytest.mark.parametrize("name", ["square", "sparse_rs"])
def test_a_surrogate_at_the_clean_example_takes_one_of_the_queries(name, key):
    attack, s = getattr(jr.attacks, name), jr.sets.l0(0.0, clip=(0, 1))(jnp.full(4, 0.6))
    f = jr.objectives.classification(two, 0)
    solve = jax.jit(lambda attack: attack.solve(key, f, s).info["forwards"])
    assert solve(attack(queries=5, surrogate=jr.objectives.kl)) == 5
    with pytest.raises(ValueError, match=r"queries must be >= 2.*got 1"):
        solve(attack(queries=1, surrogate=jr.objectives.kl))


def test_one_pixel_counts_a_population_a_generation(key):
    s, f = jr.sets.l0(0.0, clip=(0, 1))(jnp.full(4, 0.6)), jr.objectives.classification(two, 0)
    attack = jr.attacks.one_pixel(population=4, steps=3, surrogate=jr.objectives.kl)
    assert jax.jit(attack.solve)(key, f, s).info["forwards"] == 1 + 3 * 4


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_single_precision_inputs_stay_single_where_double_is_on(kind, key):
    with jax.enable_x64(True):
        x = jnp.full(4, 0.6, jnp.float32)
        s = getattr(jr.sets, kind)(0.5)(x)  # no clip: its infinities are of no type
        w = jnp.asarray(np.eye(4, 3), jnp.float32)
        bound = jax.jit(jr.attacks.pgd(steps=3).solve)(key, jr.objectives.classification(lambda z: z @ w, 0), s)
        assert (bound.witness.dtype, bound.value.dtype) == (jnp.float32, jnp.float32)
        assert bool(s.contains(bound.witness))
        assert float(bound.value) > 0


DECIDING = {
    "hop_skip_jump": jr.attacks.hop_skip_jump(queries=300),
    "boundary": jr.attacks.boundary(queries=300, sideways=0.1, towards=0.02),
    "geoda": jr.attacks.geoda(queries=300),
    "sign_opt": jr.attacks.sign_opt(queries=300, starts=5, samples=10),
}


# all share the noise; HopSkipJump looks at the clip's width too
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "hop_skip_jump" else [pytest.mark.sweep]) for name in DECIDING]
)
def test_clips_without_an_end_and_without_room(name, key):
    f = jr.objectives.classification(two, 0)
    solve = jax.jit(lambda clip: DECIDING[name].solve(key, f, jr.sets.l2(0.0, clip=clip), jnp.full(4, 0.5)))
    zero, one = jnp.zeros(4), jnp.ones(4)
    held = zero.at[3].set(0.5), one.at[3].set(0.5)  # the last entry may not move
    for clip, best in (((zero, one * jnp.inf), 0.4), ((-one * jnp.inf, one), 0.4), (held, 0.8 / 3**0.5)):
        found = solve(clip)
        assert best * (1 - 1e-4) <= found.value <= 1.25 * best
        assert np.all((found.witness >= clip[0]) & (found.witness <= clip[1]))


@pytest.mark.parametrize(("kind", "share"), [("l2", 0.1), ("linf", 0.2)])
def test_bandits_step_as_the_authors_do(kind, share, key):
    s = getattr(jr.sets, kind)(0.5)(jnp.zeros(4))
    f = jr.objectives.objective(lambda z: jnp.sum(z, keepdims=True) - 9.0)
    found = jax.jit(jr.attacks.bandits(queries=4).solve)(key, f, s)  # two looks, and a pair between
    np.testing.assert_allclose(s.distance(found.witness), share * 0.5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_refused_in_words(dtype, key):
    x, f = jnp.full(4, 0.6, dtype), jr.objectives.classification(lambda z: two(z.astype(jnp.float32)), 0)
    a, s = jr.attacks, jr.sets.l2(0.1, clip=(0, 1))(x)
    oracles = a.nes(), a.spsa(), a.bandits(), a.simba(), a.square(), a.within(a.alma())
    for attack in oracles:
        with pytest.raises(TypeError, match=r"float32 or float64, got .*float16; cast them"):
            jax.eval_shape(lambda attack=attack: attack.solve(key, f, s).value)
    for attack in (a.fmn(), a.pdpgd(), a.carlini_wagner(), a.alma(), a.lbfgs()):
        with pytest.raises(TypeError, match=r"float32 or float64, got .*float16; cast them"):
            jax.eval_shape(lambda attack=attack: attack.solve(key, f, jr.sets.l2(0.1), x).value)


def test_what_does_not_fit_is_named(key):
    f, x = jr.objectives.classification(two, 0), jnp.full(4, 0.6)
    with pytest.raises(TypeError, match="got None for the threat"):
        jr.attacks.fmn().solve(key, f, None, x)
    with pytest.raises(ValueError, match="is infinite, such as"):
        jr.sets.l2(0.1, clip=(None, 1))
    with pytest.raises(ValueError, match="nes-1: queries must be >= 2"):
        jr.attacks.nes(queries=1, surrogate=jr.objectives.kl).solve(key, f, jr.sets.linf(0.1)(x))
    with pytest.raises(TypeError, match="nes, spsa, bandits, simba, sparse_rs and one_pixel do"):
        jr.attacks.fgsm(surrogate=jr.objectives.kl).solve(key, f, jr.sets.linf(0.1)(x))


def test_marking_a_surrogate_leaves_it_as_it_is():
    marked = jr.objectives.anchored(jr.objectives.ce)
    assert is_anchored(marked)
    assert not is_anchored(jr.objectives.ce)
    assert is_anchored(jr.objectives.anchored(bind(lambda f, logits: logits[0])))
    assert (jr.objectives.kl.__name__, is_anchored(jr.objectives.kl)) == ("kl", True)


def test_a_count_is_rounded_down_but_for_rounding():
    counts = [3.0, 30 * np.float32(0.1), 2.9, 2e6, 2.0**24]
    s = jr.sets.l0(0.0, clip=(0, 1))(jnp.zeros(4))
    assert [int(budget(s.resize(jnp.asarray(eps, jnp.float32)))) for eps in counts] == [3, 3, 2, 2_000_000, 2**24]


def test_tables_name_an_attack_as_its_function():
    for name in ("sigma_zero", "one_pixel", "sparse_rs", "hop_skip_jump", "frank_wolfe", "vmi_fgsm", "carlini_wagner"):
        assert getattr(jr.attacks, name)().name.split("-")[0] == name
