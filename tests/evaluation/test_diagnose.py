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
