"""A substitute that learns from labels alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust.training import substitute

W = jax.random.normal(jax.random.key(0), (2, 8, 16)), jax.random.normal(jax.random.key(1), (16, 3))


def asked(x):
    """The model in question: not linear, and seen by its labels alone."""
    return jnp.tanh(3 * (x - 0.5) @ W[0][0]) @ W[1]


def label(x):
    return jnp.argmax(asked(x), -1)


def apply(params, rest, x, *, train):
    del train
    return jnp.tanh((x - 0.5) @ params[0]) @ params[1], rest


PARAMS = 0.3 * jax.random.normal(jax.random.key(2), (8, 32)), 0.3 * jax.random.normal(jax.random.key(3), (32, 3))
SEEDS, HELD_OUT = jax.random.uniform(jax.random.key(4), (464, 8))[:64], jax.random.uniform(jax.random.key(5), (400, 8))


def learn(x=SEEDS, rest=None, **options):
    options = {"epochs": 20, "tx": optax.adam(0.01), "key": jax.random.key(0)} | options
    return substitute(options.pop("label", label), apply, PARAMS, rest, x, **options)


def test_more_rounds_agree_more_and_attacks_carry_over():
    found = {rounds: learn(rounds=rounds) for rounds in (1, 5)}
    agree = {rounds: np.mean(s.model(HELD_OUT).argmax(-1) == label(HELD_OUT)) for rounds, s in found.items()}
    assert agree[5] > max(agree[1] + 0.04, 0.8)
    last = found[5]
    assert last.queries == 64 * 16 == len(last.x) == len(last.y)
    np.testing.assert_array_equal(last.y, label(last.x))
    # each input but the seeds lies one step from the one it came from, inside the box
    moved = np.abs(last.x[64:128] - last.x[:64])
    assert 0 <= last.x.min() <= last.x.max() <= 1
    assert 0.09 < np.median(moved) <= moved.max() <= 0.1 + 1e-6
    y = np.asarray(label(HELD_OUT))
    pgd = jr.attacks.pgd(steps=10)
    untrained = jr.attacks.transfer(pgd, lambda x: apply(PARAMS, None, x, train=False)[0])
    oracles = {"learned": jr.attacks.transfer(pgd, last.model), "untrained": untrained}
    threat = jr.sets.linf(0.1, clip=(0, 1))
    ev = jr.evaluate(asked, HELD_OUT, y, threat=threat, oracles=oracles, key=jax.random.key(1))
    left = {name: float(ev[name].holds.mean()) for name in oracles}
    assert left["learned"] < left["untrained"] - 0.2


def test_new_inputs_have_a_limit_and_steps_a_period():
    options = {"rounds": 3, "most": 10, "epochs": 1, "box": None}
    straight, turned = learn(**options), learn(period=1, **options)
    assert straight.queries == turned.queries == 64 + 2 * 10
    np.testing.assert_array_equal(straight.x[:74], turned.x[:74])
    np.testing.assert_allclose(np.abs(straight.x[74:] - turned.x[74:]), 0.2, atol=1e-6)  # to either side of one input


def test_what_is_refused():
    with pytest.raises(ValueError, match="rounds must be an int >= 1"):
        learn(rounds=0)
    with pytest.raises(ValueError, match="is above the box"):
        learn(SEEDS + 1)
    with pytest.raises(ValueError, match=r"3 classes, but was told of labels 0\.\.3"):
        learn(label=lambda x: np.arange(len(x)) % 4)
