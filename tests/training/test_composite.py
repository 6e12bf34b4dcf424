"""GAT: its witnesses are those of a linear model's closed form, in an order that is drawn; its two forms are their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import training
from tests.training.nets import blobs, dense, dense_params

T = jr.transforms
X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
LINF = jr.sets.linf(0.1, clip=(0, 1))


def climbed(sign):
    """A loss that is ``<sign, x>``."""
    linear = lambda p, rest, x, *, train: (jnp.tensordot(x, sign, 3)[:, None], rest)  # noqa: E731
    return jr.Loss(jax.tree_util.Partial(linear), jax.tree_util.Partial(lambda out, y: out[:, 0]))


def crafted(loss, *changes, key=0, x=X, **options):
    return training.gat(loss, *changes, **options).craft(None, None, x, Y[: len(x)], key=jax.random.key(key))


def test_every_change_goes_to_its_own_end_and_the_strengths_add_up():
    sign = jnp.where(jax.random.normal(jax.random.key(0), (4, 4, 1)) + 0.5 > 0, 1.0, -1.0)
    assert float(jnp.sum(sign)) > 0
    x = jnp.full_like(X, 0.5)
    for key in range(3):
        z = crafted(climbed(sign), T.brightness((-0.2, 0.2)), LINF, x=x, key=key)
        np.testing.assert_allclose(z, 0.5 + 0.2 + 0.1 * sign[None] * jnp.ones_like(x), atol=1e-6)


def test_the_order_is_drawn_and_changes_the_image():
    up = climbed(jnp.ones((4, 4, 1)))
    found = {
        round(
            float(
                crafted(up, T.contrast((0.8, 1.2)), T.brightness((-0.1, 0.1)), x=jnp.full((1, 4, 4, 1), 0.5), key=k)[
                    0, 0, 0, 0
                ]
            ),
            4,
        )
        for k in range(12)
    }
    assert found == {0.7, 0.72}  # 0.5 * 1.2 + 0.1, and (0.5 + 0.1) * 1.2


def test_a_set_alone_is_projected_ascent_from_the_image_itself():
    params = dense_params()
    for ball in (LINF, jr.sets.l2(0.3, clip=(0, 1))):
        ascent = jr.attacks.pgd(steps=4, start="center", keep="last")
        args, key = (params, None, X, Y), jax.random.key(0)
        expected = jr.worst_case(LOSS, ball, ascent).craft(*args, key=key)
        np.testing.assert_allclose(training.gat(LOSS, ball, attack=4).craft(*args, key=key), expected, atol=1e-6)


def test_both_forms_are_their_formulas():
    args, how = (dense_params(), None, X, Y), {"key": jax.random.key(0), "train": True}
    changes = T.rotation(10.0), T.contrast(), LINF
    z = training.gat(LOSS, *changes).craft(*args, key=how["key"])
    assert float(jnp.max(jnp.abs(z - X))) > 0.1
    a, b = (dense(dense_params(), None, v, train=True)[0] for v in (X, z))
    p, q = jax.nn.softmax(a), jax.nn.softmax(b)
    kl = jnp.sum(p * jnp.log(p / q), -1)
    np.testing.assert_allclose(training.gat(LOSS, *changes)(*args, **how)[0], LOSS.reduce(b, Y), rtol=1e-5)
    trades = training.gat(LOSS, *changes, beta=6.0)(*args, **how)[0]
    np.testing.assert_allclose(trades, LOSS.reduce(a, Y) + 6 * kl, rtol=1e-4, atol=1e-5)
    assert bool(jnp.all(LOSS.reduce(b, Y) > LOSS.reduce(a, Y)))


def test_all_six_of_a_colour_image():
    x = jax.random.uniform(jax.random.key(0), (3, 4, 4, 3))
    changes = (
        T.hue(),
        T.saturation(),
        T.rotation(10.0),
        T.brightness(),
        T.contrast(),
        jr.sets.linf(8 / 255, clip=(0, 1)),
    )
    weights = jax.random.normal(jax.random.key(1), (4, 4, 3))
    z = crafted(climbed(weights), *changes, x=x, attack=3)
    score = lambda v: jnp.tensordot(v, weights, 3)  # noqa: E731
    assert bool(jnp.all(score(z) > score(x)))
    assert 0 <= float(z.min()) <= float(z.max()) <= 1


def test_what_it_refuses():
    with pytest.raises(ValueError, match="at least one change"):
        training.gat(LOSS)
    with pytest.raises(TypeError, match=r"got str|Expected type"):
        training.gat(LOSS, "hue")
    with pytest.raises(ValueError, match="beta is None or a number >= 0, got -1"):
        training.gat(LOSS, LINF, beta=-1)
    with pytest.raises(ValueError, match="attack must be an int"):
        training.gat(LOSS, LINF, attack=0)
