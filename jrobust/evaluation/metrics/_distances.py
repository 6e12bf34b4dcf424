"""Numbers of the closest violations: curves, areas and means of one minimum-norm run."""

from typing import Any

import numpy as np

from jrobust._statistics import Accuracy, Average, average, proportion
from jrobust.evaluation._results import Result
from jrobust.evaluation.metrics._inputs import check_moved, check_success, flat_norms, mean_over
from jrobust.typing import Side

_RADIUS_SIDE: dict[str, Side] = {"lower": "upper", "upper": "lower", "exact": "exact"}


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
    if nothing == least:  # the best finds all at one distance, or nothing
        return float(np.array_equal(d, b))
    return float(1 - (area - least) / (nothing - least))


def _radii(result: Result, by: str) -> np.ndarray:
    """The radius of each example, 0 where it is misclassified."""
    if result.quantity != "radius":
        raise ValueError(
            f"{by} needs the result of a RadiusOracle (a minimum-norm attack, a radius certificate); {result.name} "
            f"({result.oracle}) bounds a {result.quantity}"
        )
    if result.side not in _RADIUS_SIDE:
        raise ValueError(f"{by}: {result.name} ({result.oracle}) is an estimate: it bounds nothing")
    return np.where(result.correct, result.value, 0.0)


def radius_curve(result: Result, eps: Any, *, level: float = 0.95) -> tuple[Accuracy, ...]:
    """Accuracy over radius by one minimum-norm run: the share of examples whose radius is greater than each eps.

    Args:
      result: of a `RadiusOracle` in `jr.evaluate`; its own threat's radius does not matter.
      eps: radii [E], >= 0, in the norm of that threat.
      level: of each interval.

    Returns:
      One share an eps, as ``Curve.accuracy``: an attack's side is "lower" (robust accuracy is at most that), a certificate's "upper".
      `jr.evaluation.curve` asks the oracle again or confirms witnesses at each radius; this only counts.

    Raises:
      ValueError: not a radius oracle's result, an estimate, or radii below 0.
    """
    radii = _radii(result, "radius_curve")
    grid = np.asarray(eps, np.float64)
    if grid.ndim != 1 or not np.all(grid >= 0):
        raise ValueError(f"radius_curve: eps must be radii [E] >= 0, got {grid.tolist()}")
    held = [result.correct & ((radii > e) | (e == 0)) for e in grid]  # at 0 the set is the example itself
    side, n = result.side, result.n
    return tuple(proportion(int(h.sum()), n, side=side, confidence=result.confidence, level=level) for h in held)


def radius_area(result: Result, upto: float | int, *, level: float = 0.95) -> Average:
    """The area under `radius_curve` from 0 to ``upto`` (AUC), which is the mean of ``min(radius, upto)``.

    Args:
      result: as `radius_curve` takes it.
      upto: where the area ends, > 0 and finite; over it the area is the mean accuracy of all radii up to there.
      level: of the interval.

    Returns:
      A mean of radii in the unit of eps; misclassified examples count 0. Of an attack "at most", of a certificate "at least".

    Raises:
      ValueError: not a radius oracle's result, an estimate, or another ``upto``.

    Deviations:
      The exact area of the staircase; tools that evaluate a grid of radii take trapezoids over it.
    """
    radii = _radii(result, "radius_area")
    if not (np.isfinite(upto) and upto > 0):
        raise ValueError(f"radius_area: upto must be a finite radius > 0, got {upto!r}")
    side = _RADIUS_SIDE[result.side]
    return average(np.minimum(radii, upto), side=side, confidence=result.confidence, level=level, least=0.0, most=upto)


def empirical_robustness(x: Any, witness: Any, success: Any, *, p: Any = 2, level: float = 0.95) -> Average:
    """The mean of ``||x' - x||_p / ||x||_p`` over successful adversarial examples of a minimum-norm attack.

    Args:
      x: examples [N, ...].
      witness: the closest violations found [N, ...].
      success: bool [N], such as `successes` (result).
      p: 1, 2 or inf.
      level: of the interval.

    Returns:
      An estimate: each distance bounds its example's radius from above, but an attack that fails on hard examples makes the mean
      smaller. NaN, with n = 0, where nothing succeeded (the Adversarial Robustness Toolbox returns 0, the worst value).

    Raises:
      ValueError: shapes differ, another ``p``, or a successful example that is 0 everywhere.

    >>> print(empirical_robustness([[3.0, 4.0]], [[3.0, 3.0]], [True]).value)
    0.2

    References:
      Moosavi-Dezfooli, Fawzi & Frossard, DeepFool, CVPR 2016.
    Deviations:
      Over successes, as in the Adversarial Robustness Toolbox; the paper's mean is over all examples.
    """
    if p not in (1, 2, np.inf):
        raise ValueError(f"empirical_robustness: p is 1, 2 or inf, got {p!r}")
    a, b = check_moved(x, witness, "empirical_robustness")
    success = check_success(success, len(a), "empirical_robustness")
    sizes = flat_norms(a, p)
    if np.any(success & (sizes == 0)):
        i = int(np.argmax(success & (sizes == 0)))
        raise ValueError(f"empirical_robustness: x[{i}] is 0 everywhere, so no distance is relative to it")
    return mean_over(flat_norms(b - a, p) / np.where(sizes > 0, sizes, 1.0), success, level=level)
