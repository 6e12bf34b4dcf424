"""Cost-sensitive smoothing on digits: Gaussian training against Margin-CS, for one class and for one pair of mistakes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jrobust as jr
from experiments.structured.common import fit, images
from jrobust import models, smoothing, training
from jrobust import nnx as jnnx

SIGMA, RADII = 0.5, (0.25, 0.5, 1.0)
COLUMNS = {
    "costs": "costs",
    "training": "training",
    "accuracy": "accuracy of all",
    "sensitive": "sensitive",
    "mean_plain": "mean radius, plain",
    "mean_radius": "mean radius, costly",
} | {f"safe{r:g}": f"safe at {r:g}" for r in RADII}


def margin_trained(x: Any, y: Any, costs: np.ndarray, seed: int, steps: int) -> Any:
    """Margin-CS from the start, the settings of the function but 8 samples."""
    net = models.mlp((8, 8, 1), 10, rngs=nnx.Rngs(seed), widths=(128, 128))
    apply, params, rest = jnnx.functional(net)
    robust = training.margin_cs(jr.objectives.cross_entropy(apply), costs, sigma=SIGMA, samples=8)
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    @jax.jit
    def step(params, state, x, y, key):
        def loss(params):
            return robust(params, rest, x, y, key=key, train=True)[0].mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, rng = tx.init(params), np.random.default_rng(seed)
    for i in range(steps):
        rows = rng.integers(0, len(x), 128)
        key = jax.random.fold_in(jax.random.key(seed), i)
        params, state = step(params, state, jnp.asarray(x[rows]), jnp.asarray(y[rows]), key)
    return jnnx.merge(net, params, rest)


def run(seed: int, draws: int = 5000, steps: int = 2000) -> list[dict[str, Any]]:
    d = images("digits")
    x, y = np.asarray(d.test_x), np.asarray(d.test_y)
    noise, records = smoothing.gaussian(SIGMA), []
    one, pair = np.zeros((10, 10)), np.zeros((10, 10))
    one[3] = 1
    pair[8, [3, 5]] = 1
    plain = models.mlp((8, 8, 1), 10, rngs=nnx.Rngs(seed), widths=(128, 128))
    plain = fit(plain, d.train_x, d.train_y, draw=noise.sample, steps=steps, seed=seed)
    for name, costs in (("3 for any", one), ("8 for 3 or 5", pair)):
        for how in ("gaussian", "margin-cs"):
            net = plain if how == "gaussian" else margin_trained(d.train_x, d.train_y, costs, seed, steps)
            done = smoothing.cost_sensitive(
                net, x, y, costs, noise=noise, n=draws, key=jax.random.key(seed), batch_size=1000
            )
            at = done.sensitive
            records.append(
                {"costs": name, "training": how, "sigma": SIGMA, "n": draws, "confidence": 0.999, "images": len(x)}
                | {"accuracy": float((done.selected == y).mean()), "sensitive": int(at.sum())}
                | {"mean_plain": float((done.plain * (done.selected == y))[at].mean())}
                | {
                    "mean_radius": float(done.radius[at].mean()),
                    "least_gain": float((done.radius - done.plain * (done.radius > 0))[at].min()),
                }
                | {f"safe{r:g}": done.safe(r).value for r in RADII}
            )
    return records
