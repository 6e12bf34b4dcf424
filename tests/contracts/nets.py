"""Eight shapes of random nets for one example [6, 6, 2] -> [4], as ``(init(key) -> params, net(params, z) -> logits)``."""

import math

import jax
import jax.numpy as jnp
from jax import lax

SHAPE, CLASSES = (6, 6, 2), 4


def _draw(shapes):
    def init(key):
        drawn = zip(jax.random.split(key, len(shapes)), shapes, strict=True)
        return [jax.random.normal(k, s) * (2.0 / max(1, math.prod(s[:-1]))) ** 0.5 for k, s in drawn]

    return init


def _conv(z, w, stride=1, padding="SAME"):
    return lax.conv_general_dilated(z[None], w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))[
        0
    ]


def _pool(z, op, init):
    return lax.reduce_window(z, init, op, (2, 2, 1), (2, 2, 1), "VALID")


def mlp(p, z):
    return jax.nn.relu(jax.nn.relu(z.ravel() @ p[0] + p[3][0]) @ p[1]) @ p[2]


def conv(p, z):
    h = jax.nn.relu(_conv(z, p[0], 2))
    return jax.nn.relu(_conv(h, p[1])).reshape(-1) @ p[2]


def residual(p, z):
    h = jax.nn.relu(_conv(z, p[0], 2))
    h = h + _conv(jax.nn.relu(_conv(h, p[1])), p[2])
    return jax.nn.relu(h).ravel() @ p[3]


def batch_norm(p, z):
    h = _conv(z, p[0], 2)
    mean, var = jnp.mean(p[2], 0), jnp.var(p[2], 0)  # statistics that do not depend on z
    h = (h - mean) * lax.rsqrt(var + 1e-5) * p[3][0] + p[3][1]
    return jax.nn.relu(h).ravel() @ p[1]


def average_pooled(p, z):
    h = _pool(jax.nn.relu(_conv(z, p[0])), lax.add, 0.0) / 4
    return jax.nn.relu(_conv(h, p[1])).mean((0, 1)) @ p[2]


def max_pooled(p, z):
    h = _pool(_conv(z, p[0]), lax.max, -jnp.inf)
    return jax.nn.relu(h).ravel() @ p[1]


def bent(p, z):
    h = jax.nn.leaky_relu(z.ravel() @ p[0], 0.2)
    h = jnp.clip(jnp.abs(h) - 0.3, -0.2, 1.0)
    return jnp.concatenate([h, jnp.minimum(h[::-1], 0.5)]) @ p[1]


def dense_block(p, z):
    h = jax.nn.relu(_conv(z, p[0]))
    h = jnp.concatenate([z, h], -1)
    h = jnp.concatenate([h, jax.nn.relu(_conv(h, p[1]))], -1)[1:5, ::2]
    return h.ravel() @ p[2]


NETS = {
    "mlp": (_draw([(72, 10), (10, 8), (8, 4), (1, 10)]), mlp),
    "conv": (_draw([(3, 3, 2, 4), (3, 3, 4, 3), (27, 4)]), conv),
    "residual": (_draw([(3, 3, 2, 3), (3, 3, 3, 3), (1, 1, 3, 3), (27, 4)]), residual),
    "batch norm": (_draw([(3, 3, 2, 3), (27, 4), (5, 3), (2, 3)]), batch_norm),
    "average pooled": (_draw([(3, 3, 2, 3), (3, 3, 3, 5), (5, 4)]), average_pooled),
    "max pooled": (_draw([(3, 3, 2, 3), (27, 4)]), max_pooled),
    "bent": (_draw([(72, 8), (16, 4)]), bent),
    "dense block": (_draw([(3, 3, 2, 2), (3, 3, 4, 2), (72, 4)]), dense_block),
}
