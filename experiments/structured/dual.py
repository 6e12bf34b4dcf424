"""Dual smoothing against plain Gaussian smoothing: certified accuracy of MNIST at several radii, over levels of noise."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.structured.common import fit, images
from jrobust import models, smoothing

PLAIN, DUAL = (0.25, 0.5, 1.0), (0.18, 0.36, 0.72)
RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
COLUMNS = {"method": "method", "sigma": "sigma", "average_radius": "ACR"} | {f"r{r:g}": f"l2 {r:g}" for r in RADII}


def run(seed: int, count: int = 100, draws: int = 1000, steps: int = 800) -> list[dict[str, Any]]:
    d = images("mnist")
    x, y = d.test_x[:count], np.asarray(d.test_y[:count])

    def net(noise: Any) -> Any:
        new = models.cnn_small((28, 28, 1), 10, rngs=nnx.Rngs(seed))
        return fit(new, d.train_x, d.train_y, draw=noise.sample, steps=steps, seed=seed)

    records = []
    options = {"n0": 50, "alpha": 0.001, "key": jax.random.key(seed), "batch_size": 2000}
    for method, levels in (("plain", PLAIN), ("dual", DUAL)):
        for sigma in levels:
            if method == "plain":
                noise = smoothing.gaussian(sigma)
                done = smoothing.certify(net(noise), x, noise=noise, n=2 * draws, **options)
            else:
                pair = tuple(net(noise) for noise in smoothing.halves(sigma))
                done = smoothing.dual(pair, x, sigma=sigma, n=draws, **options)
            records.append(
                {"method": method, "sigma": sigma, "images": count, "draws": 2 * draws, "confidence": 0.999}
                | {"average_radius": done.average_radius(y).value}
                | {f"r{r:g}": done.accuracy(y, r).value for r in RADII}
            )
    return records
