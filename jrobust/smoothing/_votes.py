"""Counting votes under noise: the one compiled program of the smoothing drivers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jrobust.smoothing._noise import Noise
from jrobust.typing import Array, Float, Int, PRNGKeyArray


def votes(
    noise: Noise,
    leaves: Any,
    key: PRNGKeyArray,
    stage: int,
    index: Any,
    x: Float[Array, "b ..."],
    first: int,
    size: int,
    n: int,
    *,
    apply: Any,
    batch_size: int,
    mesh: Any = None,
) -> Int[Array, "b k"]:
    """How often each class wins on ``n`` noisy copies of some of the examples ``x``.

    The pairs (example, draw) form one line that is cut into batches of one size, the last one padded and masked: no
    batch is idle, whatever n is. Draw j of the example with index i uses the key ``fold_in(key, i, stage, j)``: it
    depends neither on the batch size nor on the other examples.

    Batches are dispatched from the host, one after the other without waiting: that costs no more than a compiled loop,
      and on
    CPU convolutions keep the fast path that XLA gives them outside of loops only.

    Args:
      noise: the distribution.
      leaves: the model's arrays.
      key: of the run.
      stage: 0 for the draws that select the class, 1 for those that estimate its probability.
      index: the examples' indices in the data set.
      x: the examples.
      first: position in ``x`` of the first example to work on.
      size: number of examples to work on.
      n: draws for each example; ``size * n`` is below 2**31.
      apply: ``(leaves, x[B, ...]) -> logits[B, K]``.
      batch_size: pairs evaluated at once.
      mesh: devices over which a batch is spread.

    Returns:
      int32 counts, zero for examples not worked on. A draw with a NaN among its logits votes for nobody.
    """
    classes = jax.eval_shape(apply, leaves, x).shape[-1]
    counts = jnp.zeros((x.shape[0], classes), jnp.int32)
    if mesh is not None:
        counts = jax.device_put(counts, NamedSharding(mesh, PartitionSpec()))
    for start in range(0, size * n, batch_size):
        line = np.array([start, first, size * n, n, stage], np.int32)
        counts = batch_votes(counts, noise, leaves, key, line, index, x, apply=apply, batch_size=batch_size, mesh=mesh)
    return counts


@partial(jax.jit, static_argnames=("apply", "batch_size", "mesh"), donate_argnames="counts")
def batch_votes(
    counts: Int[Array, "b k"],
    noise: Noise,
    leaves: Any,
    key: PRNGKeyArray,
    line: Any,
    index: Any,
    x: Float[Array, "b ..."],
    *,
    apply: Any,
    batch_size: int,
    mesh: Any,
) -> Int[Array, "b k"]:
    """The counts after one batch of the line of pairs; every number in ``line`` is traced."""
    start, first, pairs, n, stage = line
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), stage))(index)
    pair = start + jnp.arange(batch_size, dtype=jnp.int32)
    if mesh is not None:
        pair = jax.lax.with_sharding_constraint(pair, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    row = jnp.minimum(first + pair // n, x.shape[0] - 1)
    noisy = jax.vmap(lambda r, j: noise.sample(jax.random.fold_in(keys[r], j), x[r]))(row, pair % n)
    logits = apply(leaves, noisy)
    valid = (pair < pairs) & ~jnp.isnan(logits).any(-1)
    return counts.at[row, jnp.argmax(logits, -1)].add(valid.astype(jnp.int32))
