"""Threats by composition: a box of parameters, attacked and evaluated like any other set."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust._model import functional

_rng = np.random.default_rng(1)
N, SHAPE = 8, (5, 5, 1)
X = np.asarray(_rng.uniform(0.3, 0.6, size=(N, *SHAPE)), np.float32)
W = jnp.asarray(_rng.normal(size=(25, 3)), jnp.float32)


def net(x):
    return (x - 0.45).reshape(x.shape[0], -1) @ W


def bright(x):
    """Of two classes; the margin is linear in the mean, so the worst brightness is known."""
    mean = jnp.mean(x, axis=(1, 2, 3))
    return jnp.stack([0.6 - mean, mean - 0.6], -1)


def test_a_grid_is_every_combination(key):
    t = jr.transforms.rotation_translation()
    y = jnp.argmax(net(X[:1])[0])
    z = tuple(jnp.asarray(a[0]) for a in t.inputs(X))
    f = jr.objectives.classification(lambda z: t.model(net)(jax.tree.map(lambda a: a[None], z))[0], y)
    found = jax.jit(jr.attacks.grid(points=(5, 3, 3)).solve)(key, f, t.threat(0.5)(z))
    all_of_them = [
        jnp.array(p, jnp.float32) for p in itertools.product(np.linspace(-15, 15, 5), *[np.linspace(-1.5, 1.5, 3)] * 2)
    ]
    values = jax.jit(jax.vmap(lambda p: f.value(f.outputs((z[0], p[0], p[1:])))))(jnp.stack(all_of_them))
    np.testing.assert_allclose(found.value, jnp.max(values), atol=1e-5)
    np.testing.assert_allclose(
        jnp.append(found.witness[1], found.witness[2]), all_of_them[int(jnp.argmax(values))], atol=1e-5
    )
    np.testing.assert_array_equal(found.witness[0], z[0])
    assert int(found.info["forwards"]) == 45
    assert int(found.info["backwards"]) == 0


LIGHT = np.clip(X + np.linspace(-0.25, 0.12, N, dtype=np.float32)[:, None, None, None], 0.0, 1.0)
MEAN = LIGHT.mean((1, 2, 3))


def evaluated(oracles, key, **options):
    """Brightness up to 0.2 raises every mean by as much: an image breaks iff its mean is at least 0.6 - 0.2 share."""
    t = jr.transforms.brightness()
    how: Any = jr.evaluation.curve if "eps" in options else jr.evaluate
    return how(
        t.model(bright), t.inputs(LIGHT), np.zeros(N, int), threat=t.threat(), oracles=oracles, key=key, **options
    )


def test_what_holds_at_which_share(key):
    oracles = {
        "grid": jr.attacks.grid(points=(3,), early_stop=True),
        "sampling": jr.attacks.sampling(samples=4),
        "pgd": jr.attacks.pgd(steps=5),
    }
    curve = evaluated(oracles, key, eps=[0.0, 0.5, 1.0], batch_size=8)
    for share, ev in zip(curve.eps, curve.evaluations, strict=True):
        truth = MEAN + 0.2 * share < 0.6
        np.testing.assert_array_equal(ev["grid"].holds, truth)
        np.testing.assert_array_equal(ev["pgd"].holds, truth)
        assert np.all(ev["sampling"].holds >= truth)
        assert np.all(ev["pgd"].value <= 2 * (MEAN + 0.2 * share - 0.6) + 1e-6)
        correct = ev["clean"].holds
        assert np.all(ev["sampling"].info["forwards"][correct] == 4)
        assert np.all(ev["grid"].info["forwards"][correct & truth] == 3)
        images = jr.transforms.brightness().images(*ev["pgd"].witness)
        np.testing.assert_allclose(jax.vmap(jnp.mean)(images)[correct], (MEAN + 0.2 * share)[correct], atol=1e-5)
    last = curve.evaluations[-1]
    assert last.threat == "brightness 1"
    alone = evaluated(oracles, key, batch_size=3)
    for name in oracles:
        np.testing.assert_array_equal(alone[name].holds, last[name].holds, err_msg=name)
        np.testing.assert_allclose(alone[name].witness[1], last[name].witness[1], atol=1e-6)


@pytest.mark.sweep
def test_other_attacks_and_the_critical_share(key):
    oracles = {
        "apgd": jr.attacks.apgd(steps=5),
        "fgsm": jr.attacks.fgsm(),
        "frank_wolfe": jr.attacks.frank_wolfe(steps=3),
        "mim": jr.attacks.mim(steps=5),
        "radius": jr.critical_radius(jr.attacks.grid(points=3), upper=1.0, steps=8),
        "transfer": jr.attacks.transfer(jr.attacks.fgsm(), jr.transforms.brightness().model(bright)),
    }
    ev = evaluated(oracles, key, batch_size=8)
    for name in oracles:
        np.testing.assert_array_equal(ev[name].holds, MEAN + 0.2 < 0.6, err_msg=name)
    some = ev["clean"].holds & (MEAN > 0.45)
    np.testing.assert_allclose(ev["radius"].value[some], (0.6 - MEAN[some]) / 0.2, atol=0.01)


def test_the_worst_of_all_orders(key):
    """Brighter and then stretched is worse than stretched and then brighter: (0.5 + 0.2) 1.3 > 0.5 * 1.3 + 0.2."""
    t = jr.transforms.any_order(jr.transforms.contrast(), jr.transforms.brightness())
    f = jr.objectives.classification(lambda z: t.model(bright)(jax.tree.map(lambda a: a[None], z))[0], 0)
    z = jax.tree.map(lambda a: jnp.asarray(a[0]), t.inputs(np.full((1, 2, 2, 1), 0.5, np.float32)))
    attack = jr.attacks.each(jr.attacks.grid(points=3), part=1, values=range(2))
    for share, worst in ((1.0, 0.7 * 1.3), (0.5, 0.6 * 1.15)):
        s = t.threat(share)(z)
        found = jax.jit(attack.solve)(key, f, s)
        np.testing.assert_allclose(found.value, 2 * (worst - 0.6), atol=1e-5)
        assert s.contains(found.witness)
        assert (float(found.witness[1]), int(found.info["forwards"]), int(found.info["backwards"])) == (1.0, 18, 0)
    stops = jr.attacks.each(jr.attacks.grid(points=3), part=1, values=[0, 1], early_stop=True)
    assert int(jax.jit(stops.solve)(key, f, t.threat()(z)).info["forwards"]) == 9  # the first order is enough


def test_new_parameters_are_the_same_program():
    t = jr.transforms.rotation()
    z = t.inputs(X)
    linear = lambda w, x: x.reshape(x.shape[0], -1) @ w  # noqa: E731
    for kind in (lambda w: lambda x: linear(w, x), lambda w: jax.tree_util.Partial(linear, w)):
        first, second = (functional(t.model(kind(w)), z) for w in (W, 2 * W))
        assert first.apply == second.apply
        assert len(first.leaves) == 1
    random = jr.objectives.stochastic(lambda key, x: net(x) + jax.random.normal(key, (x.shape[0], 1)), 3)
    draws = t.model(random).draws(jax.random.key(0), z)
    assert draws.shape == (3, N, 3)


def test_training_against_a_composition(key):
    t = jr.transforms.brightness()
    loss = jr.objectives.cross_entropy(lambda p, rest, z, *, train: (bright(t.images(*z)) * p, rest))
    robust = jr.worst_case(loss, t.threat(), jr.attacks.sampling(samples=64))
    losses, _ = jax.jit(lambda p, x: robust(p, None, t.inputs(x), jnp.zeros(N, int), key=key, train=True))(1.0, X)
    exact, _ = loss(1.0, None, (X, jnp.full(N, 0.2)), jnp.zeros(N, int))
    np.testing.assert_allclose(losses, exact, atol=0.01)
    assert np.all(losses <= exact + 1e-6)


def test_what_a_grid_cannot_be(key):
    t = jr.transforms.flow()
    f = jr.objectives.objective(lambda z: jnp.sum(z[0], keepdims=True).ravel())
    s = t.threat()(tuple(jnp.asarray(a[0]) for a in t.inputs(X)))
    for attack, word in (
        (lambda: jr.attacks.grid(points=0), "points must be an int"),
        (lambda: jr.attacks.grid(points=()), "tuple"),
        (lambda: jr.attacks.sampling(samples=0), "samples must be an int"),
        (lambda: jr.attacks.grid().solve(key, f, s), "50 entries are more than 1,000,000"),
        (lambda: jr.attacks.grid(points=(3, 3)).solve(key, f, s), "this set has 50"),
        (lambda: jr.attacks.each(jr.attacks.fgsm(), part=1, values=[]), "values must be numbers"),
        (lambda: jr.attacks.each(jr.bounds.ibp(), part=1, values=[0]), "side lower"),
        (lambda: jr.attacks.each(jr.attacks.fgsm(), part=7, values=[0]).solve(key, f, s), "no part 7"),
        (lambda: jr.attacks.grid().solve(key, f, jr.sets.product(jr.sets.point())((jnp.zeros(2),))), "none"),
    ):
        with pytest.raises(ValueError, match=word):
            attack()
