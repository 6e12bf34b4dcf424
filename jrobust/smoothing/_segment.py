"""Smoothed segmentation: the class of every pixel with one radius, coarser classes where the fine one is unsure."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from jrobust._statistics import Accuracy, at_least, proportion, reject
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


def hierarchy(*levels: Sequence[Any], thresholds: Sequence[Any]) -> Hierarchy:
    """A tree of classes, from fine to coarse.

    Args:
      levels: for each level above the classes, the vertex (0, 1, ...) of each of the K classes; each level joins
        vertices of the one before.
      thresholds: as many gaps in [0, 1), in any order; (0, 0.25) goes one level up where the gap is at most 0.25.

    Raises:
      ValueError: the levels are not a tree, or the numbers do not match.

    >>> tree = hierarchy([0, 1, 1, 2], [0, 1, 1, 1], thresholds=[0, 0.25])
    >>> tree.levels.tolist()
    [[0, 1, 2, 3], [0, 1, 1, 2], [0, 1, 1, 1]]
    """
    if not levels or len({len(level) for level in levels}) != 1:
        raise ValueError(f"levels are lists of one length, a vertex a class; got lengths {[len(v) for v in levels]}")
    if len(thresholds) != len(levels) or not all(0 <= t < 1 for t in thresholds):
        raise ValueError(f"thresholds are {len(levels)} numbers in [0, 1), one a level; got {list(thresholds)}")
    table = np.array([list(range(len(levels[0]))), *map(list, levels)], np.int32)
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
        """bool [N, ...]: certified, and above the true class ``y`` (int [N, ...]) in the tree."""
        y = np.asarray(y)
        if y.shape != self.prediction.shape or y.dtype.kind not in "iu":
            raise ValueError(f"y is integer labels {self.prediction.shape}, got {y.dtype} {y.shape}")
        return self.prediction == self.tree[self.level, y]

    def accuracy(self, y: Any, *, level: float = 0.95) -> Accuracy:
        """The share of outputs that are certified and right (their interval takes outputs as independent, which pixels are not)."""
        held = self.correct(y)
        return proportion(int(held.sum()), held.size, side="upper", confidence=self.confidence, level=level)

    def abstained(self) -> float:
        """The share of outputs without a certificate."""
        return float(np.mean(self.prediction < 0))

    def information_gain(self, y: Any) -> float:
        """Certified information gain: the mean over all outputs of ``1 - log G / log K``, 0 where abstained or wrong.

        G is how many classes lie below the certified vertex: a certified class counts 1, the root 0.
        """
        below = np.stack([np.bincount(row, minlength=row.max() + 1)[row] for row in self.tree])  # [L, K]
        y = np.asarray(y)
        right = self.correct(y)
        classes = self.tree.shape[1]
        if classes == 1:
            return 0.0
        return float(np.mean(right * (1 - np.log(below[self.level, y]) / np.log(classes))))


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
    hierarchy: Hierarchy | None = None,
    key: Any,
    batch_size: int | None = None,
    mesh: Any = None,
) -> Segmentation:
    """Every output of a smoothed model with several (a segmentation), certified within one radius, or abstained from.

    ``n0`` draws select the class of each output; of ``n`` independent ones the share that agrees is tested against
    ``tau``, for all outputs of an example together. With a ``hierarchy`` (AdaptiveCertify) the ``n0`` draws also choose how
    coarse the answer is: outputs whose two leading mean posteriors lie close are asked for a coarser vertex.

    Args:
      model: batched, ``model(x[B, ...]) -> logits[B, ..., K]``, an output for each pixel.
      x: examples [N, ...], floating.
      noise: such as ``gaussian(0.25)``.
      tau: in (1/2, 1); the radius is ``noise.certify(tau)``, 0.1686 at sigma 0.25 and tau 0.75.
      n0: selection draws, >= 1.
      n: estimation draws, >= 1. Nothing is certified where ``tau ** n`` exceeds alpha over the number of outputs.
      alpha: failure probability of the statement about one example, in (0, 1).
      method: of the multiple test: "holm" (never certifies less) or "bonferroni".
      hierarchy: of the K classes; None tests the classes themselves (SegCertify).
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: noisy inputs evaluated at once; None: by the memory that is left.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.

    Returns:
      A `Segmentation`.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: for each example, with probability >= 1 - alpha over the draws: every certified output of the smoothed model
      (its most likely class, taken to the output's level) is constant within ``radius``. Assumes real arithmetic and ideal noise.

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
    run = start(model, x, noise, key, batch_size, mesh, dense=True)
    p_of = at_least(np.arange(n + 1), n, tau)
    parts = []
    for group, selection in run.parts(np.arange(run.n), n0, n):
        estimation = run.votes(1, group, 0, n, run.width(n0))
        if hierarchy is None:
            tree, level = np.arange(selection.shape[-1], dtype=np.int32)[None], np.zeros(selection.shape[:-1], np.int32)
        else:
            tree = hierarchy.levels
            if tree.shape[1] != selection.shape[-1]:
                raise ValueError(f"the hierarchy has {tree.shape[1]} classes, the model {selection.shape[-1]}")
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
        tree,  # pyright: ignore[reportPossiblyUnboundVariable]
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
