"""What the drivers of structured smoothing share: input checked, the model taken apart, votes counted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_batch, check_inside, check_key
from jrobust._model import Functional, functional, warn_if_random
from jrobust._placement import Placement
from jrobust._statistics import clopper_pearson
from jrobust.smoothing._certify import _count, _Run  # pyright: ignore[reportPrivateUsage]
from jrobust.smoothing._noise import Noise


def start(
    model: Any,
    x: Any,
    noise: Any,
    key: Any,
    batch_size: int,
    *,
    dense: bool = False,
    mesh: Any = None,
) -> _Run:
    """A run over examples [N, ...] of a model that sees what ``noise.sample`` makes of them (any shape).

    Args:
      model: ``model(z[B, ...]) -> logits[B, K]``, with ``dense`` [B, ..., K]; z are noisy examples.
      x: examples [N, ...], floating.
      noise: a `Noise`.
      key: one typed PRNG key.
      batch_size: noisy inputs evaluated at once.
      dense: whether the model may have several outputs.
      mesh: over which each batch is spread.
    """
    if not isinstance(noise, Noise):
        raise TypeError(f"noise is made by jr.smoothing.gaussian(sigma), got {type(noise).__name__}")
    f, x = prepared(model, x, noise.sample, key, batch_size, dense=dense)
    placement = Placement(mesh)
    if mesh is not None:
        batch_size = -(-batch_size // mesh.size) * mesh.size
    leaves, key = placement.everywhere((f.leaves, key))
    return _Run(noise, leaves, f.apply, key, x, len(x), batch_size, placement)


def prepared(
    model: Any, x: Any, sample: Any, key: Any, batch_size: int, *, dense: bool = False
) -> tuple[Functional, np.ndarray]:
    """The model taken apart for inputs such as ``sample(key, x[i])``, and the examples on the host, all input checked."""
    check_key(key)
    _count("batch_size", batch_size)
    x = np.asarray(x)
    check_batch(x)
    if x.ndim < 2:
        raise ValueError(f"x must be a batch [N, ...], got shape {x.shape}")
    for first in range(0, len(x), 1024):
        check_inside(x[first : first + 1024], first)
    few = jax.vmap(lambda a: sample(key, a))(jnp.asarray(x[:4], jnp.float32))
    f = functional(model, few, dense=dense)
    warn_if_random(model, few, f)
    return f, x


def check_alpha(alpha: Any) -> float:
    """A failure probability."""
    if not (np.ndim(alpha) == 0 and 0 < alpha < 1):
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    return float(alpha)


def at_least(count: Any, n: int, p: float) -> np.ndarray:
    """One-sided p-values ``P(Bin(n, p) >= count)`` in float64."""
    from scipy.special import bdtrc

    count = np.asarray(count)
    return np.where(count <= 0, 1.0, bdtrc(np.maximum(count, 1) - 1.0, n, p))


def reject(p_values: np.ndarray, alpha: float, method: str = "holm") -> np.ndarray:
    """Which hypotheses of one family are rejected, so that with probability >= 1 - alpha none of them is true."""
    m = len(p_values)
    if method == "bonferroni":
        return p_values <= alpha / m
    order = np.argsort(p_values)
    passed = np.logical_and.accumulate(p_values[order] <= alpha / (m - np.arange(m)))
    out = np.zeros(m, bool)
    out[order[passed]] = True
    return out


def clopper_pearson_upper(count: Any, n: Any, alpha: float) -> np.ndarray:
    """One-sided upper confidence bound on a probability."""
    return 1 - clopper_pearson(np.asarray(n) - np.asarray(count), n, alpha)
