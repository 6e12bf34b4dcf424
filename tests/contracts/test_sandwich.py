"""sampling <= attack <= bound on random nets of eight shapes, for every norm.

`test_fresh_nets` draws new weights in every run, and two shapes (the message says which); `test_two_hundred_nets` is the whole,
``pytest -m sweep``.
"""

import os

import jax
import jax.numpy as jnp
import pytest

import jrobust as jr
from tests.contracts.nets import NETS, SHAPE

THREATS = {
    "linf": jr.sets.linf(0.05, clip=(0.0, 1.0)),
    "l2": jr.sets.l2(0.3),
    "l1": jr.sets.l1(0.8, clip=(0.0, 1.0)),
    "l3": jr.sets.lp(3.0, 0.2),
    "l0": jr.sets.l0(3, clip=(0.0, 1.0)),
    "box": jr.sets.box(0.2, 0.7),
    "patch": jr.sets.patch((2, 2), clip=(0.0, 1.0), eps=0.3),
}
BOUNDS = {"ibp": jr.bounds.ibp(), "crown_ibp": jr.bounds.crown_ibp(), "crown": jr.bounds.crown()}
MORE = {
    "alpha_crown": jr.bounds.alpha_crown(steps=4, intermediates=jr.bounds.crown_ibp()),
    "forward_crown": jr.bounds.forward_crown(),
    "zonotope": jr.bounds.zonotope(),
    "crown over forward": jr.bounds.crown(intermediates=jr.bounds.forward_crown()),
    "lipschitz": jr.bounds.lipschitz(),
    "outward": jr.bounds.outward(jr.bounds.crown_ibp()),
}
ATTACK = jr.restarts(jr.attacks.pgd(steps=15, surrogate=jr.objectives.largest), 2)


def sandwich(net, threat, params, key, oracles):
    """Margins' worst case of one net as samples, the attack and each bound see it; every number a lower or upper bound."""
    k_x, k_s, k_a = jax.random.split(key, 3)
    x = jax.random.uniform(k_x, SHAPE, minval=0.2, maxval=0.7)
    y = jnp.argmax(net(params, x))
    f, s = jr.objectives.classification(lambda z: net(params, z), y), threat(x)
    samples = jax.vmap(lambda k: f(s.sample(k)))(jax.random.split(k_s, 200))
    attacked = ATTACK.solve(k_a, f, s)
    bounds = {name: oracle.solve(key, f, s).info["elements"] for name, oracle in oracles.items()}
    return {
        "sampled": samples.max(0),
        "attacked": attacked.value,
        "at witness": f(attacked.witness),
        "inside": s.contains(attacked.witness),
        **bounds,
    }


def check(shape, norm, draws, seed, oracles=BOUNDS):
    init, net = NETS[shape]
    keys = jax.random.split(jax.random.key(seed), draws)
    seen = jax.jit(jax.vmap(lambda k: sandwich(net, THREATS[norm], init(jax.random.fold_in(k, 1)), k, oracles)))(keys)
    where = f"{shape}, {norm}, seed {seed}"
    assert bool(seen["inside"].all()), f"{where}: a witness leaves its set"
    for name in oracles:
        gap = seen[name] - jnp.maximum(seen["sampled"], seen["at witness"])
        assert float(gap.min()) >= -1e-4, f"{where}: {name} is below a point of the set by {-float(gap.min()):.2g}"
        assert float((seen[name].max(1) - seen["attacked"]).min()) >= -1e-4, f"{where}: {name} is below the attack"
    # CROWN intersects with IBP's intermediate bounds; its own output may still be looser than IBP's, but not on average
    if "crown" not in oracles:
        return
    assert float(seen["crown"].mean()) <= float(seen["ibp"].mean()) + 1e-4, where
    # the attack climbs: it is at least as good as random search nearly everywhere
    beaten = seen["attacked"] < seen["sampled"].max(1) - 1e-3
    most = (
        0.4 if norm == "patch" else 0.2
    )  # a union of windows is not convex: gradients stay in the window they start in
    assert float(beaten.mean()) <= most or draws < 10, (
        f"{where}: random samples beat the attack on {float(beaten.mean()):.0%}"
    )


FRESH = int.from_bytes(os.urandom(3), "big")  # of this run


@pytest.mark.parametrize("norm", THREATS)
def test_fresh_nets(norm):
    check("mlp", norm, 3, FRESH)


@pytest.mark.parametrize("name", MORE)
def test_fresh_nets_of_other_methods(name):
    check("mlp", ["linf", "l2", "l1", "patch"][FRESH % 4], 3, FRESH, {name: MORE[name]})


@pytest.mark.parametrize("turn", range(2))
def test_fresh_nets_of_two_shapes(turn):
    others = [shape for shape in NETS if shape != "mlp"]
    check(others[(2 * FRESH + turn) % len(others)], "linf", 3, FRESH)


@pytest.mark.sweep
@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("shape", NETS)
def test_two_hundred_nets(shape, norm):
    check(shape, norm, 25, 0)


@pytest.mark.sweep
@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("shape", NETS)
def test_other_methods(shape, norm):
    check(shape, norm, 10, 1, MORE)
