"""Free parameters of relaxations: any are sound, and the optimiser's are better than the first ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.bounds._backward import pairs_of
from jrobust.bounds._methods import method_of
from jrobust.bounds._propagate import one_sided, posed
from tests.bounds.test_rules import BOXES, RULES
from tests.thin import thinned

IBP, CROWN_IBP = (method_of(m, "") for m in (jr.bounds.ibp(), jr.bounds.crown_ibp()))
ROWS = [
    "steep leaky",
    "clamp",
    "minimum of two",
    "reduce max min",
    "products",
    "quotients",
    "gelu silu",
    "elu of any slope",
]
ROWS += ["waves", "softmax and its like", "attention", "quotient of two", "padded max pool", "known powers"]


@pytest.mark.parametrize("name", thinned(ROWS, 3))
def test_any_parameters_are_sound(name):
    shape, fn = RULES[name]

    @jax.jit
    @jax.vmap
    def excess(key, lo, hi):
        s = jr.sets.box(lo, hi)(0.5 * (lo + hi))
        problem = posed(lambda z: jnp.concatenate([fn(z).ravel(), -fn(z).ravel()]), s, CROWN_IBP)
        by = IBP.walk(problem)
        assert by.theta, "nothing to choose"
        leaves, tree = jax.tree.flatten(by.theta)
        k_theta, k_z = jax.random.split(key)
        keys = jax.random.split(k_theta, len(leaves))
        theta = tree.unflatten([jax.random.uniform(k, t.shape) for k, t in zip(keys, leaves, strict=True)])
        by = by._replace(theta=theta, pairs=pairs_of(problem, by.env, theta))
        (out,) = problem.program.outputs
        above = one_sided(problem, CROWN_IBP, by, out, by.env[out].hi)
        above = jnp.where(jnp.isnan(above), jnp.inf, above)
        z = lo + (hi - lo) * jax.random.uniform(k_z, (300, *shape))
        v = jax.vmap(fn)(jnp.concatenate([z, lo[None], hi[None]])).reshape(302, -1)
        v = jnp.max(jnp.concatenate([v, -v], axis=1), axis=0)
        return jnp.max(v - above - 1e-5 * (1 + jnp.abs(v)))

    centre = jax.random.normal(jax.random.key(1), shape)
    usual = [BOXES[b](centre) for b in ("ordinary", "from zero", "symmetric")]
    lo, hi = (jnp.stack(e * 4) for e in map(list, zip(*usual, strict=True)))
    assert float(excess(jax.random.split(jax.random.key(0), 12), lo, hi).max()) <= 0


def net(w, z):
    h = jax.nn.relu(z @ w[0])
    return jnp.tanh(h @ w[1]) @ w[2]


def weights(key, sizes=(4, 12, 12, 3)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [jax.random.normal(k, (a, b)) / a**0.5 for k, a, b in zip(keys, sizes, sizes[1:], strict=False)]


@pytest.mark.parametrize("threat", [jr.sets.linf(0.4), jr.sets.l2(0.7)], ids=["linf", "l2"])
def test_never_above_crown_and_mostly_below(threat):
    @jax.jit
    @jax.vmap
    def both(key):
        w, s = weights(key), threat(jax.random.normal(key, (4,)))
        f = jr.objectives.objective(lambda z: net(w, z))
        crown, alpha = (m.solve(key, f, s).info["elements"] for m in (jr.bounds.crown(), jr.bounds.alpha_crown()))
        sampled = jax.vmap(lambda k: f(s.sample(k)))(jax.random.split(key, 500)).max(0)
        return crown, alpha, sampled

    crown, alpha, sampled = both(jax.random.split(jax.random.key(0), 8))
    assert float((alpha - crown).max()) <= 1e-5
    assert float(jnp.mean(crown - alpha)) > 0.05 * float(jnp.mean(crown - sampled))
    assert float((alpha - sampled).min()) >= -1e-5


def test_as_intermediates_it_builds_on_itself():
    """The intervals of a deeper layer are those of the net that ends there, not ones over CROWN's relaxations."""
    w, s = weights(jax.random.key(1), (4, 12, 12, 12, 3)), jr.sets.linf(0.4)(jnp.array([0.4, -0.2, 0.1, 0.3]))
    alpha = jr.bounds.alpha_crown(steps=15)

    def cut(z):
        return jax.nn.relu(jax.nn.relu(z @ w[0]) @ w[1]) @ w[2]

    method = method_of(alpha, "")
    problem = posed(lambda z: jax.nn.relu(cut(z)) @ w[3], s, method)
    (last,) = [eqn.inputs[0] for eqn in problem.program.equations if eqn.name == "max"][-1:]
    found = jax.jit(lambda s: method.walk(problem._replace(s=s)).env[last])(s)
    by_itself, by_crown = (
        jax.jit(lambda s, m=m: jr.bounds.output_bounds(cut, s, method=m))(s)
        for m in (jr.bounds.alpha_crown(steps=15, intermediates=alpha), alpha)
    )
    open_ = (by_itself[0] < 0) & (by_itself[1] > 0)  # settled neurons keep the interval that settled them
    assert int(open_.sum()) >= 4
    for ours, same, looser in zip((found.lo, found.hi), by_itself, by_crown, strict=True):
        np.testing.assert_allclose(ours[open_], same[open_], atol=2e-3)
        assert float(jnp.abs(looser - same)[open_].mean()) > 0.02


def test_a_target_stops_early():
    s, key = jr.sets.linf(0.3)(jnp.array([0.4, -0.2, 0.1, 0.3])), jax.random.key(3)
    w = weights(key)

    def solve(w, **kw):
        return jr.bounds.alpha_crown(steps=30, **kw).solve(key, jr.objectives.objective(lambda z: net(w, z)), s)

    free = jax.jit(solve)(w).info["elements"]
    first = jr.bounds.crown().solve(key, jr.objectives.objective(lambda z: net(w, z)), s).info["elements"]
    np.testing.assert_allclose(solve(w, target=1e9).info["elements"], first, atol=1e-6)
    assert float((first - free).max()) > 1e-3


def test_gradients_pass_at_the_parameters_that_were_found():
    """Of one step on a ReLU net, whose parameters then do not move with the weights: the slope is a difference's."""
    s, key = jr.sets.linf(0.3)(jnp.array([0.4, -0.2, 0.1, 0.3])), jax.random.key(3)
    w = weights(key)
    move = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), w)

    @jax.jit
    def total(t):
        moved = jax.tree.map(lambda a, d: a + t * d, w, move)
        f = jr.objectives.objective(lambda z: jax.nn.relu(jax.nn.relu(z @ moved[0]) @ moved[1]) @ moved[2])
        return jnp.sum(jr.bounds.alpha_crown(steps=1).solve(None, f, s).info["elements"])

    slope, e = jax.grad(total)(0.0), 1e-3
    np.testing.assert_allclose((total(e) - total(-e)) / (2 * e), slope, rtol=0.02)


def test_bad_words():
    with pytest.raises(ValueError, match="steps"):
        jr.bounds.alpha_crown(steps=0)
    with pytest.raises(TypeError, match="intermediates"):
        jr.bounds.alpha_crown(intermediates=jr.attacks.fgsm())


def test_weights_are_one_more_input():
    """A net over a product of sets: its example, its first weights in an L2 ball, its second ones in a box."""
    keys = jax.random.split(jax.random.key(0), 3)
    point = jnp.ones(4), jax.random.normal(keys[0], (4, 3)), jax.random.normal(keys[1], (3, 2))
    s = jr.sets.product(jr.sets.linf(0.05), jr.sets.l2(0.1), jr.sets.linf(0.02))(point)
    f = jr.objectives.objective(lambda p: jax.nn.relu(p[0] @ p[1]) @ p[2])
    sampled = jax.vmap(lambda k: f(s.sample(k)))(jax.random.split(keys[2], 2000)).max(0)
    ibp, crown, alpha = (
        m.solve(None, f, s).info["elements"] for m in (jr.bounds.ibp(), jr.bounds.crown(), jr.bounds.alpha_crown())
    )
    assert np.all(sampled <= alpha)
    assert np.all(alpha <= crown + 1e-6)
    assert np.all(crown <= ibp + 1e-6)
    assert float((alpha - sampled).max()) < 0.5 * float(jnp.max(sampled - f(point)))
