"""Smoothing where mistakes cost differently: how far until the answer may be one that costs something."""

import dataclasses
from typing import Any, Literal

import numpy as np

from jrobust._checks import check_classes, check_labels
from jrobust._statistics import Accuracy, clopper_pearson, clopper_pearson_upper, proportion
from jrobust.smoothing._run import check_alpha, count, start


@dataclasses.dataclass(frozen=True)
class CostCertificate:
    """Radii within which no costly mistake is made; arrays on the host.

    Attributes:
      selected: int32 [N], the class that won the selection draws.
      radius: float64 [N]: within it the answer is none of those that cost something, given the label; infinite where none does, 0 where
        ``selected`` does or too little is known.
      plain: float64 [N]: the radius within which the answer stays ``selected``, from the same lower bound; at most ``radius`` where
        ``selected`` costs nothing.
      lower: float64 [N], the lower confidence bound on the probability of ``selected``.
      upper: float64 [N], the upper one on that of each costly class.
      sensitive: bool [N]: some mistake on this example costs something.
      counts: int32 [N, K] votes of the estimation draws.
      labels: int32 [N].
      n0, n: selection and estimation draws of each example.
      confidence: 1 - alpha, for each example, both radii together.
      norm: of the radii.
      noise: name and level, for tables.
      side: "lower": the true radii are at least these, with that confidence.
    """

    selected: np.ndarray
    radius: np.ndarray
    plain: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    sensitive: np.ndarray
    counts: np.ndarray
    labels: np.ndarray
    n0: int
    n: int
    confidence: float
    norm: str
    noise: str
    side: Literal["lower"] = "lower"

    def safe(self, radius: float = 0.0, *, level: float = 0.95) -> Accuracy:
        """Of the sensitive examples, the share that makes no costly mistake within ``radius`` (and has a radius above 0).

        Raises:
          ValueError: there is no sensitive example.
        """
        held = (self.radius > 0) & (self.radius >= radius) & self.sensitive
        if not self.sensitive.any():
            raise ValueError("no example is sensitive: their rows of the costs are 0")
        return proportion(
            int(held.sum()), int(self.sensitive.sum()), side="upper", confidence=self.confidence, level=level
        )


def cost_sensitive(
    model: Any,
    x: Any,
    y: Any,
    costs: Any,
    *,
    noise: Any,
    n0: int = 100,
    n: int = 10_000,
    alpha: Any = 1e-3,
    key: Any,
    batch_size: int | None = None,
    mesh: Any = None,
) -> CostCertificate:
    """How far the smoothed classifier goes without a mistake that costs something.

    The class selected by ``n0`` draws is bounded from below at alpha / 2, each of the m classes that cost something (given the label)
    from above at alpha / (2 m), by ``n`` independent draws; the radius is that of the two bounds.

    Args:
      model: the base classifier, ``model(x[B, ...]) -> logits[B, K]``.
      x: examples [N, ...], floating.
      y: true labels, int [N].
      costs: [K, K], ``costs[y, j] >= 0`` what it costs to take y for j; the diagonal is not looked at. Only which are > 0 matters.
      noise: such as ``gaussian(0.5)``.
      n0: selection draws, >= 1.
      n: estimation draws, >= 1.
      alpha: failure probability of the statement about one example, in (0, 1).
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: noisy inputs evaluated at once; None: by the memory that is left.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.

    Returns:
      A `CostCertificate`.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: for each example, with probability >= 1 - alpha over the draws: no class that costs something is the most likely one
      anywhere within ``radius``, and where ``plain`` > 0 the answer is ``selected`` within ``plain``. Assumes real arithmetic and ideal
      noise.

    References:
      Xin, Chen, Backes, Zhang. Provably cost-sensitive adversarial defense via randomized smoothing. ICML 2025.

    Deviations: the paper takes the larger of two radii, one from a bound at alpha and one from bounds at alpha / 2; here both come from
      one set of bounds that hold together. A public implementation bounds the costly classes at alpha m / 2 instead of alpha / (2 m),
      which fails more often than alpha.

    >>> import jax, jax.numpy as jnp
    >>> from jrobust.smoothing import gaussian
    >>> def three(x):
    ...     return jnp.stack([x[:, 0], -x[:, 0], x[:, 1] - 3], 1)
    >>> done = cost_sensitive(three, jnp.array([[0.1, 0.0]]), jnp.array([0]), [[0, 0, 1], [0, 0, 0], [0, 0, 0]],
    ...                       noise=gaussian(0.5), n=2000, key=jax.random.key(0))
    >>> bool(done.plain[0] < 0.2 < 0.7 < done.radius[0])
    True
    """
    n0, n, alpha = count("n0", n0), count("n", n), check_alpha(alpha)
    run = start(model, x, noise, key, batch_size, mesh)
    y = check_labels(y, run.n)
    check_classes(y, run.classes)
    table = np.asarray(costs, np.float64)
    if table.shape != (run.classes, run.classes) or not (np.isfinite(table) & (table >= 0)).all():
        raise ValueError(f"costs are [{run.classes}, {run.classes}], finite and >= 0, got shape {table.shape}")
    costly = ((table > 0) & ~np.eye(len(table), dtype=bool))[y]
    selected, counts = [], []
    for part, selection in run.parts(np.arange(run.n), n0, n):
        selected.append(selection.argmax(1))
        counts.append(run.votes(1, part, 0, n, run.width(n0)))
    selected, counts = np.concatenate(selected), np.concatenate(counts)
    lower, upper = bounds(counts, selected, costly, n, alpha)
    rows = np.arange(run.n)
    harmless = ~costly[rows, selected]
    radius = np.where(harmless, noise.certify(lower, upper, shape=run.shape), 0.0)
    return CostCertificate(
        selected=selected.astype(np.int32),
        radius=np.where(costly.any(1), radius, np.inf),
        plain=noise.certify(lower, shape=run.shape),
        lower=lower,
        upper=upper,
        sensitive=np.asarray(costly.any(1)),
        counts=counts.astype(np.int32),
        labels=y,
        n0=n0,
        n=n,
        confidence=1 - alpha,
        norm=noise.norm,
        noise=str(noise),
    )


def bounds(
    counts: np.ndarray, selected: np.ndarray, costly: np.ndarray, n: int, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """The lower bound on the selected class and the upper one on each costly class, which hold together with 1 - alpha.

    >>> lower, upper = bounds(np.array([[90, 10, 0]]), np.array([0]), np.array([[False, True, True]]), 100, 0.01)
    >>> lower.round(3).tolist(), upper.round(3).tolist()
    ([0.798], [0.212])
    """
    lower = clopper_pearson(counts[np.arange(len(counts)), selected], n, alpha / 2)
    upper = np.zeros(len(counts))
    for m in np.unique(costly.sum(1)):
        of = costly.sum(1) == m
        if m:
            each = clopper_pearson_upper(counts[of], n, alpha / (2 * int(m)))
            upper[of] = np.where(costly[of], each, 0.0).max(1)
    return lower, upper
