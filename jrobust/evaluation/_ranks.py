"""One rule for ranking numbers that have intervals: what the evidence does not order is a tie."""

from collections.abc import Sequence
from typing import Any, NamedTuple

RULE = (
    "Models whose intervals overlap are tied: the evidence does not order them. A rank is then a range of places, such as 1-2: behind "
    "the models whose whole interval is better, ahead of those whose whole interval is worse. It orders the numbers that are shown: "
    "an accuracy that was only attacked, or only proven, may truly lie anywhere between at least and at most."
)
"""The rule in words, for every page that ranks."""


class Rank(NamedTuple):
    """The places that a model may have; more than one where it is tied.

    Attributes:
      first: one more than there are models that are better.
      last: as many as there are models that are not worse, itself among them.
    """

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"


def ranks(numbers: Sequence[Any], *, higher: bool = True) -> tuple[Rank, ...]:
    """The rank of every number among all; a model's place is behind whoever is better and ahead of whoever is worse.

    Args:
      numbers: each with ``low`` and ``high``, the ends of its interval.
      higher: whether more is better.

    Raises:
      ValueError: an end is NaN: it compares with nothing.

    Deviations:
      Overlap is a cautious test: intervals of about 83 % that do not overlap would be evidence at 95 %, and models that were asked about
      the same examples differ less by chance than two intervals know. So there are ties that a paired test would break, not the reverse.

    >>> class Between(NamedTuple):
    ...     low: float
    ...     high: float
    >>> [str(r) for r in ranks([Between(0.8, 0.9), Between(0.7, 0.82), Between(0.5, 0.75), Between(0.1, 0.2)])]
    ['1-2', '1-3', '2-3', '4']
    """
    for place, number in enumerate(numbers):
        if number.low != number.low or number.high != number.high:
            raise ValueError(
                f"number {place} of those to rank has the interval [{number.low}, {number.high}]: NaN has no rank"
            )
    ahead = [[not tied(a, b) and (a.low > b.high) == higher for a in numbers] for b in numbers]
    worse = [sum(row[k] for row in ahead) for k in range(len(numbers))]
    return tuple(Rank(1 + sum(row), len(numbers) - behind) for row, behind in zip(ahead, worse, strict=True))


def tied(a: Any, b: Any) -> bool:
    """Whether the intervals overlap; those that touch do."""
    return a.low <= b.high and b.low <= a.high
