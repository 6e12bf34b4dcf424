"""Hierarchical smoothing on digits of 8 x 8: Gaussian noise everywhere, ablation, and grids between, judged by one adversary.

The adversary changes at most r pixels, by at most eps in l2 together. Gaussian noise certifies that ball for any r; ablation certifies r
pixels changed in any way; hierarchical noise uses both limits. Its net sees the noised and the clean pixels as channels of their own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.structured.common import fit, images
from jrobust import models, smoothing

EPS, TOUCHED = (0.5, 1.0), (1, 2, 3)
CASES = [(eps, r) for eps in EPS for r in TOUCHED]
COLUMNS = (
    {"method": "method", "sigma": "sigma", "p": "p", "accuracy": "accuracy"}
    | {f"e{eps:g}r{r}": f"l2 {eps:g}, {r} px" for eps, r in CASES}
    | {"undominated": "undominated at"}
)


class Apart(nnx.Module):
    """A perceptron that is shown noised and other pixels apart, as the mark (the last channel) says."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.body = models.mlp((8, 8, 3), 10, rngs=rngs, widths=(128, 128))

    def __call__(self, z: Any) -> Any:
        x, mark = z[..., :1], z[..., 1:]
        return self.body(jnp.concatenate([x * mark, x * (1 - mark), mark], -1))


def front(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark, for each adversary, the settings that no other beats in accuracy and certified accuracy together."""
    for r in records:
        names = []
        for eps, k in CASES:
            mine = r["accuracy"], r[f"e{eps:g}r{k}"]
            others = [(o["accuracy"], o[f"e{eps:g}r{k}"]) for o in records]
            if mine[1] > 0 and not any(o != mine and o[0] >= mine[0] and o[1] >= mine[1] for o in others):
                names.append(f"{eps:g}/{k}")
        r["undominated"] = " ".join(names)
    return records


def run(seed: int, draws: int = 2000, steps: int = 1500) -> list[dict[str, Any]]:
    d = images("digits")
    x, y = np.asarray(d.test_x), np.asarray(d.test_y)
    options = {"n0": 100, "n": draws, "alpha": 0.01, "key": jax.random.key(seed), "batch_size": 1000}

    def judged(noise: Any, name: str, sigma: Any, p: Any, holds: Any) -> dict[str, Any]:
        channels = jax.eval_shape(noise.sample, jax.random.key(0), x[0]).shape[-1]
        if name == "hierarchical":
            net = Apart(rngs=nnx.Rngs(seed))
        else:
            net = models.mlp((8, 8, channels), 10, rngs=nnx.Rngs(seed), widths=(128, 128))
        net = fit(net, d.train_x, d.train_y, draw=noise.sample, steps=steps, seed=seed)
        done = smoothing.certify(net, x, noise=noise, **options)
        right = done.prediction == y
        certified = {f"e{eps:g}r{r}": float((right & holds(done, eps, r)).mean()) for eps, r in CASES}
        setting = {"method": name, "sigma": sigma, "p": p, "images": len(x), "n": draws, "alpha": 0.01}
        return setting | {"accuracy": float(right.mean())} | certified

    records = [
        judged(smoothing.gaussian(s), "gaussian", s, "", lambda done, eps, r: done.radius >= eps)
        for s in (0.25, 0.5, 0.75)
    ]
    records += [
        judged(smoothing.ablation(k, pixels=True), "ablation", "", k / 64, lambda done, eps, r: done.radius >= r)
        for k in (8, 12, 16, 24)
    ]
    for sigma in (0.25, 0.5, 1.0):
        for p in (0.75, 0.85, 0.95):

            def holds(done: Any, eps: float, r: int, sigma: float = sigma, p: float = p) -> Any:
                noise = smoothing.hierarchical(sigma, p=p, touched=r)
                return noise.certify(done.lower, done.upper) >= eps

            noise = smoothing.hierarchical(sigma, p=p, touched=1)
            records.append(judged(noise, "hierarchical", sigma, p, holds))
    return front(records)
