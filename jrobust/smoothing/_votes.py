"""Counting votes under noise: the one compiled program of the smoothing drivers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jrobust import _loops
from jrobust.smoothing._noise import Noise
from jrobust.typing import Array, Float, Int, PRNGKeyArray


@partial(jax.jit, static_argnames=("apply", "batch_size", "mesh"))
def votes(
    noise: Noise,
    leaves: Any,
    key: PRNGKeyArray,
    stage: Any,
    index: Int[Array, " b"],
    x: Float[Array, "b ..."],
    first: Any,
    pairs: Any,
    n: Any,
    *,
    apply: Any,
    batch_size: int,
    mesh: Any = None,
) -> Int[Array, "b k"]:
    """How often each class wins on ``n`` noisy copies of some of the examples ``x``.

    The pairs (example, draw) form one line that is cut into batches of one size, the last one padded and masked: no
    draw of the model is idle, whatever n is. Draw j of the example with index i uses the key ``fold_in(key, i, stage,
    j)``: it depends neither on the batch size nor on the other examples. All of ``stage, first, pairs, n`` are traced.

    Args:
      noise: the distribution.
      leaves: the model's arrays.
      key: of the run.
      stage: 0 for the draws that select the class, 1 for those that estimate its probability.
      index: the examples' indices in the data set.
      x: the examples.
      first: position in ``x`` of the first example to work on.
      pairs: ``n`` times the number of examples to work on.
      n: draws for each example.
      apply: ``(leaves, x[B, ...]) -> logits[B, K]``.
      batch_size: pairs evaluated at once.
      mesh: devices over which a batch is spread.

    Returns:
      int32 counts, zero for examples not worked on. A draw with a NaN among its logits votes for nobody.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), stage))(index)
    classes = jax.eval_shape(apply, leaves, x).shape[-1]

    def count(chunk: Any, counts: Array) -> Array:
        pair = chunk * batch_size + jnp.arange(batch_size)
        if mesh is not None:
            pair = jax.lax.with_sharding_constraint(pair, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
        row = jnp.minimum(first + pair // n, x.shape[0] - 1)
        draw = jax.vmap(lambda r, j: noise.sample(jax.random.fold_in(keys[r], j), x[r]))
        logits = apply(leaves, draw(row, pair % n))
        valid = (pair < pairs) & ~jnp.isnan(logits).any(-1)
        return counts.at[row, jnp.argmax(logits, -1)].add(valid.astype(jnp.int32))

    chunks = (pairs + batch_size - 1) // batch_size
    return _loops.fori_loop(0, chunks, count, jnp.zeros((x.shape[0], classes), jnp.int32))
