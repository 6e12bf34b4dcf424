"""`worst_case`: every oracle gives a loss of the same shape, on the right side of the truth, with the right gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr

_W = jax.random.normal(jax.random.key(7), (4, 6))
_X = jax.random.uniform(jax.random.key(8), (5, 6))
_Y = jnp.array([0, 1, 2, 3, 0])
_EPS = 0.1


def _apply(params, rest, x, *, train):
    return x @ params.T, rest


LOSS = jr.objectives.cross_entropy(_apply)

ORACLES = {
    "fgsm": (jr.attacks.fgsm(), "lower"),
    "pgd": (jr.attacks.pgd(steps=5), "lower"),
    "ibp": (jr.bounds.ibp(), "upper"),
    "crown_ibp": (jr.bounds.crown_ibp(), "upper"),
    "mix": (jr.mix(jr.attacks.pgd(steps=5), jr.bounds.ibp(), 0.5), "estimate"),
    "mix of losses": (jr.mix(jr.attacks.pgd(steps=5), jr.bounds.ibp(), 0.5, losses=True), "estimate"),
    "mix of exponents": (jr.mix(jr.attacks.pgd(steps=5), jr.bounds.ibp(), 0.5, losses="product"), "estimate"),
    "small boxes": (jr.shrink(jr.bounds.ibp(), 0.4), "estimate"),
    "small boxes about an attack": (jr.shrink(jr.bounds.ibp(), 0.4, about=jr.attacks.pgd(steps=5)), "estimate"),
}


def _exact(w):
    """Worst-case cross-entropy of a linear model: all margins cannot be attained at once, so this is IBP's own value."""
    logits = _X @ w.T
    lift = _EPS * jnp.abs(w[None] - w[_Y][:, None]).sum(-1)
    return jax.nn.logsumexp(logits + lift, axis=1) - jnp.take_along_axis(logits, _Y[:, None], 1)[:, 0]


@pytest.mark.parametrize("name", ORACLES)
def test_shape_side_jit_and_gradient(name, key):
    oracle, side = ORACLES[name]
    robust = jr.worst_case(LOSS, jr.sets.linf(_EPS), oracle)

    def values(w):
        return robust(w, None, _X, _Y, key=key, train=True)[0]

    clean = LOSS(_W, None, _X, _Y)[0]
    out = jax.jit(values)(_W)
    assert out.shape == (5,)
    if name == "pgd":  # op by op: slow to compile, so once
        np.testing.assert_allclose(out, values(_W), rtol=1e-4)
    assert bool(jnp.all(out >= clean - 1e-5))
    assert bool(jnp.all(out <= _exact(_W) + 1e-4))
    if side == "upper":
        np.testing.assert_allclose(out, _exact(_W), rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda w: values(w).sum()))(_W)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert float(jnp.abs(gradient).max()) > 1e-3
    if side == "upper":
        np.testing.assert_allclose(gradient, jax.grad(lambda w: _exact(w).sum())(_W), rtol=1e-3, atol=1e-4)


def test_gradient_at_the_stopped_witness_is_the_gradient_of_the_loss_there(key):
    attack = jr.attacks.fgsm()
    robust = jr.worst_case(LOSS, jr.sets.linf(_EPS), attack)
    got = jax.grad(lambda w: robust(w, None, _X, _Y, key=key, train=True)[0].sum())(_W)

    def at(w, x, y):
        f = jr.Objective(lambda z: w @ z, lambda out: LOSS.reduce(out[None], y[None]), label=y)
        return attack.solve(key, f, jr.sets.linf(_EPS)(x)).witness

    z = jax.vmap(at, in_axes=(None, 0, 0))(_W, _X, _Y)
    np.testing.assert_allclose(got, jax.grad(lambda w: LOSS(w, None, z, _Y)[0].sum())(_W), rtol=1e-5)


def test_batch_and_per_example_crafting_agree_without_batch_statistics(key):
    each = jr.worst_case(LOSS, jr.sets.linf(_EPS), jr.attacks.fgsm())(_W, None, _X, _Y, key=key, train=True)[0]
    batch = jr.worst_case(LOSS, jr.sets.linf(_EPS), jr.attacks.fgsm(), crafting="batch")
    np.testing.assert_allclose(each, batch(_W, None, _X, _Y, key=key, train=True)[0], rtol=1e-5)


def test_eps_may_be_one_an_example(key):
    eps = jnp.array([0.0, 0.1, 0.2, 0.0, 0.3])
    loss = jr.worst_case(LOSS, jr.sets.linf(eps), jr.bounds.ibp())
    robust = jax.jit(lambda w: loss(w, None, _X, _Y, key=key, train=False)[0])(_W)
    clean = LOSS(_W, None, _X, _Y)[0]
    np.testing.assert_allclose(robust[eps == 0], clean[eps == 0], rtol=1e-5)
    assert bool(jnp.all(robust[eps > 0] > clean[eps > 0]))


def test_between_an_attack_and_a_bound(key):
    """The ends of every mixture are the attack's loss and the bound's; the product of losses is their geometric mean."""
    bound, threat = jr.bounds.ibp(), jr.sets.linf(_EPS)

    def value(oracle):
        return jr.worst_case(LOSS, threat, oracle)(_W, None, _X, _Y, key=key, train=False)[0]

    # a mixture hands its oracles keys of its own, and an attack from the centre needs none
    attack = jr.attacks.pgd(steps=5, start="center")
    low, high = value(attack), value(bound)
    for losses in (False, True, "product"):
        np.testing.assert_allclose(value(jr.mix(attack, bound, 0.0, losses=losses)), low, rtol=1e-4)
        np.testing.assert_allclose(value(jr.mix(attack, bound, 1.0, losses=losses)), high, rtol=1e-4)
    np.testing.assert_allclose(value(jr.mix(attack, bound, 0.25, losses=True)), 0.75 * low + 0.25 * high, rtol=1e-4)
    np.testing.assert_allclose(value(jr.mix(attack, bound, 0.25, losses="product")), low**0.75 * high**0.25, rtol=1e-4)
    np.testing.assert_allclose(value(jr.shrink(bound, 1.0, about=attack)), high, rtol=1e-4)
    np.testing.assert_allclose(value(jr.shrink(bound, 0.0, about=attack)), low, rtol=1e-4)
    small = value(jr.shrink(bound, 0.4, about=attack))
    assert bool(jnp.all((low - 1e-5 <= small) & (small <= high + 1e-5)))


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="losses is False, True or 'product'"):
        jr.mix(jr.attacks.fgsm(), jr.bounds.ibp(), 0.5, losses="sum")
    with pytest.raises(ValueError, match="side lower"):
        jr.shrink(jr.bounds.ibp(), 0.5, about=jr.bounds.ibp())
    about = jr.shrink(jr.bounds.ibp(), 0.5, about=jr.attacks.fgsm())
    with pytest.raises(ValueError, match="moves norm balls"):
        jr.worst_case(LOSS, jr.sets.box(0.0, 1.0), about)(_W, None, _X, _Y, key=jax.random.key(0), train=False)
    plain = lambda params, rest, x, y, *, key, train: (jnp.zeros(x.shape[0]), rest)  # noqa: E731
    with pytest.raises(TypeError, match="plain callable"):
        jr.worst_case(plain, jr.sets.linf(0.1), jr.bounds.ibp())
    with pytest.raises(ValueError, match="early"):
        jr.worst_case(LOSS, jr.sets.linf(0.1), jr.restarts(jr.attacks.pgd(steps=3, early_stop=True), 2))
    for stops in (jr.attacks.apgd(), jr.restarts(jr.attacks.square(), 2), jr.attacks.within(jr.attacks.fab())):
        with pytest.raises(ValueError, match="early"):
            jr.worst_case(LOSS, jr.sets.linf(0.1), stops)


def test_a_plain_callable_loss_is_attacked(key):
    def plain(params, rest, x, y, *, key, train):
        return jnp.sum((x @ params.T) ** 2, axis=-1), rest

    robust = jr.worst_case(plain, jr.sets.linf(_EPS), jr.attacks.pgd(steps=5))
    assert bool(
        jnp.all(robust(_W, None, _X, _Y, key=key, train=True)[0] > plain(_W, None, _X, _Y, key=key, train=True)[0])
    )


@pytest.mark.parametrize(
    ("y", "target", "message"),
    [
        (7, None, r"y = 7 is out of range: the model has 5 classes, labels are 0..4"),
        (-1, None, "y = -1"),
        (jnp.asarray(5), 0, "y = 5"),
        (0, 9, "target = 9"),
        (2, 2, "another class"),
    ],
)
def test_a_class_out_of_range_is_refused(y, target, message):
    with pytest.raises(ValueError, match=message):
        jr.objectives.classification(lambda z: jnp.zeros(5) * z, y, target=target)(1.0)
    if target is None:
        with pytest.raises(ValueError, match="label = "):
            jr.objectives.cross_entropy(lambda p, rest, x, *, train: (jnp.zeros((2, 5)), rest))(
                None, None, jnp.zeros((2, 1)), jnp.array([0, y])
            )


def test_a_module_in_the_place_of_apply_is_one_clear_error():
    with pytest.raises(TypeError, match=r"jr\.nnx\.functional\(model\)\.apply"):
        jr.objectives.cross_entropy(lambda x: x)
