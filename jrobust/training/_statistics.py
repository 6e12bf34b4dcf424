"""BatchNorm's statistics for parameters that no training step has seen, such as a moving average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust.data import unit
from jrobust.typing import PyTree


def batch_statistics(
    apply: Callable[..., Any], params: PyTree, rest: PyTree, x: Any, *, batch_size: int = 256
) -> PyTree:
    """Running statistics estimated anew: the mean, over the batches of ``x``, of what each batch has.

    A moving average of parameters (`TrainState.ema`) is evaluated with the live statistics, as published, or with these.

    Args:
      apply: ``apply(params, rest, x, *, train) -> (logits, rest')``, where training moves a statistic r to ``m r + (1 - m) b`` with
        b of the batch, whatever its m.
      params: to evaluate.
      rest: the model's other arrays; what training does not change stays.
      x: clean training examples, floats or uint8 images; the few that fill no batch are left out.
      batch_size: as in training.

    Returns:
      ``rest`` with the new statistics.

    >>> def apply(params, rest, x, *, train):
    ...     return x, {"mean": 0.9 * rest["mean"] + 0.1 * x.mean(0)} if train else rest
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> new = batch_statistics(apply, None, {"mean": jnp.zeros(2)}, x, batch_size=2)
    >>> bool(jnp.allclose(new["mean"], x.mean(0)))
    True
    """
    check_count(batch_size, "batch_size", "batch_statistics")
    if len(x) < batch_size:
        raise ValueError(f"batch_statistics needs at least one batch of {batch_size}, got {len(x)} examples")

    @jax.jit
    def after(rest: PyTree, x: Any) -> PyTree:
        return apply(params, rest, unit(x), train=True)[1]

    def changes(before: Any, now: Any) -> bool:
        return jnp.issubdtype(before.dtype, jnp.floating) and not np.array_equal(before, now)

    batches = [jnp.asarray(x[i : i + batch_size]) for i in range(0, len(x) - batch_size + 1, batch_size)]
    moved = jax.tree.map(changes, rest, after(rest, batches[0]))
    # an update is affine in r: its values at 0 and 1 tell m, and so b
    zero = jax.tree.map(lambda r, m: jnp.zeros_like(r) if m else r, rest, moved)
    one = jax.tree.map(lambda r, m: jnp.ones_like(r) if m else r, rest, moved)
    less = lambda a, b, m: a - b if m else a  # noqa: E731
    kept = jax.tree.map(less, after(one, batches[0]), after(zero, batches[0]), moved)
    total = None
    for batch in batches:
        part = after(zero, batch)
        total = part if total is None else jax.tree.map(lambda a, b, m: a + b if m else a, total, part, moved)

    def estimate(r: Any, m: bool, k: Any, t: Any) -> Any:
        return (t / len(batches) / (1 - k)).astype(r.dtype) if m else r

    return jax.tree.map(estimate, rest, moved, kept, total)
