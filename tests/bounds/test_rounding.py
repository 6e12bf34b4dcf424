"""Bounds rounded outward: no slack anywhere. Against float32 in several orders, float64 and rational numbers."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from tests.bounds.problems import SETS, mlp, weights
from tests.bounds.test_rules import BOXES, RULES
from tests.thin import thinned

IBP, CROWN = jr.bounds.outward(jr.bounds.ibp()), jr.bounds.outward(jr.bounds.crown())
METHODS = [IBP, CROWN, jr.bounds.outward(jr.bounds.crown_ibp()), jr.bounds.outward(jr.bounds.alpha_crown(steps=3))]
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
# what holds functions that the model of arithmetic does not speak of
UNBOUNDED = {"tan", "inverses", "gamma", "remainders", "remainders by zero", "on part of the line"}


@pytest.mark.parametrize("name", thinned(RULES, 8, ["relu", "products", "softmax"]))
def test_rule(name):
    """Sampled outputs, of a compiled program and of one operation at a time, lie inside to the last bit."""
    shape, fn = RULES[name]
    methods = (IBP, CROWN, jr.bounds.ibp())

    @jax.jit
    @jax.vmap
    def bounds(lo, hi):
        return [jr.bounds.output_bounds(fn, jr.sets.box(lo, hi)(0.5 * (lo + hi)), method=m) for m in methods]

    rng = np.random.default_rng(0)
    centre = rng.normal(size=shape).astype(np.float32)
    los, his = (np.stack(e).astype(np.float32) for e in zip(*(box(centre) for box in BOXES.values()), strict=True))
    found = bounds(los, his)
    for i, (box, lo, hi) in enumerate(zip(BOXES, los, his, strict=True)):
        inner = np.clip(lo + (hi - lo) * rng.uniform(size=(200, *shape)).astype(np.float32), lo, hi)
        corners = np.where(rng.uniform(size=(100, *shape)) < 0.5, lo, hi)
        points = np.concatenate([lo[None], hi[None], inner, corners])
        alone = fn(jnp.asarray(points[0]))
        outs = np.concatenate([jax.jit(jax.vmap(fn))(points), alone[None]]).astype(float)
        for method, ends in zip(methods[:2], found, strict=False):
            below, above = (np.asarray(end[i], float) for end in ends)
            where = f"{name}, {box} box, {method.name}"
            assert not np.any(outs > above), f"{where}: a point lies above"
            assert not np.any(outs < below), f"{where}: a point lies below"
            if box == "ordinary" and name not in UNBOUNDED:
                assert np.all(np.isfinite(above) | ~np.isfinite(found[2][1][i])), f"{where}: unbounded"


CURVES = {
    "exp": jnp.exp, "expm1": jnp.expm1, "log": lambda z: jnp.log(z + 4), "log1p": lambda z: jnp.log1p(z + 4), "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid, "erf": jax.lax.erf, "softplus": jax.nn.softplus, "gelu": jax.nn.gelu, "silu": jax.nn.silu,
    "elu": jax.nn.elu, "mish": jax.nn.mish, "sin": jnp.sin, "atan": jnp.arctan, "softmax": jax.nn.softmax, "cosh": jnp.cosh,
    "sqrt": lambda z: jnp.sqrt(z + 4), "rsqrt": lambda z: jax.lax.rsqrt(z + 4), "reciprocal": lambda z: 1 / (z + 4),
    "exact gelu": lambda z: jax.nn.gelu(z, approximate=False), "log softmax": jax.nn.log_softmax,
    "logsumexp": jax.nn.logsumexp, "cube": lambda z: z**3,
}  # fmt: skip


@pytest.mark.parametrize("name", thinned(CURVES, 3, ["tanh", "softmax"]))
def test_functions_in_float64(name):
    """The exact values lie inside too, on narrow intervals, where rounding is what there is."""
    fn = CURVES[name]
    rng = np.random.default_rng(0)
    lo = rng.uniform(-3.9, 3.9, (60, 4)).astype(np.float32)
    hi = lo + 10.0 ** rng.uniform(-8, 0, (60, 1)).astype(np.float32)
    bounds = lambda lo, hi: [jr.bounds.output_bounds(fn, jr.sets.box(lo, hi)(lo), method=m) for m in (IBP, CROWN)]  # noqa: E731
    found = jax.jit(jax.vmap(bounds))(lo, hi)
    for share in (0.0, 0.3, 1.0):
        points = np.clip(lo + np.float32(share) * (hi - lo), lo, hi)
        with jax.enable_x64(True):
            exact = np.asarray(jax.vmap(fn)(jnp.asarray(points, jnp.float64)))
        for below, above in found:
            assert np.all(np.asarray(below, float) <= exact)
            assert np.all(exact <= np.asarray(above, float))


def rational(w, z):
    """The exact output of a ReLU net of float32 weights."""
    h = [Fraction(float(v)) for v in z]
    for k, layer in enumerate(w):
        rows = [[Fraction(float(v)) for v in row] for row in np.asarray(layer)]
        h = [sum((a * b for a, b in zip(row, h, strict=True)), Fraction(0)) for row in rows]
        h = h if k == len(w) - 1 else [max(v, Fraction(0)) for v in h]
    return h


def shuffled(w, z, rng):
    """The net in float32, every sum in another order."""
    h = np.asarray(z, np.float32)
    for k, layer in enumerate(w):
        terms = np.asarray(layer) * h[None]
        h = np.zeros(len(layer), np.float32)
        for j in rng.permutation(terms.shape[1]):
            h = (h + terms[:, j]).astype(np.float32)
        h = h if k == len(w) - 1 else np.maximum(h, 0)
    return h


@EVERY
def test_rational_numbers_and_any_order_of_summation(method):
    """On boxes of one point and of a few units in the last place, where rounding is all there is; plain bounds miss some."""
    plain, missed = jr.bounds.crown(), 0
    solve = jax.jit(lambda w, s, m: jr.bounds.output_bounds(lambda z: mlp(w, z), s, method=m))
    rng = np.random.default_rng(0)
    for seed in range(6):
        w = [50 * v for v in weights(jax.random.key(seed), (6, 9, 9, 3))]
        for eps in (0.0, 1e-6, 0.1):
            s = jr.sets.linf(eps)(jax.random.uniform(jax.random.key(seed + 100), (6,)))
            below, above = (np.asarray(e, np.float64) for e in solve(w, s, method))
            low, high = (np.asarray(e, np.float64) for e in solve(w, s, plain))
            for z in [s.center, *jax.vmap(s.sample)(jax.random.split(jax.random.key(seed), 3))]:
                for out in (rational(w, z), *(shuffled(w, z, rng) for _ in range(3))):
                    for k, v in enumerate(out):
                        v = v if isinstance(v, Fraction) else Fraction(float(v))
                        assert Fraction(below[k]) <= v <= Fraction(above[k]), (seed, eps, k)
                        missed += not Fraction(low[k]) <= v <= Fraction(high[k])
    assert missed > 0


ADVERSARIAL = {
    "cancellation": (jnp.array([[1e8, 1.0, -1e8]]), jnp.ones(3)),
    "many terms": (jnp.full((1, 4096), 0.1), jnp.ones(4096)),
    "alternating": (jnp.array([[3e7, -3e7, 1.0] * 50]), jnp.full(150, 1.1)),
    "underflow": (jnp.full((1, 8), 1e-30), jnp.full(8, 1.1e-9)),
    "large and small": (jnp.array([[1.0] + [2e-8] * 100]), jnp.ones(101)),
}


@EVERY
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_sums(name, method):
    """Behind a ReLU: the smallest and largest sum that an order of the terms gives, and the exact one."""
    w, z = ADVERSARIAL[name]
    lo, hi = jr.bounds.output_bounds(
        lambda z: jax.nn.relu(w @ z) - jax.nn.relu(-(w @ z)), jr.sets.linf(0.0)(z), method=method
    )
    terms = (np.asarray(w)[0] * np.asarray(z)).astype(np.float32)
    orders = [
        terms,
        terms[::-1],
        np.sort(terms),
        np.sort(terms)[::-1],
        *(np.random.default_rng(i).permutation(terms) for i in range(5)),
    ]
    sums = [float(np.add.accumulate(o, dtype=np.float32)[-1]) for o in orders]
    exact = float(
        sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(np.asarray(w)[0], np.asarray(z), strict=True))
    )
    assert lo[0] <= min([*sums, exact])
    assert max([*sums, exact]) <= hi[0]


def test_what_floats_break_is_not_certified():
    """An order of summation gives 0 where the exact sum is 1: without rounding a false property is proven."""
    w, s = jnp.array([[1e8, 1.0, -1e8]]), jr.sets.linf(0.0)(jnp.ones(3))
    f = jr.objectives.objective(lambda z: w @ z - 0.5)
    assert jr.bounds.ibp().solve(None, f, s).value < 0
    assert jr.bounds.outward(jr.bounds.ibp()).solve(None, f, s).value > 0.5


@pytest.mark.parametrize("norm", thinned(SETS, 2))
def test_never_tighter_and_little_looser(norm):
    w = weights(jax.random.key(3), (4, 12, 12, 3))
    s = SETS[norm](jax.random.uniform(jax.random.key(4), (4,)))
    for plain in (jr.bounds.ibp(), jr.bounds.crown(), jr.bounds.crown_ibp()):
        bounds = jax.jit(lambda s, m: jr.bounds.output_bounds(lambda z: mlp(w, z), s, method=m))
        (lo, hi), (below, above) = (bounds(s, m) for m in (plain, jr.bounds.outward(plain)))
        assert jnp.all((below <= lo) & (hi <= above))
        assert jnp.all((lo - below <= 1e-4) & (above - hi <= 1e-4)), plain.name


def test_branching_is_rounded_too():
    w = weights(jax.random.key(3), (3, 8, 2))
    s = jr.sets.linf(0.3)(jnp.array([0.1, 0.4, -0.2]))
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(-0.3, 0.3, 25)] * 3), -1).reshape(-1, 3) + s.center
    most = float(jnp.max(jax.vmap(lambda z: mlp(w, z)[0])(grid)))
    f = jr.objectives.objective(lambda z: mlp(w, z)[:1] - most - 0.05)
    for over, method in (("input", CROWN), ("neurons", METHODS[-1])):
        found = jr.bounds.branch(f, s, over=over, method=method, batch=32, nodes=3000)
        assert found.upper < 0
        assert found.lower <= -0.04


def test_refusals():
    with pytest.raises(TypeError, match="got forward-crown"):
        jr.bounds.outward(jr.bounds.crown(intermediates=jr.bounds.forward_crown()))
    with pytest.raises(TypeError, match="outward takes ibp"):
        jr.bounds.outward(jr.attacks.fgsm())
    s = jr.sets.linf(0.1)(jnp.ones(2))
    assert jnp.all(jr.bounds.output_bounds(jnp.tan, s, method=CROWN)[1] == jnp.inf)
