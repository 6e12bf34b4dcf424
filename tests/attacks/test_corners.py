"""Attacks at the edges of what they are given: ranks, clips, precision, budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.attacks._state import wrong_class


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
