"""Hierarchical smoothing on digits of 8 x 8: Gaussian noise everywhere, ablation, and grids between, judged by one adversary.

The adversary changes at most r pixels, by at most 0.5 in l2 together. Gaussian noise certifies that ball for any r; ablation (pixels are
noised beyond recognition: here shown or hidden) certifies r pixels changed in any way; hierarchical noise uses both limits.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.structured.common import fit, images
from jrobust import models, smoothing

EPS, TOUCHED = 0.5, (1, 2, 3)
COLUMNS = {
    "method": "method",
    "sigma": "sigma",
    "p": "p",
    "accuracy": "accuracy",
    "r1": "certified, 1 pixel",
    "r2": "2 pixels",
    "r3": "3 pixels",
    "undominated": "undominated",
}


def front(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark, for each number of pixels, the settings that no other beats in accuracy and certified accuracy together."""
    for r in records:
        names = []
        for k in TOUCHED:
            mine = r["accuracy"], r[f"r{k}"]
            others = [(o["accuracy"], o[f"r{k}"]) for o in records]
            if mine[1] > 0 and not any(o != mine and o[0] >= mine[0] and o[1] >= mine[1] for o in others):
                names.append(str(k))
        r["undominated"] = ", ".join(names)
    return records


def run(seed: int, draws: int = 2000, steps: int = 1500) -> list[dict[str, Any]]:
    d = images("digits")
    x, y = np.asarray(d.test_x), np.asarray(d.test_y)
    options = {"n0": 100, "n": draws, "alpha": 0.01, "key": jax.random.key(seed), "batch_size": 1000}

    def judged(noise: Any, name: str, sigma: Any, p: Any, holds: Any) -> dict[str, Any]:
        channels = jax.eval_shape(noise.sample, jax.random.key(0), x[0]).shape[-1]
        net = models.mlp((8, 8, channels), 10, rngs=nnx.Rngs(seed), widths=(128, 128))
        net = fit(net, d.train_x, d.train_y, draw=noise.sample, steps=steps, seed=seed)
        done = smoothing.certify(net, x, noise=noise, **options)
        right = done.prediction == y
        certified = {f"r{r}": float((right & holds(done, r)).mean()) for r in TOUCHED}
        setting = {"method": name, "sigma": sigma, "p": p, "eps": EPS, "images": len(x), "n": draws, "alpha": 0.01}
        return setting | {"accuracy": float(right.mean())} | certified

    records = [
        judged(smoothing.gaussian(s), "gaussian", s, "", lambda done, r: done.radius >= EPS) for s in (0.25, 0.5, 1.0)
    ]
    records += [
        judged(smoothing.ablation(k, pixels=True), "ablation", "", k / 64, lambda done, r: done.radius >= r)
        for k in (4, 8, 16)
    ]
    for sigma in (0.5, 1.0, 2.0):
        for p in (0.75, 0.85, 0.95):
            records.append(
                judged(
                    smoothing.hierarchical(sigma, p=p, touched=1),
                    "hierarchical",
                    sigma,
                    p,
                    lambda done, r, sigma=sigma, p=p: (
                        smoothing.hierarchical(sigma, p=p, touched=r).certify(done.lower, done.upper) >= EPS
                    ),
                )
            )
    return front(records)
