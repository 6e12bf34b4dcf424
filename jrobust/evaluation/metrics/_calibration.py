"""Whether probabilities mean what they say: calibration error, Brier score, likelihood."""

from typing import Any, NamedTuple

import numpy as np

from jrobust._checks import check_count, check_truth
from jrobust._statistics import Average, average
from jrobust.evaluation.metrics._inputs import check_logits, softmax


class Reliability(NamedTuple):
    """The reliability diagram: what is said and what happens, by confidence.

    Attributes:
      edges: of the bins [B + 1].
      count: examples in each bin [B].
      confidence: their mean largest probability [B], NaN in an empty bin.
      accuracy: the share of them that is right [B], NaN in an empty bin.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def _labelled(logits: Any, y: Any, by: str) -> tuple[np.ndarray, np.ndarray]:
    z = check_logits(logits, "logits", by, 4)
    return z, check_truth(y, (len(z),), z.shape[1], by=by)


def reliability(logits: Any, y: Any, *, bins: int = 15) -> Reliability:
    """Confidence and accuracy in bins of equal width over the largest probability.

    Args:
      logits: [N, K]; also at witnesses.
      y: labels [N].
      bins: >= 1, each open below and closed above.

    Raises:
      ValueError: logits that are not finite [N, K], labels that do not fit, no bins.

    References:
      Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    return _binned(*_labelled(logits, y, "reliability"), bins, "reliability")


def _binned(z: np.ndarray, y: np.ndarray, bins: int, by: str) -> Reliability:
    check_count(bins, "bins", by)
    p = softmax(z)
    top, right = p.max(1), z.argmax(1) == y
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = [np.bincount(at, weights=v, minlength=bins) for v in (top, right.astype(np.float64))]
    mean = [np.where(count > 0, s / np.maximum(count, 1), np.nan) for s in sums]
    return Reliability(edges, count, mean[0], mean[1])


def ece(logits: Any, y: Any, *, bins: int = 15) -> float:
    """Expected calibration error: the mean of ``|accuracy - confidence|`` over the bins of `reliability`, weighted by their examples.

    Args:
      logits, y, bins: as `reliability` takes them.

    Returns:
      An estimate in [0, 1] without interval: it is no mean over examples, and on few examples it is too large even for a calibrated
      model (and depends on the bins; equal-mass bins give another number).

    Raises:
      ValueError: as `reliability`.

    >>> round(ece([[0.0, 0.0]] * 4, [0, 1, 1, 1]), 6)  # says 1/2, is right once in four
    0.25

    References:
      Naeini, Cooper & Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015; Guo et al., ICML 2017.
    """
    found = _binned(*_labelled(logits, y, "ece"), bins, "ece")
    gap = np.where(found.count > 0, np.abs(found.accuracy - found.confidence), 0.0)
    return float((found.count * gap).sum() / found.count.sum())


def brier(logits: Any, y: Any, *, level: float = 0.95) -> Average:
    """Brier score: the mean over examples of the sum over classes of ``(p_k - 1[k = y])^2``.

    Args:
      logits: [N, K].
      y: labels [N].
      level: of the interval.

    Returns:
      In [0, 2], exact on these examples. Tools that average over classes give it divided by K; for two classes others give half of it.

    Raises:
      ValueError: logits that are not finite [N, K], or labels that do not fit.

    >>> brier([[0.0, 0.0]], [0]).value
    0.5

    References:
      Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 1950.
    """
    z, y = _labelled(logits, y, "brier")
    p = softmax(z)
    p[np.arange(len(y)), y] -= 1
    return average((p**2).sum(1), side="exact", level=level, least=0.0, most=2.0)


def nll(logits: Any, y: Any, *, level: float = 0.95) -> Average:
    """Negative log-likelihood: the mean cross-entropy of the label, in nats.

    Args:
      logits, y, level: as `brier` takes them.

    Returns:
      Exact on these examples.

    Raises:
      ValueError: as `brier`.

    >>> print(nll([[0.0, 0.0]], [0]).value)
    0.6931471805599453
    """
    z, y = _labelled(logits, y, "nll")
    top = z.max(1)
    total = top + np.log(np.exp(z - top[:, None]).sum(1))
    return average(total - z[np.arange(len(y)), y], side="exact", level=level, least=0.0)
