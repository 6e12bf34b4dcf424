"""Statistics of counts, finalised in float64 on the host: exact binomial bounds and tests, shares with their interval."""

from typing import Any, NamedTuple

import numpy as np

from jrobust.typing import Side


def clopper_pearson(count: Any, n: Any, alpha: float) -> np.ndarray:
    """One-sided lower confidence bound on a probability from ``count`` successes in ``n`` trials.

    Args:
      count: integers in 0..n, any shape.
      n: integers >= 1.
      alpha: error probability in (0, 1).

    Returns:
      float64; 0 where count is 0.

    Guarantee: at most the true probability, with probability >= 1 - alpha over the trials (exact, not asymptotic). 1e-9
      is taken off for rounding, after which it never exceeds the exact value.

    >>> float(clopper_pearson(100, 100, 0.001)).__round__(5)
    0.93325
    """
    from scipy.special import betaincinv

    count, n = np.asarray(count), np.asarray(n)
    if not (np.issubdtype(count.dtype, np.integer) and np.issubdtype(n.dtype, np.integer)):
        raise TypeError(f"counts are integers, got {count.dtype} and {n.dtype}: float32 would make the bound unsound")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    if (count < 0).any() or (count > n).any() or (n < 1).any():
        raise ValueError("counts lie in 0..n with n >= 1")
    count, n = count.astype(np.float64), n.astype(np.float64)
    bound = betaincinv(np.maximum(count, 1), n - count + 1, alpha)
    bound = np.where(count == n, alpha ** (1 / n), bound)
    return np.where(count == 0, 0.0, np.maximum(bound - 1e-9, 0.0))


def sign_test(first: Any, second: Any) -> np.ndarray:
    """p-values of the two-sided test that two outcomes, seen ``first`` and ``second`` times, are equally likely.

    >>> float(sign_test(10, 0)).__round__(5)
    0.00195
    """
    from scipy.special import bdtrc

    first, second = np.asarray(first, np.int64), np.asarray(second, np.int64)
    total, most = first + second, np.maximum(first, second)
    upper = np.where(most > 0, bdtrc(most - 1.0, total, 0.5), 1.0)  # P(X >= most)
    return np.asarray(np.minimum(1.0, 2 * upper))


_READS = {"lower": "at most", "upper": "at least", "exact": "exact", "estimate": "bounds nothing"}
_RADIUS = {**_READS, "lower": "at least", "upper": "at most"}


def reads(side: str, quantity: str = "accuracy") -> str:
    """How a number of that side reads: what an attack left is at most the robust accuracy's value, what is proven at least.

    The side speaks of the worst case, which is large where accuracy is small; the side of a radius is that of the number itself.

    >>> reads("lower"), reads("lower", "radius")
    ('at most', 'at least')
    """
    return (_RADIUS if quantity == "radius" else _READS)[side]


class Accuracy(NamedTuple):
    """A share of examples, with the exact (Clopper-Pearson) interval of the share in the population they were drawn from.

    Attributes:
      value: ``count / n``.
      low, high: the interval at ``level``.
      count, n: examples that hold, and all.
      level: of the interval; not to be confused with ``confidence``.
      side: of the worst case: a "lower" bound on it overstates robust accuracy, an "upper" one understates it.
      confidence: with which each certificate (or randomised statement) behind it holds.
    """

    value: float
    low: float
    high: float
    count: int
    n: int
    level: float
    side: Side
    confidence: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def __repr__(self) -> str:
        return f"Accuracy({reads(self.side)} {self}, n={self.n}, confidence={self.confidence:g})"


def proportion(count: int, n: int, *, side: Side, confidence: float = 1.0, level: float = 0.95) -> Accuracy:
    """``count`` of ``n`` with its Clopper-Pearson interval, in float64 on the host.

    >>> print(proportion(9, 10, side="exact"))
    0.9000 [0.5550, 0.9975]
    """
    from scipy.special import betaincinv

    if not 0 < level < 1:
        raise ValueError(f"level lies in (0, 1), got {level!r}")
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(betaincinv(count + 1, n - count, 1 - tail))
    return Accuracy(count / n, low, high, int(count), int(n), level, side, confidence)
