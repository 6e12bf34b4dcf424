"""How many inputs at once: what a model's values take, against what the device has."""

import math
import os
from typing import Any

import jax

from jrobust._jaxpr import Jaxpr, subjaxprs, trace

_MOST = {"cpu": 1024}  # a larger batch leaves the caches, and gains nothing
_ELSEWHERE = 8192


def fitting(apply: Any, leaves: Any, x: Any) -> int:
    """A batch size, a power of two, that takes at most a quarter of the memory that one device has left.

    Args:
      apply: ``(leaves, x[B, ...]) -> logits``.
      leaves: the model's arrays.
      x: a batch of one, or its shapes.

    >>> import jax.numpy as jnp
    >>> 1 <= fitting(lambda leaves, x: x, (), jnp.zeros((1, 3))) <= 8192
    True
    """
    device = jax.local_devices()[0]
    needed = max(1, largest(trace(apply, leaves, x).jaxpr))
    room = free(device) // (4 * needed)
    return max(1, min(_MOST.get(device.platform, _ELSEWHERE), 2 ** int(math.log2(max(1, room)))))


def largest(jaxpr: Jaxpr) -> int:
    """Bytes of the inputs and outputs of the operation that has most of them.

    >>> import jax.numpy as jnp
    >>> largest(trace(lambda x: jnp.tile(x, 3).sum(), jnp.zeros(8)).jaxpr)
    128
    """
    most = 0
    for eqn in jaxpr.eqns:
        avals: list[Any] = [v.aval for v in (*eqn.invars, *eqn.outvars)]
        own = sum(math.prod(a.shape) * a.dtype.itemsize for a in avals if hasattr(a, "shape"))
        most = max(most, own, *(largest(inner) for inner in subjaxprs(eqn.params)))
    return most


def free(device: Any) -> int:
    """Bytes that a device has left; of a host, what the system calls available."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
