"""Machine numbers: what may be NaN, infinite, rounded or wrapped is never made to look bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr

METHODS = [jr.bounds.ibp(), jr.bounds.crown_ibp(), jr.bounds.crown()]
S = jr.sets.linf(0.5)(jnp.array([0.1, -0.2, 0.3]))
INF = np.full(3, np.inf)

NAN = {
    "log": jnp.log,
    "sqrt": jnp.sqrt,
    "log1p": lambda z: jnp.log1p(z - 1),
    "rsqrt": lax.rsqrt,
    "0/0": lambda z: z / z,
    "inf - inf": lambda z: jnp.exp(z * 1e3) - jnp.exp(z[::-1] * 1e3),
    "0 * inf": lambda z: (z * 3e38 * 10) * jnp.zeros(3),
    "interior 0 * inf": lambda z: z * (1 / z[::-1] + 1),
    "inf / inf": lambda z: (1 / z) / (1 / z),
    "known NaN": lambda z: z + jnp.nan,
    "sorted": lambda z: jnp.sort(jnp.log(z)),
    "through a guard": lambda z: jnp.maximum(jnp.minimum(jnp.log(z), 5.0), -1.0),
    "through a power": lambda z: 1 / jnp.sqrt(z) ** 2 + jnp.sqrt(z) ** 2,
    "through tanh": lambda z: jnp.tanh(jnp.log(z)),
    "through a sum": lambda z: jnp.sum(jnp.log(z)) + z,
    "softmax of infinity": lambda z: jax.nn.softmax(jnp.stack([z[0], 1 / z[0], z[1]])),
    "log-softmax of infinities": lambda z: jax.nn.log_softmax(jnp.log(z + 0.4)),
    "celu of slope 0": lambda z: jax.nn.celu(z, 0.0),
    "squareplus below 0": lambda z: jax.nn.squareplus(z, -1.0),
    "through a pool": lambda z: lax.reduce_window(jnp.log(z), -jnp.inf, lax.max, (1,), (1,), "VALID"),
}


@pytest.mark.parametrize("name", NAN)
def test_nan_reaches_the_bound(name):
    """`f(z) = NaN` breaks a property, so every method must say that anything may come out."""
    for method in METHODS:
        lo, hi = jax.jit(lambda method=method: jr.bounds.output_bounds(NAN[name], S, method=method))()
        np.testing.assert_array_equal(lo, -INF, err_msg=method.name)
        np.testing.assert_array_equal(hi, INF, err_msg=method.name)


def test_nan_is_not_proven(key):
    """Neither by one method, nor by the tightest of two, nor by a cascade; and the attack and the bound do not contradict."""

    def model(x):
        return jnp.stack([jnp.log(x[:, 0] - 0.25), x[:, 1] * 0 + 3], 1)

    ibp, crown = METHODS[0], METHODS[2]
    oracles = {"pgd": jr.attacks.pgd(steps=4), "both": jr.tightest(ibp, crown), "ladder": jr.cascade(ibp, crown)}
    x, y, threat = jnp.array([[0.3, 0.5]]), jnp.array([1]), jr.sets.linf(0.2, clip=(0, 1))
    ev = jr.evaluate(model, x, y, threat=threat, oracles=oracles, key=key)
    assert not any(ev[name].holds[0] for name in oracles)
    f = jr.objectives.objective(lambda z: jnp.log(z) - 9)
    assert jr.tightest(ibp, crown).solve(key, f, S).value == jnp.inf


def test_domains_that_hold_stay_bounded():
    for fn in (lambda z: jnp.log(1 + z), lambda z: jnp.sqrt(1 + z), lambda z: lax.rsqrt(1 + z), lambda z: jnp.log1p(z)):
        ends = jnp.stack([fn(S.center - 0.5), fn(S.center + 0.5)])
        np.testing.assert_allclose(jr.bounds.output_bounds(fn, S), [ends.min(0), ends.max(0)], rtol=1e-5)


def test_infinity_is_a_number():
    """A mask of -inf costs nothing: softmax over the entries that are left."""
    mask = jnp.array([True, False, True])
    lo, hi = jr.bounds.output_bounds(lambda z: jax.nn.softmax(jnp.where(mask, z, -jnp.inf)), S, method=jr.bounds.ibp())
    assert jnp.all((lo >= 0) & (hi < 10))
    assert hi[1] == 0


NARROW = {
    "bfloat16": lambda z: z.astype(jnp.bfloat16).astype(jnp.float32),
    "float16": lambda z: (z.astype(jnp.float16) @ jnp.ones((3, 2), jnp.float16)).astype(jnp.float32),
    "float8_e4m3fn": lambda z: jnp.sum(z.astype(jnp.float8_e4m3fn).astype(jnp.float32), keepdims=True),
    "complex64": lambda z: jnp.real(z.astype(jnp.complex64)),
}


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_numbers_are_refused(dtype):
    """A bound in real arithmetic does not hold for a model that rounds to half a percent."""
    for method in METHODS:
        assert jr.bounds.supported(NARROW[dtype], S.center, method=method)
        with pytest.raises(NotImplementedError, match=rf"float32 or wider.*'.*' in {dtype} at .*test_machine.*cast it"):
            jr.bounds.output_bounds(NARROW[dtype], S, method=method)


def test_other_narrow_numbers(key):
    with pytest.raises(NotImplementedError, match="'reduce_precision'"):
        jr.bounds.output_bounds(lambda z: lax.reduce_precision(z, 8, 1), S)
    with pytest.raises(NotImplementedError, match="the input is bfloat16"):
        jr.bounds.output_bounds(lambda z: z, jr.sets.linf(0.1)(jnp.ones(3, jnp.bfloat16)))
    w = jax.random.normal(key, (3, 2), jnp.bfloat16)
    lo, hi = jr.bounds.output_bounds(lambda z: z @ w.astype(jnp.float32), S)  # narrow constants are known exactly
    assert jnp.all(jnp.isfinite(lo) & jnp.isfinite(hi))


def attained(fn, s, n=2001):
    """The extremes over a set's samples and the corners of its hull."""
    lo, hi = s.hull()
    keys = jax.random.split(jax.random.key(0), n)
    points = jnp.concatenate([jax.vmap(s.sample)(keys), jnp.stack([lo, hi, 0 * lo, jnp.where(lo < hi, hi, lo)])])
    out = jax.vmap(fn)(jnp.clip(points, lo, hi))
    return jnp.min(out, 0), jnp.max(out, 0)


SOUND = {
    "to bool": lambda z: jnp.where(z.astype(bool), 1.0, -1.0),
    "to a narrow integer": lambda z: (z * 200).astype(jnp.int32).astype(jnp.int8).astype(jnp.float32),
    "to an unsigned integer": lambda z: (z * 10).astype(jnp.int32).astype(jnp.uint8).astype(jnp.float32),
    "integers wrap": lambda z: ((z * 1e4).astype(jnp.int32) * 1_000_000).astype(jnp.float32),
    "an integer sum wraps": lambda z: jnp.sum((z * 100).astype(jnp.int8), dtype=jnp.int8, keepdims=True).astype(float),
    "integers that fit": lambda z: (jnp.abs((z * 50).astype(jnp.int32)) * 3 - 7).astype(jnp.float32),
    "index out of bounds": lambda z: z[jnp.array([1, 5])] - z[0],
    "update out of bounds": lambda z: z - z.at[jnp.array([1, 5])].add(z[:2], mode="promise_in_bounds"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound(name):
    least, most = attained(SOUND[name], S)
    for method in METHODS:
        lo, hi = jr.bounds.output_bounds(SOUND[name], S, method=method)
        assert jnp.all((lo <= least + 1e-6) & (most <= hi + 1e-6)), method.name


def test_integers_that_fit_stay_bounded():
    lo, hi = jr.bounds.output_bounds(SOUND["integers that fit"], S)
    np.testing.assert_array_equal(lo, [-7, -7, -7])
    np.testing.assert_array_equal(hi, [83, 98, 113])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_window_of_padding_alone(sign):
    """Its value is infinite, and no relaxation may say otherwise; the other windows keep theirs."""
    w = jax.random.normal(jax.random.key(0), (3, 3, 1, 2))

    def fn(z):
        h = lax.conv_general_dilated(z[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
        op, init = (lax.max, -jnp.inf) if sign > 0 else (lax.min, jnp.inf)
        h = -sign * lax.reduce_window(h, init, op, (2, 2, 1), (2, 2, 1), ((4, 0), (0, 0), (0, 0)))
        return jnp.maximum(h, -3.0)

    s = jr.sets.linf(0.1)(jnp.ones((4, 4, 1)))
    least, most = attained(fn, s, 100)
    for method in METHODS:
        lo, hi = jax.jit(lambda method=method: jr.bounds.output_bounds(fn, s, method=method))()
        assert jnp.all((lo <= least + 1e-5) & (most <= hi + 1e-5)), method.name
        assert jnp.all(hi[:2] == jnp.inf)
        assert jnp.all(jnp.isfinite(hi[2:]))


def test_overflow_beats_real_arithmetic():
    """In real arithmetic both are small; in float32 the first product overflows."""
    for method in METHODS:
        _, hi = jr.bounds.output_bounds(lambda z: z * 3e38 * 10.0 * 1e-38, S, method=method)
        assert jnp.all(hi == jnp.inf)
        _, hi = jr.bounds.output_bounds(lambda z: jnp.minimum(z * 3e38 * 10.0 * 1e-38, 1e3), S, method=method)
        assert jnp.all(hi >= 1e3)


def test_of_equal_operands_one_has_the_gradient_and_nan_is_kept():
    """An interval's `max` and `min` are those of lax, in value; in the derivative a tie is the second operand's, as ReLU's at 0."""

    def lower(x, f):
        s = jr.sets.linf(0.0)(jnp.zeros(2))
        return jnp.sum(jr.bounds.output_bounds(lambda z: f(x + z), s, method=jr.bounds.ibp())[0])

    x = jnp.array([0.0, 2.0])
    np.testing.assert_array_equal(jax.grad(lower)(x, jax.nn.relu), [0.0, 1.0])
    np.testing.assert_array_equal(jax.grad(lower)(x, lambda z: jnp.minimum(z, 0.0)), [0.0, 0.0])
    for f in (lambda z: jnp.maximum(z, 1.0), lambda z: jnp.minimum(1.0, z)):
        assert lower(jnp.array([jnp.nan, 0.0]), f) == -jnp.inf
