"""What smoothing returns: predictions and certified radii, with their counts and confidence."""

import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jrobust._checks import check_truth
from jrobust._digest import digest
from jrobust._statistics import Accuracy, Average, at_least, average, clopper_pearson, proportion, reads, reject
from jrobust.smoothing._noise import Noise


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
      counts: int32 [N, K] votes of the estimation draws.
      lower: float64 [N], the lower confidence bound on the probability of the selected class.
      upper: float64 [N], the upper one on that of any other class.
      selected: int32 [N], the class that won the ``n0`` selection draws.
      draws: int32 [N], estimation draws of each example.
      seconds: float64 [N], the time they took (of examples that were worked on together, its mean).
      n0: selection draws for each example.
      n: the most estimation draws of an example.
      confidence: 1 - alpha, for each example.
      norm: of the radius.
      noise: name and level, for tables.
      noise_digest: which noise it was, to the bit.
      most: the largest radius that unanimous votes could have certified, for the interval of the mean.
      side: "lower": the true radius is at least this, with that confidence.
    """

    prediction: np.ndarray
    radius: np.ndarray
    counts: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    selected: np.ndarray
    draws: np.ndarray
    seconds: np.ndarray
    n0: int
    n: int
    confidence: float
    norm: str
    noise: str
    noise_digest: str
    most: float = np.inf
    side: Literal["lower"] = "lower"

    def __repr__(self) -> str:
        if not len(self.radius):
            return f"Certificate(0 examples, {self.noise} noise, {self.norm})"
        median = np.floor(np.median(self.radius) * 1e4) / 1e4  # what is printed is not more than what is certified
        return (
            f"Certificate({len(self.radius)} examples, {self.noise} noise: {np.mean(self.prediction == -1):.1%} abstain, "
            f"median {self.norm} radius at least {median:g} (0 where it abstains), confidence {self.confidence:g} each)"
        )

    def jointly(
        self,
        noise: Noise,
        radius: int | float,
        *,
        alpha: float = 1e-3,
        method: Literal["holm", "bonferroni"] = "holm",
        shape: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """Where the radius holds in all examples together: with probability >= 1 - alpha none of the answers is wrong.

        The attribute ``radius`` is about one example at a time: among a thousand at alpha 0.001 one may well be wrong. Here every
        example is a test that its class is likely enough, and the tests are corrected for their number.

        Args:
          noise: of the certification.
          radius: > 0, the one that is wanted everywhere.
          alpha: of the statement about all examples.
          method: of `jrobust._statistics.reject`.
          shape: of an example, where the noise asks for it.

        Returns:
          bool [N]: the smoothed classifier is constant, equal to ``selected``, within ``radius``.

        Raises:
          ValueError: the examples had different numbers of draws (of a number that depends on the draws there is no such test).
        """
        if (self.draws != self.n).any():
            raise ValueError("the examples stopped after different numbers of draws; certify with one n")
        if digest(noise) != self.noise_digest:
            raise ValueError(
                f"this certificate is of {self.noise} noise for {self.norm} radii; the noise given, {noise}, is another"
            )
        hits = self.counts[np.arange(len(self.counts)), self.selected]
        return reject(at_least(hits, self.n, needed(noise, radius, shape=shape)), alpha, method=method)

    def accuracy(self, y: Any, radius: Any = 0.0, *, level: float = 0.95) -> Accuracy:
        """Certified accuracy: the share predicted as ``y`` with a certified radius >= ``radius`` (abstentions are wrong).

        Args:
          y: int labels [N].
          radius: >= 0, in the noise's norm and input units.
          level: of the interval of the share.

        Returns:
          An `Accuracy` of side "upper" (a bound on the worst case from above: it understates) and this confidence.
        """
        if np.ndim(radius) or not radius >= 0:
            raise ValueError(f"radius is one number >= 0 (`curve` takes several), got {radius!r}")
        held = self._correct(y) & (self.radius >= radius)
        return proportion(int(held.sum()), len(held), side="upper", confidence=self.confidence, level=level)

    def average_radius(self, y: Any, *, level: float = 0.95) -> Average:
        """The mean over all examples of the radius, counted as 0 where the prediction is wrong (ACR), with its interval."""
        held = self.radius * self._correct(y)
        return average(held, side=self.side, confidence=self.confidence, level=level, least=0.0, most=self.most)

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

    def write_tsv(self, path: str | os.PathLike[str], y: Any) -> Path:
        """Write what Cohen et al.'s scripts write and read: ``idx label predict radius correct time``, tab separated, a line an example.

        Args:
          path: of the file, written whole or not at all.
          y: int labels [N].

        Raises:
          ValueError: ``path`` is a directory, or its directory is not there.
        """
        right, y = self._correct(y), np.asarray(y)
        lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime"]
        for i, seconds in enumerate(self.seconds):
            radius = np.floor(self.radius[i] * 1e6) / 1e6  # what is written is not more than what is certified
            time = datetime.timedelta(seconds=float(seconds))
            lines.append(f"{i}\t{y[i]}\t{self.prediction[i]}\t{radius:.6f}\t{int(right[i])}\t{time}")
        path = Path(path)
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(f"path is that of a file in a directory that is there, got {path}")
        unfinished = path.with_name(f".{path.name}")
        unfinished.write_text("\n".join(lines) + "\n")
        os.replace(unfinished, path)
        return path

    def _correct(self, y: Any) -> np.ndarray:
        return self.prediction == check_truth(y, self.prediction.shape, self.counts.shape[1])


def certificate_of(
    rows: Sequence[Mapping[str, Any]], *, n0: int, n: int, alpha: float, noise: Noise, shape: tuple[int, ...]
) -> Certificate:
    """From the rows of the record, in order."""
    columns = {
        "prediction": np.int32,
        "radius": np.float64,
        "counts": np.int32,
        "lower": np.float64,
        "upper": np.float64,
    }
    columns |= {"selected": np.int32, "draws": np.int32, "seconds": np.float64}
    arrays: dict[str, Any] = {name: np.array([row[name] for row in rows], dtype) for name, dtype in columns.items()}
    return Certificate(
        **arrays,
        n0=n0,
        n=n,
        confidence=1 - alpha,
        norm=noise.norm,
        noise=str(noise),
        noise_digest=digest(noise),
        most=float(noise.certify(clopper_pearson(n, n, alpha), shape=shape)),
    )


def needed(noise: Noise, radius: int | float, *, shape: tuple[int, ...] | None = None) -> float:
    """The least probability that certifies a radius, up to 1e-12 above it; 1 where none does.

    >>> from jrobust.smoothing import gaussian
    >>> round(needed(gaussian(0.5), 0.5), 6)  # Phi(1)
    0.841345
    """
    if not 0 < radius < np.inf:
        raise ValueError(f"radius is a number > 0, got {radius!r}")
    low, high = 0.5, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if noise.certify(middle, shape=shape) >= radius else (middle, high)
    return high
