"""Certified training: what its bounds see, what regularises them, and where a bound and an attack meet inside the net."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.nnx import Rngs

import jrobust as jr
from jrobust import training
from jrobust._running import of_batch
from jrobust.training._shi import balance, tightness
from jrobust.training._taps import connected
from tests.training.nets import Net, blobs, dense, dense_params

EPS = 0.1
THREAT = jr.sets.linf(EPS, clip=(0, 1))
X, Y = (jnp.asarray(a[:8]) for a in blobs())
LOSS = jr.objectives.cross_entropy(dense)
HOW = {"key": jax.random.key(0), "train": True}
RAMP = training.linear(0.0, EPS, end=100)


def normalised(momentum):
    """Dense, BatchNorm by hand, ReLU, dense; running averages beside a constant."""

    def apply(params, rest, x, *, train):
        h = (x.reshape(x.shape[0], -1) - rest["shift"]) @ params["w"]
        mean, var = (jnp.mean(h, 0), jnp.var(h, 0)) if train else (rest["mean"], rest["var"])
        if train:
            rest = rest | {
                name: momentum * rest[name] + (1 - momentum) * v for name, v in {"mean": mean, "var": var}.items()
            }
        return jax.nn.relu((h - mean) / jnp.sqrt(var + 1e-5)) @ params["v"], rest

    return apply, {"shift": jnp.full(16, 0.25), "mean": jnp.zeros(12), "var": jnp.ones(12)}


# -- Statistics of the batch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_a_batchs_own_statistics_are_read_off_the_running_ones(momentum):
    apply, rest = normalised(momentum)
    params = dense_params()
    found = jax.jit(lambda rest: of_batch(lambda r: apply(params, r, X, train=True), rest))(rest)
    h = (X.reshape(8, -1) - 0.25) @ params["w"]
    np.testing.assert_allclose(found["mean"], jnp.mean(h, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], jnp.var(h, 0), rtol=1e-3)
    np.testing.assert_array_equal(found["shift"], rest["shift"])
    # the pass leaves them as they are
    again = apply(params, found, X, train=True)[1]
    np.testing.assert_allclose(again["var"], found["var"], rtol=1e-4)
    assert of_batch(lambda r: (None, r), None) is None


def test_with_the_batchs_statistics_a_bound_at_radius_zero_is_the_training_loss():
    apply, params, rest = jr.nnx.functional(jr.models.create("cnn-7", shape=(4, 4, 1), classes=4, width=2, hidden=8))
    loss = jr.objectives.cross_entropy(apply)
    clean, moved = loss(params, rest, X, Y, train=True)

    def robust(crafting, eps=0.0):
        return jr.worst_case(loss, jr.sets.linf(eps), jr.bounds.ibp(), crafting=crafting)

    losses, after = jax.jit(lambda p: robust("batch")(p, rest, X, Y, **HOW))(params)
    np.testing.assert_allclose(losses, clean, rtol=2e-4, atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, after, moved)
    running, _ = robust("inference")(params, rest, X, Y, **HOW)
    assert float(jnp.max(jnp.abs(running - clean))) > 1e-2  # a fresh net's are others

    def slope(f):
        return jax.grad(lambda p: jnp.mean(f(p)))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        slope(lambda p: robust("batch")(p, rest, X, Y, **HOW)[0]),
        slope(lambda p: loss(p, rest, X, Y, train=True)[0]),
    )
    for train in (True, False):
        low, _ = robust("batch")(params, rest, X, Y, key=HOW["key"], train=train)
        high, _ = robust("batch", 0.02)(params, rest, X, Y, key=HOW["key"], train=train)
        assert bool(jnp.all(high > low))


# -- Shi et al. ----------------------------------------------------------------------------------------------------------


def test_what_is_inside_is_what_intervals_say():
    p = dense_params()
    f = jr.objectives.classification(lambda z: dense(p, None, z[None], train=False)[0][0], 1)
    for method in (jr.bounds.ibp(), jr.bounds.crown_ibp()):
        bound = jr.bounds.inside(method).solve(None, f, THREAT(X[0]))
        found = bound.info["inside"]
        np.testing.assert_array_equal(bound.info["elements"], method.solve(None, f, THREAT(X[0])).info["elements"])
        lo, hi = jnp.clip(X[0] - EPS, 0, 1), jnp.clip(X[0] + EPS, 0, 1)
        np.testing.assert_allclose(found.input[0].lo, lo, atol=1e-6)
        centre, radius = (0.5 * (lo + hi)).ravel() @ p["w"], (0.5 * (hi - lo)).ravel() @ jnp.abs(p["w"])
        (one,) = found.relus
        np.testing.assert_allclose(jnp.ravel(one.lo), centre - radius, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(jnp.ravel(one.hi), centre + radius, rtol=1e-4, atol=1e-6)
    shifted = jr.objectives.objective(lambda z: jnp.maximum(0.25, z))
    found = jr.bounds.inside(jr.bounds.ibp()).solve(None, shifted, jr.sets.linf(0.5)(jnp.ones(1))).info["inside"]
    np.testing.assert_allclose([found.relus[0].lo, found.relus[0].hi], [[0.25], [1.25]])
    with pytest.raises(TypeError, match="inside takes"):
        jr.bounds.inside(jr.bounds.zonotope())


def reference(inputs, relus, tau):
    """The formulas, ReLU by ReLU, in float64."""
    inputs, relus = ([[np.asarray(e, np.float64) for e in v] for v in vs] for vs in (inputs, relus))
    r0 = np.concatenate([(hi - lo).ravel() / 2 for lo, hi in inputs]).mean()
    tight, even = [], []
    for lo, hi in relus:
        c, r = (lo + hi) / 2, (hi - lo) / 2
        tight.append(max(0.0, tau - r0 / r.mean()) / tau)
        on, off = lo > 0, hi < 0
        if not off.any():
            even.append(0.0)
            continue
        rho = (c * on).mean() / -(c * off).mean()
        v = ((c - c.mean()) ** 2 * on).sum() / ((c - c.mean()) ** 2 * off).sum()
        parts = [max(0.0, tau - min(q, 1 / q if q else np.inf)) / tau for q in (rho, v)]
        even.append(sum(parts))
    return np.mean(tight), np.mean(even)


def test_the_regularisers_are_their_formulas():
    rng = np.random.default_rng(0)
    centres = [rng.normal(m, 1.0, (8, 20)) for m in (0.8, -0.8, 4.0, -9.0)]  # the third is never off, the last never on
    relus = [(c - w, c + w) for c, w in zip(centres, (0.3, 0.9, 0.05, 0.2))]
    inputs = [(np.zeros((8, 3)), np.full((8, 3), 0.4)), (np.zeros((8, 5)), np.full((8, 5), 0.2))]
    assert not (relus[2][1] < 0).any()
    assert not (relus[3][0] > 0).any()
    arrays = jax.tree.map(jnp.asarray, (inputs, relus))
    for tau in (0.5, 0.9):
        expected = reference(inputs, relus, tau)
        np.testing.assert_allclose(tightness(*arrays, tau), expected[0], rtol=1e-5)
        np.testing.assert_allclose(balance(arrays[1], tau), expected[1], rtol=1e-4)
        assert min(expected) > 0.05


def test_what_is_not_finite_is_skipped_and_gradients_stay_numbers():
    def total(scale, centre):
        relus = [(centre - scale, centre + scale)]
        return tightness([(jnp.zeros(3), jnp.zeros(3) + scale)], relus) + balance(relus)

    for centre in (jnp.zeros(4), jnp.ones(4), -jnp.ones(4), jnp.full(4, jnp.inf)):
        for scale in (0.0, 0.5):
            value, slope = jax.value_and_grad(total)(scale, centre)
            assert bool(jnp.isfinite(value))
            assert bool(jnp.isfinite(slope))


def test_shi_is_the_bound_and_the_regularisers_which_fade_as_eps_grows():
    robust, plain = (
        made(LOSS, THREAT, eps=RAMP)
        for made in (training.shi, lambda *a, eps: training.certified(*a, jr.bounds.ibp(), eps=eps))
    )
    args = (dense_params(), None, X, Y)
    f = lambda z, y: jr.objectives.classification(lambda z: dense(args[0], None, z[None], train=False)[0][0], y)  # noqa: E731
    for t in (0, 25, 75, 100, 150):
        eps = min(t / 100, 1.0) * EPS

        def one(x, y, eps=eps):
            return jr.bounds.inside(jr.bounds.ibp()).solve(None, f(x, y), THREAT.family(eps)(x)).info["inside"]

        found = jax.vmap(one)(X, Y)
        lift = 0.5 * (1 - eps / EPS) * (tightness(*found) + balance(found.relus))
        expected = plain.build(t)(*args, **HOW)[0] + lift
        np.testing.assert_allclose(robust.build(t)(*args, **HOW)[0], expected, rtol=1e-4)
        assert (float(lift) > 0.01) == (t < 100)
    kept = training.shi(LOSS, THREAT, eps=RAMP, kappa=1.0, weight=0.0).build(50)(*args, **HOW)[0]
    np.testing.assert_allclose(kept, LOSS(*args)[0], rtol=1e-5)


@pytest.mark.parametrize("bound", [None, jr.bounds.inside(jr.bounds.crown_ibp())])
def test_shi_trains_a_net_with_batchnorm(bound):
    x, y = map(jnp.asarray, blobs())
    apply, params, rest = jr.nnx.functional(Net(Rngs(0)))
    params = jr.models.ibp_init(jax.random.key(1), params)
    robust = training.shi(
        jr.objectives.cross_entropy(apply), THREAT.family(0.02), eps=training.smoothed(0.02, end=60), bound=bound
    )
    tx = optax.adam(0.02)
    step, state = jax.jit(training.make_step(robust, tx)), training.init(params, rest, tx)
    for t in range(100):
        state, metrics = step(state, (x, y), key=jax.random.key(t))
        assert bool(jnp.isfinite(metrics["loss"]))
        assert bool(jnp.isfinite(metrics["grad_norm"]))
    f = lambda z: apply(state.params, state.rest, z, train=False)[0]  # noqa: E731
    report = jr.evaluate(f, x, y, threat=THREAT.family(0.02), oracles={"ibp": jr.bounds.ibp()}, key=jax.random.key(0))
    assert report["ibp"].accuracy().value > 0.9


def test_shi_refuses_what_it_cannot_see_into():
    args = (dense_params(), None, X, Y)
    with pytest.raises(ValueError, match="side upper"):
        training.shi(LOSS, THREAT, eps=RAMP, bound=jr.attacks.fgsm())
    with pytest.raises(ValueError, match="does not show"):
        training.shi(LOSS, THREAT, eps=RAMP, bound=jr.bounds.ibp()).build(0)(*args, **HOW)
    linear = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x.reshape(x.shape[0], -1) @ p, rest))
    with pytest.raises(ValueError, match="no ReLU"):
        training.shi(linear, THREAT, eps=RAMP).build(0)(jnp.ones((16, 4)), None, X, Y, **HOW)


# -- Elision -------------------------------------------------------------------------------------------------------------


def test_margins_are_bounded_as_one_map_with_the_last_layer():
    """Each logit alone must pay for its own ends; their difference need not."""
    p = dense_params()
    h = lambda x: jax.nn.relu(x.reshape(-1) @ p["w"] + p["b"])  # noqa: E731
    reduce = lambda out, y: out[jnp.arange(len(y)), (y + 1) % 4] - out[jnp.arange(len(y)), y]  # noqa: E731
    loss = jr.Loss(LOSS.outputs, jax.tree_util.Partial(reduce))
    elided, _ = jr.worst_case(loss, THREAT, jr.bounds.ibp())(p, None, X, Y, **HOW)
    for x, y, got in zip(X, Y, elided, strict=True):
        lo, hi = jr.bounds.output_bounds(lambda z: h(z) @ p["v"], THREAT(x), method=jr.bounds.ibp())
        apart = hi[(y + 1) % 4] - lo[y]
        lo, hi = jr.bounds.output_bounds(h, THREAT(x), method=jr.bounds.ibp())
        w = p["v"][:, (y + 1) % 4] - p["v"][:, y]
        as_one = 0.5 * (hi + lo) @ w + 0.5 * (hi - lo) @ jnp.abs(w)
        np.testing.assert_allclose(got, as_one, rtol=1e-4, atol=1e-6)
        assert float(got) < float(apart) - 1e-3


# -- TAPS ----------------------------------------------------------------------------------------------------------------


def deep(params, rest, x, *, train):
    del train
    h = x.reshape(x.shape[0], -1)
    for w in params[:-1]:
        h = jax.nn.relu(h @ w)
    return h @ params[-1], rest


def deep_params(*widths):
    keys = jax.random.split(jax.random.key(7), len(widths) - 1)
    return [
        jax.random.normal(k, (a, b)) * (2 / a) ** 0.5 for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


DEEP = jr.objectives.cross_entropy(deep)


def by(oracle, params, loss=DEEP):
    return jr.worst_case(loss, THREAT, oracle)(params, None, X, Y, **HOW)[0]


def test_the_gradient_connector_is_its_formula():
    lo, hi = jnp.array([0.0, -1.0, 2.0, 1.0]), jnp.array([1.0, 3.0, 2.0, 1.1])
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        u = lo + share * (hi - lo)
        for edge in (0.5, 1.0, 0.1):
            c = jnp.array([1.0, -2.0, 3.0, 0.5])
            value, pull = jax.vjp(connected, lo, hi, u, jnp.asarray(edge))
            down, up, through, _ = pull(c)
            np.testing.assert_array_equal(value, u)
            expected = max(0.0, 1 - share / edge), max(0.0, 1 - (1 - share) / edge)
            for got, factor in zip((down, up), expected):
                factors = jnp.array([factor, factor, 0.5, factor])  # the third has no width
                np.testing.assert_allclose(got, c * factors, atol=1e-4)
            np.testing.assert_array_equal(through, 0.0)


def test_behind_a_linear_head_taps_is_ibp():
    params = deep_params(16, 12, 10, 4)

    def value_and_slope(oracle):
        return jax.value_and_grad(lambda p: jnp.sum(by(oracle, p)))(params)

    exact, bound = value_and_slope(training.taps(relus=0, expand=None)), value_and_slope(jr.bounds.ibp())
    np.testing.assert_allclose(exact[0], bound[0], rtol=1e-4)
    for a, b in zip(exact[1], bound[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("relus", [1, 2])
def test_taps_lies_between_an_attack_and_ibp(relus):
    params = deep_params(16, 12, 10, 8, 4)
    attack, estimate, bound = (
        by(o, params) for o in (jr.attacks.pgd(steps=20), training.taps(relus=relus, expand=None), jr.bounds.ibp())
    )
    assert bool(jnp.all(estimate <= bound * (1 + 1e-5)))
    assert float(jnp.mean(bound - estimate)) > 1e-2
    assert float(jnp.mean(estimate - attack)) > 1e-2


def test_the_loss_is_a_product_whose_first_factor_speaks_louder():
    params = deep_params(16, 12, 10, 8, 4)
    key = HOW["key"]

    def made(oracle):
        return lambda p: jr.worst_case(DEEP, THREAT, oracle)(p, None, X[:1], Y[:1], key=key, train=True)[0][0]

    (one, d_one), (two, d_two) = (
        jax.value_and_grad(made(o))(params) for o in (training.taps(expand=None), jr.bounds.ibp())
    )
    value, slope = jax.value_and_grad(made(training.taps(expand=3.0)))(params)
    np.testing.assert_allclose(value, one * two, rtol=1e-4)
    for got, a, b in zip(slope, d_one, d_two, strict=True):
        np.testing.assert_allclose(got, 3.0 * a * two + one * b, rtol=1e-3, atol=1e-3)


def test_staps_is_taps_on_a_small_box():
    params = deep_params(16, 12, 10, 8, 4)
    attack = jr.attacks.pgd(steps=3, start="center", keep="last")
    small, whole, none = (
        by(jr.shrink(training.taps(expand=None), size, about=attack), params) for size in (0.3, 1.0, 0.0)
    )
    assert bool(jnp.all(small < whole))
    np.testing.assert_allclose(none, by(attack, params), rtol=1e-3)


def test_taps_learns_and_says_what_it_cannot_cut():
    x, y = map(jnp.asarray, blobs())
    params, tx = deep_params(16, 12, 12, 4), optax.adam(0.01)
    robust = training.certified(DEEP, THREAT, training.taps(), eps=training.smoothed(0.05, end=60))
    step, state = jax.jit(training.make_step(robust, tx)), training.init(params, None, tx)
    for t in range(120):
        state, _ = step(state, (x, y), key=jax.random.key(t))
    report = jr.evaluate(
        lambda z: deep(state.params, None, z, train=False)[0],
        x,
        y,
        threat=THREAT.family(0.05),
        oracles={"crown": jr.bounds.crown()},
        key=jax.random.key(0),
    )
    assert report["crown"].accuracy().value > 0.9
    assert training.taps().side == "estimate"
    with pytest.raises(ValueError, match="leaves none of the model's 2 ReLUs"):
        by(training.taps(relus=2), params)

    def residual(p, rest, x, *, train):
        h = jax.nn.relu(x.reshape(x.shape[0], -1) @ p[0])
        return (h + jax.nn.relu(h @ p[1])) @ p[2], rest

    with pytest.raises(ValueError, match="residual"):
        by(training.taps(relus=0), params, jr.objectives.cross_entropy(residual))
    by(training.taps(relus=1), params, jr.objectives.cross_entropy(residual))
    with pytest.raises(ValueError, match="side lower"):
        training.taps(attack=jr.bounds.ibp())
    with pytest.raises(ValueError, match="edge"):
        training.taps(edge=0.0)
    with pytest.raises(ValueError, match="early"):
        by(training.taps(attack=jr.attacks.pgd(early_stop=True)), params)
