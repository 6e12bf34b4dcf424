"""The backward walk: what it knows of lines and of linear maps saves work, and changes no bound and no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.bounds import _backward

W, V = jax.random.normal(jax.random.key(0), (2, 6, 6))
S = jr.sets.linf(0.4)(jnp.linspace(-1.0, 1.0, 6))
FUNCTIONS = {
    "relu": lambda w, z: V @ jax.nn.relu(w @ z + 0.1),
    "of two": lambda w, z: V @ jnp.maximum(w @ z, -(z / 2) + 0.3),
    "clamp": lambda w, z: V @ jnp.clip(w @ z, -0.5, 0.5),
    "leaky": lambda w, z: V @ jax.nn.leaky_relu((w @ z).reshape(1, 2, 3)).reshape(6),
    "tanh": lambda w, z: V @ jnp.tanh(w @ z),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes_and_linear_maps_give_what_the_general_pull_gives(name, monkeypatch):
    fn = FUNCTIONS[name]

    def upper(w):
        return jr.bounds.output_bounds(lambda z: fn(w, z), S, method=jr.bounds.crown_ibp())[1]

    value, slope = upper(W), jax.jacrev(upper)(W)
    for known in ("ELEMENTWISE", "LINEAR"):
        monkeypatch.setattr(_backward, known, frozenset())
    np.testing.assert_allclose(value, upper(W), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, jax.jacrev(upper)(W), rtol=1e-4, atol=1e-4)
    assert float(jnp.max(jnp.abs(slope))) > 0.1


def test_a_linear_map_of_infinite_weights_bounds_nothing():
    w = W.at[0, 0].set(jnp.inf)
    for method in (jr.bounds.crown_ibp(), jr.bounds.crown()):
        lo, hi = jr.bounds.output_bounds(lambda z: V @ jax.nn.relu(w @ z), S, method=method)
        assert not bool(jnp.any(jnp.isfinite(lo) & jnp.isfinite(hi)))
