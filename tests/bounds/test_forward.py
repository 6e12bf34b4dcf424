"""Forward CROWN and zonotopes: sound for every rule, exact on affine functions, ordered, and DeepZ's figures by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from tests.bounds.test_rules import BOXES, RULES

METHODS = {"forward-crown": jr.bounds.forward_crown(), "zonotope": jr.bounds.zonotope()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RULES)
def test_rule(name, method):
    shape, fn = RULES[name]

    @jax.jit
    def excess(key, lo, hi):
        s = jr.sets.box(lo, hi)(0.5 * (lo + hi))
        below, above = jr.bounds.output_bounds(fn, s, method=METHODS[method])
        loose = jr.bounds.output_bounds(fn, s, method=jr.bounds.ibp())
        k_u, k_v = jax.random.split(key)
        inner = lo + (hi - lo) * jax.random.uniform(k_u, (300, *shape))
        ends = jnp.where(jax.random.bernoulli(k_v, 0.5, (200, *shape)), lo, hi)
        out = jax.vmap(fn)(jnp.concatenate([inner, ends, lo[None], hi[None]]))
        # NaN is on neither side of any bound
        top, bottom = (jnp.max(jnp.where(jnp.isnan(v), jnp.inf, v), axis=0) for v in (out, -out))
        size = jnp.max(jnp.where(jnp.isfinite(out), jnp.abs(out), 0.0), axis=0)
        slack = 1e-5 * (1 + size) + 2e-6 * jnp.max(jnp.abs(lo))
        outside = jnp.maximum(*(jnp.where(v <= b, 0.0, v - b - slack) for v, b in ((top, above), (bottom, -below))))
        looser = (above > loose[1] + slack) | (below < loose[0] - slack)
        return jnp.max(outside), jnp.any(looser), jnp.any(jnp.isnan(above) | jnp.isnan(below))

    centre = jax.random.normal(jax.random.key(1), shape)
    lo, hi = (jnp.stack(e) for e in zip(*(box(centre) for box in BOXES.values()), strict=True))
    outside, looser, nan = jax.vmap(excess)(jax.random.split(jax.random.key(2), len(BOXES)), lo, hi)
    for i, box in enumerate(BOXES):
        assert outside[i] <= 0, f"{name}, {box} box: a point leaves the bounds by {outside[i]}"
        assert not looser[i], f"{name}, {box} box: looser than ibp"
        assert not nan[i], f"{name}, {box} box: NaN"
