"""Conflicts by a literal loop; covers by trying all of them."""

import itertools

import numpy as np
import pytest

import jrobust as jr
from jrobust import metrics

RNG = np.random.default_rng(0)


def least_cover(n, pairs):
    for size in range(n + 1):
        for chosen in itertools.combinations(range(n), size):
            if all(i in chosen or j in chosen for i, j in pairs):
                return size
    raise AssertionError


@pytest.mark.parametrize(("threat", "p"), [(jr.sets.linf(0.1), np.inf), (jr.sets.l2(0.15), 2), (jr.sets.l1(0.2), 1)])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_least_cover(threat, p, classes):
    seen = 0
    for _ in range(6):
        x, y = RNG.uniform(size=(10, 2)), RNG.permutation(np.arange(10) % classes)
        pairs = [
            [i, j]
            for i, j in itertools.combinations(range(10), 2)
            if y[i] != y[j] and np.linalg.norm(x[i] - x[j], ord=p) <= 2 * threat.eps
        ]
        found = metrics.irreducible_error(x, y, threat=threat, block=3)
        assert found.conflicts.tolist() == pairs
        least = least_cover(10, pairs)
        seen += least
        assert found.errors <= least
        assert found.value <= found.errors / 10
        if classes == 2:
            assert (found.errors, found.value, found.side) == (least, least / 10, "exact")
        else:
            assert found.side == "lower"
            assert 2 * found.errors >= least  # never worse than half of it
    assert seen > 5


def test_three_classes_in_one_place():
    x, y = np.zeros((3, 1)), np.array([0, 1, 2])
    found = metrics.irreducible_error(x, y, threat=jr.sets.linf(0.1))
    assert (found.value, found.errors, found.side) == (0.5, 2, "lower")  # a matching alone would say 1
    apart = metrics.irreducible_error(x + y[:, None], y, threat=jr.sets.linf(0.1))
    assert (apart.value, apart.errors, len(apart.conflicts)) == (0.0, 0, 0)
    assert float(apart) == 0.0


def test_no_model_does_better():
    x, y = RNG.uniform(size=(40, 1)).astype(np.float32), RNG.integers(0, 2, 40)
    threat = jr.sets.linf(0.02, clip=(0, 1))
    floor = metrics.irreducible_error(x, y, threat=threat)
    assert floor.value > 0.1

    def nearest(z):  # the classifier that knows all labels
        distance = abs(z - x.T)
        return np.stack([-np.where(y == c, distance, 9.0).min(1) for c in range(2)], 1)

    held = np.ones(40, bool)
    for shift in np.linspace(-0.02, 0.02, 81):
        held &= nearest(np.clip(x + shift, 0, 1)).argmax(1) == y
    assert 1 - held.mean() >= floor.value


def test_bad_input():
    x, y = np.zeros((2, 3)), np.zeros(2, int)
    with pytest.raises(ValueError, match="needs a ball"):
        metrics.irreducible_error(x, y, threat=jr.sets.lp(3.0, 0.1))
    with pytest.raises(ValueError, match="above the box"):
        metrics.irreducible_error(x + 2, y, threat=jr.sets.l2(0.1, clip=(0, 1)))
    with pytest.raises(ValueError, match="one label an example"):
        metrics.irreducible_error(x, [0], threat=jr.sets.l2(0.1))
    with pytest.raises(ValueError, match="block"):
        metrics.irreducible_error(x, y, threat=jr.sets.l2(0.1), block=0)
