"""Localized against isotropic smoothing: how many of 576 pixels are right and unchanged by one perturbation of a scene of 24 x 24."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.structured.common import Pixels, fit, scenes
from jrobust import smoothing

SIDE, CELLS, EPS = 24, 3, (0.1, 0.25, 0.5, 0.75, 1.0)
COLUMNS = {"noise": "noise", "near": "near", "far": "far", "counted": "counted", "clean": "predicted right"} | {
    f"e{e:g}": f"l2 {e:g}" for e in EPS
}


def cells() -> np.ndarray:
    row, column = np.mgrid[:SIDE, :SIDE] // (SIDE // CELLS)
    return row * CELLS + column


def levels(near: float, far: float) -> np.ndarray:
    """[9, 9]: ``near`` in the output's cell, ``far`` two cells away, between them between."""
    place = np.stack(np.divmod(np.arange(CELLS**2), CELLS), 1)
    away = np.abs(place[:, None] - place[None]).max(-1)
    return near + (far - near) * away / (CELLS - 1)


def run(seed: int, count: int = 4, draws: int = 800, steps: int = 500) -> list[dict[str, Any]]:
    x, y = scenes("train", 1500, size=SIDE, digits=3, seed=seed)
    test_x, test_y = scenes("test", count, size=SIDE, digits=3, seed=200 + seed)
    of = cells()

    def draw(key: Any, z: Any) -> Any:
        # one net for all: levels between 0.1 and 0.5 in every cell
        some = jax.random.uniform(key, (CELLS**2,), minval=0.1, maxval=0.5)
        return z + some[of][..., None] * jax.random.normal(jax.random.fold_in(key, 1), z.shape)

    net = fit(Pixels(11, rngs=nnx.Rngs(seed), width=16), x, y, draw=draw, steps=steps, batch=32, seed=seed)
    records = []
    for near, far in ((0.15, 0.15), (0.25, 0.25), (0.4, 0.4), (0.15, 0.4), (0.25, 0.5)):
        same = near == far
        table = np.array([[near]]) if same else levels(near, far)
        done = smoothing.localized(
            net, jnp.asarray(test_x), sigma=table, inputs=np.zeros_like(of)[..., None] if same else of[..., None],
            outputs=np.zeros_like(of) if same else of, n0=50, n=draws, alpha=0.01, key=jax.random.key(seed), batch_size=256,
        )  # fmt: skip
        clean = float((done.prediction == test_y).mean())
        ways = {"one by one": {"together": False}, "together": {}, "together, integers": {"integer": True, "bins": 6}}
        for counted, how in ways.items():
            shares = {f"e{e:g}": float(done.robust(e, test_y, **how).mean() / SIDE**2) for e in EPS}
            records.append(
                {"noise": "isotropic" if same else "localized", "near": near, "far": far, "images": count, "n": draws}
                | {"alpha": 0.01, "counted": counted, "clean": clean}
                | shares
            )
    return records
