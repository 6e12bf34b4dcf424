"""The table of smoothing drivers: what each says of a few images (or clouds), as arrays with one row an example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import smoothing

IMAGES = jax.random.uniform(jax.random.key(7), (5, 4, 4, 1))
CLOUDS = jax.random.normal(jax.random.key(8), (5, 12, 3))
COSTS = np.array([[0.0, 1.0], [0.0, 0.0]])
NOISE = smoothing.gaussian(0.3)


def bright(z: Any) -> Any:
    """Two classes: whether the image is bright (a half that is erased weighs nothing)."""
    score = z.mean(range(1, z.ndim)) - 0.5
    return 9.0 * jnp.stack([score, -score], 1)


def pixels(z: Any) -> Any:
    """Two classes for each pixel."""
    return jnp.stack([z[..., 0] - 0.5, 0.5 - z[..., 0]], -1)


def marked(z: Any) -> Any:
    """Two classes of a cloud, by the mean of its marked rows."""
    score = (z[..., 0] * z[..., -1]).sum(1)
    return jnp.stack([score, -score], 1)


def of(certificate: Any, *names: str) -> dict[str, np.ndarray]:
    """The named columns of a result."""
    return {name: np.asarray(getattr(certificate, name)) for name in names}


def certify(x: Any, **how: Any) -> Any:
    done = smoothing.certify(bright, x, noise=NOISE, n0=10, n=150, **how)
    return of(done, "prediction", "radius", "counts")


def predict(x: Any, **how: Any) -> Any:
    return of(smoothing.predict(bright, x, noise=NOISE, n=150, **how), "prediction", "counts")


def segment(x: Any, **how: Any) -> Any:
    return of(smoothing.segment(pixels, x, noise=NOISE, n0=10, n=150, **how), "prediction")


def dual(x: Any, **how: Any) -> Any:
    return of(smoothing.dual((bright, bright), x, sigma=0.3, n0=10, n=150, **how), "prediction", "radius")


def localized(x: Any, **how: Any) -> Any:
    cells = np.arange(16).reshape(4, 4) // 8
    sigma = [[0.2, 0.5], [0.5, 0.2]]
    done = smoothing.localized(pixels, x, sigma=sigma, inputs=cells[..., None], outputs=cells, n0=10, n=150, **how)
    return of(done, "prediction", "lower") | {"robust": np.asarray(done.robust(0.2))}


def derandomized(x: Any, key: Any = None, **how: Any) -> Any:
    del key
    done = smoothing.derandomized(bright, x, bands=smoothing.bands(2), **how)
    return of(done, "prediction") | {"certified": np.asarray(done.certified(1, 1))}


def pointcert(x: Any, key: Any = None, **how: Any) -> Any:
    del key
    done = smoothing.pointcert(marked, x, parts=smoothing.parts(4), **how)
    return of(done, "prediction") | {"certified": np.asarray(done.certified("delete"))}


def cost_sensitive(x: Any, **how: Any) -> Any:
    y = np.zeros(len(x), np.int32)
    done = smoothing.cost_sensitive(bright, x, y, COSTS, noise=NOISE, n0=10, n=150, **how)
    return of(done, "selected", "radius", "plain")


def along(x: Any, **how: Any) -> Any:
    path = smoothing.rotation_path()
    done = smoothing.along(bright, x, path, reach=2.0, step=2.0, noise=NOISE, n0=10, n=150, **how)
    return of(done, "prediction", "radius")


def noisy_outputs(x: Any, **how: Any) -> Any:
    return {"samples": np.asarray(smoothing.noisy_outputs(bright, x, noise=NOISE, n=20, **how))}


DRIVERS = {
    "along": (along, IMAGES),
    "certify": (certify, IMAGES),
    "cost_sensitive": (cost_sensitive, IMAGES),
    "derandomized": (derandomized, IMAGES),
    "dual": (dual, IMAGES),
    "localized": (localized, IMAGES),
    "noisy_outputs": (noisy_outputs, IMAGES),
    "pointcert": (pointcert, CLOUDS),
    "predict": (predict, IMAGES),
    "segment": (segment, IMAGES),
}
