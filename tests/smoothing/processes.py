"""A certification over a mesh, as one of several processes: ``python -m tests.smoothing.processes ID COUNT ADDRESS RUN``."""

import sys

import jax
import jax.numpy as jnp
import numpy as np


def certified(mesh, out=None):
    """The same certification wherever it is called."""
    from jrobust import smoothing

    x, w = np.asarray(jax.random.normal(jax.random.key(1), (6, 3))), jax.random.normal(jax.random.key(2), (3, 4))
    model = jax.tree_util.Partial(_matmul, w)
    options = {
        "noise": smoothing.gaussian(0.5),
        "n0": 10,
        "n": (40, 90),
        "target": 0.2,
        "alpha": 0.05,
        "batch_size": 20,
    }
    return smoothing.certify(model, x, **options, key=jax.random.key(0), mesh=mesh, out=out)


def _matmul(w, z):
    return jnp.asarray(z) @ w


def main() -> None:
    number, count, address, run = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if count > 1:
        jax.distributed.initialize(address, count, number)
    certificate = certified(jax.make_mesh((4,), ("draws",)), out=run)
    np.savez(f"{run}/{number}.npz", counts=certificate.counts, radius=certificate.radius, draws=certificate.draws)


if __name__ == "__main__":
    main()
