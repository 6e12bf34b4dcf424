"""Hierarchical smoothing: only some entities (pixels, nodes) are noised, and the classifier sees which."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust.smoothing._discrete import _counted, _flips_draw, _least, _regions, added_of, flips
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

    Deviations: entities are noised independently with probability p; nothing else (bits are `hierarchical_flips`).

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
        return _marked(key, x, p, lambda how: x + sigma * jax.random.normal(how, x.shape, x.dtype))

    def radius(sigma: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
        return sigma * _standard(np.asarray(lower, np.float64), np.asarray(upper, np.float64), p**touched)

    return draw, radius


def _marked(key: PRNGKeyArray, x: Array, p: float, noisy: Any) -> Array:
    """``noisy(key)`` in a random share p of the entities, x in the others, and a channel that says which."""
    if x.ndim < 2:
        raise ValueError(f"hierarchical noise needs examples [..., C], got shape {tuple(x.shape)}")
    which, how = jax.random.split(key)
    noised = jax.random.bernoulli(which, p, (*x.shape[:-1], 1))
    return jnp.concatenate([jnp.where(noised, noisy(how), x), noised.astype(x.dtype)], -1)


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


def hierarchical_flips(add: Any, delete: Any, *, p: Any, touched: int) -> Noise:
    """Bits that flip in a random share ``p`` of the entities, which an appended channel marks.

    Against an adversary who changes bits of at most ``touched`` entities (rows along the last axis).

    Args:
      add: probability in (0, 1) with which a 0 of a noised entity becomes 1. A leaf.
      delete: with which a 1 becomes 0. A leaf.
      p: probability with which an entity is noised, in (0, 1]. Structure. With 1 it is `flips`.
      touched: entities that may change, >= 1. Structure; the samples do not depend on it.

    Returns:
      A `Noise` on examples of zeros and ones [..., C] whose samples have one channel more, 1 where noised. Its radius counts bits.

    Guarantee: with ``s = p**r`` and the least probability L(.) that `flips` leaves of one, the class wins while
      ``s L((a - 1 + s) / s) > s (1 - L(1 - b / s)) + 1 - s``, for every number of added and deleted bits up to the radius. Tight where
      every touched entity changes.

    References:
      Scholten, Schuchardt, Bojchevski, Guennemann. Hierarchical randomized smoothing. NeurIPS 2023.

    >>> [float(hierarchical_flips(0.1, 0.1, p=p, touched=1).certify(0.999)) for p in (1.0, 0.6, 0.4)]
    [2.0, 2.0, 0.0]
    """
    check_count(touched, "touched", "hierarchical_flips")
    if not 0 < p <= 1:
        raise ValueError(f"hierarchical_flips: p is a probability in (0, 1], got {p!r}")
    draw, radius = _of_bits(float(p), touched)
    norm = f"bits of {touched} {'entity' if touched == 1 else 'entities'}"
    return Noise(flips(add, delete).scale, draw, radius, norm, f"hierarchical flips p {p:g}", domain="binary")


@lru_cache
def _of_bits(p: float, touched: int) -> tuple[Any, Any]:
    s = p**touched

    def draw(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
        return _marked(key, x, p, lambda how: _flips_draw(scale, how, x))

    def radius(scale: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
        add, delete = (float(a) for a in scale)
        ours, theirs = np.clip((lower - 1 + s) / s, 0, 1), np.clip(1 - upper / s, 0, 1)

        def holds(a: Any, b: Any, r: int) -> bool:
            ways = (_regions(add, delete, k, r - k) for k in added_of(add, delete, r))
            return all(s * _least(a, *w) + s * _least(b, *w) > 1 + 1e-12 for w in ways)

        return _counted(holds, ours, theirs, 1000 if shape is None else min(1000, touched * shape[-1]))

    return draw, radius
