"""Ranks against their definition, one pair at a time."""

import math
from typing import NamedTuple

import numpy as np
import pytest

from jrobust.evaluation._ranks import ranks, tied


class Interval(NamedTuple):
    low: float
    high: float


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_places_are_counted_over_pairs(seed, higher):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.uniform(0, 1, (7, 2)), axis=1) * [[1.0, 0.5]] + [[0.0, 0.25]]
    numbers = [Interval(*sorted(map(float, pair))) for pair in ends]
    for mine, (first, last) in zip(numbers, ranks(numbers, higher=higher), strict=True):
        above, below = ([o.low > mine.high for o in numbers], [o.high < mine.low for o in numbers])
        better, worse = (above, below) if higher else (below, above)
        assert (first, last) == (1 + sum(better), len(numbers) - sum(worse))
        assert (last > first) == any(tied(mine, o) for o in numbers if o is not mine)


def test_touching_is_a_tie_and_one_is_first():
    assert [str(r) for r in ranks([Interval(0.5, 0.6), Interval(0.6, 0.7)])] == ["1-2", "1-2"]
    assert [str(r) for r in ranks([Interval(0.5, 0.6), Interval(0.61, 0.7)])] == ["2", "1"]
    assert [str(r) for r in ranks([Interval(0.5, 0.6), Interval(0.61, 0.7)], higher=False)] == ["1", "2"]
    assert ranks([Interval(0.0, 1.0)]) == ((1, 1),)
    assert ranks([]) == ()


@pytest.mark.parametrize("higher", [True, False])
def test_nan_has_no_rank(higher):
    for bad in (Interval(math.nan, math.nan), Interval(0.1, math.nan), Interval(math.nan, 0.2)):
        with pytest.raises(ValueError, match=r"number 1 .* NaN has no rank"):
            ranks([Interval(0.5, 0.6), bad], higher=higher)
