"""Numbers over a `Result`; each accepts only the sides from which it follows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jrobust._statistics import Accuracy, proportion
from jrobust.evaluation._corruption_metrics import (
    flip_probability,
    mce,
    mean_corruption_error,
    relative_mce,
    top5_distance,
)
from jrobust.evaluation._results import Result
from jrobust.typing import Side

__all__ = [
    "Bracket",
    "accuracy",
    "attack_success_rate",
    "bracket",
    "certified_accuracy",
    "flip_probability",
    "mce",
    "mean_corruption_error",
    "optimality",
    "relative_mce",
    "robust_accuracy",
    "top5_distance",
]


def _require(result: Result, sides: tuple[Side, ...], metric: str) -> None:
    if result.side not in sides:
        raise ValueError(
            f"{metric} needs a result of side {' or '.join(sides)}; {result.name} ({result.oracle}) is {result.side!r}"
        )


def accuracy(result: Result, *, level: float = 0.95) -> Accuracy:
    """The share that holds, whatever the side (which it carries).

    Raises:
      ValueError: an estimate.
    """
    _require(result, ("lower", "upper", "exact"), "accuracy")
    return result.accuracy(level)


def certified_accuracy(result: Result, *, level: float = 0.95) -> Accuracy:
    """The share of examples that are classified right and proven to stay so.

    Guarantee: at most the robust accuracy on these examples (each statement with ``result.confidence``).

    Raises:
      ValueError: an attack or an estimate.
    """
    _require(result, ("upper", "exact"), "certified_accuracy")
    return result.accuracy(level)


def robust_accuracy(result: Result, *, level: float = 0.95) -> Accuracy:
    """The share of examples that are classified right and that the attack did not break.

    Guarantee: at least the robust accuracy on these examples.

    Raises:
      ValueError: a certificate or an estimate.
    """
    _require(result, ("lower", "exact"), "robust_accuracy")
    return result.accuracy(level)


def attack_success_rate(result: Result, *, level: float = 0.95) -> Accuracy:
    """The share of the correctly classified examples that the attack broke.

    Raises:
      ValueError: not an attack's result, or no example was classified right.
    """
    _require(result, ("lower", "exact"), "attack_success_rate")
    n = int(result.correct.sum())
    if n == 0:
        raise ValueError(
            f"attack_success_rate: no example of {result.name} was classified right, so there was nothing to attack"
        )
    broken = int((result.correct & ~result.holds).sum())
    return proportion(broken, n, side=result.side, confidence=result.confidence, level=level)


def optimality(distances: Any, best: Any) -> float:
    """How close an attack's accuracy-over-distance curve comes to the best one known: AttackBench's local optimality.

    With the area ``A(d) = mean(min(d_i, D))`` under the curve "share of examples further than eps away" up to ``D``, the largest
    finite distance in ``best``: ``1 - (A(distances) - A(best)) / (clean accuracy * D - A(best))``.

    Args:
      distances: [N], of the closest violation that the attack found: 0 for a misclassified example, ``inf`` where none was found.
      best: [N], the least distance that any attack found, example by example.

    Returns:
      1 where the attack is the best everywhere, 0 where it finds nothing (within ``D``).

    Raises:
      ValueError: lengths differ, a distance is negative, NaN or below the best one, or no attack found anything.

    >>> optimality([0.0, 1.0, 3.0, 3.0], best=[0.0, 1.0, 2.0, 3.0])  # areas 7/4, 6/4; without an attack 9/4
    0.6666666666666667

    References:
      Cinà et al., AttackBench: evaluating gradient-based attacks for adversarial examples, AAAI 2025.
    Deviations:
      The exact area under the staircase (published: by trapezoids).
    """
    d, b = np.asarray(distances, np.float64), np.asarray(best, np.float64)
    if d.ndim != 1 or d.shape != b.shape:
        raise ValueError(f"optimality: distances and best must be [N] of one length, got {d.shape} and {b.shape}")
    if not (np.all(d >= 0) and np.all(b >= 0)):
        raise ValueError("optimality: distances must be >= 0 (0: misclassified, inf: nothing found), not NaN")
    if np.any(d < b):
        i = int(np.argmax(d < b))
        raise ValueError(
            f"optimality: distances[{i}] = {d[i]} lies below best[{i}] = {b[i]}; the best is over all attacks"
        )
    if np.any((b == 0) & (d > 0)):
        i = int(np.argmax((b == 0) & (d > 0)))
        raise ValueError(f"optimality: best[{i}] is 0, a misclassified example, but distances[{i}] = {d[i]}")
    found = b[np.isfinite(b) & (b > 0)]
    if not found.size:
        raise ValueError("optimality: no attack found a violation of a correctly classified example")
    end = found.max()
    area, least = np.minimum(d, end).mean(), np.minimum(b, end).mean()
    nothing = end * np.mean(b > 0)
    return 1.0 if area == least else float(1 - (area - least) / (nothing - least))


class Bracket(NamedTuple):
    """Robust accuracy between what is proven and what no attack broke.

    Attributes:
      certified: proven by any certificate (None without one).
      attacked: left by every attack (the clean accuracy without one).
    """

    certified: Accuracy | None
    attacked: Accuracy


def bracket(results: Mapping[str, Result] | Any, *, level: float = 0.95) -> Bracket:
    """The two sides of robust accuracy that all results of an `Evaluation` give together.

    The joint confidence of the certificates is ``max(0, 1 - sum(1 - c_i))``. Estimates take no part.
    """
    named = [r for _, r in results.items()]
    proofs = [r for r in named if r.side in ("upper", "exact") and r.name != "clean"]
    attacks = [r for r in named if r.side in ("lower", "exact")]
    left = np.logical_and.reduce([r.holds for r in attacks])
    attacked = proportion(int(left.sum()), len(left), side="lower", confidence=_joint(attacks), level=level)
    if not proofs:
        return Bracket(None, attacked)
    proven = np.logical_or.reduce([r.holds for r in proofs])
    certified = proportion(int(proven.sum()), len(proven), side="upper", confidence=_joint(proofs), level=level)
    return Bracket(certified, attacked)


def _joint(results: list[Result]) -> float:
    return max(0.0, 1.0 - sum(1.0 - r.confidence for r in results))
