"""Historic baselines, unions of threats, soft and mixed labels, and a second source of data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training
from jrobust.training._historic import adversarial_labels, cosine_costs, transport
from tests.training.nets import blobs, dense, dense_params

EPS = 0.1
THREAT = jr.sets.linf(EPS, clip=(0, 1))
X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
SOFT = jr.objectives.soft_cross_entropy(dense)
KEY = jax.random.key(0)
HOW = {"key": KEY, "train": True}


def test_an_ensemble_attacks_one_model_a_batch_and_every_one_in_its_turn():
    slopes = [jnp.ones((16, 4)).at[:, 0].set(sign) for sign in (0.9, 1.1)]  # one wants brighter images, one darker ones
    sources = [lambda x, w=w: x.reshape(x.shape[0], -1) @ w for w in slopes]
    robust = training.ensemble(LOSS, THREAT, sources, attack=jr.attacks.fgsm())
    y, seen = jnp.zeros(8, int), set()
    own = jr.worst_case(LOSS, THREAT, jr.attacks.fgsm()).craft(dense_params(), None, X, y, key=KEY)
    for i in range(24):
        z = robust.craft(dense_params(), None, X, y, key=jax.random.key(i))
        expected = {0: jnp.clip(X + EPS, 0, 1), 1: jnp.clip(X - EPS, 0, 1), 2: own}
        (found,) = (k for k, e in expected.items() if bool(jnp.allclose(z, e, atol=1e-6)))
        seen.add(found)
    assert seen == {0, 1, 2}
    both = 0.5 * (LOSS(dense_params(), None, X, Y)[0] + LOSS(dense_params(), None, X + 0.05, Y)[0])
    np.testing.assert_allclose(robust.at(dense_params(), None, X, X + 0.05, Y, **HOW)[0], both, rtol=1e-5)
    with pytest.raises(ValueError, match="at least one source"):
        training.ensemble(LOSS, THREAT, [])


def test_transport_finds_the_best_assignment():
    costs = jax.random.uniform(jax.random.key(1), (5, 5))
    best = min(float(sum(costs[i, j] for i, j in enumerate(p))) for p in itertools.permutations(range(5))) / 5
    plan = transport(costs, steps=500)
    np.testing.assert_allclose(plan.sum(0), 0.2, rtol=1e-4)
    np.testing.assert_allclose(plan.sum(1), 0.2, rtol=1e-2)
    assert best - 1e-4 <= float(jnp.vdot(plan, costs)) <= best + 5e-3
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4))
    direct = [[1 - float(u @ v / jnp.linalg.norm(u) / jnp.linalg.norm(v)) for v in b] for u in a]
    np.testing.assert_allclose(cosine_costs(a, b), np.maximum(direct, 0), atol=1e-6)
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda a: cosine_costs(a, b).sum())(jnp.zeros((3, 4))))))


def test_feature_scattering_drives_the_batch_away_and_looks_at_no_label():
    robust = training.feature_scattering(LOSS, THREAT.family(0.3))
    args = dense_params(), None, X
    z = robust.craft(*args, Y, key=KEY)
    np.testing.assert_array_equal(z, robust.craft(*args, (Y + 1) % 4, key=KEY))
    assert bool(jax.vmap(lambda x, w: THREAT.family(0.3)(x).contains(w))(X, z).all())

    def distance(w):
        costs = cosine_costs(dense(*args[:2], X, train=False)[0], dense(*args[:2], w, train=False)[0])
        return float(jnp.vdot(transport(costs), costs))

    noise = X + 0.3 * jax.random.uniform(KEY, X.shape, minval=-1, maxval=1)
    assert distance(z) > 1.5 * distance(noise)
    out = dense(*args[:2], z, train=True)[0]
    soft = 0.7 * jax.nn.one_hot(Y, 4) + 0.1 * (1 - jax.nn.one_hot(Y, 4))
    losses = training.feature_scattering(LOSS, THREAT, smoothing=0.3).at(*args, z, Y, **HOW)[0]
    np.testing.assert_allclose(losses, optax.softmax_cross_entropy(out, soft), rtol=1e-4)


def test_adversarial_labels_are_the_formula():
    """The authors' expression, spelt out in float64, and what it is made to keep."""
    logits = np.asarray(3 * jax.random.normal(KEY, (6, 5)))
    y = np.arange(6) % 5
    found = np.asarray(adversarial_labels(jnp.asarray(logits), jnp.asarray(y), margin=4.0, gamma=0.05), np.float64)
    for row, z, c in zip(found, logits.astype(np.float64), y, strict=True):
        v = -np.log(np.exp(z) / np.exp(z).sum() + 1e-8)
        others = np.delete(v, c)
        mean = others.mean() - others.min() + 0.05
        epsilon = 1 / (1 + 4.0 / 4 * (others.max() - others.min() + 0.05) / mean)  # n - 1 = 4
        expected = np.insert(epsilon / 4 * (others - others.min() + 0.05) / mean, c, 1 - epsilon)
        np.testing.assert_allclose(row, expected, rtol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    own = found[np.arange(6), y]
    others = np.where(np.eye(5, dtype=bool)[y], 0, found)
    np.testing.assert_allclose(own, 4.0 * others.max(1), rtol=1e-4)
    equal = adversarial_labels(jnp.zeros((1, 5)), jnp.array([2]), margin=4.0)  # then it is label smoothing
    np.testing.assert_allclose(equal[0], [0.125, 0.125, 0.5, 0.125, 0.125], rtol=1e-5)


def test_bilateral_steps_to_the_most_confusing_class_of_the_clean_example():
    w = jax.random.normal(jax.random.key(3), (16, 4))
    loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x.reshape(x.shape[0], -1) @ p, rest))
    clean = X.reshape(8, -1) @ w
    target = np.argmax(np.where(np.eye(4, dtype=bool)[Y], -np.inf, clean), 1)
    assert len(set(target)) > 1
    robust = training.bilateral(loss, THREAT, step=0.5, margin=3.0, gamma=0.1)
    z = robust.craft(w, None, X, Y, key=KEY)
    assert bool(jax.vmap(lambda x, w: THREAT(x).contains(w))(X, z).all())
    for i, (xi, zi) in enumerate(zip(X, z, strict=True)):
        ascend = lambda v, i=i: jax.nn.log_softmax(v.reshape(-1) @ w)[target[i]]  # noqa: E731
        start = THREAT(xi).sample(jax.random.split(jax.random.fold_in(KEY, i))[0])
        moved = jnp.clip(start + 0.5 * EPS * jnp.sign(jax.grad(ascend)(start)), xi - EPS, xi + EPS)
        np.testing.assert_allclose(zi, jnp.clip(moved, 0, 1), atol=1e-6)
    labels = adversarial_labels(clean, Y, margin=3.0, gamma=0.1)
    expected = optax.softmax_cross_entropy(z.reshape(8, -1) @ w, labels)
    at = lambda w: robust.at(w, None, X, z, Y, **HOW)[0]  # noqa: E731
    np.testing.assert_allclose(at(w), expected, rtol=1e-4)
    slope = jax.grad(lambda w: jnp.sum(at(w)))(w)  # the labels are constants
    by_logits = jax.nn.softmax(z.reshape(8, -1) @ w) - labels
    np.testing.assert_allclose(slope, z.reshape(8, -1).T @ by_logits, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="margin is > 0, got 0"):
        training.bilateral(loss, THREAT, margin=0)


def test_a_union_is_at_the_worst_or_the_mean_of_its_threats():
    threats = THREAT, jr.sets.l2(0.5, clip=(0, 1)), jr.sets.l1(1.0, clip=(0, 1))
    attack = jr.attacks.fgsm()
    args = dense_params(), None, X, Y
    each = jnp.stack([jr.worst_case(LOSS, t, attack)(*args, **HOW)[0] for t in threats])
    assert len(set(np.asarray(each.argmax(0)))) > 1  # the worst threat is not the same for all examples
    np.testing.assert_allclose(training.union(LOSS, *threats, attack=attack)(*args, **HOW)[0], each.max(0), rtol=1e-5)
    mean = training.union(LOSS, *threats, attack=attack, how="mean")
    np.testing.assert_allclose(mean(*args, **HOW)[0], each.mean(0), rtol=1e-5)
    moved = training.awp(mean, gamma=0.05)(*args, **HOW)[0]  # witnesses that are a tuple pass through
    assert float(moved.mean()) > float(each.mean())
    with pytest.raises(ValueError, match="at least one threat"):
        training.union(LOSS)


def test_conflict_is_the_cosine_of_gradients():
    line = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x * p, rest))
    x, y = jnp.array([[0.05, 0.0]]), jnp.array([0])
    threats = (
        jr.sets.linf(0.0),
        jr.sets.linf(0.5),
    )  # at the example and at the one that is wrong the weight is pulled apart
    cosines, losses = jax.jit(training.conflict(line, *threats, attack=jr.attacks.fgsm()))(
        jnp.ones(()), None, x, y, key=KEY
    )
    np.testing.assert_allclose(cosines, [[1, -1], [-1, 1]], atol=1e-5)
    assert float(losses[1]) > float(losses[0])


def test_soft_labels_are_those_of_hard_ones_where_nothing_is_soft():
    args = dense_params(), None, X, Y
    pairs = (
        (SOFT, LOSS),
        (jr.worst_case(SOFT, THREAT, jr.attacks.fgsm()), jr.worst_case(LOSS, THREAT, jr.attacks.fgsm())),
        (training.alp(SOFT, THREAT, attack=jr.attacks.fgsm()), training.alp(LOSS, THREAT, attack=jr.attacks.fgsm())),
    )
    for soft, hard in pairs:
        np.testing.assert_allclose(
            training.softened(soft, classes=4)(*args, **HOW)[0], hard(*args, **HOW)[0], rtol=1e-4
        )
    p = jax.nn.log_softmax(dense(*args[:3], train=True)[0])
    smooth = training.softened(SOFT, classes=4, smoothing=0.4)(*args, **HOW)[0]
    np.testing.assert_allclose(smooth, -0.6 * p[jnp.arange(8), Y] - 0.1 * p.sum(-1), rtol=1e-5)
    with pytest.raises(ValueError, match="labels are of the shape of the logits"):
        SOFT(*args)
    with pytest.raises(ValueError, match="out of range"):
        training.softened(SOFT, classes=3)(*args, **HOW)


@pytest.mark.parametrize("mix", [jr.data.mixup, jr.data.cutmix])
def test_what_is_mixed_is_labelled_by_its_parts(mix):
    x = jnp.eye(8)[:, None, None].repeat(6, 1).repeat(5, 2)  # each image says whose it is, everywhere
    shares = []
    for i in range(20):
        z, y = jax.jit(mix)(jax.random.key(i), x, jnp.eye(8))
        np.testing.assert_allclose(z.mean((1, 2)), y, atol=1e-6)
        np.testing.assert_allclose(y.sum(-1), 1.0, rtol=1e-6)
        shares.append(float(jnp.median(y.max(-1))))
    assert min(shares) < 0.7 < 0.95 < max(shares)
    whole, _ = training.softened(SOFT, classes=4, mix=mix), None
    plain = SOFT(dense_params(), None, X, jax.nn.one_hot(Y, 4))[0]
    np.testing.assert_allclose(whole(dense_params(), None, X, Y, key=KEY, train=False)[0], plain, rtol=1e-6)


def counting(state, batch, *, key):
    """What was in the batches: how often each example of either source was seen."""
    x, y, index = batch
    seen = state.memory.at[index].add(1)
    wrong = jnp.mean((jnp.abs(x[:, 0, 0, 0] - index / 200) > 1e-3) | (y != index % 4))
    return training.TrainState(state.params, None, state.opt_state, state.step + 1, None, seen), {"loss": wrong}


def numbered(first, last):
    n = np.arange(first, last)
    return np.broadcast_to((n / 200).astype(np.float32)[:, None, None, None], (len(n), 2, 2, 1)).copy(), (n % 4).astype(
        np.int32
    )


def test_a_second_source_takes_its_share_of_each_batch(tmp_path):
    tx, (x, y), extra = optax.sgd(0.1), numbered(0, 30), numbered(30, 150)
    start = lambda: training.init(jnp.zeros(()), None, tx, memory=jnp.zeros(150, jnp.int32))  # noqa: E731
    fit = lambda **how: training.fit(counting, start(), x, y, batch_size=20, key=KEY, show=False, **how)  # noqa: E731
    state = fit(epochs=4, extra=extra, share=0.7)
    assert int(state.step) == 20  # 30 examples by 6 in a batch, four times
    seen = np.asarray(state.memory)
    np.testing.assert_array_equal(seen[:30], 4)
    assert seen[30:].sum() == 20 * 14
    assert (seen[30:] > 0).mean() > 0.8
    assert (np.asarray(fit(epochs=1, extra=extra, share=0.0).memory)[30:] == 0).all()
    run = tmp_path / "run"
    assert (np.asarray(fit(epochs=2, extra=extra, share=0.7, run=run).memory)[:30] == 2).all()
    lines = run.joinpath("metrics.jsonl").read_text()
    assert '"loss": 0.0' in lines  # every example came with its label and its place
    np.testing.assert_array_equal(fit(epochs=4, extra=extra, share=0.7, run=run, resume=True).memory, seen)
    for wrong, message in (
        ({"extra": extra, "share": 0.6}, "drawn was 14 and is now 12"),
        ({"extra": (extra[0][:, :1], extra[1])}, "shape"),
        ({"extra": extra, "share": 1.0}, "share lies in"),
        ({"extra": (extra[0] + 1, extra[1])}, "above the box"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(epochs=4, run=run, resume=True, **wrong)
