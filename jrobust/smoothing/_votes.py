"""Counting votes under noise: the one compiled program of the smoothing drivers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._placement import Placement
from jrobust.smoothing._noise import Noise
from jrobust.typing import Array, Float, Int, PRNGKeyArray


def won(logits: Float[Array, "b ... k"]) -> Int[Array, "b ... k"]:
    """One vote for the largest logit of each output."""
    return jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=jnp.int32)


def votes(
    noise: Noise,
    leaves: Any,
    key: PRNGKeyArray,
    stage: int,
    index: Any,
    x: Float[Array, "b ..."],
    begin: int,
    end: int,
    size: int,
    *,
    apply: Any,
    batch_size: int,
    placement: Placement,
    tally: Callable[[Any], Any] = won,
) -> Any:
    """How often each class wins on the noisy copies ``begin`` to ``end`` of the first ``size`` of the examples ``x``.

    The pairs (example, draw) form one line that is cut into batches of one size, the last one padded and masked: no
    batch is idle, however many draws there are. Draw j of the example with index i uses the key ``fold_in(key, i, stage, j)``:
    it depends neither on the batch size nor on the other examples, and later draws go on where earlier ones stopped.

    Batches are dispatched from the host, one after the other without waiting: that costs no more than a compiled loop, and on
    CPU convolutions keep the fast path that XLA gives them outside of loops only. Each device counts for itself and the counts are summed
    once, at the end: a batch never makes devices wait for each other (many sums under way at once can lock the threads of a CPU).

    Args:
      noise: the distribution.
      leaves: the model's arrays.
      key: of the run.
      stage: 0 for the draws that select the class, 1 for those that estimate its probability.
      index: the examples' indices in the data set.
      x: the examples; those after the first ``size`` are padding.
      begin, end: the draws; ``size * (end - begin)`` is below 2**31.
      size: number of examples to work on.
      apply: ``(leaves, x[B, ...]) -> logits[B, ..., K]``; of several outputs each votes for itself.
      batch_size: pairs evaluated at once.
      placement: the devices over which a batch is spread.
      tally: ``logits[B, ..., K] -> [B, ..., K]``, what is summed over the draws instead of votes; structure.

    Returns:
      Counts [b, ..., K] (int32 of votes), zero for padding. An output with a NaN among its logits votes for nobody.
    """
    noisy = jax.eval_shape(jax.vmap(lambda a: noise.sample(key, a)), x)
    each = jax.eval_shape(lambda leaves, z: tally(apply(leaves, z)), leaves, noisy)
    counts = placement.zeros((x.shape[0], *each.shape[1:]), each.dtype)
    n = end - begin
    for start in range(0, size * n, batch_size):
        line = np.array([start, size * n, n, begin, stage], np.int32)
        counts = batch_votes(
            counts, noise, leaves, key, line, index, x,
            apply=apply, batch_size=batch_size, placement=placement, tally=tally,
        )  # fmt: skip
    return placement.total(counts)


@partial(jax.jit, static_argnames=("apply", "batch_size", "placement", "tally"), donate_argnames="counts")
def batch_votes(
    counts: Any,
    noise: Noise,
    leaves: Any,
    key: PRNGKeyArray,
    line: Any,
    index: Any,
    x: Float[Array, "b ..."],
    *,
    apply: Any,
    batch_size: int,
    placement: Placement,
    tally: Callable[[Any], Any] = won,
) -> Any:
    """The counts of each device after one batch of the line of pairs; every number in ``line`` is traced."""
    start, pairs, n, begin, stage = line
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), stage))(index)
    pair = placement.split(start + jnp.arange(batch_size, dtype=jnp.int32))  # a stretch of it for each device
    row = jnp.minimum(pair // n, x.shape[0] - 1)
    noisy = jax.vmap(lambda r, j: noise.sample(jax.random.fold_in(keys[r], j), x[r]))(row, begin + pair % n)
    logits = apply(leaves, noisy)
    valid = ~jnp.isnan(logits).any(-1, keepdims=True)
    valid &= (pair < pairs).reshape(-1, *[1] * (logits.ndim - 1))
    cast = jnp.where(valid, tally(logits), 0)
    row, cast = (a.reshape(len(counts), -1, *a.shape[1:]) for a in (row, cast))
    return placement.split(jax.vmap(lambda c, r, v: c.at[r].add(v))(counts, row, cast))
