"""Smoothed segmentation: the class of every pixel with one radius, coarser classes where the fine one is unsure."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from jrobust._checks import check_truth
from jrobust._statistics import Average, at_least, average, reject
from jrobust.smoothing._run import check_alpha, count, start


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """Coarser and coarser names of K classes; `hierarchy` makes one.

    Attributes:
      levels: int32 [L, K]: ``levels[h, c]`` is the vertex of class c at level h; level 0 is the classes themselves.
      thresholds: L - 1 gaps between the two largest posteriors; a pixel goes one level up for each that its gap does not exceed.
    """

    levels: np.ndarray
    thresholds: tuple[float, ...]


def hierarchy(*levels: Any, thresholds: Sequence[Any]) -> Hierarchy:
    """A tree of classes, from fine to coarse.

    Args:
      levels: for each level above the classes, the vertex (one of 0, 1, ..., K - 1) of each of the K classes; each level
        joins vertices of the one before.
      thresholds: as many gaps in [0, 1), in any order; (0, 0.25) goes one level up where the gap is at most 0.25.

    Raises:
      ValueError, TypeError: the levels are not a tree, or the numbers do not match.

    >>> tree = hierarchy([0, 1, 1, 2], [0, 1, 1, 1], thresholds=[0, 0.25])
    >>> tree.levels.tolist()
    [[0, 1, 2, 3], [0, 1, 1, 2], [0, 1, 1, 1]]
    """
    if any(np.ndim(level) != 1 or np.asarray(level).dtype.kind not in "iu" for level in levels):
        raise TypeError(f"levels are lists of ints, a vertex a class; got {levels!r}")
    if not levels or len({len(level) for level in levels}) != 1:
        raise ValueError(f"levels are lists of one length, a vertex a class; got lengths {[len(v) for v in levels]}")
    if len(thresholds) != len(levels) or not all(0 <= t < 1 for t in thresholds):
        raise ValueError(f"thresholds are {len(levels)} numbers in [0, 1), one a level; got {list(thresholds)}")
    classes = len(levels[0])
    if any(vertex >= classes for level in levels for vertex in level):
        raise ValueError(f"vertices of {classes} classes are 0..{classes - 1}, got {[list(level) for level in levels]}")
    table = np.array([list(range(classes)), *map(list, levels)], np.int32)
    for h, (fine, coarse) in enumerate(itertools.pairwise(table), 1):
        if coarse.min() < 0 or len(set(zip(fine.tolist(), coarse.tolist(), strict=True))) != len(set(fine.tolist())):
            raise ValueError(f"level {h} splits a vertex of level {h - 1} (or is negative): {coarse.tolist()}")
    return Hierarchy(table, tuple(float(t) for t in thresholds))


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Certified outputs (pixels, nodes) of the smoothed model; arrays on the host.

    Attributes:
      prediction: int32 [N, ...]: the certified vertex of each output (its class, at level 0), -1 = abstain.
      level: int32 [N, ...], of that vertex in the hierarchy; 0 without one.
      p_value: float64 [N, ...] of the test that the vertex has probability at most ``tau``.
      radius: within which all certified outputs of an example keep their vertex, in the noise's norm and input units.
      tau: probability tested against.
      n0: selection draws.
      n: estimation draws, which are the trials of the test.
      confidence: 1 - alpha, that of all outputs of one example together.
      norm: of the radius.
      noise: name and level, for tables.
      tree: int32 [L, K], the hierarchy.
      side: "lower": the true radius is at least this, with that confidence.
    """

    prediction: np.ndarray
    level: np.ndarray
    p_value: np.ndarray
    radius: float
    tau: float
    n0: int
    n: int
    confidence: float
    norm: str
    noise: str
    tree: np.ndarray
    side: Literal["lower"] = "lower"

    def correct(self, y: Any) -> np.ndarray:
        """bool [N, ...]: certified, and above the true class ``y`` in the tree.

        Args:
          y: int [N, ...], 0..K-1; -1 is an output without a true class (void), which is never right and which shares leave out.
        """
        y = check_truth(y, self.prediction.shape, self.tree.shape[1], void=True)
        return (self.prediction >= 0) & (y >= 0) & (self.prediction == self.tree[self.level, y])

    def accuracy(self, y: Any, *, level: float = 0.95) -> Average:
        """The mean over examples of the share of their outputs, void ones left out, that are certified and right.

        The interval is of the examples' shares: outputs of one example are not independent. An example of void outputs alone is left out.
        """
        right, known = (a.reshape(len(self.prediction), -1) for a in (self.correct(y), _known(y)))
        some = known.any(1)
        share = (right & known).sum(1)[some] / known.sum(1)[some]
        return average(share, side=self.side, confidence=self.confidence, level=level, least=0.0, most=1.0)

    def abstained(self) -> float:
        """The share of all outputs, void ones among them, without a certificate."""
        return float(np.mean(self.prediction < 0))

    def information_gain(self, y: Any) -> float:
        """Certified information gain: the mean of ``1 - log G / log K``, 0 where abstained or wrong, over all outputs but void ones.

        G is how many classes lie below the certified vertex: a certified class counts 1, the root 0.
        """
        below = np.stack([np.bincount(row, minlength=row.max() + 1)[row] for row in self.tree])  # [L, K]
        right, known, y = self.correct(y), _known(y), np.asarray(y)
        classes = self.tree.shape[1]
        if classes == 1:
            return 0.0
        y = np.where(known, y, 0)
        return float(np.mean((right * (1 - np.log(below[self.level, y]) / np.log(classes)))[known]))


def _known(y: Any) -> np.ndarray:
    """Which outputs have a true class."""
    known = np.asarray(y) >= 0
    if not known.any():
        raise ValueError("every output is void (-1): there is nothing to take a share of")
    return known


def segment(
    model: Any,
    x: Any,
    *,
    noise: Any,
    tau: Any = 0.75,
    n0: int = 10,
    n: int = 100,
    alpha: Any = 1e-3,
    method: str = "holm",
    hierarchy: Any = None,
    key: Any,
    batch_size: int | None = None,
    mesh: Any = None,
) -> Segmentation:
    """Every output of a smoothed model with several (a segmentation), certified within one radius, or abstained from.

    ``n0`` draws select the class of each output; of ``n`` independent ones the share that agrees is tested against
    ``tau``, for all outputs of an example together. With a ``hierarchy`` (AdaptiveCertify) the ``n0`` draws also choose how
    coarse the answer is: outputs whose two leading mean posteriors lie close are asked for a coarser vertex, the one of most
    selection votes on that level.

    Args:
      model: batched, ``model(x[B, ...]) -> logits[B, ..., K]``, an output for each pixel.
      x: examples [N, ...], floating.
      noise: such as ``gaussian(0.25)``.
      tau: in (1/2, 1); the radius is ``noise.certify(tau)``, 0.1686 at sigma 0.25 and tau 0.75.
      n0: selection draws, >= 1.
      n: estimation draws, >= 1. Nothing is certified where ``tau ** n`` exceeds alpha over the number of outputs.
      alpha: failure probability of the statement about one example, in (0, 1).
      method: of the multiple test: "holm" (never certifies less) or "bonferroni".
      hierarchy: a `Hierarchy` of the K classes; None tests the classes themselves (SegCertify).
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: noisy inputs evaluated at once; None: by the memory that is left.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.

    Returns:
      A `Segmentation`.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: for each example, with probability >= 1 - alpha over the draws: at every certified output the certified vertex has
      probability > ``tau``, and > 1/2 everywhere within ``radius``; it is there the most likely vertex of its level. At level 0
      that is the most likely class. At a coarser one the most likely class need not lie below it: of probabilities .24, .19,
      .19, .19, .19 the last four classes together are certified, while the first is the most likely. Assumes real arithmetic and
      ideal noise.

    References:
      Fischer, Baader, Vechev. Scalable certified segmentation via randomized smoothing. ICML 2021. Anani, Lorenz, Schiele,
      Fritz. Adaptive hierarchical certification for segmentation using randomized smoothing. ICML 2024.

    Deviations: none from the papers. The test's trials are the n draws that were counted (a public implementation counts n
      and tests n - n0, which certifies too often).

    >>> import jax.numpy as jnp
    >>> from jrobust.smoothing import gaussian
    >>> def pixels(x):
    ...     return jnp.stack([x, -x], -1)
    >>> done = segment(pixels, jnp.array([[1.0, 0.01, -1.0]]), noise=gaussian(0.25), key=jax.random.key(0))
    >>> done.prediction.tolist(), round(done.radius, 4)
    ([[0, -1, 1]], 0.1686)
    """
    n0, n, alpha = count("n0", n0), count("n", n), check_alpha(alpha)
    if not 0.5 < tau < 1:
        raise ValueError(f"tau lies in (1/2, 1), got {tau!r}")
    if method not in ("holm", "bonferroni"):
        raise ValueError(f"method is holm or bonferroni, got {method!r}")
    if hierarchy is not None and not isinstance(hierarchy, Hierarchy):
        raise TypeError(
            f"hierarchy is made by jr.smoothing.hierarchy(levels, thresholds=), got {type(hierarchy).__name__}"
        )
    run = start(model, x, noise, key, batch_size, mesh, dense=True)
    tree = np.arange(run.classes, dtype=np.int32)[None] if hierarchy is None else hierarchy.levels
    if tree.shape[1] != run.classes:
        raise ValueError(f"the hierarchy has {tree.shape[1]} classes, the model {run.classes}")
    p_of = at_least(np.arange(n + 1), n, tau)
    parts = []
    for group, selection in run.parts(np.arange(run.n), n0, n):
        estimation = run.votes(1, group, 0, n, run.width(n0))
        if hierarchy is None:
            level = np.zeros(selection.shape[:-1], np.int32)
        else:
            mean = run.votes(0, group, 0, n0, run.width(n0), tally=jax.nn.softmax)
            top = np.sort(mean / n0, -1)
            gap = top[..., -1] - top[..., -2] if top.shape[-1] > 1 else np.ones(top.shape[:-1])
            level = (gap[..., None] <= np.array(hierarchy.thresholds)).sum(-1).astype(np.int32)
        vertex = _joined(selection, tree, level).argmax(-1)
        hits = np.take_along_axis(_joined(estimation, tree, level), vertex[..., None], -1)[..., 0]
        p = p_of[hits]
        sure = np.stack([reject(one, alpha, method=method) for one in p])
        parts.append((np.where(sure, vertex, -1).astype(np.int32), level, p))
    prediction, level, p_value = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Segmentation(
        prediction, level, p_value, float(noise.certify(tau, shape=run.shape)), float(tau), n0, n, 1 - alpha, noise.norm, str(noise),
        tree,
    )  # fmt: skip


def _joined(counts: np.ndarray, tree: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Votes of classes [..., K] as votes of the vertices of each output's level."""
    out = counts.copy()
    for h in range(1, len(tree)):
        at = level == h
        summed = np.zeros((int(at.sum()), counts.shape[-1]), counts.dtype)
        for c, vertex in enumerate(tree[h]):
            summed[:, vertex] += counts[at][:, c]
        out[at] = summed
    return out
