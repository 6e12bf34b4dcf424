"""Every sign of `diagnose` shows on a model made to show it, and none on a sound one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.evaluation import diagnose

W = jax.random.normal(jax.random.key(5), (6, 5))
X = jax.random.uniform(jax.random.key(6), (12, 6))
Y = jnp.argmax(X @ W, axis=1)
THREAT = jr.sets.linf(0.05, clip=(0, 1))


def test_a_sound_model_shows_nothing(key):
    found = diagnose(lambda x: x @ W, X, Y, threat=THREAT, key=key)
    assert found.warnings == ()
    assert not found.masked
    assert found.monotone == 1.0
    assert (found.black_box_gain, found.random_gain, found.unbounded) == (0.0, 0.0, 0.0)
    assert set(found.zero_gradient.values()) == {0.0}


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (lambda x: jax.nn.softmax(x @ W), "probabilities"),
        (lambda x: jnp.round(4 * (x @ W)) + 1e-3 * jnp.arange(5), "gradient of ce is zero on 100%"),
        (lambda x: (x @ W).at[0, 0].set(jnp.nan), "NaN"),
    ],
)
def test_signs_show(model, word, key):
    found = diagnose(model, X, jnp.argmax(jnp.nan_to_num(model(X)), axis=1), threat=THREAT, key=key)
    assert any(word in line for line in found.warnings), found


def test_a_random_model_drifts(key):
    rng = np.random.default_rng(0)
    found = diagnose(lambda x: x @ W + rng.normal(), X, Y, threat=THREAT, key=key)
    assert found.random
    assert found.drift > 1e-4


def test_what_square_gains_is_read_off_the_stages(key):
    # a staircase: gradients are zero, queries are not
    model = lambda x: jnp.round(8 * (x @ W)) / 8  # noqa: E731
    y = jnp.argmax(model(X), axis=1)
    attack = jr.cascade(jr.attacks.apgd(steps=5), jr.attacks.square(queries=200))
    ev = jr.evaluate(model, X, y, threat=jr.sets.linf(0.2, clip=(0, 1)), oracles={"a": attack}, key=key)
    found = diagnose(model, X, y, threat=THREAT, key=key, gradient_stages=1, result=ev["a"])
    assert found.black_box_gain > 0
    assert found.masked


@jax.custom_jvp
def backwards(x):
    return x


@backwards.defjvp
def _backwards_jvp(primals, tangents):
    return primals[0], -tangents[0]


BIG = jr.sets.linf(0.3, clip=(0, 1))
DISEASED = {
    "inputs in steps": lambda x: (jnp.round(4 * x) / 4) @ W,
    "gradient that points the wrong way": lambda x: backwards(x) @ W,
    "saturated": lambda x: jnp.clip(1e6 * (x @ W), -1e4, 1e4),
}


@pytest.mark.parametrize(
    ("disease", "signs"),
    [
        ("inputs in steps", {"zero", "black_box_gain", "random_gain"}),
        ("gradient that points the wrong way", {"monotone", "black_box_gain", "random_gain", "unbounded"}),
        ("saturated", {"zero"}),
    ],
)
def test_each_disease_shows_its_signs(disease, signs, key):
    model = DISEASED[disease]
    y = jnp.argmax(model(X) + 1e-3 * (X @ W), axis=1)
    found = diagnose(model, X, y, threat=BIG, key=key)
    seen = {name for name in ("black_box_gain", "random_gain", "unbounded") if getattr(found, name) > 0.002}
    seen |= {"monotone"} if found.monotone < 0.9 else set()
    seen |= {"zero"} if max(found.zero_gradient.values()) > 0.9 else set()
    assert signs <= seen, found
    assert found.masked
    assert len(found.warnings) >= len(signs)


def test_a_sound_model_shows_nothing_at_a_large_radius(key):
    found = diagnose(lambda x: x @ W, X, Y, threat=BIG, key=key)
    assert not found.masked, found


def test_gradients_that_are_not_finite_count_as_zero(key):
    model = lambda x: jnp.sqrt(jnp.abs(x @ W) * 0.0) + jax.lax.stop_gradient(x @ W)  # noqa: E731
    found = diagnose(model, X, Y, threat=THREAT, key=key)
    assert found.zero_gradient["ce"] == 1.0


def test_queries_may_be_left_out(key):
    assert np.isnan(diagnose(lambda x: x @ W, X, Y, threat=THREAT, key=key, queries=0).black_box_gain)
    threat = jr.sets.product(THREAT, THREAT)
    found = diagnose(lambda x: (x[0] + x[1]) @ W, (X / 2, X / 2), Y, threat=threat, key=key)
    assert np.isnan(found.black_box_gain)
    assert found.random_gain == 0.0


def test_labels_off_by_one_are_told(key):
    x = jax.random.uniform(jax.random.key(7), (40, 6))
    y = jnp.argmax(x @ W, axis=1)
    found = diagnose(lambda x: x @ W, x, (y + 1) % 5, threat=THREAT, key=key, queries=0)
    assert (found.clean.value, found.chance) == (0.0, 0.2)
    assert sum("no better than chance (0.2): labels (off by one?" in line for line in found.warnings) == 1
    assert not found.masked
    right = diagnose(lambda x: x @ W, x, y, threat=THREAT, key=key, queries=0)
    assert right.clean.value == 1.0
    assert right.warnings == ()
    # of few examples the interval is wide: 12 wrong ones are no evidence against one in five
    few = diagnose(lambda x: x @ W, x[:12], (y[:12] + 1) % 5, threat=THREAT, key=key, queries=0)
    assert few.clean.value == 0.0
    assert few.warnings == ()


def test_half_a_question_is_refused(key):
    with pytest.raises(ValueError, match="together"):
        diagnose(lambda x: x @ W, X, Y, threat=THREAT, key=key, gradient_stages=1)
    with pytest.raises(ValueError, match="queries must be an int >= 0"):
        diagnose(lambda x: x @ W, X, Y, threat=THREAT, key=key, queries=-1)
