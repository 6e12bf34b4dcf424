"""What the experiments of structured smoothing share: scenes of digits, a training loop, small nets."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jrobust import data
from jrobust import nnx as jnnx


def fit(
    net: nnx.Module,
    x: Any,
    y: Any,
    *,
    draw: Callable[[Any, Any], Any],
    steps: int,
    batch: int = 128,
    rate: float = 2e-3,
    seed: int = 0,
    loss: Callable[[Any, Any], Any] = optax.softmax_cross_entropy_with_integer_labels,
) -> nnx.Module:
    """The mean ``loss`` of ``net`` on ``draw(key, example)``, Adam with a cosine; labels [N] or [N, ...] of every output."""
    apply, params, rest = jnnx.functional(net)
    tx = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, state, rest, x, y, key):
        z = jax.vmap(draw)(jax.random.split(key, len(x)), x)

        def of(params):
            out, moved = apply(params, rest, z, train=True)
            return loss(out, y).mean(), moved

        (value, moved), grad = jax.value_and_grad(of, has_aux=True)(params)
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state, moved, value

    state, rng = tx.init(params), np.random.default_rng(seed)
    for i in range(steps):
        rows = rng.integers(0, len(x), batch)
        key = jax.random.fold_in(jax.random.key(seed), i)
        params, state, rest, _ = step(params, state, rest, jnp.asarray(x[rows]), jnp.asarray(y[rows]), key)
    return jnnx.merge(net, params, rest)


class Pixels(nnx.Module):
    """A small fully convolutional net: [B, H, W, 1] to logits [B, H, W, K], half resolution inside."""

    def __init__(self, classes: int, *, rngs: nnx.Rngs, width: int = 24):
        self.first = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.down = nnx.Conv(width, 2 * width, (4, 4), strides=2, rngs=rngs)
        self.inner = nnx.List([nnx.Conv(2 * width, 2 * width, (3, 3), rngs=rngs) for _ in range(4)])
        self.up = nnx.ConvTranspose(2 * width, width, (4, 4), strides=(2, 2), rngs=rngs)
        self.last = nnx.Conv(2 * width, classes, (3, 3), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        fine = jax.nn.relu(self.first(x))
        z = jax.nn.relu(self.down(fine))
        for layer in self.inner:
            z = z + jax.nn.relu(layer(z))
        return self.last(jnp.concatenate([fine, jax.nn.relu(self.up(z))], -1))


def scenes(split: str, count: int, *, size: int = 32, digits: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Digits pasted on a textured ground: images [N, size, size, 1] in [0, 1], labels 0..9 of their ink, 10 of the ground."""
    d = data.load("digits", split=split)
    images, labels = (d.train_x, d.train_y) if split == "train" else (d.test_x, d.test_y)
    images, labels = np.asarray(images), np.asarray(labels)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    x = np.empty((count, size, size, 1), np.float32)
    y = np.full((count, size, size), 10, np.int32)
    places = [(r, c) for r in range(0, size - 7, 8) for c in range(0, size - 7, 8)]
    for i in range(count):
        waves = sum(
            np.sin(2 * np.pi * (rng.normal(0, 3) * rows + rng.normal(0, 3) * columns + rng.random())) for _ in range(3)
        )
        x[i, ..., 0] = 0.2 + 0.05 * waves
        for p in rng.choice(len(places), digits, replace=False):
            r, c = places[p]
            j = rng.integers(len(images))
            ink = images[j, ..., 0] > 0.3
            patch = x[i, r : r + 8, c : c + 8, 0]
            patch[ink] = np.maximum(patch, images[j, ..., 0])[ink]
            y[i, r : r + 8, c : c + 8][ink] = labels[j]
    return np.clip(x, 0, 1), y


@functools.cache
def images(name: str) -> data.Dataset:
    """Digits, or MNIST from $TFDS_DATA_DIR."""
    return data.load(name)
