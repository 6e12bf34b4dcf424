"""Point clouds of six solids: PointGuard against PointCert, accuracy by the number of points that may change."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.structured.common import fit
from jrobust import smoothing

SOLIDS = ("sphere", "cube", "torus", "cylinder", "cone", "cross")
POINTS, SIZES = 256, (0, 2, 4, 8, 16, 32)
COLUMNS = {"method": "method", "kept": "points or parts", "change": "change"} | {f"r{r}": f"{r} points" for r in SIZES}


def clouds(count: int, seed: int, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Noisy surfaces, turned about the vertical and stretched a little: float32 [N, points, 3], labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(SOLIDS), count).astype(np.int32)
    x = np.empty((count, points, 3), np.float32)
    for i, label in enumerate(y):
        turn, u = rng.random(points) * 2 * np.pi, rng.random(points) * 2 - 1
        ring = np.stack([np.cos(turn), np.sin(turn)], 1)
        if SOLIDS[label] == "sphere":
            cloud = np.c_[ring * np.sqrt(1 - u[:, None] ** 2), u]
        elif SOLIDS[label] == "cube":
            cloud = rng.random((points, 3)) * 2 - 1
            cloud[np.arange(points), rng.integers(0, 3, points)] = rng.choice([-1, 1], points)
            cloud *= 0.8
        elif SOLIDS[label] == "torus":
            other = rng.random(points) * 2 * np.pi
            cloud = np.c_[ring * (0.75 + 0.3 * np.cos(other))[:, None], 0.3 * np.sin(other)]
        elif SOLIDS[label] == "cylinder":
            cloud = np.c_[0.7 * ring, u]
        elif SOLIDS[label] == "cone":
            cloud = np.c_[ring * np.sqrt((u + 1) / 2)[:, None], -2 * np.sqrt((u + 1) / 2) + 1]
        else:
            cloud = np.c_[ring * np.sqrt((u + 1) / 2)[:, None], np.zeros(points)]
            cloud = np.where(rng.random((points, 1)) < 0.5, cloud, cloud[:, [2, 0, 1]])
        a = rng.random() * 2 * np.pi
        spun = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        x[i] = (cloud * rng.uniform(0.8, 1.2, 3)) @ spun.T + rng.normal(0, 0.03, (points, 3))
    return x, y


class PointNet(nnx.Module):
    """Each point by itself, then the largest of each feature; a fourth channel marks the points that count."""

    def __init__(self, *, marked: bool, rngs: nnx.Rngs):
        self.marked = marked
        self.each = nnx.List([nnx.Linear(3, 64, rngs=rngs), nnx.Linear(64, 128, rngs=rngs)])
        self.all = nnx.List([nnx.Linear(128, 64, rngs=rngs), nnx.Linear(64, len(SOLIDS), rngs=rngs)])

    def __call__(self, z: Any) -> Any:
        h = z[..., :3]
        for layer in self.each:
            h = jax.nn.relu(layer(h))
        if self.marked:
            h = h * z[..., 3:]
        h = h.max(-2)
        return self.all[1](jax.nn.relu(self.all[0](h)))


def run(seed: int, count: int = 200, draws: int = 2000, steps: int = 1000) -> list[dict[str, Any]]:
    x, y = clouds(3000, seed)
    test_x, test_y = clouds(count, 1000 + seed)

    def net(sample: Any, marked: bool) -> Any:
        new = PointNet(marked=marked, rngs=nnx.Rngs(seed))
        return fit(new, x, y, draw=sample, steps=steps, batch=64, seed=seed)

    records = []

    def record(method: str, kept: int, change: str, right: np.ndarray, sizes: np.ndarray) -> None:
        shares = {f"r{r}": float((right & (sizes >= r)).mean()) for r in SIZES}
        records.append({"method": method, "kept": kept, "change": change, "clouds": count, "points": POINTS} | shares)

    for keep in (8, 16, 32):
        noise = smoothing.subsample(keep)
        done = smoothing.certify(
            net(noise.sample, False), test_x, noise=noise, n0=100, n=draws, key=jax.random.key(seed), batch_size=1000
        )
        for change in ("modify", "delete"):
            sizes = smoothing.subsample(keep, change=change).certify(done.lower, done.upper, shape=test_x.shape[1:])
            record("PointGuard", keep, change, done.prediction == test_y, sizes)
    for groups in (16, 32, 64):
        cut = smoothing.parts(groups)
        cert = smoothing.pointcert(net(jax.jit(cut.sample), True), jnp.asarray(test_x), parts=cut, batch_size=64)
        for change in ("modify", "delete"):
            record("PointCert", groups, change, cert.prediction == test_y, cert.certified(change))
    return records
