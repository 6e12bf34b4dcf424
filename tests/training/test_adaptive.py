"""Methods that ask of each example or class what it can give: FAT, IAAT, CFA, FAWA."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training
from jrobust.objectives._classification import divergence
from jrobust.training._calibrated import of_each
from tests.training.nets import blobs, dense, dense_params

EPS = 0.1
THREAT = jr.sets.linf(EPS, clip=(0, 1))
X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
KEY = jax.random.key(0)
HOW = {"key": KEY, "train": True}
LINEAR = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))


@pytest.mark.parametrize("tau", [0, 1, 3, 100])
def test_a_friendly_attack_goes_tau_steps_too_far_and_no_further(tau):
    points = jnp.array([[0.15, 0.0], [0.55, 0.0], [0.0, 0.05], [3.0, 0.0]])  # each step moves a margin by 0.2
    attack = training.friendly(jr.attacks.pgd(steps=6, step=0.1, start="center", keep="last"), tau)
    craft = jr.worst_case(LINEAR, jr.sets.linf(1.0), attack).craft
    z = jax.jit(craft)(jnp.eye(2), None, points, jnp.zeros(4, int), key=KEY)
    steps = np.round(np.asarray(points - z)[:, 0] / 0.1).astype(int)
    first = [1, 3, 0, 6]  # steps after which the label is left, or all of them
    np.testing.assert_array_equal(steps, np.minimum([f + tau for f in first], 6))


def test_a_friendly_attack_with_patience_is_the_attack():
    for loss, attack in (
        (LOSS, jr.attacks.pgd(steps=5, keep="last")),
        (LOSS, jr.attacks.pgd(steps=5, surrogate=jr.objectives.kl, keep="last")),
    ):
        args = dense_params(), None, X, Y
        z, w = (jr.worst_case(loss, THREAT, a).craft(*args, key=KEY) for a in (attack, training.friendly(attack, 99)))
        np.testing.assert_allclose(z, w, atol=1e-6)
    with pytest.raises(TypeError, match="got fgsm"):
        training.friendly(jr.attacks.fgsm(), 1)
    with pytest.raises(TypeError, match="another attack"):
        training.fat(LOSS, THREAT, attack=jr.attacks.frank_wolfe(steps=4))(*args, **HOW)
    with pytest.raises(ValueError, match="early stop"):
        training.friendly(jr.attacks.pgd(steps=4, early_stop=True), 1)


def test_tau_may_be_a_schedule():
    tx = optax.sgd(0.0)
    robust = training.scheduled(lambda t: training.fat(LOSS, THREAT.family(0.4), tau=1.0 * t, attack=8))
    step = jax.jit(training.make_step(robust, tx))
    state, losses = training.init(dense_params(), None, tx), []
    for _ in range(6):
        state, metrics = step(state, (X, Y), key=KEY)
        losses.append(float(metrics["loss"]))
    assert losses[0] < losses[2] < losses[5]
    assert step._cache_size() == 1


def test_a_share_of_the_radius_for_each_example():
    shares = jnp.linspace(0.0, 2.0, 8)
    for threat in (THREAT, jr.sets.l2(EPS)):
        z = jr.worst_case(LOSS, of_each(threat, shares, X), jr.attacks.pgd(steps=4, keep="last")).craft(
            dense_params(), None, X, Y, key=KEY
        )
        far = jax.vmap(lambda a, b, t=threat: t(a).distance(b))(X, z)
        np.testing.assert_allclose(far, EPS * shares, rtol=2e-2, atol=1e-6)
    square = jnp.full((2, 2), 0.5)  # as many examples as entries
    assert of_each(THREAT, jnp.ones(2), square).eps.shape == (2, 1)


def test_iaat_moves_each_radius_by_its_rule():
    margin = jnp.array([1.0, 0.25, 0.05, -1.0])  # holds at eps iff margin > 2 eps
    x = jnp.stack([margin, jnp.zeros(4)], 1)
    robust = training.iaat(LINEAR, jr.sets.linf(0.1), examples=6, gamma=0.5, smoothing=0.25, warmup=1, attack=3)
    memory, index = robust.start, jnp.array([4, 0, 2, 5])
    for expected in (jnp.zeros(4), jnp.array([0.125, 0.0, -0.125, -0.125])):
        before = memory.share
        *_, memory = robust.loss(jnp.eye(2), None, x, jnp.zeros(4, int), memory=memory, index=index, **HOW)
        np.testing.assert_allclose((memory.share - before)[index], expected, atol=1e-6)
    np.testing.assert_array_equal(memory.share[jnp.array([1, 3])], 1.0)
    for _ in range(30):
        losses, _, memory = robust.loss(jnp.eye(2), None, x, jnp.zeros(4, int), memory=memory, index=index, **HOW)
    assert float(memory.share.min()) == 0.0  # never below
    assert float(memory.share[4]) > 3.0
    eps = 0.1 * memory.share[index]
    np.testing.assert_allclose(losses, jnp.log1p(jnp.exp(-(margin - 2 * eps))), atol=0.05)


def test_iaat_trains_by_fit_and_gives_easy_examples_more():
    x, y = blobs()
    x[::5] = 0.5  # these say nothing
    robust, tx = training.iaat(LOSS, THREAT, examples=96, smoothing=0.5, attack=3), optax.adam(0.02)
    state = training.init(dense_params(), None, tx, memory=robust.start)
    state = training.fit(training.make_step(robust, tx), state, x, y, epochs=12, batch_size=16, key=KEY, show=False)
    share = np.asarray(state.memory.share)
    easy = np.arange(96) % 5 != 0
    assert share[easy].mean() > 1.5 * share[~easy].mean()


def test_an_example_that_iaat_has_no_radius_for_is_named():
    x, y = blobs()
    robust, tx = training.iaat(LOSS, THREAT, examples=80, attack=2), optax.adam(0.02)
    state, step = training.init(dense_params(), None, tx, memory=robust.start), training.make_step(robust, tx)
    with pytest.raises(ValueError, match="examples=80, but a batch holds example 95"):
        training.fit(step, state, x, y, epochs=1, batch_size=16, key=KEY, show=False)
    with pytest.raises(ValueError, match="examples=80, but a batch holds example 99"):
        training.fit(step, state, x[:60], y[:60], extra=(x[:40], y[:40]), epochs=1, batch_size=16, key=KEY, show=False)


def test_cfa_takes_radius_and_weight_from_the_epoch_before():
    params, right = dense_params(), jnp.array([0.0, 0.5, 1.0, 0.25])
    for beta in (None, 6.0):
        robust = training.cfa(LOSS, THREAT, classes=4, epoch=2, begin=1, beta=beta, attack=jr.attacks.fgsm())
        if beta is not None:
            robust = training.cfa(LOSS, THREAT, classes=4, epoch=2, begin=1, beta=beta)
        start = robust.start._replace(means=right)
        for batches in (0, 2):
            memory = start._replace(batches=jnp.asarray(batches))
            losses, _, after = robust.loss(params, None, X, Y, memory=memory, **HOW)
            share = jnp.ones(8) if batches == 0 else 0.5 + right[Y]
            threat = of_each(THREAT, share, X)
            if beta is None:
                expected = jr.worst_case(LOSS, threat, jr.attacks.fgsm())(params, None, X, Y, **HOW)[0]
            else:
                z = training.trades(LOSS, threat).craft(params, None, X, Y, key=KEY)
                n, a = (dense(params, None, v, train=True)[0] for v in (X, z))
                b = beta * (jnp.ones(8) if batches == 0 else 0.5 + right[Y])
                expected = (LOSS.reduce(n, Y) + b * divergence(n, a)) / (1 + b)
                np.testing.assert_array_equal(after.sums[1], jnp.sum((jnp.argmax(a, -1) == Y) & (Y == 1)))
            np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_fawa_leaves_out_epochs_in_which_a_class_is_lost():
    tx, threat = optax.sgd(1.0), jr.sets.linf(0.1)
    good, lost = jnp.eye(2), jnp.array([[1.0, 1.0], [0.0, 0.0]])

    def scripted(state, batch, *, key):  # good, good, lost, good: an epoch each of two steps
        t = state.step // 2
        params = jnp.where(t == 2, lost, (1.0 + t) * good)
        return training.TrainState(params, None, state.opt_state, state.step + 1, None, state.memory), {}

    x, y = jnp.eye(2), jnp.arange(2)
    step = jax.jit(training.fawa(scripted, LINEAR, threat, x, y, classes=2, epoch=2, decay=0.75, threshold=0.5))
    state = training.init(jnp.full((2, 2), 9.0), None, tx, ema=True, memory=({"inner": 3}, 0))
    worst, average = [], []
    for t in range(8):
        state, metrics = step(state, (x, y), key=jax.random.key(t))
        worst.append(float(metrics["worst_class"]))
        average.append(float(state.ema[0, 0]))
    assert worst == [0, 1, 0, 1, 0, 0, 0, 1]
    np.testing.assert_allclose(average, [9, 1, 1, 1.25, 1.25, 1.25, 1.25, 0.75 * 1.25 + 0.25 * 4], rtol=1e-6)
    assert int(state.memory[1]) == 3
    assert int(state.memory[0]["inner"]) == 3
    with pytest.raises(ValueError, match="ema=True"):
        step(training.init(good, None, tx), (x, y), key=KEY)


def test_cfa_and_fawa_train_together():
    x, y = blobs()
    robust, tx = training.cfa(LOSS, THREAT, classes=4, epoch=6, begin=1, attack=3), optax.adam(0.02)
    step = training.fawa(training.make_step(robust, tx), LOSS, THREAT, x[:32], y[:32], classes=4, epoch=6, attack=3)
    state = training.init(dense_params(), None, tx, ema=True, memory=(robust.start, 0))
    state = training.fit(step, state, x, y, epochs=20, batch_size=16, key=KEY, show=False)
    assert 5 <= int(state.memory[1]) < 20  # not those at first
    right = jnp.argmax(dense(state.averaged, None, jnp.asarray(x), train=False)[0], -1) == y
    assert float(right.mean()) > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.iaat(LOSS, THREAT, examples=0), "examples"),
        (lambda: training.iaat(LOSS, THREAT, examples=9, attack=jr.bounds.ibp()), "side lower"),
        (lambda: training.cfa(LOSS, THREAT, classes=1, epoch=1), "classes is an int >= 2"),
        (lambda: training.cfa(LOSS, THREAT, classes=4, epoch=1, begin=0), "begin"),
        (lambda: training.friendly(jr.attacks.pgd(steps=3), -1), "tau is >= 0"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
