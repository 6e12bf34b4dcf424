"""Votes of all pieces of an example, bands of an image or parts of a point cloud, and by how much the winner leads."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.smoothing._run import Run


def ballots(run: Run, pieces: Any, many: int, tally: Any) -> np.ndarray:
    """Votes of the ``many`` pieces of every example, int32 [N, K].

    The pairs (example, piece) of several examples form one line that is cut into batches of one size.

    Args:
      run: the model and the examples; nothing is drawn.
      pieces: hashable, ``pieces.at(x, j)`` is piece j of one example. Structure.
      many: how many pieces an example has.
      tally: ``logits[B, K] -> bool or int [B, K]``, the votes of a piece; a pytree (`bind`).
    """
    wide = max(1, run.batch_size // many)  # examples of which the votes are counted together
    rows = []
    for i in range(0, run.n, wide):
        group = jnp.asarray(run.x[np.resize(np.arange(i, min(i + wide, run.n)), wide)], jnp.float32)
        total: Any = 0
        for begin in range(0, wide * many, run.batch_size):
            line = begin + np.arange(run.batch_size)
            total += _batch(run.leaves, group, line, tally, apply=run.apply, pieces=pieces, many=many)
        rows.append(np.asarray(total)[: run.n - i])
    return np.concatenate(rows)


@partial(jax.jit, static_argnames=("apply", "pieces", "many"))
def _batch(leaves: Any, x: Any, line: Any, tally: Any, *, apply: Any, pieces: Any, many: int) -> Any:
    """Votes of the pairs (example, piece) of a line; those beyond its end are not counted."""
    row = jnp.minimum(line // many, len(x) - 1)
    cast = tally(apply(leaves, jax.vmap(lambda r, j: pieces.at(x[r], j))(row, line % many)))
    valid = (line < len(x) * many)[:, None]
    return jnp.zeros((len(x), cast.shape[1]), jnp.int32).at[row].add(cast * valid)


def leads(counts: np.ndarray, alone: int) -> tuple[np.ndarray, np.ndarray]:
    """The winner of each row of votes, the smaller index at a tie, and its slack, both int32 [N].

    The slack is by how many votes it leads each other class, one less where the other would win a tie; the least of them, or
    ``alone`` where there is no other.

    >>> leads(np.array([[3, 1, 3], [1, 3, 2]]), 9)
    (array([0, 1], dtype=int32), array([0, 1], dtype=int32))
    """
    winner = counts.argmax(1)[:, None]
    slack = np.take_along_axis(counts, winner, 1) - counts - (np.arange(counts.shape[1]) < winner)
    np.put_along_axis(slack, winner, alone, 1)
    return winner[:, 0].astype(np.int32), slack.min(1).astype(np.int32)
