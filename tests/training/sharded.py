"""Every training loss with its batch split over four devices, beside the same on one: prints where they differ."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.nnx import Rngs
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jrobust as jr
from tests.training.nets import Net
from tests.training.test_methods import METHODS, PAIRS, X, Y, called, pairs


def gradient(name: str, x, y):
    """Losses, gradient and statistics of a net with BatchNorm and dropout."""
    apply, params, rest = jr.nnx.functional(Net(Rngs(0)))
    robust = METHODS[name](jr.objectives.cross_entropy(apply))
    if name in PAIRS:
        params, rest = pairs(params, rest)

    def total(params, x, y):
        losses, after = called(robust, params, rest, x, y, train=True)
        return jnp.mean(losses), (losses, after.get("student", after)["norm"])

    return jax.jit(jax.grad(total, has_aux=True))(params, x, y)


def main() -> None:
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    where = NamedSharding(mesh, PartitionSpec("batch"))
    assert len(mesh.devices) == 4
    for name in METHODS:
        one, four = gradient(name, X, Y), gradient(name, jax.device_put(X, where), jax.device_put(Y, where))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
            gap = float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) / max(1.0, float(np.max(np.abs(np.asarray(a)))))
            if not gap < 1e-3:
                print(f"{name} differs by {gap:.2g} at shape {a.shape}")
    print(f"{len(METHODS)} methods looked at")


if __name__ == "__main__":
    main()
