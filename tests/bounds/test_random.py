"""Random programs of random depth over random sets: no sample leaves a bound, in float64, where rounding hides nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from jax import lax

import jrobust as jr

METHODS = {m.name: m for m in (jr.bounds.ibp(), jr.bounds.crown_ibp(), jr.bounds.crown())}
SETS = {
    "linf": lambda eps: jr.sets.linf(eps),
    "l2": lambda eps: jr.sets.l2(eps),
    "l1": lambda eps: jr.sets.l1(2 * eps),
    "clipped l2": lambda eps: jr.sets.l2(2 * eps, clip=(-1, 1)),
    "box": lambda eps: jr.sets.box(-0.5 * eps, eps),
}


def attention(w, h):
    rows = h.reshape(-1, 2)
    return (jax.nn.softmax(rows @ w[:2, :2] @ rows.T) @ rows).ravel()


def recurrent(w, h):
    return lax.scan(lambda c, v: (jnp.tanh(c + v * w[0, 0]), c * v), h[0], h)[1]


def halved(w, h):
    return lax.fori_loop(0, 2, lambda i, v: 0.5 * v + i * w[0], h)


# the perturbed input z is at hand as well: residual connections of any length
OPS = {
    "dense": lambda w, h, z: w @ h + w[0],
    "relu": lambda w, h, z: jax.nn.relu(w @ h),
    "leaky": lambda w, h, z: jax.nn.leaky_relu(h, 0.1) - w[0],
    "tanh": lambda w, h, z: jnp.tanh(w @ h),
    "gelu": lambda w, h, z: jax.nn.gelu(w @ h),
    "exact gelu": lambda w, h, z: jax.nn.gelu(h - w[1], approximate=False),
    "silu softplus": lambda w, h, z: jax.nn.silu(h) - jax.nn.softplus(w @ h),
    "elu": lambda w, h, z: jax.nn.elu(h, 1.5) + jax.nn.mish(w @ h),
    "waves": lambda w, h, z: jnp.sin(h) * 0.5 + jnp.cos(w @ h),
    "odd curves": lambda w, h, z: jnp.arctan(h) + lax.erf(w @ h) - jnp.arcsinh(h),
    "roots": lambda w, h, z: jnp.sqrt(0.1 + jnp.abs(h)) - jnp.log(1 + h**2) + jnp.cbrt(w @ h),
    "poles": lambda w, h, z: jnp.tan(jnp.tanh(h)) + lax.atanh(0.9 * jnp.sin(w @ h)) + lax.lgamma(0.3 + h**2),
    "exponential": lambda w, h, z: jnp.exp(-jax.nn.relu(h)) + jnp.expm1(0.1 * jnp.tanh(w @ h)),
    "powers": lambda w, h, z: 0.1 * h**3 - 0.2 * h**2 + 1 / (1 + (w @ h) ** 4),
    "absolute": lambda w, h, z: jnp.abs(h) - jnp.abs(w @ h),
    "residual": lambda w, h, z: h + w @ jax.nn.relu(w.T @ h),
    "skip": lambda w, h, z: w @ h - z,
    "attention": lambda w, h, z: attention(w, h),
    "max pool": lambda w, h, z: lax.reduce_window(w @ h, -jnp.inf, lax.max, (2,), (1,), "SAME"),
    "average pool": lambda w, h, z: lax.reduce_window(h, 0.0, lax.add, (3,), (1,), "SAME") / 3 - w[0],
    "layer norm": lambda w, h, z: w[0] * (h - jnp.mean(h)) * lax.rsqrt(jnp.var(h) + 0.1),
    "rms norm": lambda w, h, z: h / jnp.sqrt(jnp.mean(h**2) + 0.2),
    "softmax": lambda w, h, z: 3 * jax.nn.softmax(w @ h),
    "log softmax": lambda w, h, z: jax.nn.log_softmax(h) - jax.nn.logsumexp(w @ h),
    "product": lambda w, h, z: h * (w @ h),
    "square": lambda w, h, z: (w @ h) * h - h * h,
    "gate": lambda w, h, z: h * jax.nn.sigmoid(w @ z),
    "quotient": lambda w, h, z: (w @ h) / (1.5 + jnp.abs(h)),
    "two matrices": lambda w, h, z: (h.reshape(2, -1) @ (w @ h).reshape(-1, 2) @ h.reshape(2, -1)).ravel() / 2,
    "select": lambda w, h, z: jnp.where(w @ h > 0.1, h, 0.3 * z),
    "mask": lambda w, h, z: jnp.where(w[0] > 0, h, -h),
    "clip": lambda w, h, z: jnp.clip(h, -0.4, 0.6) + lax.clamp(-0.2, w @ h, 0.3),
    "largest of two": lambda w, h, z: jnp.maximum(h, w @ z) - jnp.minimum(h, 0.2),
    "reductions": lambda w, h, z: h - jnp.max(h) + jnp.min(w @ h) - jnp.mean(h),
    "running": lambda w, h, z: jnp.cumsum(h) / 3 + lax.cummax(w @ h) - jnp.cumprod(jnp.tanh(h)),
    "order": lambda w, h, z: jnp.sort(w @ h) - h + lax.top_k(h, 2)[0][1],
    "steps": lambda w, h, z: jnp.floor(h) * 0.1 + jnp.sign(w @ h) + jnp.mod(h, 0.8),
    "places": lambda w, h, z: h + jax.nn.one_hot(jnp.argmax(w @ h), h.size),
    "gathered": lambda w, h, z: h[jnp.array([1, 0, 3, 3])].sum() - h[::-1] + w[0],
    "recurrent": lambda w, h, z: recurrent(w, h),
    "halved": lambda w, h, z: halved(w, h),
    "branch": lambda w, h, z: lax.cond(h[0] > 0.1, jnp.tanh, lambda v: w @ v, h),
}


def programs(deepest):
    return st.fixed_dictionaries(
        {
            "ops": st.lists(st.sampled_from(list(OPS)), min_size=2, max_size=deepest),
            "n": st.sampled_from([4, 6]),
            "set": st.sampled_from(list(SETS)),
            "method": st.sampled_from(list(METHODS)),
            "eps": st.sampled_from([0.01, 0.1, 0.4]),
            "seed": st.integers(0, 2**31 - 1),
        }
    )


def excess(ops, n, set, method, eps, seed):
    """How far a sample leaves the bounds beyond slack, and the share of bounds that are finite."""
    if len(ops) > 3 and method == "crown":  # a full pass for every bound of a deep program compiles for minutes
        method = "crown-ibp"
    r = np.random.default_rng(seed)
    weights = r.normal(size=(len(ops), n, n)) / np.sqrt(n)
    s = SETS[set](eps)(jnp.asarray(r.uniform(-1, 1, n)))

    def fn(z):
        h = z
        for op, w in zip(ops, weights, strict=True):
            h = OPS[op](w, h, z)
        return h

    @jax.jit
    def bounded(s, key):
        lo, hi = jr.bounds.output_bounds(fn, s, method=METHODS[method])
        k_u, k_v = jax.random.split(key)
        points = jnp.concatenate(
            [
                jax.vmap(s.sample)(jax.random.split(k_u, 100)),
                jax.vmap(s.argsup)(jax.random.normal(k_v, (200, n))),
                s.center[None],
            ]
        )
        v = jax.vmap(fn)(points)
        slack = 1e-9 * (1 + jnp.max(jnp.abs(v), axis=0))
        outside = jnp.maximum(lo - v, v - hi) - slack
        return jnp.max(jnp.where(jnp.isnan(outside), jnp.inf, outside)), jnp.mean(jnp.isfinite(hi - lo))

    assert s.center.dtype == jnp.float64
    return bounded(s, jax.random.key(seed % 1000))


def run(number, examples, deepest):
    """``examples`` programs, the ``number``-th lot of them; finite enough to mean something."""
    shares = []

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs(deepest))
    def holds(program):
        with jax.enable_x64(True):
            outside, finite = excess(**program)
            shares.append(float(finite))
            assert outside <= 0, program

    holds()
    assert np.mean(shares) > 0.5


def test_random_programs():
    run(0, 4, deepest=2)  # compiling the deeper ones takes longer than all other tests of bounds


@pytest.mark.sweep
@pytest.mark.parametrize("number", range(1, 21))
def test_many_random_programs(number):
    run(number, 25, deepest=6)
    jax.clear_caches()
