"""Statistics of counts, finalised in float64 on the host: exact binomial bounds and tests, shares with their interval."""

from typing import Any, Literal, NamedTuple

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

    count, n = _counts(count, n, alpha)
    bound = betaincinv(np.maximum(count, 1), n - count + 1, alpha)
    bound = np.where(count == n, alpha ** (1 / n), bound)
    return np.where(count == 0, 0.0, np.maximum(bound - 1e-9, 0.0))


def clopper_pearson_upper(count: Any, n: Any, alpha: float) -> np.ndarray:
    """One-sided upper confidence bound on a probability: what `clopper_pearson` says of the failures, turned round.

    >>> float(clopper_pearson_upper(0, 100, 0.001)).__round__(5)
    0.06675
    """
    return np.asarray(1.0 - clopper_pearson(np.asarray(n) - np.asarray(count), n, alpha))


def at_least(count: Any, n: Any, p: Any) -> np.ndarray:
    """p-values of the one-sided test that a probability is at most ``p``: ``P(Bin(n, p) >= count)``.

    >>> float(at_least(90, 100, 0.75)).__round__(5)
    0.00014
    """
    from scipy.special import betainc

    count, n = _counts(count, n, 0.5)
    return np.where(count == 0, 1.0, betainc(np.maximum(count, 1), n - count + 1, p))


def reject(p_values: Any, alpha: float, *, method: Literal["holm", "bonferroni"] = "holm") -> np.ndarray:
    """Which of many hypotheses may be rejected together: with probability >= 1 - alpha none of those is true, dependent or not.

    Args:
      p_values: any shape; all of them count as tests.
      alpha: family-wise error rate in (0, 1).
      method: "bonferroni" compares all with alpha / m, "holm" (never weaker) the k-th smallest with alpha / (m - k + 1), down to the first
        that fails.

    Returns:
      bool, the shape of ``p_values``.

    References:
      Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.

    >>> reject([0.01, 0.02, 0.04], 0.05).tolist(), reject([0.01, 0.02, 0.04], 0.05, method="bonferroni").tolist()
    ([True, True, True], [True, False, False])
    """
    if method not in ("holm", "bonferroni"):
        raise ValueError(f'method is "holm" or "bonferroni", got {method!r}')
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values lie in [0, 1]")
    flat, m = p.ravel(), p.size
    if method == "bonferroni":
        return p <= alpha / m
    order = np.argsort(flat, kind="stable")
    passed = np.logical_and.accumulate(flat[order] <= alpha / np.arange(m, 0, -1))
    out = np.zeros(m, bool)
    out[order] = passed
    return out.reshape(p.shape)


def _counts(count: Any, n: Any, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts and trials as float64, after they were seen to be integers in range."""
    count, n = np.asarray(count), np.asarray(n)
    if not (np.issubdtype(count.dtype, np.integer) and np.issubdtype(n.dtype, np.integer)):
        raise TypeError(f"counts are integers, got {count.dtype} and {n.dtype}: float32 would make the bound unsound")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    if (count < 0).any() or (count > n).any() or (n < 1).any():
        raise ValueError("counts lie in 0..n with n >= 1")
    return count.astype(np.float64), n.astype(np.float64)


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
_RADIUS = {**_READS, "lower": "at least", "upper": "at most"}  # and a rate, the share of what was broken


def reads(side: str, quantity: str = "accuracy") -> str:
    """How a number of that side reads: what an attack left is at most the robust accuracy's value, what is proven at least.

    The side speaks of the worst case, which is large where accuracy is small; that of a radius or a rate is that of the number itself.

    >>> reads("lower"), reads("lower", "radius")
    ('at most', 'at least')
    """
    return (_READS if quantity == "accuracy" else _RADIUS)[side]


def _said(a: "Accuracy | Average", quantity: str, spec: str) -> str:
    """A number with its interval, how it reads and its n, such as ``at most 0.8120 [0.7870, 0.8360], n=1000``."""
    spec = spec or ".4f"
    how = "estimate" if a.side == "estimate" else reads(a.side, quantity)
    sure = "" if a.confidence == 1 else f", confidence {a.confidence:g}"
    return f"{how} {a.value:{spec}} [{a.low:{spec}}, {a.high:{spec}}], n={a.n}{sure}"


class Accuracy(NamedTuple):
    """A share of examples, with the exact (Clopper-Pearson) interval of the share in the population they were drawn from.

    Printed, it says how it reads: ``at most 0.8120 [0.7870, 0.8360], n=1000``; with a confidence below 1 that too. A format
    (``f"{a:.2f}"``) is that of its three numbers.

    Attributes:
      value: ``count / n``.
      low, high: the interval at ``level``.
      count, n: examples that hold, and all.
      level: of the interval; not to be confused with ``confidence``.
      side: of the worst case: a "lower" bound on it overstates robust accuracy, an "upper" one understates it.
      confidence: with which each certificate (or randomised statement) behind it holds.
      quantity: "accuracy", or "rate": a share of what was broken, which a "lower" bound on the worst case understates.
    """

    value: float
    low: float
    high: float
    count: int
    n: int
    level: float
    side: Side
    confidence: float
    quantity: Literal["accuracy", "rate"] = "accuracy"

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return _said(self, self.quantity, spec)

    def __str__(self) -> str:
        return format(self)

    def __repr__(self) -> str:
        return f"Accuracy({self})"


def proportion(
    count: int,
    n: int,
    *,
    side: Side,
    confidence: float = 1.0,
    level: float = 0.95,
    quantity: Literal["accuracy", "rate"] = "accuracy",
) -> Accuracy:
    """``count`` of ``n`` with its Clopper-Pearson interval, in float64 on the host.

    >>> print(proportion(9, 10, side="lower"))
    at most 0.9000 [0.5550, 0.9975], n=10
    >>> f"{proportion(9, 10, side='upper', confidence=0.999):.2f}"
    'at least 0.90 [0.55, 1.00], n=10, confidence 0.999'
    """
    from scipy.special import betaincinv

    if not 0 < level < 1:
        raise ValueError(f"level lies in (0, 1), got {level!r}")
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(betaincinv(count + 1, n - count, 1 - tail))
    return Accuracy(count / n, low, high, int(count), int(n), level, side, confidence, quantity)


class Average(NamedTuple):
    """A mean over examples, with the interval of the mean in the population they were drawn from.

    Printed and formatted as an `Accuracy`: ``at least 0.4100 [0.3700, 0.4500], n=500, confidence 0.999``.

    Attributes:
      value: the mean.
      low, high: Student's interval at ``level``: approximate, by the central limit theorem, unlike that of a share.
      n: examples.
      level: of the interval; not to be confused with ``confidence``.
      side: of each number behind it: a "lower" bound understates it.
      confidence: with which each of them holds.
    """

    value: float
    low: float
    high: float
    n: int
    level: float
    side: Side
    confidence: float

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return _said(self, "radius", spec)

    def __str__(self) -> str:
        return format(self)

    def __repr__(self) -> str:
        return f"Average({self})"


def average(
    values: Any,
    *,
    side: Side,
    confidence: float = 1.0,
    level: float = 0.95,
    least: Any = -np.inf,
    most: Any = np.inf,
) -> Average:
    """The mean of numbers with its interval, in float64 on the host.

    Where it is known that no number is below ``least`` or above ``most`` the interval ends there; and where all numbers are the same (to
    rounding, 1e-5 of their size) it is exact, of the share of others that may have been missed: infinite where an end is not known.

    >>> print(average([0.0, 0.0, 0.0], side="lower", least=0, most=2))
    at least 0.0000 [0.0000, 1.4152], n=3
    >>> print(average([0.1, 0.1], side="estimate", least=0))
    estimate 0.1000 [0.0158, inf], n=2
    >>> print(average([1.0, 2.0, 3.0], side="lower"))
    at least 2.0000 [-0.4841, 4.4841], n=3
    """
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level lies in (0, 1), got {level!r}")
    a = np.asarray(values, np.float64)
    mean, n = float(a.mean()), a.size
    if n and np.isclose(a, a[0], rtol=1e-5, atol=0).all():
        missed = 1 - ((1 - level) / 2) ** (1 / n)
        low, high = (mean if mean == end or np.isinf(mean) else mean + missed * (end - mean) for end in (least, most))
        low, high = min(low, float(a.min())), max(high, float(a.max()))
    else:
        half = float(stdtrit(n - 1, (1 + level) / 2) * a.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf")
        low, high = max(mean - half, least), min(mean + half, most)
    low, high = min(low, mean), max(high, mean)  # rounding may put a mean of extreme values past their end
    return Average(mean, float(low), float(high), n, level, side, confidence)
