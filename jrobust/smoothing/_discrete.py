"""Discrete noise: bits that flip, pixels that are hidden. Its radii count entries."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._tree import is_traced
from jrobust.smoothing._noise import Noise, probabilities
from jrobust.typing import Array, PRNGKeyArray

_MOST = 1000  # changes looked at; more would need probabilities nearer to 1 than counts can show


def flips(add: Any, delete: Any) -> Noise:
    """Sparsity-aware flips of binary entries: a 0 becomes 1 with probability ``add``, a 1 becomes 0 with probability ``delete``.

    Args:
      add: in (0, 1), small for sparse data. A leaf.
      delete: in (0, 1). A leaf.

    Returns:
      A `Noise` on examples of zeros and ones, whose radius (norm "bits") is the number of entries that may change to the other value,
      whichever they are. How many of each kind may, `certified_flips` says.

    Guarantee: exact (Neyman-Pearson over the regions of equal likelihood ratio), in float64 with log-space recursions.

    References:
      Bojchevski, Gasteiger, Guennemann. Efficient robustness certificates for discrete data: sparsity-aware randomized smoothing for
      graphs, images and more. ICML 2020.

    >>> float(flips(0.1, 0.1).certify(0.999))
    2.0
    """
    _check_flips(add, delete)
    return Noise((add, delete), _flips_draw, _flips_radius, "bits", "flips", domain="binary")


def _check_flips(add: Any, delete: Any) -> None:
    for name, p in (("add", add), ("delete", delete)):
        if not is_traced(p) and not (np.ndim(p) == 0 and 0 < p < 1):
            raise ValueError(f"flips: {name} is a probability in (0, 1), got {p!r}")


def certified_flips(
    lower: Any, upper: Any = None, *, add: float, delete: float, added: Any, deleted: Any
) -> np.ndarray:
    """Whether the class stays the most likely one when an adversary turns ``added`` zeros into ones and ``deleted`` ones into zeros.

    Args:
      lower: lower bounds on the probability of the class that wins.
      upper: upper bounds on that of any other; ``1 - lower`` by default.
      add, delete: of `flips`.
      added, deleted: >= 0. What holds for some changes holds for fewer.

    Returns:
      bool, the shape of ``lower``.

    Raises:
      ValueError: a probability outside [0, 1], a number of changes that is not one.

    >>> bool(certified_flips(0.9, add=0.01, delete=0.6, added=0, deleted=3))
    True
    >>> bool(certified_flips(0.9, add=0.01, delete=0.6, added=2, deleted=0))
    False
    """
    _check_flips(add, delete)
    check_count(added, "added", "certified_flips", least=0)
    check_count(deleted, "deleted", "certified_flips", least=0)
    p, q = probabilities(lower, upper)
    rest = np.maximum(1.0 - q, p)
    ours, theirs = _regions(float(add), float(delete), int(added), int(deleted))
    return np.asarray(_least(p, ours, theirs) + _least(rest, ours, theirs) > 1.0 + 1e-12)


@lru_cache(maxsize=4096)
def _regions(add: float, delete: float, added: int, deleted: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the regions of equal likelihood ratio at the example and at the changed one, the largest ratio first.

    A region is the number q of changed entries that the noise flips at the example. At the changed example each of them is flipped back
    instead, so its probability there is that of q entries which are *not* flipped.
    """
    at_x = _poisson_binomial(
        np.log([add] * added + [delete] * deleted), np.log1p(-np.array([add] * added + [delete] * deleted))
    )
    back = np.array([delete] * added + [add] * deleted)
    at_z = _poisson_binomial(np.log1p(-back), np.log(back))
    order = np.argsort(at_z - at_x, kind="stable")
    return np.exp(at_x[order]), np.exp(at_z[order])


def _poisson_binomial(log_p: np.ndarray, log_not: np.ndarray) -> np.ndarray:
    """Log probabilities of how many of several independent events happen, by the recursion over events in log space.

    >>> print(np.exp(_poisson_binomial(np.log([0.5, 0.5]), np.log([0.5, 0.5]))).round(4))
    [0.25 0.5  0.25]
    """
    out = np.zeros(1)
    for p, q in zip(log_p, log_not, strict=True):
        out = np.logaddexp(np.append(out, -np.inf) + q, np.append(-np.inf, out) + p)
    return out


def _least(p: Any, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The least probability at the changed example of a set of probability p at the example: the regions of largest ratio come first."""
    before, after = np.append(0.0, np.cumsum(ours)), np.append(0.0, np.cumsum(theirs))
    return np.asarray(np.interp(p, before, after, right=1.0))


def _flips_draw(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
    add, delete = scale
    u = jax.random.uniform(key, x.shape)
    return jnp.where(x > 0.5, (u >= delete), (u < add)).astype(x.dtype)


def _flips_radius(scale: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    add, delete = (float(a) for a in scale)
    d = _MOST if shape is None else min(_MOST, int(np.prod(shape)))

    def holds(p: Any, q: Any, r: int) -> bool:
        ways = added_of(add, delete, r)
        return all(certified_flips(p, q, add=add, delete=delete, added=a, deleted=r - a) for a in ways)

    return _counted(holds, lower, upper, d)


def added_of(add: float, delete: float, r: int) -> range:
    """How many of r changes may be additions: of one probability all ways are one."""
    return range(r + 1) if add != delete else range(1)


def ablation(keep: int, *, pixels: bool = False) -> Noise:
    """Randomized ablation: ``keep`` entries (or pixels) chosen at random are shown, the others hidden; certifies how many may change.

    Args:
      keep: how many are shown, >= 1. Structure.
      pixels: hide groups along the last axis (an image [H, W, C]) instead of entries.

    Returns:
      A `Noise` whose samples have twice the channels, ``(x, 1 - x)`` where shown and ``(0, 0)`` where hidden (of entries: a last axis of
      2): the base classifier is one of such inputs, and should be trained on them. Its radius counts entries (norm "l0") or pixels.

    Guarantee: draws that show none of r changed entries are the same, so probabilities move by at most
      ``Delta = 1 - C(d - r, keep) / C(d, keep)``; the class wins while ``p - Delta > q + Delta``.

    References:
      Levine & Feizi. Robustness certificates for sparse adversarial attacks by randomized ablation. AAAI 2020.

    >>> float(ablation(10).certify(0.95, shape=(100,)))
    5.0
    """
    check_count(keep, "keep", "ablation")
    draw, radius = _ablations(keep, pixels)
    return Noise(
        (), draw, radius, "l0-pixels" if pixels else "l0", f"ablation {'of pixels ' if pixels else ''}keep {keep}"
    )


def share(m: int, n: int, k: int) -> float:
    """``C(m, k) / C(n, k)``: of n units of which m are meant, how likely k drawn ones are all meant; exact to rounding for any n.

    A product of k factors near 1, where differences of log-gammas would lose digits; m may exceed n.

    >>> share(9, 10, 3), share(2, 10, 3), share(10, 9, 3)
    (0.7, 0.0, 1.4285714285714286)
    """
    if m < k:
        return 0.0
    return float(np.exp(np.log1p((m - n) / (n - np.arange(k))).sum()))


@lru_cache
def _ablations(keep: int, pixels: bool) -> tuple[Any, Any]:
    """The structure of a noise: the same two functions for the same numbers, so that nothing is compiled twice."""

    def units(shape: tuple[int, ...]) -> int:
        groups = shape[:-1] if pixels else shape
        d = int(np.prod(groups))
        if pixels and len(shape) < 2:
            raise ValueError(f"ablation of pixels needs examples [..., C], got shape {shape}")
        if keep > d:
            raise ValueError(
                f"ablation: keep={keep} of only {d} {'pixels' if pixels else 'entries'} of an example {shape}"
            )
        return d

    def draw(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
        d = units(x.shape)
        shown = jnp.zeros(d, bool).at[jax.random.choice(key, d, (keep,), replace=False)].set(True)
        if pixels:
            shown = shown.reshape(*x.shape[:-1], 1)
            return jnp.concatenate([jnp.where(shown, x, 0), jnp.where(shown, 1 - x, 0)], -1)
        shown = shown.reshape(x.shape)
        return jnp.stack([jnp.where(shown, x, 0), jnp.where(shown, 1 - x, 0)], -1)

    def radius(scale: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
        if shape is None:
            raise ValueError("the radius of ablation depends on the size of an example: pass shape=")
        d = units(shape)

        return _counted(lambda p, q, r: p - q > 2 * (1 - share(d - r, d, keep)) + 1e-9, lower, upper, min(d, _MOST))

    return draw, radius


def _counted(holds: Any, lower: Any, upper: Any, most: int) -> np.ndarray:
    """The largest count up to ``most`` for which ``holds(p, q, count)``: by bisection, for what holds for some changes holds for fewer."""

    def largest(p: Any, q: Any) -> int:
        low, high = 0, 1
        while high <= most and holds(p, q, high):
            low, high = high, 2 * high
        high = min(high, most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(p, q, middle) else (low, middle)
        return low

    lower, upper = np.broadcast_arrays(lower, upper)
    pairs, where = np.unique(np.stack([lower.ravel(), upper.ravel()], -1), axis=0, return_inverse=True)
    return np.array([largest(p, q) for p, q in pairs], float)[where.ravel()].reshape(lower.shape)
