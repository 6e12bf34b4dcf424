"""De-randomised smoothing against patches: columns and blocks, on digits of 8 x 8 and MNIST's of 28 x 28."""

from typing import Any

import numpy as np
from flax import nnx

from experiments.structured.common import fit, images
from jrobust import models, smoothing

SETTINGS = {
    "digits": [("columns", s) for s in (1, 2, 3)] + [("blocks", s) for s in (3, 4)],
    "mnist": [("columns", s) for s in (2, 4, 6)] + [("blocks", s) for s in (5, 8)],
}
PATCHES = {"digits": (1, 2), "mnist": (2, 5)}
THRESHOLD = 0.3
COLUMNS = {
    "data": "data",
    "kind": "kept",
    "size": "size",
    "accuracy": "accuracy",
    "patch": "patch",
    "certified": "certified and right",
    "patch_large": "patch",
    "certified_large": "certified and right",
    "images": "images",
}


def run(seed: int, count: int = 500) -> list[dict[str, Any]]:
    records = []
    for name, settings in SETTINGS.items():
        d = images(name)
        shape = d.train_x.shape[1:]
        x, y = d.test_x[:count], np.asarray(d.test_y[:count])
        for kind, size in settings:
            kept = smoothing.bands(size, kind=kind)
            net = models.cnn_small((*shape[:2], 2 * shape[2]), 10, rngs=nnx.Rngs(seed))
            net = fit(net, d.train_x, d.train_y, draw=kept.sample, steps=1500, seed=seed)
            done = smoothing.derandomized(net, x, bands=kept, threshold=THRESHOLD, batch_size=2048)
            small, large = PATCHES[name]
            records.append(
                {"data": name, "kind": kind, "size": size, "threshold": THRESHOLD, "images": len(x)}
                | {"accuracy": done.accuracy(y).value, "patch": small, "certified": done.accuracy(y, small).value}
                | {"patch_large": large, "certified_large": done.accuracy(y, large).value}
            )
    return records
