"""Smoothing over the parameter of a transformation, on digits: certified accuracy, and an undefended net at its worst parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.structured.common import fit, images
from jrobust import models, smoothing

# noise, its levels, the change by a parameter, parameters that are asked for
CASES = {
    "brightness": (smoothing.brightness, (0.2, 0.4), lambda x, v: x + v, (0.1, 0.3, 0.5), (-1, 1)),
    "contrast": (smoothing.contrast, (0.3, 0.6), lambda x, v: x * jnp.exp(v), (0.2, 0.5, 1.0), (-1, 1)),
    "translation": (smoothing.translation, (0.7, 1.2), None, (1, 2, 3), ()),
    "blur": (smoothing.blur, (0.5, 1.0), jax.vmap(smoothing.blurred, (0, None)), (0.25, 0.5, 1.0), (1,)),
}
COLUMNS = {"noise": "parameter", "level": "level", "accuracy": "accuracy", "average_radius": "ACR"} | {
    name: title
    for k in range(3)
    for name, title in ((f"at{k}", "at"), (f"certified{k}", "certified"), (f"plain{k}", "undefended, worst"))
}


def changed(name: str, change: Any, x: Any, most: float, ways: tuple[int, ...]) -> list[Any]:
    """The images under a grid of parameters up to ``most``."""
    if name == "translation":
        moves = [(a, b) for a in range(-3, 4) for b in range(-3, 4) if a * a + b * b <= most * most]
        return [jnp.roll(x, move, axis=(1, 2)) for move in moves]
    return [change(x, way * v) for way in ways for v in np.linspace(0, most, 11)]


def run(seed: int, draws: int = 1000, steps: int = 1500) -> list[dict[str, Any]]:
    d = images("digits")
    x, y = jnp.asarray(d.test_x), np.asarray(d.test_y)

    def net(sample: Any) -> Any:
        new = models.cnn_small((8, 8, 1), 10, rngs=nnx.Rngs(seed))
        return fit(new, d.train_x, d.train_y, draw=sample, steps=steps, seed=seed)

    plain, records = nnx.jit(net(lambda key, z: z)), []
    for name, (make, levels, change, asked, ways) in CASES.items():
        worst = []
        for most in asked:
            right = [np.asarray(plain(z).argmax(-1) == y) for z in changed(name, change, x, most, ways)]
            worst.append(float(np.logical_and.reduce(right).mean()))
        for level in levels:
            noise = make(level)
            done = smoothing.certify(
                net(noise.sample), x, noise=noise, n0=50, n=draws, key=jax.random.key(seed), batch_size=1000
            )
            records.append(
                {"noise": name, "level": level, "images": len(y), "n": draws, "confidence": 0.999}
                | {"accuracy": done.accuracy(y).value, "average_radius": done.average_radius(y).value}
                | {f"at{k}": v for k, v in enumerate(asked)}
                | {f"certified{k}": done.accuracy(y, v).value for k, v in enumerate(asked)}
                | {f"plain{k}": v for k, v in enumerate(worst)}
            )
    return records
