"""BatchNorm's statistics for parameters that no training step has seen, such as a moving average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._running import of_batch
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
    def found(rest: PyTree, x: Any) -> PyTree:
        return of_batch(lambda r: apply(params, r, unit(x), train=True), rest)

    parts = [found(rest, jnp.asarray(x[i : i + batch_size])) for i in range(0, len(x) - batch_size + 1, batch_size)]

    def mean(r: Any, *of: Any) -> Any:
        return jnp.mean(jnp.stack(of), 0).astype(r.dtype) if jnp.issubdtype(r.dtype, jnp.floating) else r

    return jax.tree.map(mean, rest, *parts)
