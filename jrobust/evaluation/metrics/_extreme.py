"""The upper end of a distribution from maxima of samples: the reversed Weibull law, fitted by maximum likelihood on the host."""

from typing import NamedTuple

import numpy as np

_LEAST_P, _LEAST_SPREAD = 1e-3, 1e-6
_STARTS = np.geomspace(1e-4, 1e3, 36)  # how far the end lies beyond the largest maximum, in mean distances from it
_GOLDEN = (np.sqrt(5) - 1) / 2


class End(NamedTuple):
    """The fitted end, the Kolmogorov-Smirnov p-value of the fit, and whether the largest maximum stands in for a fit."""

    value: float
    p_value: float
    degenerate: bool


def _profile(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Weibull law of the rows of y[T, n] > 0 at shape >= 1: shapes, logarithms of scales, log-likelihoods, [T] each."""
    ln = np.log(y)
    top, mean = ln.max(1), ln.mean(1)
    lo, hi = np.zeros(len(y)), np.full(len(y), np.log(1e5))
    for _ in range(40):  # the derivative in the shape grows with the shape
        c = np.exp((lo + hi) / 2)
        w = np.exp(c[:, None] * (ln - top[:, None]))
        up = (w * ln).sum(1) / w.sum(1) - 1 / c - mean > 0
        lo, hi = np.where(up, lo, (lo + hi) / 2), np.where(up, (lo + hi) / 2, hi)
    c = np.exp((lo + hi) / 2)
    b = top + np.log(np.exp(c[:, None] * (ln - top[:, None])).mean(1)) / c
    return c, b, y.shape[1] * (np.log(c) - c * b + (c - 1) * mean - 1)


def _refined(below: np.ndarray, spread: float, left: float, right: float) -> float:
    """The best distance of the end between two starts, by golden section on its logarithm."""
    a, b = np.log(left), np.log(right)
    for _ in range(30):
        inner = np.array([b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)])
        one, two = _profile(below[None] + (spread * np.exp(inner))[:, None])[2]
        a, b = (a, inner[1]) if one >= two else (inner[0], b)
    return spread * float(np.exp((a + b) / 2))


def upper_end(maxima: np.ndarray) -> End:
    """The end of the support of the law that maxima [n] follow, ``P(max <= m) = exp(-((end - m) / b)^c)``, c >= 1.

    Every local optimum of the likelihood over many starts is a candidate; the one with the best Kolmogorov-Smirnov p-value counts. The
    largest maximum stands in where the maxima are all but equal, the likelihood grows as the end goes to infinity (the law is then
    not reversed Weibull), or the best p-value is below 0.001.
    """
    m = np.sort(np.asarray(maxima, np.float64))
    top = float(m[-1])
    below = top - m
    spread = float(below.mean())
    if not np.isfinite(m).all() or spread <= _LEAST_SPREAD * abs(top):
        return End(top, np.nan, True)
    from scipy.stats import kstwo

    likelihood = _profile(below[None] + (spread * _STARTS)[:, None])[2]
    best = End(top, 0.0, True)
    for i in range(len(_STARTS) - 1):
        if likelihood[i] <= likelihood[i + 1] or (i and likelihood[i] < likelihood[i - 1]):
            continue
        beyond = _refined(below, spread, _STARTS[i - 1], _STARTS[i + 1]) if i else spread * _STARTS[0]
        y = below + beyond
        c, b, _ = _profile(y[None])
        law = np.exp(-np.exp(c[0] * (np.log(y) - b[0])))  # at the sorted maxima
        steps = np.arange(len(m) + 1) / len(m)
        p = float(kstwo.sf(max((steps[1:] - law).max(), (law - steps[:-1]).max()), len(m)))
        if p > best.p_value:
            best = End(top + beyond, p, False)
    return best if best.p_value >= _LEAST_P else End(top, best.p_value, True)
