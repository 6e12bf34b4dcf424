"""Segmentation of digits on a textured ground: SegCertify against AdaptiveCertify, holm against bonferroni, at equal draws."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.structured.common import Pixels, fit, scenes
from jrobust import smoothing

SIGMA = 0.25
# 0 6 8 9 are round, 1 4 7 straight, 2 3 5 curved; then digit or ground; then anything
TREE = ([0, 1, 2, 2, 1, 2, 0, 1, 0, 0, 3], [0] * 10 + [1], [0] * 11)
COLUMNS = {
    "n": "n",
    "tau": "tau",
    "method": "test",
    "hierarchy": "hierarchy",
    "radius": "radius",
    "accuracy": "certified and right",
    "abstained": "abstained",
    "gain": "information gain",
}


def trained(seed: int, size: int, steps: int = 500) -> Pixels:
    x, y = scenes("train", 1500, size=size, digits=size * size // 200, seed=seed)
    net = Pixels(11, rngs=nnx.Rngs(seed), width=16)
    return fit(net, x, y, draw=smoothing.gaussian(SIGMA).sample, steps=steps, batch=32, seed=seed)


def run(seed: int, count: int = 16) -> list[dict[str, Any]]:
    net = trained(seed, 32)
    x, y = scenes("test", count, seed=100 + seed)
    tree = smoothing.hierarchy(*TREE, thresholds=[0, 0, 0.25])
    options = {"noise": smoothing.gaussian(SIGMA), "key": jax.random.key(seed), "batch_size": 128}
    records = []
    for n, tau in ((100, 0.75), (500, 0.95)):
        for name, h in (("none", None), ("adaptive", tree)):
            holm = smoothing.segment(net, x, tau=tau, n=n, hierarchy=h, **options)
            least = np.where(
                holm.p_value <= 0.001 / y[0].size, holm.prediction, -1
            )  # Bonferroni rejects a part of what Holm does
            for method, done in (("holm", holm), ("bonferroni", dataclasses.replace(holm, prediction=least))):
                records.append(
                    {"sigma": SIGMA, "images": count, "n0": 10, "n": n, "tau": tau, "alpha": 0.001, "method": method}
                    | {"hierarchy": name, "radius": round(done.radius, 4), "accuracy": done.accuracy(y).value}
                    | {"abstained": done.abstained(), "gain": done.information_gain(y)}
                )
    return records
