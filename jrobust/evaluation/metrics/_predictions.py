"""Shares over predictions before and after a change, and which of several models are best on two counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jrobust._checks import check_truth
from jrobust._statistics import Accuracy, proportion
from jrobust.evaluation.metrics._inputs import check_predictions


def fooling_rate(clean: Any, changed: Any, *, level: float = 0.95) -> Accuracy:
    """The share of examples whose prediction changes, right or wrong before: the score of universal perturbations.

    Args:
      clean: predicted classes [N] of the examples.
      changed: predicted classes [N] of what became of them.
      level: of the interval.

    Guarantee: of changes inside a set at most the share that can be fooled there.

    Raises:
      ValueError: not integer classes of one length.

    >>> fooling_rate([0, 1, 2, 0], [0, 1, 0, 1]).value
    0.5

    References:
      Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017.
    """
    before = check_predictions(clean, None, "clean", "fooling_rate")
    after = check_predictions(changed, len(before), "changed", "fooling_rate")
    return proportion(int((before != after).sum()), len(before), side="lower", level=level, quantity="rate")


def retention_rate(clean: Any, changed: Any, y: Any, *, level: float = 0.95) -> Accuracy:
    """The share of the correctly classified examples whose prediction stays.

    Args:
      clean, changed: as `fooling_rate` takes them.
      y: labels [N].
      level: of the interval.

    Returns:
      1 minus the success of the change among the correct ones; robust accuracy is this times the clean accuracy.

    Guarantee: of changes inside a set at least the share that no change there alters.

    Raises:
      ValueError: not integer classes of one length, or nothing was classified right.

    >>> retention_rate([0, 1, 2, 0], [0, 0, 0, 0], [0, 1, 2, 1]).count
    1

    Deviations:
      Papers use the name without a definition; another reading, over all examples, is 1 minus `fooling_rate`.
    """
    before = check_predictions(clean, None, "clean", "retention_rate")
    after = check_predictions(changed, len(before), "changed", "retention_rate")
    right = before == check_truth(y, (len(before),), by="retention_rate")
    if not right.any():
        raise ValueError("retention_rate: no example was classified right, so nothing could be retained")
    return proportion(int((right & (before == after)).sum()), int(right.sum()), side="lower", level=level)


def pareto(models: Mapping[str, tuple[Any, Any]]) -> tuple[str, ...]:
    """The models that no other one beats: none is at least as good in both numbers and better in one.

    Args:
      models: name -> (clean accuracy, robust accuracy), numbers or `Accuracy`; of one set of examples and one threat.

    Returns:
      The names on the front by falling clean accuracy; of equal models all. Values are compared, not intervals: two models closer
      than their intervals may change places on other examples.

    Raises:
      ValueError: no model, a number that is no number, or robust accuracies of different sides, which do not compare.

    >>> pareto({"natural": (0.99, 0.0), "pgd": (0.9, 0.5), "trades": (0.85, 0.55), "old": (0.8, 0.5)})
    ('natural', 'pgd', 'trades')
    """
    if not models:
        raise ValueError("pareto needs at least one model, {name: (clean, robust)}")
    sides = {robust.side for _, robust in models.values() if isinstance(robust, Accuracy)}
    if len(sides) > 1:
        raise ValueError(f"pareto: robust accuracies of sides {' and '.join(sorted(sides))} do not compare")
    points = {name: (float(clean), float(robust)) for name, (clean, robust) in models.items()}
    for name, point in points.items():
        if np.isnan(point).any():
            raise ValueError(f"pareto: {name} has {point}, not two numbers")

    def beaten(a: tuple[float, float]) -> bool:
        return any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in points.values())

    front = [name for name, point in points.items() if not beaten(point)]
    return tuple(sorted(front, key=lambda name: (-points[name][0], -points[name][1])))
