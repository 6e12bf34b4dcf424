"""LAS-AT: attacks by choice, and a strategy that learns by REINFORCE."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training
from jrobust.training._las_at import Choice, chosen_attack
from tests.training.nets import blobs, dense, dense_params

EPS = 0.1
THREAT = jr.sets.linf(EPS, clip=(0, 1))
X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
KEY = jax.random.key(0)


def linear(params, rest, x, *, train):
    del train
    return x.reshape(x.shape[0], -1) @ params, rest


def trained(steps):
    """Parameters after so many steps of descent: 10 leave a few examples robust, 60 all of them."""
    slope = jax.jit(jax.grad(lambda p: jnp.mean(LOSS(p, None, X, Y)[0])))
    params = dense_params()
    for _ in range(steps):
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, slope(params))
    return params


def seen(params, rest, x, *, train):
    """A net that counts its batches in training mode."""
    return linear(params, None, x, train=train)[0], rest + train


@pytest.mark.parametrize("threat", [THREAT, jr.sets.linf(EPS), jr.sets.l2(0.5)])
def test_each_example_has_its_own_radius_steps_and_step(threat):
    w = jax.random.normal(jax.random.key(2), (16, 2))
    loss = jr.Loss(linear, lambda out, y: out[:, 0] - out[:, 1])
    choice = Choice(
        *(jnp.asarray(v, jnp.float32) for v in zip(*[(0.5, 3, 1.0), (1.5, 2, 0.1), (2.0, 5, 0.25), (1, 0, 1)]))
    )
    x = X[:4]
    z = jax.jit(chosen_attack(loss, threat, most=5))(w, None, x, Y[:4], choice, key=KEY)
    slope = (w[:, 0] - w[:, 1]).reshape(4, 4, 1)
    unit = jnp.sign(slope) if threat.name == "linf" else slope / jnp.linalg.norm(slope)
    for i, (radius, steps, step) in enumerate(zip(*choice)):
        own = threat.family(radius * threat.eps)(x[i])
        expected = own.project(threat(x[i]).sample(jax.random.fold_in(KEY, i)))
        for _ in range(int(steps)):
            expected = own.project(expected + step * threat.eps * unit)
        np.testing.assert_allclose(z[i], expected, atol=1e-5)
    assert float(jnp.max(jnp.abs(z[2] - x[2]))) > 1.2 * float(jnp.max(jnp.abs(z[0] - x[0])))


def test_the_reward_and_the_gradient_of_the_strategy_are_the_formula():
    """One choice a head but for the radius, so that what is drawn can be told from the mean."""
    tx, judge = optax.sgd(1.0), jr.attacks.fgsm()
    choices = {"radii": (1.0, 3.0), "counts": (2,), "lengths": (0.75,)}
    net = (seen, 0.1 * jax.random.normal(KEY, (16, 4)), jnp.zeros(()))
    robust = training.las_at(
        LOSS, THREAT, net, interval=2, ahead=0.05, weights=(3.0, 5.0, 7.0), judge=judge, tx=tx, smoothing=0.4, **choices
    )
    params, how = trained(10), {"key": jax.random.key(7), "train": True}
    *_, memory = robust.loss(params, None, X, Y, memory=robust.start, **how)
    np.testing.assert_array_equal(memory.params, net[1])  # not yet
    assert float(memory.reward) == 0.0
    *_, after = robust.loss(params, None, X, Y, memory=memory, **how)
    assert (int(after.batches), float(after.rest), float(memory.rest)) == (2, 1.0, 0.0)

    learning = jax.random.split(how["key"], 3)[0]
    for_choice, for_attack, for_judge = jax.random.split(learning, 3)
    parts = jnp.split(linear(net[1], None, X, train=True)[0], [2, 3], axis=1)
    heads = zip(parts, ((1.0, 3.0), (2.0,), (0.75,)), strict=True)
    picked, drawn = [], []
    for h, (part, values) in enumerate(heads):
        keys = [jax.random.fold_in(jax.random.fold_in(for_choice, i), h) for i in range(8)]
        picked.append(jnp.stack([jax.random.categorical(k, p) for k, p in zip(keys, jax.nn.log_softmax(part))]))
        drawn.append(jnp.asarray(values)[picked[-1]])
    assert len(set(picked[0].tolist())) == 2
    z = chosen_attack(LOSS, THREAT, most=2)(params, None, X, Y, Choice(*drawn), key=for_attack)
    soft = 0.6 * jax.nn.one_hot(Y, 4) + 0.4 / 3 * (1 - jax.nn.one_hot(Y, 4))
    spread = lambda p: optax.softmax_cross_entropy(dense(p, None, z, train=True)[0], soft)  # noqa: E731
    slope = jax.grad(lambda p: jnp.mean(spread(p)))(params)
    copy = jax.tree.map(lambda p, g: p - 0.05 * g, params, slope)
    worst = jr.worst_case(LOSS, THREAT, judge).craft(copy, None, X, Y, key=for_judge)
    right = lambda v: float(jnp.mean(jnp.argmax(dense(copy, None, v, train=True)[0], -1) == Y))  # noqa: E731
    reward = 3 * float(jnp.mean(LOSS(params, None, z, Y)[0])) + 5 * right(worst) + 7 * right(X)
    assert 0 < right(worst) < right(X)
    assert float(after.reward) == pytest.approx(reward, rel=1e-4)
    chance = jax.nn.softmax(parts[0])  # of a head with one choice the gradient is nothing
    by_logits = reward / 8 * (jax.nn.one_hot(picked[0], 2) - chance)
    expected = net[1].at[:, :2].add(X.reshape(8, -1).T @ by_logits)
    np.testing.assert_allclose(after.params, expected, rtol=1e-3, atol=1e-5)


def test_the_model_learns_smoothed_labels_at_the_chosen_witnesses():
    sure = (linear, jnp.zeros((16, 5)).at[:, 1].set(50.0).at[:, 4].set(50.0), None)  # radius 2 and step 1/2, always
    robust = training.las_at(
        LOSS, THREAT, sure, radii=(1, 2), counts=(3,), lengths=(0.1, 0.5), smoothing=0.2, interval=100
    )
    losses, _, memory = robust.loss(dense_params(), None, X, Y, key=KEY, train=True, memory=robust.start)
    choice = Choice(jnp.full(8, 2.0), jnp.full(8, 3.0), jnp.full(8, 0.5))
    z = chosen_attack(LOSS, THREAT, most=3)(dense_params(), None, X, Y, choice, key=jax.random.split(KEY, 3)[2])
    soft = 0.8 * jax.nn.one_hot(Y, 4) + 0.2 / 3 * (1 - jax.nn.one_hot(Y, 4))
    out = dense(dense_params(), None, z, train=True)[0]
    np.testing.assert_allclose(losses, optax.softmax_cross_entropy(out, soft), rtol=1e-4)
    np.testing.assert_allclose(memory.chosen, [2.0, 3.0, 0.5], rtol=1e-6)
    assert float(jnp.max(jnp.abs(z - X))) > 1.5 * EPS


def test_the_strategy_learns_what_pays():
    """A frozen model and the loss alone as reward: the larger radius and the longer steps are drawn more and more."""
    start = (linear, jnp.zeros((16, 5)), None)
    robust = training.las_at(
        LOSS, THREAT, start, radii=(0.1, 3), counts=(1,), lengths=(0.01, 3), interval=1, weights=(1.0, 0.0, 0.0),
        judge=jr.attacks.fgsm(), tx=optax.sgd(0.3),
    )  # fmt: skip
    tx = optax.sgd(0.0)
    step = jax.jit(training.make_step(robust, tx))
    state = training.init(trained(60), None, tx, memory=robust.start)
    for t in range(200):
        state, _ = step(state, (X, Y), key=jax.random.key(t))
    logits = linear(state.memory.params, None, X, train=True)[0]
    chances = jax.nn.softmax(logits[:, :2])[:, 1], jax.nn.softmax(logits[:, 3:])[:, 1]
    assert all(float(jnp.mean(c)) > 0.9 for c in chances)
    assert int(state.memory.batches) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radii": ()}, "radii are numbers >= 0"),
        ({"radii": (-0.5, 1)}, "radii are numbers >= 0"),
        ({"counts": (2, 0)}, "counts are numbers >= 1"),
        ({"lengths": (0.0,)}, "lengths are numbers > 0"),
        ({"smoothing": 1.5}, "smoothing lies in"),
        ({"interval": 0}, "interval must be an int >= 1"),
        ({"judge": jr.bounds.ibp()}, "side lower"),
        ({"crafting": "other"}, "crafting"),
    ],
)
def test_nonsense_is_refused(options, message):
    net = (linear, jnp.zeros((16, 30)), None)
    with pytest.raises(Exception, match=message):
        training.las_at(LOSS, THREAT, net, **options)


def test_another_number_of_logits_is_refused():
    robust = training.las_at(LOSS, THREAT, (linear, jnp.zeros((16, 4)), None))
    with pytest.raises(ValueError, match=r"4 logits, and 13 \+ 12 \+ 5 = 30 choices"):
        robust.loss(dense_params(), None, X, Y, key=KEY, train=True, memory=robust.start)


def test_a_state_without_the_strategy_is_refused():
    robust, tx = training.las_at(LOSS, THREAT, (linear, jnp.zeros((16, 30)), None)), optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"the loss remembers: begin with init\(params, rest, tx, memory=loss.start\)"):
        training.make_step(robust, tx)(training.init(dense_params(), None, tx), (X, Y), key=KEY)
