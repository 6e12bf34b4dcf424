"""Transfer attacks: crafted on one model, judged by another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr

RNG = np.random.default_rng(0)
W = RNG.normal(size=(12, 4)).astype(np.float32)
CLOSE, FAR = W + 0.3 * RNG.normal(size=W.shape).astype(np.float32), RNG.normal(size=W.shape).astype(np.float32)
X = RNG.uniform(0.2, 0.8, (40, 12)).astype(np.float32)
Y = np.argmax(X @ W, 1)


def linear(w):
    return jax.tree_util.Partial(lambda w, x: x @ w, jnp.asarray(w))


def test_near_surrogates_carry_further_than_far_ones_and_none_further_than_the_model():
    pgd = jr.attacks.pgd(steps=10, start="center")
    oracles = {
        "itself": pgd,
        "same": jr.attacks.transfer(pgd, linear(W)),
        "close": jr.attacks.transfer(pgd, linear(CLOSE)),
        "both": jr.attacks.transfer(pgd, linear(CLOSE), linear(FAR), weights=[1.0, 0.0]),
        "far": jr.attacks.transfer(pgd, linear(FAR)),
    }
    threat = jr.sets.linf(0.2, clip=(0, 1))
    ev = jr.evaluate(linear(W), X, Y, threat=threat, oracles=oracles, key=jax.random.key(0))
    left = {name: ev[name].holds.mean() for name in oracles}
    assert left["itself"] <= left["close"] < left["far"]
    np.testing.assert_array_equal(ev["same"].holds, ev["itself"].holds)
    np.testing.assert_array_equal(ev["both"].holds, ev["close"].holds)  # the far one has no weight
    assert not any(r.rejected for _, r in ev.items())
    assert np.all(ev["close"].info["forwards"] == 1)
    assert np.all(ev["close"].info["surrogate_backwards"] == 10)


def test_what_is_refused():
    with pytest.raises(ValueError, match="at least one surrogate"):
        jr.attacks.transfer(jr.attacks.fgsm())
    with pytest.raises(ValueError, match="weights must be"):
        jr.attacks.transfer(jr.attacks.fgsm(), linear(W), weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="not all 0"):
        jr.attacks.transfer(jr.attacks.fgsm(), linear(W), weights=[0.0])
    with pytest.raises(ValueError, match="side"):
        jr.attacks.transfer(jr.bounds.ibp(), linear(W))
