"""What a defence changes on clean examples: accuracy, confidence, outputs; against the model without it, on the same examples."""

from typing import Any

import numpy as np

from jrobust._checks import check_truth
from jrobust._statistics import Accuracy, Average, average, proportion
from jrobust.evaluation.metrics._inputs import (
    check_logits,
    check_predictions,
    mean_over,
    softmax,
)


def _right(raw: Any, defended: Any, y: Any, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each of the two models is right."""
    before = check_predictions(raw, None, "raw", by)
    after = check_predictions(defended, len(before), "defended", by)
    y = check_truth(y, (len(before),), by=by)
    return before == y, after == y


def cav(raw: Any, defended: Any, y: Any, *, level: float = 0.95) -> Average:
    """Classification accuracy variance: the accuracy with the defence minus that without, on the same clean examples.

    Args:
      raw: classes [N] predicted without the defence.
      defended: classes [N] predicted with it.
      y: labels [N].
      level: of the interval, which is that of the paired differences.

    Returns:
      A difference in [-1, 1], negative where the defence costs accuracy; exact on these examples, and `crr` minus `csr`.

    Raises:
      ValueError: not integer classes of one length.

    >>> cav([0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]).value
    -0.5

    References:
      Ling et al., DEEPSEC: a uniform platform for security analysis of deep learning models, S&P 2019.
    """
    before, after = _right(raw, defended, y, "cav")
    return average(after.astype(np.float64) - before, side="exact", level=level, least=-1.0, most=1.0)


def crr(raw: Any, defended: Any, y: Any, *, level: float = 0.95) -> Accuracy:
    """Classification rectify ratio: the share of all examples that are right with the defence and wrong without.

    Args:
      raw, defended, y, level: as `cav` takes them.

    Returns:
      Exact on these examples.

    Raises:
      ValueError: as `cav`.

    >>> crr([0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 1, 1]).value
    0.25

    References:
      Ling et al., DEEPSEC, S&P 2019.
    """
    before, after = _right(raw, defended, y, "crr")
    return proportion(int((after & ~before).sum()), len(before), side="exact", level=level, quantity="rate")


def csr(raw: Any, defended: Any, y: Any, *, level: float = 0.95) -> Accuracy:
    """Classification sacrifice ratio: the share of all examples that are wrong with the defence and right without.

    Args:
      raw, defended, y, level: as `cav` takes them.

    Returns:
      Exact on these examples.

    Raises:
      ValueError: as `cav`.

    >>> csr([0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 1, 1]).value
    0.5

    References:
      Ling et al., DEEPSEC, S&P 2019.
    """
    before, after = _right(raw, defended, y, "csr")
    return proportion(int((before & ~after).sum()), len(before), side="exact", level=level, quantity="rate")


def _both(raw: Any, defended: Any, y: Any, by: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of both models, labels, and where both are right."""
    a, b = check_logits(raw, "raw", by, 4), check_logits(defended, "defended", by, 4)
    if a.shape != b.shape:
        raise ValueError(f"{by}: raw and defended must be logits of one shape, got {a.shape} and {b.shape}")
    y = check_truth(y, (len(a),), a.shape[1], by=by)
    return softmax(a), softmax(b), y, (a.argmax(1) == y) & (b.argmax(1) == y)


def ccv(raw: Any, defended: Any, y: Any, *, level: float = 0.95) -> Average:
    """Classification confidence variance: the mean change of the label's probability, in size, where both models are right.

    Args:
      raw: logits [N, K] without the defence.
      defended: logits [N, K] with it.
      y: labels [N].
      level: of the interval.

    Returns:
      Exact on these examples; NaN with n = 0 where no example is right in both.

    Raises:
      ValueError: logits that are not finite [N, K] of one shape.

    >>> print(ccv([[0.0, 0.0]], [[np.log(3), 0.0]], [0]).value)
    0.25

    References:
      Ling et al., DEEPSEC, S&P 2019.
    """
    p, q, y, both = _both(raw, defended, y, "ccv")
    at = np.arange(len(y)), y
    return mean_over(np.abs(q[at] - p[at]), both, side="exact", level=level, most=1.0)


def cos(raw: Any, defended: Any, y: Any, *, level: float = 0.95) -> Average:
    """Classification output stability: the mean Jensen-Shannon divergence (nats) of the two outputs where both models are right.

    Args:
      raw, defended, y, level: as `ccv` takes them.

    Returns:
      In [0, log 2], 0 where nothing changes; exact on these examples. NaN with n = 0 where no example is right in both.

    Raises:
      ValueError: as `ccv`.

    References:
      Ling et al., DEEPSEC, S&P 2019 (in bits it would be divided by log 2; some libraries return its root).
    """
    p, q, _, both = _both(raw, defended, y, "cos")
    middle = (p + q) / 2

    def divergence(a: np.ndarray) -> np.ndarray:
        return np.where(a > 0, a * np.log(np.where(a > 0, a, 1) / np.where(a > 0, middle, 1)), 0).sum(1)

    return mean_over((divergence(p) + divergence(q)) / 2, both, side="exact", level=level, most=float(np.log(2)))
