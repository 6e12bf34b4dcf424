"""Toy-scale COMMIT: a rectangle seen as an image of 16 x 16 and as 64 points, turned by up to 10 degrees; one sensor against both.

The net answers with the box of the rectangle in its own frame, which does not turn. Every angle lies within a quarter of a degree of
an anchor; the distance of the sensors' readings there is bounded (points: the chord; image: the largest on a dense grid of angles,
plus a Lipschitz constant times half its step), and the box's corners by median smoothing at the anchor. A scene is certified to the least
overlap with the true box over every angle.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.structured.common import fit
from jrobust import models, smoothing

SIDE, POINTS, MOST, STEP = 16, 64, 10.0, 0.5  # degrees
WIDTH, GLOW = 0.1, 0.25  # of the blobs that are drawn
SIGMA = {"image": 0.25, "points": 0.1}
SENSORS = {"image": ("image",), "points": ("points",), "both": ("image", "points")}
COLUMNS = {
    "sensors": "sensors",
    "overlap": "overlap at rest",
    "rho": "rho",
    "least": "mean certified overlap",
    "at0.5": "at least 0.5",
    "at0.9": "0.9",
    "at0.95": "0.95",
    "broken": "medians outside",
    "angles": "of angles",
}


def outline(size: Any, many: int) -> Any:
    """Points along the edge of a rectangle of that size about 0."""
    t = jnp.arange(many) / many * 4
    side, u = jnp.floor(t), t - jnp.floor(t) - 0.5
    ends = jnp.stack([jnp.array([0.5, 1.0]), jnp.array([1.0, 0.5]), jnp.array([0.5, 0.0]), jnp.array([0.0, 0.5])]) - 0.5
    way = jnp.array([[1.0, 0], [0, -1], [-1, 0], [0, 1]])
    return (ends[side.astype(int)] + way[side.astype(int)] * u[:, None]) * size


def readings(scene: Any, degrees: Any) -> dict[str, Any]:
    """What the sensors see of a scene (centre and size, [4]) turned about its own centre."""
    a = jnp.deg2rad(degrees)
    turn = jnp.array([[jnp.cos(a), -jnp.sin(a)], [jnp.sin(a), jnp.cos(a)]])
    points = outline(scene[2:], POINTS) @ turn.T + scene[:2]
    grid = (jnp.arange(SIDE) + 0.5) / SIDE * 2 - 1
    pixel = jnp.stack(jnp.meshgrid(grid, grid), -1)
    away = ((pixel[:, :, None] - points) ** 2).sum(-1)
    return {"image": GLOW * jnp.exp(-away / (2 * WIDTH**2)).sum(-1).ravel(), "points": points.ravel()}


def box(scene: Any) -> Any:
    return jnp.concatenate([scene[:2] - scene[2:] / 2, scene[:2] + scene[2:] / 2])


def scenes(key: Any, count: int) -> Any:
    centre, size = jax.random.split(key)
    return jnp.concatenate(
        [
            jax.random.uniform(centre, (count, 2), minval=-0.4, maxval=0.4),
            jax.random.uniform(size, (count, 2), minval=0.5, maxval=1.0),
        ],
        1,
    )


def join(seen: dict[str, Any], sensors: tuple[str, ...]) -> Any:
    return jnp.concatenate([seen[s] for s in sensors])


def reach(scene: Any, anchor: float) -> dict[str, float]:
    """The largest l2 distance of each sensor's readings within half a step of the anchor."""
    half = STEP / 2
    reach = np.linalg.norm(np.asarray(outline(scene[2:], POINTS)), axis=1)
    chord = 2 * np.sin(np.deg2rad(half) / 2) * np.sqrt((reach**2).sum())
    angles = anchor + np.linspace(-half, half, 101)
    seen = np.asarray(jax.vmap(lambda a: readings(scene, a)["image"])(jnp.asarray(angles)), np.float64)
    steepest = SIDE * GLOW * np.exp(-0.5) / WIDTH * reach.sum()  # of all pixels, by radian: no blob is steeper
    slack = steepest * np.deg2rad(angles[1] - angles[0]) / 2
    return {"image": np.linalg.norm(seen - seen[50], axis=1).max() + slack, "points": chord}


def run(seed: int, count: int = 16, draws: int = 1000, steps: int = 3000) -> list[dict[str, Any]]:
    train, test = scenes(jax.random.key(seed), 4000), scenes(jax.random.key(1000 + seed), count)
    anchors = np.arange(-MOST + STEP / 2, MOST, STEP)
    distances = [[reach(scene, a) for a in anchors] for scene in test]
    alpha, records = 0.01, []
    for name, sensors in SENSORS.items():
        levels = jnp.concatenate([jnp.full(SIDE**2 if s == "image" else 2 * POINTS, SIGMA[s]) for s in sensors])
        noise = smoothing.anisotropic(levels)

        def draw(key: Any, scene: Any, noise: Any = noise, sensors: Any = sensors) -> Any:
            turned, noisy = jax.random.split(key)
            seen = readings(scene, jax.random.uniform(turned, minval=-MOST, maxval=MOST))
            return noise.sample(noisy, join(seen, sensors))

        net = models.mlp(levels.shape, 4, rngs=nnx.Rngs(seed), widths=(256, 128))
        net = fit(net, train, jax.vmap(box)(train), draw=draw, steps=steps, seed=seed, loss=lambda a, b: jnp.abs(a - b))
        least, overlaps, rhos, broken, asked = [], [], [], 0, 0
        for i, scene in enumerate(test):
            key = jax.random.fold_in(jax.random.key(seed), i)
            x = jax.vmap(lambda a, scene=scene, sensors=sensors: join(readings(scene, a), sensors))(
                jnp.asarray(anchors)
            )
            out = smoothing.noisy_outputs(net, x, noise=noise, n=draws, key=key, batch_size=2000)
            rho = [np.sqrt(sum((d[s] / SIGMA[s]) ** 2 for s in sensors)) for d in distances[i]]
            bounds = [smoothing.median_bounds(o, r, alpha=alpha / len(anchors)) for o, r in zip(out, rho, strict=True)]
            low, high = (np.array(side) for side in zip(*bounds, strict=True))
            least.append(smoothing.iou_lower(low, high, np.asarray(box(scene))).min())
            overlaps.append(smoothing.iou_lower(m := np.median(out, 1), m, np.asarray(box(scene))).mean())
            rhos.append(np.mean(rho))
            angles = np.random.default_rng(seed).uniform(-MOST, MOST, 60)
            z = jax.vmap(lambda a, scene=scene, sensors=sensors: join(readings(scene, a), sensors))(jnp.asarray(angles))
            there = smoothing.noisy_outputs(
                net, z, noise=noise, n=draws, key=jax.random.fold_in(key, 7), batch_size=2000
            )
            cell = np.clip(((angles + MOST) / STEP).astype(int), 0, len(anchors) - 1)
            middle = np.median(there, 1)
            broken += int(((middle < low[cell]) | (middle > high[cell])).any(1).sum())
            asked += len(angles)
        records.append(
            {"sensors": name, "sigma": SIGMA, "scenes": count, "anchors": len(anchors), "n": draws, "alpha": alpha}
            | {"overlap": float(np.mean(overlaps)), "rho": float(np.mean(rhos)), "least": float(np.mean(least))}
            | {f"at{t}": float(np.mean(np.array(least) >= t)) for t in (0.5, 0.9, 0.95)}
            | {"broken": broken, "angles": asked}
        )
    return records
