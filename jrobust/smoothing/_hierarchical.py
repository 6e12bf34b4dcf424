"""Hierarchical smoothing: only some entities (pixels, nodes) are noised, and the classifier sees which."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust.smoothing._noise import Noise, check_level
from jrobust.typing import Array, PRNGKeyArray


def hierarchical(sigma: Any, *, p: Any, touched: int) -> Noise:
    """Gaussian noise on a random share ``p`` of the entities, which an appended channel marks.

    Against an adversary who changes at most ``touched`` entities (rows along the last axis: the pixels of an image [H, W, C], the nodes of
    a graph's features [N, F]), by at most the radius in l2 all together.

    Args:
      sigma: standard deviation in input units, > 0. A leaf.
      p: probability with which an entity is noised, in (0, 1]. Structure. With 1 it is `gaussian`, whatever ``touched``.
      touched: entities that may change, >= 1. Structure; the samples do not depend on it.

    Returns:
      A `Noise` whose samples have one channel more, 1 where noised and 0 elsewhere: the base classifier takes C + 1 channels, and is
      trained on them. Its radius (norm "l2 of r entities") is 0 unless the class has more than ``1 - p**touched`` to spare.

    Guarantee: with ``s = p**r``, where the class has probability >= a and every other one <= b, it stays the most likely one within the
      largest eps of ``s Phi(Phi^-1((a - 1 + s) / s) - eps / sigma) > s Phi(Phi^-1(b / s) + eps / sigma) + 1 - s``: a draw in which a
      changed entity is not noised (probability 1 - s) may go either way, in the others the noise is Gaussian on all that changed.
      For b = 1 - a this is ``sigma (Phi^-1((a - 1 + s) / s) - Phi^-1(1 / (2 s)))``. It decreases in r: fewer changes are certified
      too. Assumes real arithmetic and ideal noise.

    References:
      Scholten, Schuchardt, Bojchevski, Guennemann. Hierarchical randomized smoothing. NeurIPS 2023.

    Deviations: entities are noised independently with probability p; the Gaussian lower level alone (for bits see `flips`).

    >>> [round(float(hierarchical(0.25, p=0.8535, touched=r).certify(0.99)), 4) for r in (1, 2, 3, 5)]
    [0.5124, 0.4298, 0.3214, 0.0]
    """
    check_count(touched, "touched", "hierarchical")
    if not 0 < p <= 1:
        raise ValueError(f"hierarchical: p is a probability in (0, 1], got {p!r}")
    draw, radius = _structure(float(p), touched)
    norm = f"l2 of {touched} {'entity' if touched == 1 else 'entities'}"
    return Noise(check_level(sigma, "sigma"), draw, radius, norm, f"hierarchical p {p:g}")


@lru_cache
def _structure(p: float, touched: int) -> tuple[Any, Any]:
    """The same two functions for the same numbers, so that nothing is compiled twice."""

    def draw(sigma: Any, key: PRNGKeyArray, x: Array) -> Array:
        if x.ndim < 2:
            raise ValueError(f"hierarchical noise needs examples [..., C], got shape {tuple(x.shape)}")
        which, how = jax.random.split(key)
        noised = jax.random.bernoulli(which, p, (*x.shape[:-1], 1))
        z = x + noised * sigma * jax.random.normal(how, x.shape, x.dtype)
        return jnp.concatenate([z, noised.astype(x.dtype)], -1)

    def radius(sigma: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
        return sigma * _standard(np.asarray(lower, np.float64), np.asarray(upper, np.float64), p**touched)

    return draw, radius


def _standard(lower: np.ndarray, upper: np.ndarray, s: float) -> np.ndarray:
    """The radius at sigma 1, from below: bisection of the condition, which only gets worse with distance."""
    from scipy.special import ndtr, ndtri

    with np.errstate(invalid="ignore", divide="ignore"):
        ours, theirs = ndtri(np.clip((lower - 1 + s) / s, 0, 1)), ndtri(np.clip(upper / s, 0, 1))

    def holds(eps: Any) -> Any:
        return s * ndtr(ours - eps) > s * ndtr(theirs + eps) + (1 - s) + 1e-12

    low, high = np.zeros(lower.shape), np.full(lower.shape, 10.0)
    for _ in range(60):
        middle = (low + high) / 2
        held = holds(middle)
        low, high = np.where(held, middle, low), np.where(held, high, middle)
    return low
