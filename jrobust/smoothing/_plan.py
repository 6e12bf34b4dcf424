"""What is drawn for a certificate, after how many draws it is looked at, and what the counts then say."""

import dataclasses
import time
from typing import Any

import numpy as np

from jrobust._statistics import clopper_pearson, clopper_pearson_upper
from jrobust.smoothing._noise import Noise
from jrobust.smoothing._run import Run, check_alpha, count, stages, warn_if_vain


def planned(n0: Any, n: Any, alpha: Any, target: Any, runner_up: Any) -> "Plan":
    """A plan, once it is known to make sense.

    Raises:
      ValueError: it does not.
    """
    if target is not None and (isinstance(target, bool | str) or not 0 <= target < np.inf):
        raise ValueError(f"target is a radius >= 0, got {target!r}")
    if not isinstance(runner_up, bool):
        raise ValueError(f"runner_up is True or False, got {runner_up!r}")
    plan = Plan(count("n0", n0), stages(n), check_alpha(alpha), target, runner_up)
    if target is not None and len(plan.stages) == 1:
        raise ValueError("a target is for several n, at which an example may stop: n=(1000, 10_000), say")
    return plan


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is drawn, and what is made of it.

    Attributes:
      n0: selection draws.
      stages: estimation draws after which it is looked at the counts, growing.
      alpha: failure probability of the statement about one example.
      target: the radius that is enough, or None.
      runner_up: whether the other classes' probabilities are bounded too.
    """

    n0: int
    stages: tuple[int, ...]
    alpha: float
    target: float | None
    runner_up: bool

    @property
    def share(self) -> float:
        """Of alpha, for one look."""
        return self.alpha / len(self.stages)

    def warn(self, noise: Noise, shape: tuple[int, ...], classes: int) -> None:
        """Say before the work that it will be in vain."""

        def certifies(n: int) -> bool:
            unanimous = np.zeros((1, classes), int)
            unanimous[0, 0] = n
            lower, upper = self.bounds(unanimous, np.zeros(1, int), n)
            return bool(noise.certify(lower, upper, shape=shape)[0] > 0)

        warn_if_vain(certifies, self.stages[-1], self.alpha)

    def bounds(self, counts: np.ndarray, chosen: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower bounds on the chosen classes' probabilities and upper ones on any other's, both right with probability 1 - share."""
        hits, most = _hits(counts, chosen)
        others = counts.shape[1] - 1
        if not self.runner_up or others < 1:
            lower = clopper_pearson(hits, n, self.share)
            return lower, 1.0 - lower
        lower = clopper_pearson(hits, n, self.share / 2)
        return lower, np.minimum(clopper_pearson_upper(most, n, self.share / (2 * others)), 1.0 - lower)

    def hopeless(
        self, counts: np.ndarray, chosen: np.ndarray, n: int, noise: Noise, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Where what is wanted is out of reach even of the most favourable probabilities that the counts allow.

        A guess that costs no confidence: to claim less is always allowed.
        """
        hits, most = _hits(counts, chosen)
        upper = clopper_pearson_upper(hits, n, self.share)
        other = clopper_pearson(most, n, self.share) if self.runner_up else None
        reach = noise.certify(upper, other, shape=shape)
        return reach <= 0 if self.target is None else reach < self.target


def _hits(counts: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Votes for the chosen classes, and the most for any other."""
    rows = np.arange(len(counts))
    rest = counts.copy()
    rest[rows, chosen] = 0
    return counts[rows, chosen], rest.max(1)


def estimated(run: Run, plan: Plan, part: np.ndarray, selection: np.ndarray) -> list[dict[str, Any]]:
    """The answers about a few examples."""
    begin, began = 0, time.perf_counter()
    chosen, counts = selection.argmax(1), np.zeros(selection.shape, np.int64)
    draws, open_ = np.zeros(len(part), int), np.arange(len(part))
    for end in plan.stages:
        counts[open_] += run.votes(1, part[open_], begin, end, run.width(plan.n0))
        seen, picked = counts[open_], chosen[open_]
        draws[open_], begin = end, end
        if end == plan.stages[-1]:
            break
        now = answered(plan, run, picked, seen, draws[open_])["radius"]
        enough = np.zeros(len(open_), bool) if plan.target is None else now >= plan.target
        open_ = open_[~(enough | plan.hopeless(seen, picked, end, run.noise, run.shape))]
        if not len(open_):
            break
    seconds = (time.perf_counter() - began) / len(part)
    answers = answered(plan, run, chosen, counts, draws)
    return [
        {
            "i": int(i),
            "selected": int(chosen[k]),
            "counts": counts[k].tolist(),
            "draws": int(draws[k]),
            "seconds": seconds,
        }
        | {name: column[k].item() for name, column in answers.items()}
        for k, i in enumerate(part)
    ]


def answered(plan: Plan, run: Run, chosen: np.ndarray, counts: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """What the counts say: bounds, radius and prediction of each example."""
    lower, upper = np.zeros(len(counts)), np.ones(len(counts))
    for n in np.unique(draws):
        of = draws == n
        lower[of], upper[of] = plan.bounds(counts[of], chosen[of], int(n))
    radius = run.noise.certify(lower, upper, shape=run.shape)
    return {"prediction": np.where(lower > upper, chosen, -1), "radius": radius, "lower": lower, "upper": upper}


def check_rows(plan: Plan, run: Run, rows: dict[int, dict[str, Any]], place: str) -> None:
    """Raise unless rows that were read say what their own counts say: a certificate is not to be had by editing a file."""

    def damaged(i: int) -> ValueError:
        return ValueError(f"{place}: the line of example {i} is not one of this run; the file was damaged")

    for i, row in rows.items():
        try:
            counts, chosen, draws = np.array(row["counts"]), row["selected"], row["draws"]
            if not (
                0 <= i < run.n and counts.shape == (run.classes,) and counts.dtype.kind == "i" and (counts >= 0).all()
            ):
                raise damaged(i)
            if (
                draws not in plan.stages
                or counts.sum() > draws
                or type(chosen) is not int
                or chosen not in range(run.classes)
            ):
                raise damaged(i)
            if not float(row["seconds"]) >= 0:
                raise damaged(i)
        except (KeyError, TypeError, ValueError):
            raise damaged(i) from None
    if not rows:
        return
    counts, chosen, draws = (np.array([row[name] for row in rows.values()]) for name in ("counts", "selected", "draws"))
    said = answered(plan, run, chosen, counts, draws)
    for k, (i, row) in enumerate(rows.items()):
        try:
            if not all(abs(column[k] - row[name]) <= 1e-9 for name, column in said.items()):
                raise damaged(i)
        except (KeyError, TypeError):
            raise damaged(i) from None
