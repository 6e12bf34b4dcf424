"""Every set satisfies `check_set`, and agrees with an independent solver."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

import jrobust as jr
from jrobust.testing import check_set
from tests.contracts.sets import ALIKE, SETS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.sweep) if name in ALIKE else name for name in SETS]
)
def test_facts_agree(name, key):
    threat, x = SETS[name]
    check_set(threat, x, key=key, samples=64)


@pytest.mark.parametrize("seed", range(4))
def test_l1_support_and_projection_against_solvers(seed):
    rng = np.random.default_rng(seed)
    x, c, eps = rng.uniform(size=5), rng.normal(size=5), rng.uniform(0.1, 1.5)
    s = jr.sets.l1(eps, clip=(0, 1))(jnp.asarray(x, jnp.float32))
    # d = p - q, p and q >= 0, sum p + q <= eps
    lp = linprog(-np.r_[c, -c], A_ub=[np.ones(10)], b_ub=[eps], bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x])
    np.testing.assert_allclose(s.support(jnp.asarray(c, jnp.float32)), c @ x - lp.fun, atol=1e-5)


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_lp_support_and_projection_against_slsqp(p):
    rng = np.random.default_rng(1)
    x, c, eps = rng.uniform(size=4), rng.normal(size=4), 0.6
    s = jr.sets.lp(p, eps, clip=(0, 1))(jnp.asarray(x, jnp.float32))
    ball = {"type": "ineq", "fun": lambda z: eps**p - np.sum((np.abs(z - x) + 1e-12) ** p)}
    top = minimize(lambda z: -c @ z, x, bounds=[(0, 1)] * 4, constraints=ball, method="SLSQP", options={"ftol": 1e-12})
    np.testing.assert_allclose(s.support(jnp.asarray(c, jnp.float32)), -top.fun, atol=1e-4)
    v = x + 2 * c
    near = minimize(
        lambda z: np.sum((z - v) ** 2),
        x,
        bounds=[(0, 1)] * 4,
        constraints=ball,
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(s.project(jnp.asarray(v, jnp.float32)), near.x, atol=2e-3)


@pytest.mark.parametrize("pixels", [False, True])
def test_l0_support_and_projection_against_enumeration(pixels):
    """Every choice of at most so many entries or pixels, tried one by one."""
    rng = np.random.default_rng(2)
    threat = jr.sets.l0(2, clip=(0, 1), pixels=pixels)
    for shape in ((4, 2), (3, 3)) if pixels else ((5,),):
        x, v, c = rng.uniform(size=shape), 2 * rng.normal(size=shape), rng.normal(size=shape)
        best, near = c * np.where(c > 0, 1, 0) - c * x, (v - x) ** 2 - (v - np.clip(v, 0, 1)) ** 2
        if pixels:
            # an entry of a chosen pixel need not move: it gains nothing then
            best, near = (np.maximum(gain, 0).sum(-1) for gain in (best, near))
        chosen = [list(some) for n in (1, 2) for some in itertools.combinations(range(len(best)), n)]
        s, v32 = threat(jnp.asarray(x, jnp.float32)), jnp.asarray(v, jnp.float32)
        most = np.sum(c * x) + max(np.maximum(best, 0)[some].sum() for some in chosen)
        np.testing.assert_allclose(s.support(jnp.asarray(c, jnp.float32)), most, atol=1e-5)
        least = np.sum((v - x) ** 2) - max(np.maximum(near, 0)[some].sum() for some in chosen)
        np.testing.assert_allclose(jnp.sum((s.project(v32) - v32) ** 2), least, rtol=1e-5)


def test_l0_counts_to_the_bit():
    x = jnp.full((3, 2), 0.5)
    s = jr.sets.l0(2, clip=(0, 1))(x)
    a_pixel = x.at[1].set(jnp.array([0.5 + 1e-7, 0.9]))
    assert s.contains(a_pixel)
    assert not s.contains(a_pixel.at[0, 0].add(1e-7))
    assert jr.sets.l0(1, clip=(0, 1), pixels=True)(x).contains(a_pixel)
    assert s.distance(a_pixel) == 2
    assert s.scale(0.499).support(jnp.ones((3, 2))) == 3.0  # less than one entry


def test_eps_is_traced_and_vmappable():
    x, c = jnp.zeros(3), jnp.array([1.0, -2.0, 0.5])
    sweep = jax.jit(jax.vmap(lambda eps: jr.sets.linf(eps)(x).support(c)))(jnp.array([0.0, 0.1, 1.0]))
    np.testing.assert_allclose(sweep, 3.5 * jnp.array([0.0, 0.1, 1.0]), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda eps: jr.sets.l2(eps)(x).support(c))(0.3), jnp.linalg.norm(c), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: jr.sets.linf(-0.1), "eps"),
        (lambda: jr.sets.l2(float("nan")), "eps"),
        (lambda: jr.sets.lp(0.5, 1.0), "p must be >= 1"),
        (lambda: jr.sets.linf(0.1, clip=(1, 0)), "lo <= hi"),
        (lambda: jr.sets.box(1.0, 0.0), "lo <= hi"),
        (lambda: jr.sets.l2(jnp.ones(3))(jnp.zeros(3)), "one number"),
        (lambda: jr.sets.l0(3, clip=None), "clip must be finite"),
        (lambda: jr.sets.l0(3, clip=(0, np.inf)), "clip must be finite"),
        (lambda: jr.sets.l0(-1, clip=(0, 1)), "eps"),
        (lambda: jr.sets.l0(1, clip=(0, 1), pixels=True)(jnp.zeros(3)), "last axis"),
        (lambda: jr.sets.product(jr.sets.l2(1.0))((jnp.zeros(2), jnp.zeros(2))), "tuple of 1"),
    ],
)
def test_bad_input_is_one_clear_error(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize(
    ("threat", "x"),
    [
        (jr.sets.linf(0.9), jnp.array([3, 2])),
        (jr.sets.box(0, 9), [3, 2]),
        (jr.sets.product(jr.sets.l2(0.4), jr.sets.linf(0.1)), (jnp.zeros(2), np.array([1]))),
        (jr.sets.power(jr.sets.l1(0.4)), jnp.array([[True]])),
    ],
)
def test_an_integer_centre_is_refused(threat, x):
    """Its eps would be rounded to an integer, 0.9 to 0: a proof about nothing."""
    with pytest.raises(TypeError, match="must be floating point"):
        threat(x)


def test_one_eps_of_a_product_is_every_part_s(key):
    """As `curve` and `critical_radius` give it to the family; of a box it is the fraction."""
    threat, x = jr.sets.product(jr.sets.l2(0.4), jr.sets.box(0.0, 1.0)), (jnp.full(2, 0.5), jnp.full(3, 0.5))
    expected = threat.family((0.2, 0.2))(x).hull()
    for s in (threat.family(0.2)(x), threat(x).resize(0.2)):
        for ends in zip(jax.tree.leaves(s.hull()), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(*ends)
    f = jr.objectives.objective(lambda z: jnp.sum(z[0], keepdims=True) + jnp.sum(z[1]) - 3.0)
    radius = jr.critical_radius(jr.bounds.ibp(), upper=1.0).solve(key, f, threat, x)
    np.testing.assert_allclose(radius.value, 0.5 / (2**0.5 + 1.5), atol=1e-4)  # the sum rises by sqrt(2) r + 3 r / 2
    for bad in ({"a": x[0]}, x[:1], x[0]):
        with pytest.raises(ValueError, match="takes a tuple of 2 inputs"):
            jr.sets._composed._build_product((0.1, 0.1), threat.args, bad)
    with pytest.raises(TypeError, match="one an entry of a tuple of inputs"):
        jr.sets.product()


NORMS = (1.0, 1.5, 2.0, 4.0, np.inf)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("clip", [None, (0, 1)])
def test_no_set_holds_a_point_that_is_not_finite(p, clip):
    s = jr.sets.lp(p, 1.0, clip=clip)(jnp.full(3, 0.5))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not s.contains(jnp.array([0.5, bad, 0.5]))
        if bad == bad:
            assert s.contains(s.project(jnp.array([0.5, bad, 0.5])))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize(
    "d", [3, pytest.param(3072, marks=pytest.mark.sweep), pytest.param(100_000, marks=pytest.mark.sweep)]
)
def test_contains_forgives_rounding_and_no_more(p, d, key):
    x, g = jax.random.uniform(key, (d,)), jax.random.normal(jax.random.key(1), (d,))
    for eps in (0.001, 0.1, 3.0):
        s = jr.sets.lp(p, eps, clip=(0, 1))(x)
        for z in (s.project(x + g), s.argsup(g), s.sample(key)):
            assert s.contains(z)
        few = x.at[0].add(1.001 * eps * jnp.where(x[0] < 0.5, 1, -1))
        assert not jr.sets.lp(p, eps)(x).contains(few)
    moved = x + 1e-6 * jnp.sign(g)
    assert not jr.sets.lp(p, 0.8e-6 * d ** (1 / p))(x).contains(moved)


@pytest.mark.parametrize("p", NORMS)
def test_the_gradient_of_a_projection_at_radius_zero_is_finite(p):
    for clip in (None, (0, 1)):
        project = lambda z, clip=clip: jnp.sum(jr.sets.lp(p, 0.0, clip=clip)(jnp.full(3, 0.5)).project(z))  # noqa: E731
        assert jnp.all(jnp.isfinite(jax.grad(project)(jnp.array([0.1, 0.2, 0.9]))))


@pytest.mark.parametrize(
    ("threat", "shape", "axis"),
    [
        (jr.sets.linf(jnp.ones(2)), (3, 2), None),
        (jr.sets.linf(jnp.ones(3)), (3, 2), 0),
        (jr.sets.linf(jnp.ones((2, 1))), (2, 2), 0),
        (jr.sets.l2(jnp.ones(2)), (2, 2), 0),
        (jr.sets.linf(jnp.ones(1)), (1, 2), 0),
        (jr.sets.linf(jnp.ones(2)), (2, 2), "ambiguous"),
        (jr.sets.linf(jnp.ones((2, 1))), (2, 2, 2), "ambiguous"),
    ],
)
def test_eps_is_of_an_example_or_of_an_entry_or_refused(threat, shape, axis):
    """[B] was one an example on batches of B and one an entry on all others."""
    if axis == "ambiguous":
        for use in (jr.sets.eps_axes, lambda t, x: jr.sets.power(t)(x)):
            with pytest.raises(ValueError, match="one an example or one an entry"):
                use(threat, jnp.zeros(shape))
    else:
        assert jr.sets.eps_axes(threat, jnp.zeros(shape)).eps == axis


@pytest.mark.parametrize(
    ("p", "eps", "x", "c", "z"),
    [
        (20.0, 0.01, [0.5] * 4, [1.0] * 4, [0.5 + 0.01 / 4**0.05] * 4),
        (50.0, 0.001, [0.5] * 4, [1.0] * 4, [0.5 + 0.001 / 4**0.02] * 4),
        (1.05, 1.0, [1.0, 0.5], [1.0, 0.01], [1.0, 1.0]),
    ],
)
def test_steep_and_flat_norms_are_bounded(p, eps, x, c, z):
    """Powers leave the range of floats here; the support was below a point of the set."""
    s, c, z = jr.sets.lp(p, eps, clip=(0, 1))(jnp.array(x)), jnp.array(c), jnp.array(z)
    assert s.contains(z)
    assert s.support(c) >= jnp.vdot(c, z) - 1e-5
    assert s.contains(s.project(jnp.ones(len(x))))
    assert s.contains(s.argsup(c))
