"""Tiny nets and data for the training tests, and a training that a test can kill."""

import sys
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jrobust as jr
from jrobust import training


def blobs(n: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four noisy 4x4 patterns in [0, 1]."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    patterns = np.kron(np.eye(4), np.ones((1, 4))).reshape(4, 4, 4, 1)
    x = 0.25 + 0.5 * patterns[y] + rng.uniform(-0.15, 0.15, (n, 4, 4, 1))
    return x.astype(np.float32), y.astype(np.int32)


def dense(params, rest, x, *, train):
    del train
    h = jax.nn.relu(x.reshape(x.shape[0], -1) @ params["w"] + params["b"])
    return h @ params["v"], rest


def dense_params(seed: int = 0) -> dict[str, jax.Array]:
    k = jax.random.split(jax.random.key(seed), 2)
    return {
        "w": 0.3 * jax.random.normal(k[0], (16, 12)),
        "b": jnp.zeros(12),
        "v": 0.3 * jax.random.normal(k[1], (12, 4)),
    }


class Net(nnx.Module):
    """A convolution, BatchNorm and dropout."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.relu(self.norm(self.conv(x)))
        return self.head(self.drop(h.reshape(h.shape[0], -1)))


def slow_training(run: str, *, resume: bool, pause: float) -> training.TrainState:
    """Adversarial training of a small convolutional `Net`, saved after every chunk."""
    x, y = blobs()
    apply, params, rest = jr.nnx.functional(Net(nnx.Rngs(0)))
    loss = jr.objectives.cross_entropy(apply)
    eps = training.linear(0.0, 0.1, end=20)
    robust = training.scheduled(lambda t: jr.worst_case(loss, jr.sets.linf(eps(t)), jr.attacks.pgd(steps=2)))
    tx = optax.adam(1e-3)

    def hook(epoch: int, state: training.TrainState) -> dict[str, float]:
        time.sleep(pause)
        return {"fitness": float(epoch % 3)}

    return training.fit(
        training.make_step(robust, tx, measure=training.accuracy(apply)),
        training.init(params, rest, tx, ema=True),
        x,
        y,
        epochs=8,
        batch_size=16,
        key=jax.random.key(1),
        augment=lambda key, x: jr.data.random_crop_flip(key, x, pad=1),
        chunk=3,
        run=run,
        resume=resume,
        hook=hook,
        best="fitness",
        save_seconds=0.0,
        show=False,
    )


def pairs(x: np.ndarray, y: np.ndarray) -> grain.MapDataset:
    """The same data as a dataset on the host."""
    return grain.MapDataset.source(np.arange(len(x))).map(lambda i: (x[i], y[i]))


def meshed(
    mesh: jax.sharding.Mesh | None, *, run: str | None = None, streamed: bool = False, **options
) -> training.TrainState:
    """TRADES of a net with BatchNorm, over a mesh; in l2, since a sign would blow up rounding."""
    x, y = blobs()
    apply, params, rest = jr.nnx.functional(Net(nnx.Rngs(0)))
    robust = training.trades(jr.objectives.cross_entropy(apply), jr.sets.l2(0.5, clip=(0, 1)), attack=3)
    tx = optax.sgd(0.1)
    step, start = training.make_step(robust, tx), training.init(params, rest, tx, ema=True)
    data = (pairs(x, y),) if streamed else (x, y)
    settings = {"epochs": 3, "batch_size": 16, "key": jax.random.key(1), "chunk": 3, "save_seconds": 0.0, "show": False}
    return training.fit(step, start, *data, run=run, mesh=mesh, **(settings | options))


if __name__ == "__main__":
    slow_training(sys.argv[1], resume="--resume" in sys.argv, pause=0.3)
