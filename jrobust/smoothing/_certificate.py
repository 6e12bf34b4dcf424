"""What smoothing returns: predictions and certified radii, with their counts and confidence."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jrobust._statistics import Accuracy, proportion, reads


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The smoothed classifier's answers; arrays on the host.

    Attributes:
      prediction: int32 [N], -1 = abstain.
      counts: int32 [N, K] votes.
      p_value: float64 [N] of the test that the two leading classes are equally likely.
      n: draws for each example.
      confidence: 1 - alpha: an answer other than -1 is the most likely class with this probability.
    """

    prediction: np.ndarray
    counts: np.ndarray
    p_value: np.ndarray
    n: int
    confidence: float


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Certified radii of the smoothed classifier; arrays on the host.

    Attributes:
      prediction: int32 [N], -1 = abstain.
      radius: float64 [N] in the noise's norm and input units; 0 where it abstains.
      counts: int32 [N, K] votes of the ``n`` estimation draws.
      lower: float64 [N], the lower confidence bound on the probability of the selected class.
      selected: int32 [N], the class that won the ``n0`` selection draws.
      n0: selection draws for each example.
      n: estimation draws for each example.
      confidence: 1 - alpha, for each example.
      norm: of the radius.
      noise: name and level, for tables.
      side: "lower": the true radius is at least this, with that confidence.
    """

    prediction: np.ndarray
    radius: np.ndarray
    counts: np.ndarray
    lower: np.ndarray
    selected: np.ndarray
    n0: int
    n: int
    confidence: float
    norm: str
    noise: str
    side: Literal["lower"] = "lower"

    def accuracy(self, y: Any, radius: float = 0.0, *, level: float = 0.95) -> Accuracy:
        """Certified accuracy: the share predicted as ``y`` with a certified radius >= ``radius`` (abstentions are wrong).

        Args:
          y: int labels [N].
          radius: >= 0, in the noise's norm and input units.
          level: of the interval of the share.

        Returns:
          An `Accuracy` of side "upper" (a bound on the worst case from above: it understates) and this confidence.
        """
        held = self._correct(y) & (self.radius >= radius)
        return proportion(int(held.sum()), len(held), side="upper", confidence=self.confidence, level=level)

    def average_radius(self, y: Any) -> float:
        """The mean over all examples of the radius, counted as 0 where the prediction is wrong."""
        return float(np.mean(self.radius * self._correct(y)))

    def curve(self, y: Any, radii: Sequence[float], *, level: float = 0.95) -> tuple[Accuracy, ...]:
        """Certified accuracy at several radii."""
        return tuple(self.accuracy(y, radius, level=level) for radius in radii)

    def table(self, y: Any, radii: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0), *, level: float = 0.95) -> str:
        """Certified accuracies as plain text, every number with its n, how it reads ("at least") and its confidence."""
        rows = [("radius", "n", "true value", "accuracy", f"{level:.0%} interval", "confidence", "noise")]
        for radius, a in zip(radii, self.curve(y, radii, level=level), strict=True):
            interval = f"[{a.low:.4f}, {a.high:.4f}]"
            rows.append(
                (
                    f"{self.norm} {radius:g}",
                    f"{a.n}",
                    reads(a.side),
                    f"{a.value:.4f}",
                    interval,
                    f"{a.confidence:g}",
                    self.noise,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _correct(self, y: Any) -> np.ndarray:
        y = np.asarray(y)
        if y.shape != self.prediction.shape or y.dtype.kind not in "iu":
            raise ValueError(f"y is integer labels {self.prediction.shape}, got {y.dtype} {y.shape}")
        return self.prediction == y
