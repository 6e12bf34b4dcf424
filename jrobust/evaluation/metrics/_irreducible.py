"""The error that no classifier can avoid: examples of different classes whose perturbations meet."""

from typing import Any, NamedTuple

import numpy as np

from jrobust._checks import check_count
from jrobust.evaluation._checks import check_data, check_values
from jrobust.evaluation.metrics._driver import check_ball
from jrobust.typing import Side

_METRIC = {"linf": "chebyshev", "l2": "euclidean", "l1": "cityblock"}


class Irreducible(NamedTuple):
    """What `irreducible_error` found.

    Attributes:
      value: the share of examples on which every classifier errs.
      errors: their least number of a classifier that does not flip coins, a whole number.
      n: examples.
      conflicts: pairs of indices [E, 2] of different class whose perturbations meet.
      side: "exact" with two classes (some classifier errs on no more of these examples), "lower" with more.
    """

    value: float
    errors: int
    n: int
    conflicts: np.ndarray
    side: Side

    def __float__(self) -> float:
        return self.value


def irreducible_error(x: Any, y: Any, *, threat: Any, block: int = 1024) -> Irreducible:
    """The least share of these examples that any classifier, however made, gets wrong under an adversary.

    Two examples of different class conflict where their sets meet, at a distance of at most 2 eps: at a common point the classifier is
    wrong about one of them. The examples that it gets wrong cover all conflicts, so their number is at least that of a vertex cover.
    With two classes the least cover is found exactly, by a maximum matching; with more the fractional one, which is solved by the
    matching of two copies of the graph and is no less than a matching of the graph itself (and at most one half).

    Args:
      x: examples [N, ...] inside the threat's clip.
      y: labels [N].
      threat: `jr.sets.linf`, `l2` or `l1`; a clip changes nothing, for the point midway lies in it.
      block: examples of each class compared at once (with ``block`` of another).

    Returns:
      `Irreducible`; 1 minus its value bounds every classifier's robust accuracy on these examples from above.

    Guarantee: on these examples, and on the distribution that draws among them: a random classifier errs on at least ``value`` in
      expectation, any other one on ``errors``. A population may differ: examples of it that were not drawn cannot conflict, and a
      few that were may weigh more than they should. Distances are float64; pairs at 2 eps to rounding may count or not.

    Raises:
      ValueError: another threat, examples outside of its clip, labels that do not fit.

    >>> import jrobust as jr
    >>> found = irreducible_error([[0.0], [0.15], [0.5], [0.9]], [0, 1, 0, 1], threat=jr.sets.linf(0.1))
    >>> found.value, found.conflicts.tolist()
    (0.25, [[0, 1]])

    References:
      Bhagoji, Cullina & Mittal, Lower bounds on adversarial robustness from optimal transport, NeurIPS 2019; Dai et al., Characterizing
      the optimal 0-1 loss for multi-class classification with a test-time attacker, NeurIPS 2023.
    Deviations:
      Pairs alone are looked at; Dai et al. also use that three or more sets may meet in one point, which can only raise the bound.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    threat = check_ball(threat, "irreducible_error")
    check_count(block, "block", "irreducible_error")
    x = np.asarray(x)
    data = check_data(x, y)
    check_values(threat, x, 0)
    pairs = _conflicts(
        x.reshape(data.n, -1).astype(np.float64), data.y, _METRIC[threat.name], 2 * float(threat.eps), block
    )
    both = np.concatenate([pairs, pairs[:, ::-1]])
    graph = csr_array((np.ones(len(both), np.int8), (both[:, 0], both[:, 1])), shape=(data.n, data.n))
    twice = int((maximum_bipartite_matching(graph) >= 0).sum()) if len(both) else 0
    side: Side = "exact" if len(np.unique(data.y)) <= 2 else "lower"
    return Irreducible(twice / 2 / data.n, -(-twice // 2), data.n, pairs, side)


def _conflicts(x: np.ndarray, y: np.ndarray, metric: Any, reach: float, block: int) -> np.ndarray:
    """Pairs of indices, the smaller first, in increasing order."""
    from scipy.spatial.distance import cdist

    found = [np.zeros((0, 2), np.int64)]
    groups = [np.flatnonzero(y == label) for label in np.unique(y)]
    for a, first in enumerate(groups):
        for second in groups[a + 1 :]:
            for i in range(0, len(first), block):
                for j in range(0, len(second), block):
                    one, two = first[i : i + block], second[j : j + block]
                    at, to = np.nonzero(cdist(x[one], x[two], metric) <= reach)
                    found.append(np.sort(np.stack([one[at], two[to]], 1), axis=1))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
