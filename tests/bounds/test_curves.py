"""Lines beside functions of one variable: never crossed, touching, and no looser than the lines of the envelopes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr
from jrobust.bounds._curves import Curve, _most, lines, slopes
from jrobust.bounds._problem import program_of
from jrobust.bounds._tables import RELAX, Interval

NAMES = {
    "tanh": jnp.tanh, "logistic": jax.nn.sigmoid, "erf": lax.erf, "atan": jnp.arctan, "exp": jnp.exp, "softplus": jax.nn.softplus,
    "sqrt": jnp.sqrt, "rsqrt": lax.rsqrt, "integer_pow": lambda z: z**3, "sin": jnp.sin, "cos": jnp.cos, "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "silu": jax.nn.silu, "gelu": lambda z: jax.nn.gelu(z, approximate=False), "gelu_tanh": jax.nn.gelu, "mish": jax.nn.mish,
    "cosh": jnp.cosh,
    "soft_sign": jax.nn.soft_sign, "log": jnp.log, "sinh": jnp.sinh, "cbrt": jnp.cbrt, "asinh": jnp.arcsinh, "erfc": lax.erfc,
}  # fmt: skip
POSITIVE = {"sqrt", "rsqrt", "log"}


def intervals(name):
    r = np.random.default_rng(0)
    centre = r.uniform(-4, 4, 200)
    width = 10 ** r.uniform(-2, 0.8, 200)
    lo, hi = centre - width, centre + width
    if name in ("sin", "cos"):  # beyond a period constants are all there is
        lo, hi = centre - width / 5, centre + width / 5
    if name in POSITIVE:
        lo, hi = np.abs(lo) + 0.05, np.abs(lo) + 0.05 + width
    return Interval(jnp.asarray(lo, jnp.float32), jnp.asarray(hi, jnp.float32))


def hull_at_middle(z, v):
    """The concave envelope at the middle of a fine grid: the best chord over it, by the upper hull's slopes."""
    mid = len(z) // 2
    left, right = slice(0, mid + 1), slice(mid, None)
    best = -np.inf
    for i in range(mid + 1):
        steep = (v[right][1:] - v[left][i]) / (z[right][1:] - z[left][i])
        best = max(best, v[left][i] + steep.max() * (z[mid] - z[left][i]))
    return max(best, v[mid])


@pytest.mark.parametrize("name", NAMES)
def test_lines(name):
    fn, x = NAMES[name], intervals(name)
    eqn = program_of(fn, x.lo).equations[0]
    assert eqn.name == name
    z = x.lo + (x.hi - x.lo) * jnp.linspace(0, 1, 401)[:, None]

    # in XLA's usual mode: that of the other tests (conftest.py) computes one bisection of mish wrongly, in some programs
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def drawn(x, z):
        return [jax.vmap(g)(z) for g in (fn, *RELAX[name].lines(eqn, RELAX[name].start(eqn, x), x))]

    v, low, high = (np.asarray(g, np.float64) for g in drawn(x, z))
    size = np.abs(v).max(0) + np.abs(v.max(0) - v.min(0))
    assert np.all(low <= v + 1e-5 * (1 + size))
    assert np.all(high >= v - 1e-5 * (1 + size))
    # they touch: the offset is attained
    spread = v.max(0) - v.min(0) + 1e-3
    assert np.max(np.min(high - v, axis=0) / spread) < 0.01
    assert np.max(np.min(v - low, axis=0) / spread) < 0.01
    # at the middle no line lies lower than the envelope; ours lies hardly above it
    z = np.asarray(z, np.float64)
    over = [high[200, j] - hull_at_middle(z[:, j], v[:, j]) for j in range(0, 200, 10)]
    under = [-low[200, j] - hull_at_middle(z[:, j], -v[:, j]) for j in range(0, 200, 10)]
    assert np.max(np.maximum(over, under) / spread[::10]) < 0.03


def test_any_slope_is_safe():
    x = Interval(jnp.full(50, -3.0), jnp.full(50, 2.0))
    k = jnp.linspace(-1, 2, 50)
    top = _most(jnp.tanh, Curve((0.0,), (True, False)), x, jnp.zeros(50), jnp.stack([k, -k]))
    z = jnp.linspace(-3, 2, 20001)
    heights = jnp.tanh(z)[:, None] - k * z[:, None]
    np.testing.assert_allclose(top, [heights.max(0), -heights.min(0)], atol=2e-5)


def test_points_and_lines_of_nothing():
    x = Interval(jnp.array([1.0, -1.0]), jnp.array([1.0, jnp.inf]))
    out = Interval(jnp.tanh(x.lo), jnp.tanh(x.hi))
    curve = Curve((0.0,), (True, False))
    _, (k, b), (m, c) = lines(jnp.tanh, curve, slopes(jnp.tanh, curve, x), x, out)
    assert np.all(np.isfinite([k, b, m, c]))
    np.testing.assert_allclose([b[0], c[0]], jnp.tanh(1.0), atol=1e-6)
    np.testing.assert_allclose([k[1], m[1]], 0.0)
    np.testing.assert_allclose([b[1], c[1]], [jnp.tanh(-1.0), 1.0], atol=1e-6)


IDIOMS = {
    "softmax": (jax.nn.softmax, ["softmax"]),
    "softmax, first axis": (lambda z: jax.nn.softmax(z.reshape(2, 3), axis=0), ["reshape", "softmax"]),
    "another softmax": (lambda z: jnp.exp(z - jnp.max(z)) / (1 + jnp.sum(jnp.exp(z - jnp.max(z)))), None),
    "log softmax": (jax.nn.log_softmax, ["log_softmax"]),
    "logsumexp": (lambda z: jax.nn.logsumexp(z, keepdims=True) * 2, ["logsumexp", "mul"]),
    "nearly gelu": (lambda z: 0.5 * z * (1 + jnp.tanh(0.8 * (z + 0.044715 * z**3))), None),
    "gelu": (lambda z: jax.nn.gelu(z + 1), ["add", "gelu_tanh"]),
}


@pytest.mark.parametrize("name", IDIOMS)
def test_idioms_are_those_functions_and_no_others(name):
    fn, names = IDIOMS[name]
    program = program_of(fn, jnp.zeros(6))
    found = [eqn.name for eqn in program.equations]
    if names is None:
        assert not {"softmax", "gelu", "gelu_tanh", "logsumexp", "log_softmax"} & set(found)
    else:
        assert found == names
    s = jr.sets.linf(0.3)(jnp.linspace(-1, 1, 6))
    lo, hi = jax.jit(lambda s: jr.bounds.output_bounds(fn, s))(s)
    v = jax.vmap(fn)(jnp.linspace(-1, 1, 6) + jax.random.uniform(jax.random.key(0), (500, 6), minval=-0.3, maxval=0.3))
    assert jnp.all((v >= lo - 1e-5) & (v <= hi + 1e-5))


def test_softmax_is_tight():
    """The interval is exact: attained at corners; CROWN of a sum of two entries is much tighter than intervals."""
    s = jr.sets.linf(0.5)(jnp.array([0.3, -0.2, 1.0]))
    lo, hi = jr.bounds.output_bounds(jax.nn.softmax, s, method=jr.bounds.ibp())
    corners = jnp.stack(jnp.meshgrid(*[jnp.array([-0.5, 0.5])] * 3), -1).reshape(-1, 3) + s.center
    v = jax.vmap(jax.nn.softmax)(corners)
    np.testing.assert_allclose([lo, hi], [v.min(0), v.max(0)], atol=1e-6)

    def most(z):
        p = jax.nn.softmax(z)
        return (p[0] + p[2])[None]

    widths = [
        jnp.ptp(jnp.stack(jr.bounds.output_bounds(most, s, method=m))) for m in (jr.bounds.crown(), jr.bounds.ibp())
    ]
    assert widths[0] < 0.8 * widths[1]


def test_bounds_through_curves_have_gradients():
    w = jnp.linspace(-1, 1, 18).reshape(6, 3)
    s = jr.sets.linf(0.1)(jnp.linspace(-1, 1, 6))

    @jax.jit
    def width(w):
        return jnp.sum(jr.bounds.output_bounds(lambda z: jnp.tanh(jax.nn.gelu(z @ w)), s)[1])

    g, e = jax.grad(width)(w), 1e-3 * jax.random.normal(jax.random.key(0), w.shape)
    np.testing.assert_allclose(jnp.vdot(g, e), (width(w + e) - width(w - e)) / 2, rtol=0.1, atol=1e-5)
