"""Smoothing along rotations and sizes, on digits and MNIST: certified accuracy, and an undefended net at its worst parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.structured.common import fit, images
from jrobust import models, smoothing

# path, what is asked for, steps between looks by data set, the other points of the table
CASES = {
    "rotation": (smoothing.rotation_path(), 30.0, {"digits": 2.0, "mnist": 0.5}, (5.0, 15.0, 30.0)),
    "scaling": (smoothing.scaling_path(), 0.2, {"digits": 0.02, "mnist": 0.006}, (0.05, 0.1, 0.2)),
}
SIGMA = {"digits": 0.25, "mnist": 0.5}
COLUMNS = {"data": "data", "path": "parameter", "sigma": "sigma", "accuracy": "accuracy", "average_radius": "mean"} | {
    name: title
    for k in range(3)
    for name, title in ((f"at{k}", "at"), (f"certified{k}", "certified"), (f"plain{k}", "undefended, worst"))
} | {"looks": "looks", "images": "images"}  # fmt: skip


def run(seed: int, draws: int = 1000, steps: int = 1500) -> list[dict[str, Any]]:
    records = []
    for data, count in (("digits", 355), ("mnist", 50)):
        d, sigma = images(data), SIGMA[data]
        shape, x, y = d.train_x.shape[1:], jnp.asarray(d.test_x[:count]), np.asarray(d.test_y[:count])

        def net(draw: Any, shape: Any = shape, d: Any = d) -> Any:
            new = models.cnn_small(shape, 10, rngs=nnx.Rngs(seed))
            return fit(new, d.train_x, d.train_y, draw=draw, steps=steps, seed=seed)

        plain = nnx.jit(net(lambda key, z: z))
        for name, (path, reach, spacing, asked) in CASES.items():

            def noisy(key: Any, z: Any, path: Any = path, reach: float = reach, sigma: float = sigma) -> Any:
                turn, noise = jax.random.split(key)
                moved = path.render(z, jax.random.uniform(turn, (), minval=-1.1 * reach, maxval=1.1 * reach))
                return moved + sigma * jax.random.normal(noise, z.shape)

            done = smoothing.along(
                net(noisy), x, path, reach=reach, step=spacing[data], noise=smoothing.gaussian(sigma), n0=50, n=draws,
                key=jax.random.key(seed), batch_size=1000,
            )  # fmt: skip
            render = jax.jit(jax.vmap(path.render, (0, None)))
            right = {t: np.asarray(plain(render(x, t)).argmax(-1) == y) for t in np.linspace(-reach, reach, 61)}
            worst = [np.logical_and.reduce([r for t, r in right.items() if abs(t) <= most]).mean() for most in asked]
            records.append(
                {"data": data, "path": name, "sigma": sigma, "n": draws, "confidence": 0.999, "images": len(y)}
                | {"accuracy": done.accuracy(y).value, "average_radius": done.average_radius(y).value}
                | {f"at{k}": v for k, v in enumerate(asked)}
                | {f"certified{k}": done.accuracy(y, v).value for k, v in enumerate(asked)}
                | {f"plain{k}": round(float(v), 4) for k, v in enumerate(worst)}
                | {"looks": round(float(done.draws.mean()) / draws, 1)}
            )
    return records
