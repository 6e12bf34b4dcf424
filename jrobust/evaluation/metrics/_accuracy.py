"""Shares of examples over a `Result`, each accepting only the sides from which it follows."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jrobust._checks import check_truth
from jrobust._statistics import Accuracy, proportion
from jrobust.evaluation._results import Result
from jrobust.typing import Side


def _require(result: Result, sides: tuple[Side, ...], metric: str) -> None:
    if result.side not in sides:
        raise ValueError(
            f"{metric} needs a result of side {' or '.join(sides)}; {result.name} ({result.oracle}) is {result.side!r}"
        )


def clean_accuracy(result: Result, *, level: float = 0.95) -> Accuracy:
    """The share of examples that are classified right without any change (CA), whatever the result says of changes.

    Guarantee: exact on these examples; of a random model an estimate, of the mean of n draws an example.
    """
    side: Side = "exact" if result.draws is None else "estimate"
    return proportion(int(result.correct.sum()), result.n, side=side, level=level)


def accuracy(result: Result, *, level: float = 0.95) -> Accuracy:
    """The share that holds, whatever the side (which it carries).

    Raises:
      ValueError: an estimate.
    """
    _require(result, ("lower", "upper", "exact"), "accuracy")
    return result.accuracy(level)


def certified_accuracy(result: Result, *, about: str = "model", level: float = 0.95) -> Accuracy:
    """The share of examples that are classified right and proven to stay so.

    Args:
      result: a proof.
      about: whose accuracy is meant, the "model"'s or that of the "smoothed" classifier, which is another function.
      level: of the interval.

    Guarantee: at most the robust accuracy on these examples (each statement with ``result.confidence``).

    Raises:
      ValueError: an attack or an estimate, or a proof about the other function.
    """
    _require(result, ("upper", "exact"), "certified_accuracy")
    if result.about != about:
        raise ValueError(
            f"certified_accuracy: {result.name} ({result.oracle}) speaks of the {_whose(result.about)}, not of the {_whose(about)}; "
            f"about={result.about!r} asks for that"
        )
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

    Guarantee: at most the share that can be broken.

    Raises:
      ValueError: not an attack's result, or no example was classified right.
    """
    _require(result, ("lower", "exact"), "attack_success_rate")
    n = int(result.correct.sum())
    if n == 0:
        raise ValueError(
            f"attack_success_rate: no example of {result.name} was classified right, so there was nothing to attack"
        )
    broken = int(successes(result).sum())
    return proportion(broken, n, side=result.side, confidence=result.confidence, level=level, quantity="rate")


def successes(result: Result) -> np.ndarray:
    """Where the attack broke an example that was classified right, bool [N]: the set over which metrics of witnesses are means.

    A misclassified example is not attacked: its witness is the example itself, and it is no success (tools that take every wrong
    prediction for one count it, at distance 0).

    Raises:
      ValueError: not an attack's result.
    """
    _require(result, ("lower", "exact"), "successes")
    return result.correct & ~result.holds


def adversarial_accuracy(results: Iterable[Result] | Mapping[str, Result], *, level: float = 0.95) -> Accuracy:
    """The share of examples that are classified right and that none of several attacks broke.

    Of attacks that use the model's gradients it is the white-box adversarial accuracy (AAW), of transferred ones and of attacks by
    queries the black-box one (AAB); which ones to put together is the caller's to say.

    Args:
      results: attacks on one model and the same examples, such as ``[ev["pgd"], ev["square"]]``.
      level: of the interval.

    Guarantee: at least the robust accuracy on these examples.

    Raises:
      ValueError: no result, a certificate or an estimate, or results on other examples.

    References:
      Guo et al., A comprehensive evaluation framework for deep model robustness, Pattern Recognition 2023.
    Deviations:
      The worst attack of each example (as AutoAttack counts); theirs is the least accuracy of any one attack, which is never less.
    """
    attacks = list(results.values() if isinstance(results, Mapping) else results)
    if not attacks:
        raise ValueError("adversarial_accuracy needs at least one result")
    for r in attacks:
        _require(r, ("lower", "exact"), "adversarial_accuracy")
        if r.about != attacks[0].about or not np.array_equal(r.correct, attacks[0].correct):
            raise ValueError(
                f"adversarial_accuracy: {r.name} and {attacks[0].name} are not about one model and the same examples"
            )
    left = np.logical_and.reduce([r.holds for r in attacks])
    return proportion(int(left.sum()), len(left), side="lower", confidence=_joint(attacks), level=level)


def class_accuracy(result: Result, y: Any, *, level: float = 0.95) -> dict[int, Accuracy]:
    """The share that holds among the examples of each class that occurs.

    Args:
      result: of any side but an estimate.
      y: the labels [N] of its examples.
      level: of each interval by itself.

    Returns:
      label -> share, labels in increasing order.

    Raises:
      ValueError: an estimate, or labels of another length.
    """
    _require(result, ("lower", "upper", "exact"), "class_accuracy")
    y = check_truth(y, (result.n,), by="class_accuracy")

    def share(held: np.ndarray) -> Accuracy:
        return proportion(int(held.sum()), len(held), side=result.side, confidence=result.confidence, level=level)

    return {int(label): share(result.holds[y == label]) for label in np.unique(y)}


class WorstClass(NamedTuple):
    """The class of least accuracy.

    Attributes:
      label: it; the smallest of equals.
      accuracy: its share, whose interval is of the least accuracy of all classes.
    """

    label: int
    accuracy: Accuracy


def worst_class_accuracy(result: Result, y: Any, *, level: float = 0.95) -> WorstClass:
    """The least of `class_accuracy`, with an interval that knows that it was chosen.

    All classes' intervals hold together with probability ``level`` (Bonferroni), so the least accuracy lies between the least of
    their lower and the least of their upper ends.

    Raises:
      ValueError: as `class_accuracy`.
    """
    if not 0 < level < 1:
        raise ValueError(f"level lies in (0, 1), got {level!r}")
    classes = len(np.unique(check_truth(y, (result.n,), by="worst_class_accuracy")))
    each = class_accuracy(result, y, level=1 - (1 - level) / classes)
    label = min(each, key=lambda k: each[k].value)
    low, high = min(a.low for a in each.values()), min(a.high for a in each.values())
    return WorstClass(label, each[label]._replace(low=low, high=high, level=level))


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

    The joint confidence of the certificates is ``max(0, 1 - sum(1 - c_i))``. Estimates take no part, nor does what speaks of the smoothed
    classifier, which is another function: its proofs may exceed what attacks on the model left.
    """
    named = [r for _, r in results.items() if r.about == "model"]
    proofs = [r for r in named if r.side in ("upper", "exact") and r.name != "clean"]
    attacks = [r for r in named if r.side in ("lower", "exact")]
    attacked = adversarial_accuracy(attacks, level=level)
    if not proofs:
        return Bracket(None, attacked)
    proven = np.logical_or.reduce([r.holds for r in proofs])
    certified = proportion(int(proven.sum()), len(proven), side="upper", confidence=_joint(proofs), level=level)
    return Bracket(certified, attacked)


def _whose(about: str) -> str:
    return "model" if about == "model" else f"{about} classifier"


def _joint(results: list[Result]) -> float:
    return max(0.0, 1.0 - sum(1.0 - r.confidence for r in results))
