"""Every method of training: one contract for all, and the identities that each must keep."""

import ast
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.nnx import Rngs

import jrobust as jr
from jrobust import training
from jrobust.cli import _methods, _stages, _train
from jrobust.objectives._classification import divergence
from jrobust.training._awp import perturbation
from jrobust.training._gkl import weighted_squares
from tests.training.nets import Net, blobs, dense, dense_params

EPS = 0.1
THREAT = jr.sets.linf(EPS, clip=(0, 1))
BALL = jr.sets.l2(0.2, clip=(0, 1))
X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
TEACHER = lambda x: 20 * jnp.mean(x.reshape(-1, 4, 4), -1)  # noqa: E731, by the mean of each row, which no attack of this size changes
STRATEGY = (lambda params, rest, x, *, train: (x.reshape(x.shape[0], -1) @ params, rest)), jnp.zeros((16, 20)), None


def nll(z, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1)[:, 0]


METHODS = {
    "pgd": lambda loss: jr.worst_case(loss, THREAT, jr.attacks.pgd(steps=2)),
    "fgsm_rs": lambda loss: training.fgsm_rs(loss, THREAT),
    "n_fgsm": lambda loss: training.n_fgsm(loss, THREAT),
    "gradalign": lambda loss: training.gradalign(loss, THREAT),
    "gradient_penalty": lambda loss: training.gradient_penalty(loss, weight=0.1),
    "gradient_penalty, l1": lambda loss: training.gradient_penalty(loss, weight=EPS, norm="l1"),
    "jacobian_penalty": lambda loss: training.jacobian_penalty(loss),
    "cure": lambda loss: training.cure(loss, weight=0.1, h=0.5),
    "llr": lambda loss: training.llr(loss, THREAT),
    "gor": lambda loss: training.gor(loss, groups=2, dense=True),
    "trades": lambda loss: training.trades(loss, THREAT),
    "mart": lambda loss: training.mart(loss, THREAT),
    "score": lambda loss: training.score(loss, THREAT),
    "alp": lambda loss: training.alp(loss, THREAT),
    "hat": lambda loss: training.hat(loss, THREAT, lambda x: x.reshape(x.shape[0], -1)[:, :4]),
    "ard": lambda loss: training.ard(loss, THREAT, TEACHER),
    "ard with labels": lambda loss: training.ard(loss, THREAT, TEACHER, alpha=0.5, temperature=2.0),
    "rslad": lambda loss: training.rslad(loss, THREAT, TEACHER),
    "rslad by the batch": lambda loss: training.rslad(loss, THREAT, TEACHER, crafting="batch"),
    "iad_i": lambda loss: training.iad_i(loss, THREAT, TEACHER),
    "iad_ii": lambda loss: training.iad_ii(loss, THREAT, TEACHER, lambda x: 2 * TEACHER(x)),
    "b_mtard": lambda loss: training.b_mtard(loss, THREAT, TEACHER, lambda x: 2 * TEACHER(x)),
    "defensive_distillation": lambda loss: training.defensive_distillation(loss, TEACHER),
    "its teacher": lambda loss: training.defensive_distillation(loss, temperature=5.0),
    "awp": lambda loss: training.awp(training.trades(loss, THREAT)),
    "awp of a bound": lambda loss: training.awp(jr.worst_case(loss, THREAT.family(0.03), jr.bounds.ibp())),
    "gkl": lambda loss: training.gkl(loss, THREAT, classes=4, epoch=2),
    "dkl": lambda loss: training.dkl(loss, THREAT),
    "lbgat": lambda loss: training.lbgat(loss, THREAT, attack=3),
    "lbgat of trades": lambda loss: training.lbgat(loss, THREAT, beta=6.0, attack=3),
    "ensemble": lambda loss: training.ensemble(loss, THREAT, [lambda x: x.reshape(x.shape[0], -1)[:, :4]]),
    "bilateral": lambda loss: training.bilateral(loss, THREAT),
    "bilateral by the batch": lambda loss: training.bilateral(loss, THREAT, crafting="batch"),
    "feature_scattering": lambda loss: training.feature_scattering(loss, THREAT, smoothing=0.1),
    "union": lambda loss: training.union(loss, THREAT, jr.sets.l2(0.2, clip=(0, 1)), attack=2),
    "mean of a union": lambda loss: training.union(loss, THREAT, jr.sets.l2(0.2), how="mean", attack=2),
    "gat": lambda loss: training.gat(loss, jr.transforms.rotation(10.0), jr.transforms.brightness(), THREAT, attack=2),
    "gat of trades": lambda loss: training.gat(loss, jr.transforms.contrast(), THREAT, beta=6.0, attack=2),
    "fare": lambda loss: training.fare(loss, THREAT, lambda x: 0.4 * TEACHER(x) - 4, attack=2),
    "fare with a penalty": lambda loss: training.fare(
        loss, THREAT, lambda x: 0.4 * TEACHER(x) - 4, weight=1.0, attack=2
    ),
    "softened": lambda loss: training.softened(
        training.trades(jr.objectives.soft_cross_entropy(loss.outputs), THREAT, attack=2),
        classes=4,
        smoothing=0.1,
        mix=lambda key, x, y: jr.data.cutmix(key, x, y, alpha=0.2),
    ),
    "fat": lambda loss: training.fat(loss, THREAT, tau=1),
    "fat of trades": lambda loss: training.fat(loss, THREAT, tau=0, beta=6.0, attack=4),
    "iaat": lambda loss: training.iaat(loss, THREAT, examples=96, attack=2),
    "cfa": lambda loss: training.cfa(loss, THREAT, classes=4, epoch=2, begin=1),
    "cfa of trades": lambda loss: training.cfa(loss, THREAT, classes=4, epoch=2, begin=1, beta=6.0),
    "las_at": lambda loss: training.las_at(
        loss, THREAT, STRATEGY, counts=(2, 3), interval=2, judge=jr.attacks.fgsm(), tx=optax.sgd(0.1)
    ),
    "certified": lambda loss: training.certified(loss, THREAT.family(0.03), jr.bounds.ibp(), kappa=0.5).build(0),
    "fused": lambda loss: training.fused(loss, THREAT.family(0.03), kappa=0.5).build(0),
    "shi": lambda loss: training.shi(loss, THREAT, eps=lambda t: 0.03).build(0),
    "sharpened": lambda loss: training.trades(training.sharpened(loss, 2.0), THREAT),
    "blend": lambda loss: training.blend((0.5, loss), (0.5, training.trades(loss, THREAT))),
    "paired": lambda loss: training.paired(
        loss, THREAT, jr.attacks.pgd(steps=2), lambda z, a, y: nll(z, y) + nll(a, y)
    ),
    "margin_cs": lambda loss: training.margin_cs(loss, jnp.ones((4, 4)) - jnp.eye(4), samples=4, sigma=0.1),
    "noisy": lambda loss: training.noisy(loss, 0.1),
    "noisy copies": lambda loss: training.noisy(loss, jr.smoothing.gaussian(0.1), samples=3),
    "stability": lambda loss: training.stability(loss, 0.1),
    "stability, clean": lambda loss: training.stability(loss, 0.1, weight=6.0, at="clean"),
    "consistency": lambda loss: training.consistency(loss, 0.1),
    "smooth_adv": lambda loss: training.smooth_adv(loss, BALL, 0.1, attack=2),
    "smooth_adv by DDN": lambda loss: training.smooth_adv(loss, BALL, 0.1, attack=jr.attacks.ddn(steps=3)),
    "smooth_adv by Stein": lambda loss: training.smooth_adv(loss, BALL, 0.1, samples=4, attack=2, gradient="stein"),
    "smooth_adv, consistent": lambda loss: training.smooth_adv(loss, BALL, 0.1, attack=2, consistency=(1.0, 0.5)),
    "awp of smooth_adv": lambda loss: training.awp(training.smooth_adv(loss, BALL, 0.1, attack=2)),
    "macer": lambda loss: training.macer(loss, 0.1, samples=4),
    "smooth_mix": lambda loss: training.smooth_mix(loss, 0.1, steps=2, step=0.2),
}
# public functions that are no loss of (params, rest, x, y): steps, losses of something else, and what is around them
OTHERS = {
    "steps around a step": ["fawa", "free", "lore", "make_step", "yopo"],
    "losses of scores, weights or noise alone": ["denoise", "denoise_stably", "diffusion", "finetuned", "hydra"],
    "attacks and numbers": [
        "conflict",
        "duals",
        "friendly",
        "hydra_masks",
        "hydra_scores",
        "orthogonality",
        "pruned",
        "substitute",
        "taps",
    ],
    "schedules": ["ema_decay", "epoch_steps", "linear", "scheduled", "smoothed"],
    "the loop": ["accuracy", "batch_statistics", "fit", "held_out", "init", "load", "overfitting_guard", "read_config"],
    "its disk": ["restore", "start_run", "tensorboard", "together"],
}
TRAINED = ("steps around a step", "losses of scores, weights or noise alone")


def test_every_public_loss_is_in_the_table_and_in_the_docs():
    functions = {name for name in training.__all__ if inspect.isfunction(getattr(training, name))}
    others = {name for names in OTHERS.values() for name in names}
    table = inspect.getsource(inspect.getmodule(test_every_public_loss_is_in_the_table_and_in_the_docs))
    table = table[table.index("METHODS = {") : table.index("OTHERS = {")]
    losses = functions - others
    assert others <= functions
    assert [name for name in sorted(losses) if f"training.{name}(" not in table] == []
    said = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert [name for name in sorted(losses) if not re.search(rf"\b{name}\(", said)] == []


# what users put together themselves: of other losses, of weights averaged by class, of nets that are no classifiers
ALONE = {"blend", "paired", "fawa", "denoise", "denoise_stably", "diffusion"}


def test_every_loss_and_step_is_behind_a_method_of_the_command():
    trees = [ast.parse(inspect.getsource(module)) for module in (_methods, _stages, _train)]
    named = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    used = {n.attr for n in named if isinstance(n.value, ast.Name) and n.value.id == "training"}
    functions = {name for name in training.__all__ if inspect.isfunction(getattr(training, name))}
    no_training = {name for kind, names in OTHERS.items() if kind not in TRAINED for name in names}
    assert functions - no_training - used == ALONE


PAIRS = ("lbgat", "lbgat of trades")  # of a student and a teacher


def pairs(*trees):
    return ({"student": tree, "teacher": tree} for tree in trees)


def called(robust, params, rest, x, y, *, train, key=None):
    options = {"key": jax.random.key(3) if key is None else key, "train": train}
    if isinstance(robust, training.Remembering):
        where = {"index": jnp.arange(y.shape[0])} if robust.indexed else {}
        return robust.loss(params, rest, x, y, memory=robust.start, **options, **where)[:2]
    return robust(params, rest, x, y, **options)


@pytest.mark.parametrize("name", METHODS)
def test_one_contract_for_all(name):
    apply, params, rest = jr.nnx.functional(Net(Rngs(0)))
    robust = METHODS[name](jr.objectives.cross_entropy(apply))
    if name in PAIRS:
        params, rest = pairs(params, rest)

    @jax.jit
    def both(params, rest, key):
        def total(params, train):
            losses, after = called(robust, params, rest, X, Y, train=train, key=key)
            return jnp.mean(losses), (losses, after)

        return {train: jax.value_and_grad(total, has_aux=True)(params, train) for train in (True, False)}

    found, again = (both(params, rest, jax.random.key(3)) for _ in range(2))
    for train, ((value, (losses, after)), gradient) in found.items():
        assert losses.shape == Y.shape
        assert bool(jnp.isfinite(value))
        assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradient))
        assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradient)) > 1e-4
        nets = [(after[k], rest[k]) for k in rest] if name in PAIRS else [(after, rest)]
        for new, old in nets:
            moved = not all(bool(jnp.all(a == b)) for a, b in zip(*map(jax.tree.leaves, (new["norm"], old["norm"]))))
            assert moved == train  # BatchNorm's statistics
        np.testing.assert_array_equal(losses, again[train][0][1][0])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_what_is_easy(name):
    x, y = map(jnp.asarray, blobs())
    robust, tx = METHODS[name](LOSS), optax.adam(0.02)
    start = robust.start if isinstance(robust, training.Remembering) else None
    params, rest, apply = dense_params(), None, dense
    if name in PAIRS:
        params, rest = pairs(params, rest)
        apply = lambda p, r, x, *, train: dense(p["student"], None, x, train=train)  # noqa: E731
    step = jax.jit(training.make_step(robust, tx, measure=training.accuracy(apply)))
    state = training.init(params, rest, tx, memory=start)
    for t in range(80):
        state, metrics = step(state, (x, y, jnp.arange(96)), key=jax.random.key(t))
    assert float(metrics["accuracy"]) == 1.0


def at(robust, z, x=X):
    return robust.at(dense_params(), None, x, z, Y, key=jax.random.key(0), train=True)[0]


def clean_logits(x=X):
    return dense(dense_params(), None, x, train=False)[0]


def test_pairs_cost_nothing_where_nothing_moved():
    clean = LOSS(dense_params(), None, X, Y)[0]
    np.testing.assert_allclose(at(training.trades(LOSS, THREAT), X), clean, rtol=1e-6)
    p = jax.nn.softmax(clean_logits())
    np.testing.assert_allclose(
        at(training.score(LOSS, THREAT), X), jnp.sum((p - jax.nn.one_hot(Y, 4)) ** 2, -1), rtol=1e-5
    )
    slope = jax.grad(lambda a: jnp.sum(divergence(clean_logits(), a)))(clean_logits())
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)  # why the attack starts elsewhere


@pytest.mark.parametrize("method", [training.trades, training.mart, training.score])
def test_witnesses_leave_the_clean_example_and_stay_in_the_set(method):
    z = method(LOSS, THREAT).craft(dense_params(), None, X, Y, key=jax.random.key(0))
    moved = jnp.max(jnp.abs(z - X).reshape(8, -1), 1)
    assert bool(jnp.all(moved > 0.5 * EPS))
    assert bool(jnp.all(moved <= EPS + 1e-6))


def test_trades_and_hat_are_their_formulas():
    z = X + 0.05
    p, q = (jax.nn.softmax(clean_logits(v)) for v in (X, z))
    kl = jnp.sum(p * jnp.log(p / q), -1)
    ce = -jnp.log(p[jnp.arange(8), Y])
    np.testing.assert_allclose(at(training.trades(LOSS, THREAT, beta=3.0), z), ce + 3 * kl, rtol=1e-4, atol=1e-5)
    label = jnp.full(8, 2)
    hat = training.hat(LOSS, THREAT, lambda x: jax.nn.one_hot(label, 4), beta=3.0, gamma=0.25, h=2.0)
    helper = -jax.nn.log_softmax(clean_logits(X + 2 * 0.05))[:, 2]
    np.testing.assert_allclose(at(hat, z), ce + 3 * kl + 0.25 * helper, rtol=1e-4, atol=1e-5)


def test_alp_is_its_formula():
    z = X + 0.05
    a, b = clean_logits(X), clean_logits(z)
    both = sum(-jax.nn.log_softmax(v)[jnp.arange(8), Y] for v in (a, b))
    expected = both + 0.25 * jnp.sum((a - b) ** 2, -1)
    np.testing.assert_allclose(at(training.alp(LOSS, THREAT, weight=0.25), z), expected, rtol=1e-4)


def test_mart_is_its_formula_with_the_largest_wrong_class():
    z = X + 0.05
    p, q = (np.asarray(jax.nn.softmax(clean_logits(v)), np.float64) for v in (X, z))
    y = np.asarray(Y)
    expected = []
    for pi, qi, yi in zip(p, q, y):
        wrong = max(qi[k] for k in range(4) if k != yi)
        kl = float(np.sum(pi * np.log(pi / qi)))
        expected.append(-np.log(qi[yi]) - np.log(1.0001 - wrong + 1e-12) + 5 * (1.0000001 - pi[yi]) * kl)
    np.testing.assert_allclose(at(training.mart(LOSS, THREAT), z), expected, rtol=1e-4)


def test_fgsm_rs_is_one_step_of_pgd():
    one = jr.worst_case(LOSS, THREAT, jr.attacks.pgd(steps=1, step=1.25 * EPS, keep="last"))
    args, key = (dense_params(), None, X, Y), jax.random.key(5)
    np.testing.assert_allclose(
        training.fgsm_rs(LOSS, THREAT).craft(*args, key=key), one.craft(*args, key=key), atol=1e-6
    )


def linear_loss(width):
    linear = lambda p, rest, x, *, train: (x.reshape(x.shape[0], -1) @ p, rest)  # noqa: E731
    loss = jr.Loss(jax.tree_util.Partial(linear), jax.tree_util.Partial(lambda out, y: out[:, 0] - out[:, 1]))
    return jax.random.normal(jax.random.key(0), (width, 2)), loss


def test_n_fgsm_is_noise_and_a_step_that_nothing_cuts():
    w, loss = linear_loss(16)
    x = jnp.full_like(X, 0.5)
    z = training.n_fgsm(loss, THREAT, k=2.0).craft(w, None, x, Y, key=jax.random.key(0))
    step = EPS * jnp.sign(w[:, 0] - w[:, 1]).reshape(4, 4, 1)
    noise = jnp.abs(z - x - step)
    assert float(jnp.max(jnp.abs(z - x))) > 2 * EPS
    assert 1.8 * EPS < float(noise.max()) <= 2 * EPS + 1e-6


def test_gradalign_is_zero_on_what_is_linear_and_counts_otherwise():
    w, loss = linear_loss(16)
    args, how = (w, None, X, Y % 2), {"key": jax.random.key(0), "train": True}
    plain = jr.worst_case(loss, THREAT, jr.attacks.fgsm())
    np.testing.assert_allclose(
        training.gradalign(loss, THREAT, weight=5.0)(*args, **how)[0], plain(*args, **how)[0], atol=1e-5
    )
    args = (dense_params(), None, X, Y)
    more, less = (training.gradalign(LOSS, THREAT.family(0.5), weight=w)(*args, **how)[0] for w in (1.0, 0.0))
    assert float(jnp.sum(more - less)) > 1e-4
    assert bool(jnp.all(more >= less - 1e-6))


def test_awp_moves_weights_by_their_size_and_biases_not_at_all():
    params = dense_params()
    grads = jax.grad(lambda p: jnp.mean(LOSS(p, None, X, Y)[0]))(params)
    v = perturbation(grads, params, 0.01)
    for name in ("w", "v"):
        ratio = jnp.linalg.norm(v[name]) / jnp.linalg.norm(params[name])
        assert float(ratio) == pytest.approx(0.01, rel=1e-4)
        assert float(jnp.vdot(v[name], grads[name])) > 0
    assert not bool(jnp.any(v["b"]))


def test_awp_trains_by_the_gradient_at_the_moved_weights():
    params, how = dense_params(), {"key": jax.random.key(0), "train": True}
    base = jr.worst_case(LOSS, THREAT, jr.attacks.fgsm())
    z = base.craft(params, None, X, Y, key=how["key"])
    at_z = lambda p: jnp.mean(LOSS(p, None, z, Y)[0])  # noqa: E731
    moved = jax.tree.map(jnp.add, params, perturbation(jax.grad(at_z)(params), params, 0.05))
    got = jax.grad(lambda p: jnp.mean(training.awp(base, gamma=0.05)(p, None, X, Y, **how)[0]))(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(jax.grad(at_z)(moved)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_parts_of_the_divergence_have_its_gradient():
    n, a = jax.random.normal(jax.random.key(0), (2, 5, 6))
    p = jax.lax.stop_gradient(jax.nn.softmax(n))
    by_clean = jax.grad(lambda n: jnp.sum(weighted_squares(n, a, p)))(n)
    by_other = jax.grad(lambda a: -jnp.sum(p * jax.nn.log_softmax(a)))(a)
    expected = jax.grad(lambda n, a: jnp.sum(divergence(n, a)), argnums=(0, 1))(n, a)
    np.testing.assert_allclose(by_clean, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_other, expected[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(weighted_squares(n, n, p), 0.0)


def test_the_divergence_taken_apart_has_two_weights():
    params, z = dense_params(), X + 0.05
    gradient = lambda robust: jax.grad(  # noqa: E731
        lambda p: jnp.mean(robust.at(p, None, X, z, Y, key=jax.random.key(0), train=True)[0])
    )(params)
    of = lambda **how: gradient(training.dkl(LOSS, THREAT, **how))  # noqa: E731
    same = of(alpha=3.0, beta=3.0), gradient(training.trades(LOSS, THREAT, beta=3.0))
    differ = of(alpha=3.0, beta=3.0, symmetric=True), of(alpha=3.0, beta=1.0), of(alpha=1.0, beta=3.0)
    for a, b, *others in zip(*map(jax.tree.leaves, (*same, *differ)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert all(float(jnp.max(jnp.abs(a - c))) > 1e-3 for c in others)


def test_ikl_is_gkl_with_whole_weights():
    robust = training.gkl(LOSS, THREAT, classes=4, epoch=9, alpha=0.0, beta=1.0, gamma=1.0)
    prior = jax.nn.softmax(jax.random.normal(jax.random.key(0), (4, 4)))
    how = {"key": jax.random.key(0), "train": True}
    losses, *_ = robust.loss(dense_params(), None, X, Y, memory=robust.start._replace(means=prior), **how)
    z = training.trades(LOSS, THREAT).craft(dense_params(), None, X, Y, key=how["key"])
    squares = weighted_squares(clean_logits(), clean_logits(z), prior[Y])
    np.testing.assert_allclose(losses, LOSS(dense_params(), None, X, Y)[0] + squares, rtol=1e-4)


def test_lbgat_is_its_formula_and_trains_both():
    params, rest = {"student": dense_params(0), "teacher": dense_params(1)}, {"student": None, "teacher": None}
    how = {"key": jax.random.key(0), "train": True}
    z = training.trades(LOSS, THREAT).craft(params["student"], None, X, Y, key=how["key"])
    s, a = (dense(params["student"], None, v, train=True)[0] for v in (X, z))
    t, _ = dense(params["teacher"], None, X, train=True)
    for beta in (0.0, 6.0):
        robust = training.lbgat(LOSS, THREAT, beta=beta)
        expected = jnp.mean((a - t) ** 2, -1) + LOSS.reduce(t, Y) + beta * divergence(s, a)
        np.testing.assert_allclose(robust(params, rest, X, Y, **how)[0], expected, rtol=1e-4)
        gradient = jax.grad(lambda p, robust=robust: jnp.sum(robust(p, rest, X, Y, **how)[0]))(params)
        assert all(float(jnp.max(jnp.abs(g))) > 1e-3 for g in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match="no 'student' in both"):
        robust(dense_params(), None, X, Y, **how)


def test_gkl_learns_what_classes_look_like_once_an_epoch():
    robust = training.gkl(LOSS, THREAT, classes=4, epoch=2, temperature=2.0)
    memory = robust.start
    for t in range(2):
        x, y = X[t::2], Y[t::2]
        assert bool(jnp.all(memory.means == 0.25))
        *_, memory = robust.loss(dense_params(), None, x, y, key=jax.random.key(t), train=True, memory=memory)
    p = jax.nn.softmax(clean_logits() / 2.0)
    means = jnp.stack([p[jnp.arange(k, 8, 4)].mean(0) for k in range(4)])
    np.testing.assert_allclose(memory.means, means, rtol=1e-5)
    assert int(memory.batches) == 2
    assert not bool(jnp.any(memory.counts))


def test_free_replays_and_remembers():
    tx = optax.sgd(0.1)
    start = training.init(dense_params(), None, tx, memory=jnp.zeros_like(X))
    once, _ = training.free(LOSS, THREAT, tx, replays=1)(start, (X, Y), key=jax.random.key(0))
    natural, _ = training.make_step(LOSS, tx)(training.init(dense_params(), None, tx), (X, Y), key=jax.random.key(0))
    for a, b in zip(jax.tree.leaves(once.params), jax.tree.leaves(natural.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)  # the first gradient is at the clean batch
    slope = jax.grad(lambda v: jnp.mean(LOSS(dense_params(), None, v, Y)[0]))(X)
    np.testing.assert_allclose(once.memory, jnp.clip(X + EPS * jnp.sign(slope), 0, 1) - X, atol=1e-6)
    twice, metrics = jax.jit(training.free(LOSS, THREAT, tx, replays=2))(start, (X, Y), key=jax.random.key(0))
    at_memory = jax.grad(lambda p: jnp.mean(LOSS(p, None, X + once.memory, Y)[0]))(once.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, once.params, at_memory)
    for a, b in zip(jax.tree.leaves(twice.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert int(twice.step) == 1
    assert float(metrics["loss"]) > 0
    with pytest.raises(ValueError, match="init"):
        training.free(LOSS, THREAT, tx)(training.init(dense_params(), None, tx), (X, Y), key=jax.random.key(0))


def first(params, rest, x, *, train):
    return x.reshape(x.shape[0], -1) @ params["w"] + params["b"], rest


def after_first(params, rest, h, *, train):
    return jax.nn.relu(h) @ params["v"], rest


def test_yopo_climbs_the_full_gradient_at_first_and_takes_the_mean_of_its_passes():
    tx, key, loss = optax.sgd(1.0), jax.random.key(0), jr.objectives.cross_entropy(after_first)
    start = training.init(dense_params(), None, tx)
    total = lambda p, z: jnp.mean(LOSS(p, None, z, Y)[0])  # noqa: E731
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(8))
    z = jax.vmap(lambda x, k: THREAT(x).sample(k))(X, keys)
    slopes, expected = [], []
    for _ in range(2):
        slopes.append(jax.grad(total)(start.params, z))
        p = jax.grad(lambda h: jnp.mean(loss(start.params, None, h, Y)[0]))(first(start.params, None, z, train=True)[0])
        through = (p @ start.params["w"].T).reshape(z.shape)  # of a linear layer the same at every point
        np.testing.assert_allclose(through, jax.grad(total, argnums=1)(start.params, z), rtol=1e-4, atol=1e-7)
        expected.append(jax.tree.map(lambda *g: sum(g) / len(g), *slopes))
        for _ in range(3):
            z = jnp.clip(jnp.clip(z + 0.25 * EPS * jnp.sign(through), X - EPS, X + EPS), 0, 1)
    for outer, grads in enumerate(expected, 1):
        step = jax.jit(training.yopo(first, loss, THREAT, tx, outer=outer, inner=3))
        after, metrics = step(start, (X, Y), key=key)
        for a, b, g in zip(*map(jax.tree.leaves, (start.params, after.params, grads)), strict=True):
            np.testing.assert_allclose(a - b, g, rtol=1e-3, atol=1e-6)
        assert float(metrics["loss"]) > 0


def test_yopo_updates_the_statistics_of_what_follows():
    net = Net(Rngs(0))
    begin, params, rest = jr.nnx.functional(net, call=lambda m, x: m.conv(x))
    finish = jr.nnx.functional(net, call=lambda m, h: m.head(jax.nn.relu(m.norm(h)).reshape(h.shape[0], -1))).apply
    tx = optax.adam(0.02)
    step = jax.jit(training.yopo(begin, jr.objectives.cross_entropy(finish), THREAT, tx, outer=3, inner=2))
    state, lines = training.init(params, rest, tx), []
    for t in range(60):
        state, metrics = step(state, (X, Y), key=jax.random.key(t))
        lines.append(float(metrics["loss"]))
    assert lines[-1] < 0.2 < lines[0]
    assert bool(jnp.any(state.rest["norm"]["mean"] != rest["norm"]["mean"]))


def test_the_guard_stops_a_collapse_and_keeps_what_was_before(tmp_path):
    x, y = blobs()
    tx = optax.sgd(0.5)
    seen = []

    def breaking(state, batch, *, key):
        state, metrics = training.make_step(LOSS, tx)(state, batch, key=key)
        worse = jax.tree.map(lambda p: jnp.where(state.step > 24, 0 * p, p), state.params)
        return training.TrainState(worse, state.rest, state.opt_state, state.step, None), metrics

    guard = training.overfitting_guard(LOSS, THREAT.family(0.01), x[:32], y[:32], key=jax.random.key(0))

    def hook(epoch, state):
        seen.append(guard(epoch, state)["watched_accuracy"])
        return {"watched": seen[-1]}

    fit = lambda **options: training.fit(  # noqa: E731
        breaking,
        training.init(dense_params(), None, tx),
        x,
        y,
        batch_size=8,
        key=jax.random.key(0),
        show=False,
        **options,
    )
    state = fit(epochs=6, hook=hook, run=tmp_path / "run")
    assert int(state.step) == 24
    assert len(seen) == 2
    assert seen[1] > 0.9
    whole = fit(epochs=2)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.trades(LOSS, THREAT, attack=jr.bounds.ibp()), "side lower"),
        (lambda: training.mart(LOSS, THREAT, attack=jr.attacks.pgd(early_stop=True)), "early"),
        (lambda: training.gkl(LOSS, THREAT, classes=1, epoch=3), "classes is an int >= 2"),
        (lambda: training.free(LOSS, THREAT, optax.sgd(0.1), replays=0), "replays"),
        (lambda: training.yopo(first, LOSS, THREAT, optax.sgd(0.1), inner=0), "inner"),
    ],
)
def test_nonsense_is_refused(make, message):
    import beartype.roar

    with pytest.raises(
        (ValueError, TypeError, beartype.roar.BeartypeCallHintParamViolation),
        match=message,
    ):
        make()
