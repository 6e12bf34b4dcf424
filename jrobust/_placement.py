"""Where the arrays of a long run lie: on one device, or over a mesh whose every device works at its part of each batch."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jrobust.typing import PyTree


def check_local(mesh: Any, shard: Any, by: str) -> None:
    """Raise where a process that works alone at its share was given devices of other processes."""
    if shard is None or mesh is None:
        return
    if any(d.process_index != jax.process_index() for d in mesh.devices.flat):
        raise ValueError(
            f"{by}: with shard= each process works alone, so the mesh must be of its own devices, jax.local_devices()"
        )


@dataclasses.dataclass(frozen=True)
class Placement:
    """One device where ``mesh`` is None; else state and data on every device of it, batches split over all its axes.

    The mesh may span processes (`jax.distributed`): all of them run the same calls.
    """

    mesh: Any = None

    def __post_init__(self) -> None:
        if not (self.mesh is None or isinstance(self.mesh, Mesh)):
            raise TypeError(f"mesh is a jax.sharding.Mesh or None, got {type(self.mesh).__name__}")

    def check(self, batch_size: int) -> None:
        """Raise unless batches can be split."""
        if self.mesh is not None and batch_size % self.mesh.size:
            raise ValueError(f"batch_size {batch_size} does not divide among the {self.mesh.size} devices of the mesh")

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes to disk and shows progress."""
        return self.mesh is None or jax.process_index() == 0

    def _sharding(self, *axes: Any) -> NamedSharding:
        assert self.mesh is not None
        # The compiler places what lies between (Auto), whatever the axes of the given mesh ask for.
        return NamedSharding(Mesh(self.mesh.devices, self.mesh.axis_names), PartitionSpec(*axes))

    def everywhere(self, tree: PyTree) -> PyTree:
        """The arrays on every device; where there are several processes, each has them whole."""
        if self.mesh is None:
            return tree
        where = self._sharding()

        def one(leaf: Any) -> Any:
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(one(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

        return jax.tree.map(one, tree)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Zeros [devices, *shape] for each device to add up its part of the batches in; `total` is the sum over all."""
        if self.mesh is None:
            return jnp.zeros((1, *shape), dtype)
        own, where = np.zeros((1, *shape), dtype), self._sharding(self.mesh.axis_names)
        return jax.make_array_from_callback((self.mesh.size, *shape), where, lambda index: own)

    def total(self, parts: jax.Array) -> jax.Array:
        """The sum over the devices, on every one of them."""
        if self.mesh is None:
            return parts[0]
        parts.block_until_ready()  # nothing else is under way while the devices wait for each other
        return _summed(parts, self._sharding())

    def split(self, batch: PyTree) -> PyTree:
        """Under a trace: each device gets its part of the batch."""
        if self.mesh is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, self._sharding(self.mesh.axis_names))

    def compile(self, steps: Callable[..., Any]) -> Callable[..., Any]:
        """Jit of ``(state, given, key) -> (state, metrics)``; the state is donated."""
        if self.mesh is None:
            return jax.jit(steps, donate_argnums=0)
        return jax.jit(steps, donate_argnums=0, out_shardings=self._sharding())

    def rows(self, batch_size: int) -> np.ndarray:
        """The rows of a batch that lie on devices of this process."""
        if self.mesh is None:
            return np.arange(batch_size)
        there = self._sharding(self.mesh.axis_names).addressable_devices_indices_map((batch_size,))
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in there.values()]))

    def rows_of_chunk(self, stacked: PyTree, batch_size: int) -> PyTree:
        """A stack ``[steps, rows of this process, ...]`` as arrays ``[steps, batch_size, ...]`` on the devices."""
        if self.mesh is None:
            return jax.device_put(stacked)
        where = self._sharding(None, self.mesh.axis_names)

        def one(part: np.ndarray) -> Any:
            return jax.make_array_from_process_local_data(where, part, (part.shape[0], batch_size, *part.shape[2:]))

        return jax.tree.map(one, stacked)


@partial(jax.jit, static_argnames="where")
def _summed(parts: jax.Array, where: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(parts.sum(0), where)
