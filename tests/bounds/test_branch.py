"""Branch and bound: the exact worst case where a grid or a program shows it, both sides whenever it stops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust._tree import bind
from tests.bounds.test_optimise import weights


def relu_net(w, z):
    return jax.nn.relu(jax.nn.relu(z @ w[0]) @ w[1]) @ w[2]


def smooth_net(w, z):
    return (jnp.tanh(z @ w[0]) @ w[1]) * jax.nn.sigmoid(2 * z) + jnp.sin(z)


def problem(net, seed, sizes):
    w = weights(jax.random.key(seed), sizes)
    return lambda z: net(w, z), jr.sets.linf(0.8)(jax.random.normal(jax.random.key(seed), (sizes[0],)))


def grid_largest(fn, s, n=401):
    lo, hi = s.hull()
    axes = [np.linspace(a, b, n) for a, b in zip(lo, hi, strict=True)]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes)], axis=1).astype(np.float32)
    return np.asarray(jax.jit(jax.vmap(fn))(points)).max(0)


@pytest.mark.parametrize("over", ["input", "neurons"])
@pytest.mark.parametrize("net", [relu_net, pytest.param(smooth_net, marks=pytest.mark.sweep)])
def test_closes_on_a_grid(net, over):
    fn, s = problem(net, 1, (2, 6, 6, 2) if net is relu_net else (2, 4, 2))
    best = grid_largest(fn, s)
    limit = 3000 if net is relu_net or over == "input" else 100
    found = jr.bounds.branch(
        jr.objectives.objective(fn), s, over=over, target=None, tolerance=2e-3, batch=32, nodes=limit
    )
    assert np.all(found.elements >= best - 1e-4)
    assert found.lower <= best.max() + 5e-3
    assert found.lower >= best.max() - 0.02
    np.testing.assert_allclose(fn(found.witness).max(), found.lower, atol=1e-4)
    if net is relu_net or over == "input":
        assert found.gap <= 4e-3, found.gap
    else:
        first = jr.bounds.alpha_crown().solve(None, jr.objectives.objective(fn), s).value
        assert found.upper < 0.5 * first + 0.5 * best.max()


@pytest.mark.parametrize("over", ["input", "neurons"])
def test_decides(over):
    """Just above the true worst case it is proven, just below a witness is found; the same programs serve both."""
    w = weights(jax.random.key(5), (2, 8, 8, 3))
    fn, s = lambda z: relu_net(w, z), jr.sets.linf(0.6)(jnp.array([0.3, -0.2]))
    best = grid_largest(fn, s).max()
    objective = lambda c: jr.objectives.objective(bind(lambda w, c, z: relu_net(w, z) - c, w, c))  # noqa: E731
    above = jr.bounds.branch(objective(best + 0.01), s, over=over, batch=16)
    assert above.upper < 0
    assert above.lower < 0
    assert above.open is None
    below = jr.bounds.branch(objective(best - 0.02), s, over=over, batch=16)
    assert below.lower >= 0
    assert bool(s.contains(below.witness))
    # stopped early, and gone on with: what is open shrinks, both sides stay sound
    part = jr.bounds.branch(objective(best + 0.01), s, over=over, batch=16, nodes=1)
    rest = jr.bounds.branch(objective(best + 0.01), s, over=over, batch=16, resume=part)
    assert part.upper >= -0.01
    assert rest.upper < 0
    assert rest.nodes >= part.nodes
    if part.open is not None:
        with pytest.raises(ValueError, match="another problem"):
            jr.bounds.branch(objective(best + 1.0), s, over=over, batch=16, resume=part)
    verdict = jr.verify(
        objective(best + 0.01), s, key=jax.random.key(0), lower=jr.attacks.pgd(steps=5),
        upper=jr.cascade(jr.bounds.ibp(), jr.bounds.branch_and_bound(over=over, batch=16)),
    )  # fmt: skip
    assert verdict.status == "verified"


def test_neurons_agree_with_every_activation_pattern():
    """beta-CROWN closes on the maximum over all patterns of an L2 ball, where the input cannot be cut."""
    w = weights(jax.random.key(2), (3, 5, 2))
    fn, s = lambda z: jax.nn.relu(z @ w[0]) @ w[1], jr.sets.l2(0.9)(jnp.array([0.2, -0.1, 0.4]))
    z = (
        s.center
        + 0.9 * np.asarray(jax.vmap(lambda k: s.sample(k))(jax.random.split(jax.random.key(0), 20000)) - s.center) / 0.9
    )
    sampled = np.asarray(jax.vmap(fn)(jnp.asarray(z))).max(0)
    found = jr.bounds.branch(jr.objectives.objective(fn), s, target=None, tolerance=1e-3, batch=32, nodes=5000)
    assert np.all(found.elements >= sampled - 1e-5)
    assert found.gap <= 2e-2
    assert found.lower >= sampled.max() - 1e-3


def test_refusals():
    f, key = jr.objectives.objective(lambda z: jax.nn.relu(z)), jax.random.key(0)
    ball = jr.sets.l2(0.1)(jnp.ones(2))
    with pytest.raises(ValueError, match="over='input' cuts a box"):
        jr.bounds.branch(f, ball, over="input")
    with pytest.raises(ValueError, match="over is one of"):
        jr.bounds.branch(f, ball, over="sideways")
    with pytest.raises(ValueError, match="upper"):
        jr.bounds.branch(f, ball, method=jr.attacks.fgsm())
    with pytest.raises(TypeError, match="host and cannot be traced"):
        jax.jit(lambda x: jr.bounds.branch_and_bound().solve(key, f, jr.sets.linf(0.1)(x)).value)(jnp.ones(2))


def test_the_input_is_cut_where_the_relaxation_is_steep():
    """At the centre only the second entry moves the function; what makes its bound loose is the first."""
    from jrobust.bounds._branch import _step, root_of

    f = jr.objectives.objective(lambda z: (8 * jax.nn.relu(z[0] - 0.5) + 0.5 * z[1])[None] - 3)
    s, oracle = jr.sets.linf(1.0)(jnp.zeros(2)), jr.bounds.crown()
    root, _, domain = root_of(oracle, f, s, over="input")
    _, leaf = _step(oracle, f, s, root, domain, over="input", tried=1)
    assert leaf.entries[0].tolist() == [0, 1]
    _, leaf = _step(jr.bounds.ibp(), f, s, root, domain, over="input", tried=1)  # no lines: the function's slope alone
    assert leaf.entries[0].tolist() == [1, 0]


def test_children_cover_their_parent():
    from jrobust.bounds._domains import Domain
    from jrobust.bounds._pool import Waiting, children

    r = np.random.default_rng(0)
    lo, hi = r.uniform(-1, 0, (5, 4)), r.uniform(0, 1, (5, 4))
    entries = np.stack([r.permutation(4)[:3] for _ in range(5)])
    entries[2, 1:] = -1
    points = np.take_along_axis(0.5 * (lo + hi), entries.clip(0), 1)
    parents = Waiting(Domain(lo, hi, np.arange(5), ()), np.zeros((5, 1)), entries, points, np.zeros(5, int))
    kids, _ = children(parents, 3)
    assert len(kids.row) == 4 * 8 + 2
    for j, share in itertools.product(range(5), r.uniform(0, 1, (20, 4))):
        z = lo[j] + share * (hi[j] - lo[j])
        mine = kids.row == j
        assert np.sum(np.all((kids.lo[mine] <= z) & (z <= kids.hi[mine]), axis=1)) == 1
