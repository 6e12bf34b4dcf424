"""Problems that the tests of several methods pose."""

import jax
import jax.numpy as jnp

import jrobust as jr

SETS = {
    "linf": jr.sets.linf(0.1),
    "linf clipped": jr.sets.linf(0.4, clip=(0, 1)),
    "l2": jr.sets.l2(0.3),
    "l2 clipped": jr.sets.l2(0.8, clip=(0, 1)),
    "l1": jr.sets.l1(0.5),
    "l3": jr.sets.lp(3.0, 0.4),
    "box": jr.sets.box(-0.5, 0.7),
}


def mlp(w, z):
    for layer in w[:-1]:
        z = jax.nn.relu(layer @ z)
    return w[-1] @ z


def weights(key, sizes=(4, 12, 12, 3)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [jax.random.normal(k, (m, n)) / jnp.sqrt(n) for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def along(method, s):
    """Of a net whose weights move along a line: the sum of the bounds, by the place on the line and the label."""
    w, direction = weights(jax.random.key(0)), weights(jax.random.key(1))

    def value(t, y=1):
        f = jr.objectives.classification(lambda z: mlp([a + t * d for a, d in zip(w, direction, strict=True)], z), y)
        return jnp.sum(method.solve(None, f, s).info["elements"])

    return value
