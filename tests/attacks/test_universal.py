"""Universal perturbations and placements: closed forms, what keys and order may change, placements pixel by pixel, held-out examples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust.attacks import placements
from jrobust.attacks._universal import _ascend

A = jr.attacks


@pytest.fixture(scope="module")
def linear():
    """Two classes, all examples of class 0: the best perturbation is the same for all, ``-eps * argsup(w)``."""
    w = jax.random.normal(jax.random.key(1), (6,))
    x = jax.random.uniform(jax.random.key(2), (12, 6)) * 0.2 + 0.4 + 0.1 * jnp.sign(w)
    return jax.tree_util.Partial(lambda w, x: jnp.stack([x @ w, -x @ w], 1), w), w, x, jnp.zeros(12, int)


@pytest.mark.parametrize("name", ["linf", "l2", "an eps an entry"])
def test_linear_optimum(linear, key, name):
    model, w, x, y = linear
    eps = jnp.linspace(0.0, 0.1, 6) if name == "an eps an entry" else 0.1
    threat = (jr.sets.l2 if name == "l2" else jr.sets.linf)(eps)
    found = A.uap(model, x, y, threat=threat, key=key, steps=60, batch_size=4)
    s = threat(jnp.zeros(6))
    assert bool(s.contains(found.perturbation))
    np.testing.assert_allclose(found.perturbation, s.argsup(-w), atol=2e-3)
    # the margin of every example falls by 2 eps times the dual norm of w
    before, after = (m(x) @ jnp.array([1.0, -1.0]) for m in (model, A.placed(model, found)))
    np.testing.assert_allclose(before - after, 2 * s.support(-w), rtol=1e-3)
    assert found.info == {"forwards": 240, "backwards": 240}


def test_key_order_and_compilation(linear, key):
    _, w, x, y = linear
    images = x.reshape(12, 2, 3)
    flat = jax.tree_util.Partial(
        lambda w, x: jnp.tanh(x.reshape(x.shape[0], -1) * w) @ jnp.ones((6, 2)).at[:3, 1].set(-1), w
    )
    options = {"threat": jr.sets.linf(0.05), "steps": 7, "step": 0.31}
    one = A.universal(flat, images, y, key=key, batch_size=5, **options)
    same = A.universal(flat, images, y, key=key, batch_size=5, **options)
    other = A.universal(flat, images, y, key=jax.random.key(3), batch_size=5, **options)
    np.testing.assert_array_equal(one.perturbation, same.perturbation)
    assert not np.array_equal(one.surrogate, other.surrogate)
    compiled = _ascend._cache_size()
    A.universal(jax.tree_util.Partial(flat.func, w + 1), images, y, key=key, batch_size=5, **options)
    A.universal(flat, images, y, key=key, batch_size=5, **{**options, "threat": jr.sets.linf(0.07)})
    assert _ascend._cache_size() == compiled  # new parameters and a new radius are data
    # all examples in a batch, nothing random: their order is none of its business
    order = np.random.default_rng(0).permutation(12)
    whole = A.universal(flat, images, y, key=key, batch_size=99, **options)
    turned = A.universal(flat, images[order], y[order], key=key, batch_size=99, **options)
    np.testing.assert_allclose(whole.surrogate, turned.surrogate, rtol=1e-5)
    np.testing.assert_allclose(whole.perturbation, turned.perturbation, atol=1e-6)


def test_every_example_is_seen_equally_often(key):
    """The mean of x over the batches is the gradient of a model linear in p: after whole rounds it is that over all."""
    seen = []
    jax.effects_barrier()
    place = lambda k, x, p: jax.debug.callback(lambda v: seen.append(int(v)), x[0]) or x + p  # noqa: E731
    x = jnp.arange(6.0)[:, None]
    A.universal(lambda x: jnp.concatenate([x, -x], 1), x, jnp.zeros(6, int), threat=jr.sets.linf(0.1), key=key, place=place, steps=3,
                batch_size=4)  # fmt: skip
    jax.effects_barrier()
    assert sorted(seen) == sorted([*range(6)] * 2)


def test_paste_is_exact(key):
    image, p = jax.random.uniform(key, (5, 6, 2)), jax.random.uniform(jax.random.key(1), (2, 3, 2))
    fixed = jax.jit(placements.pasted(at=(1, 2)))
    expected = image.at[1:3, 2:5].set(p)
    np.testing.assert_array_equal(fixed(key, image, p), expected)
    # the gradient of the paste is its mask
    np.testing.assert_array_equal(jax.grad(lambda p: fixed(key, image, p).sum())(p), jnp.ones_like(p))
    np.testing.assert_array_equal(
        jax.grad(lambda x: fixed(key, x, p).sum())(image), (expected == image).astype(jnp.float32)
    )
    # anywhere: exact too, at every corner that fits, and only there
    anywhere = jax.jit(jax.vmap(placements.pasted(), (0, None, None)))
    found = np.asarray(anywhere(jax.random.split(key, 200), jnp.zeros((4, 4)), jnp.ones((2, 3))))
    assert ((found == 0) | (found == 1)).all()
    assert (found.sum((1, 2)) == 6).all()
    assert {tuple(np.argwhere(f)[0]) for f in found} == {(i, j) for i in range(3) for j in range(2)}


def test_turned_scaled_lit(key):
    p = jnp.arange(1.0, 5.0).reshape(2, 2) / 4
    place = lambda **o: jax.jit(lambda: placements.pasted(at=(3, 3), **o)(key, jnp.zeros((8, 8)), p))()  # noqa: E731
    assert float(place(scale=(2.0, 2.0)).sum()) == pytest.approx(
        4 * float(p.sum()), rel=1e-5
    )  # the area, soft edges included
    assert float(place(rotation=45.0).sum()) == pytest.approx(float(p.sum()), rel=0.2)
    half = placements.disk(2) * jnp.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(place(alpha=half)[3:5, 3:5], p * half)
    dim = placements.pasted(at=(0, 0), brightness=0.2)
    light = jax.jit(jax.vmap(lambda k: dim(k, p * 0, p * 0 + 0.5)))(jax.random.split(key, 8))
    assert float(jnp.ptp(light, axis=(1, 2)).max()) < 1e-6
    assert 0.3 <= float(light.min()) < 0.45
    assert 0.55 < float(light.max()) <= 0.7


def test_views(key):
    image, nothing = jax.random.uniform(key, (5, 5, 1)), jnp.zeros((5, 5, 1))
    np.testing.assert_array_equal(jax.jit(placements.seen(placements.added()))(key, image, nothing), image)
    camera = placements.seen(placements.masked(nothing), shift=1.0, rotation=20.0, scale=(0.9, 1.1), contrast=0.2)
    view = jax.jit(lambda k, x, p: camera(k, x, p))
    np.testing.assert_array_equal(
        view(key, image, nothing + 9), view(key, image, nothing)
    )  # a mask of zeros hides anything
    flat = view(key, nothing + 0.5, nothing)
    np.testing.assert_allclose(flat, 0.5, atol=1e-6)  # no border, no change of the middle grey
    assert not np.allclose(view(jax.random.key(1), image, nothing), view(key, image, nothing))
    assert bool(jnp.isfinite(jax.grad(lambda x: view(key, x, nothing).sum())(image)).all())


def test_penalties():
    colours = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    score = placements.printability(colours, 2.0)
    p = jnp.zeros((2, 2, 3)).at[0, 0].set(jnp.array([1.0, 0.0, 0.0])).at[1, 1].set(jnp.array([0.5, 0.0, 0.0]))
    assert float(score(p)) == pytest.approx(2 * 0.25)
    flat = placements.variation()
    for penalty in (score, flat):
        assert bool(jnp.isfinite(jax.grad(penalty)(p)).all())
    assert float(flat(p * 0 + 0.3)) == 0


def test_penalty_wins_and_placement_of_an_example(linear, key):
    model, _, x, y = linear
    free = A.universal(model, x, y, threat=jr.sets.linf(0.1), key=key, steps=10, penalty=lambda p: 100 * jnp.sum(p**2))
    assert float(jnp.abs(free.perturbation).max()) < 0.02
    # the placement of an example comes from the key and itself, not from its batch
    images = jax.random.uniform(key, (6, 4, 4))
    sums = jax.tree_util.Partial(lambda w, x: x.reshape(x.shape[0], -1) @ w, jax.random.normal(key, (16, 3)))
    found = free._replace(perturbation=jnp.zeros((2, 2)), place=placements.pasted())
    answers = jax.jit(lambda x, key: A.placed(sums, found, key=key)(x))
    whole = answers(images, key)
    np.testing.assert_allclose(whole[::-1], answers(images[::-1], key), rtol=1e-5)
    assert not np.allclose(whole, answers(images, jax.random.key(1)))
    np.testing.assert_allclose(jax.jit(A.placed(lambda x: sums(x), found, key=key))(images), whole, rtol=1e-5)


@pytest.fixture(scope="module")
def digits():
    """An MLP on digits, trained for a second, and held-out examples."""
    data = jr.data.load("digits")
    x, y = jnp.asarray(data.train_x), jnp.asarray(data.train_y)

    def apply(w, x):
        return jax.nn.relu(x.reshape(x.shape[0], -1) @ w[0]) @ w[1]

    keys = jax.random.split(jax.random.key(0))
    w = (jax.random.normal(keys[0], (64, 32)) / 8, jax.random.normal(keys[1], (32, 10)) / 6)
    tx = optax.adam(1e-2)

    @jax.jit
    def train(w):
        def step(carry, _):
            loss = lambda w: optax.softmax_cross_entropy_with_integer_labels(apply(w, x), y).mean()  # noqa: E731
            update, memory = tx.update(jax.grad(loss)(carry[0]), carry[1])
            return (optax.apply_updates(carry[0], update), memory), None

        return jax.lax.scan(step, (w, tx.init(w)), None, length=100)[0][0]

    return jax.tree_util.Partial(apply, train(w)), x, y, jnp.asarray(data.test_x), np.asarray(data.test_y)


def held_out(model, found, x, y, key):
    ev = jr.evaluate(A.placed(model, found), x, y, threat=jr.sets.linf(0.0), oracles={}, key=key, batch_size=512)
    return ev["clean"].accuracy().value


def test_held_out_beats_noise(digits, key):
    model, x, y, hx, hy = digits
    found = A.uap(model, x, y, threat=jr.sets.linf(0.2), key=key, steps=100, restarts=3)
    noise = found._replace(perturbation=0.2 * jnp.sign(jax.random.normal(key, found.perturbation.shape)))
    left, noisy = held_out(model, found, hx, hy, key), held_out(model, noise, hx, hy, key)
    assert left < 0.5 < noisy - 0.1, (left, noisy)


def test_physical(digits, key):
    """Targeted: each presets' own examples of other classes become the target's more often than with a grey patch or nothing."""
    model, x, y, hx, hy = digits
    others = hy != 3
    mask = jnp.zeros((8, 8, 1)).at[:2].set(1.0)
    found = {
        "lavan": A.lavan(model, x, y, size=(3, 3), at=(0, 3), key=key, target=3, steps=100),
        "rp2": A.rp2(
            model, x, y, mask=mask, key=key, target=3, shift=0.5, brightness=0.1, colours=[[0.0], [1.0]], steps=100
        ),
    }
    for name, grey in (("lavan", 0.5), ("rp2", 0.0)):
        f = found[name]
        class_of = lambda p, f=f: A.placed(model, f._replace(perturbation=p))(hx).argmax(-1)  # noqa: E731
        classes = jax.jit(jax.vmap(class_of))(jnp.stack([jnp.full_like(f.perturbation, grey), f.perturbation]))
        before, after = (classes == 3)[:, others].mean(1)
        assert after > before + 0.1, (name, before, after)
    assert bool(((found["lavan"].perturbation >= 0) & (found["lavan"].perturbation <= 1)).all())
    assert float(jnp.abs(found["rp2"].perturbation * (1 - mask)).max()) == 0


@pytest.mark.sweep
def test_transformations_pay_off_on_unseen_ones(digits, key):
    """A patch crafted over random placements, judged at random placements, beats one crafted at one place (an expectation pays off)."""
    model, x, y, hx, hy = digits
    moving = placements.pasted(scale=(0.8, 1.2), rotation=22.5)
    eot = A.patch(model, x, y, size=(3, 3), key=key, restarts=3)
    fixed = A.lavan(model, x, y, size=(3, 3), at=(2, 2), key=key, restarts=3)._replace(place=moving)
    left = [held_out(model, f, hx, hy, key) for f in (eot, fixed)]
    assert left[0] < left[1], left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"target": 7}, "target"),
        ({"target": jnp.zeros(3, int)}, "one an example"),
        ({"threat": jr.sets.linf(0.1, clip=(0, 1))}, "leave out its clip"),
        ({"key": 0}, "typed PRNG key"),
        ({"rule": 0.1}, "optax"),
        ({"x": jnp.full((12, 6), jnp.nan)}, "not finite"),
    ],
)
def test_bad_input(linear, key, options, message):
    model, _, x, y = linear
    call = {"x": x, "y": y, "threat": jr.sets.linf(0.1), "key": key, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        A.universal(model, **call)


def test_bad_images(key):
    x, y, model = jnp.zeros((3, 4, 5)), jnp.zeros(3, int), lambda x: x[:, 0, :2]
    with pytest.raises(ValueError, match="size is"):
        A.patch(model, x, y, size=(5, 5), key=key)
    with pytest.raises(ValueError, match="images"):
        A.lavan(lambda x: x[:, :2], x[:, 0], y, size=(1, 1), at=(0, 0), key=key)
    with pytest.raises(ValueError, match="does not fit"):
        A.rp2(model, x, y, mask=jnp.ones((3, 3)), key=key)
    with pytest.raises(ValueError, match="scale"):
        placements.pasted(scale=(2.0, 1.0))


def test_images_outside_the_box(key):
    x, y = jnp.full((3, 4, 5), 2.0), jnp.zeros(3, int)
    for make in (partial(A.uap, threat=jr.sets.linf(0.1)), partial(A.patch, size=(2, 2))):
        with pytest.raises(ValueError, match="above the box"):
            make(lambda x: x[:, 0, :2], x, y, key=key)
