"""Smoothed medians of models that answer with numbers: how far they can move, and what that says of a box."""

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.smoothing._run import check_alpha, count, start
from jrobust.typing import Array


def noisy_outputs(
    model: Any, x: Any, *, noise: Any, n: int = 1000, key: Any, batch_size: int | None = None
) -> np.ndarray:
    """The answers of a model to ``n`` noisy copies of each example.

    Args:
      model: batched, ``model(x[B, ...]) -> values[B, M]``, numbers such as the corners of a box.
      x: examples [N, ...], floating.
      noise: ``gaussian(0.1)``; several sensors in one example have their levels by `anisotropic`.
      n: draws, >= 1.
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: noisy inputs evaluated at once; None: by the memory that is left.

    Returns:
      float32 [N, n, M], for `median_bounds`.

    >>> from jrobust.smoothing import gaussian
    >>> noisy_outputs(lambda x: x, jnp.zeros((2, 3)), noise=gaussian(1.0), n=5, key=jax.random.key(0)).shape
    (2, 5, 3)
    """
    n = count("n", n)
    if getattr(noise, "name", None) not in ("gaussian", "anisotropic"):
        raise ValueError(f"medians are bounded under gaussian or anisotropic noise, got {noise}")
    run = start(model, x, noise, key, batch_size, None)
    out = []
    for begin in range(0, run.n * n, run.batch_size):
        pair = np.minimum(begin + np.arange(run.batch_size), run.n * n - 1)
        rows = jnp.asarray(run.x[pair // n], jnp.float32)
        out.append(np.asarray(_answers(noise, run.leaves, key, pair // n, pair % n, rows, apply=run.apply)))
    values = np.concatenate(out)[: run.n * n]
    return values.reshape(run.n, n, -1)


@partial(jax.jit, static_argnames="apply")
def _answers(noise: Any, leaves: Any, key: Any, row: Any, draw: Any, x: Array, *, apply: Any) -> Any:
    keys = jax.vmap(lambda i, j: jax.random.fold_in(jax.random.fold_in(key, i), j))(row, draw)
    return apply(leaves, jax.vmap(noise.sample)(keys, x))


def median_bounds(samples: Any, rho: Any, *, q: Any = 0.5, alpha: Any = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of a smoothed quantile anywhere within a distance, by order statistics of the answers at the centre.

    Under Gaussian noise the q-quantile of the answers, moved by a perturbation delta, lies between the quantiles
    ``Phi(Phi^-1(q) - rho)`` and ``Phi(Phi^-1(q) + rho)`` at the centre, where ``rho = ||delta / sigma||_2``.

    Args:
      samples: [n] or [n, M]: answers of one example under independent noise (a row of `noisy_outputs`). Infinite ones are allowed.
      rho: one number >= 0, the distance in units of the noise: of several sensors ``sqrt(sum_s ||delta_s||^2 / sigma_s^2)``.
      q: quantile in (0, 1), 1/2 for the median.
      alpha: failure probability in (0, 1) of the statement about all answers together; shared equally among them and both sides.

    Returns:
      float64 (lower, upper), [] or [M]: -inf or inf where n is too small to say anything.

    Raises:
      ValueError: bad input.

    Guarantee: with probability >= 1 - alpha over the draws, whatever the distribution of the answers: every quantile within ``rho`` lies
      within the bounds. Assumes ideal noise.

    References:
      Chiang, Curry, Abdelkader, Kumar, Dickerson, Goldstein. Detection as regression: certified object detection with median
      smoothing. NeurIPS 2020. Huang, Chu, Li, Xu, Li. COMMIT: certifying robustness of multi-sensor fusion systems against semantic
      attacks. AAAI 2025.

    Deviations: none in the bound; the confidence is of all answers together.

    >>> low, high = median_bounds(np.linspace(-1, 1, 1001)[:, None], 0.5)
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([-0.48], [0.48])
    """
    from scipy.special import ndtr, ndtri

    values, alpha = np.asarray(samples, np.float64), check_alpha(alpha)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(
            f"samples are numbers [n] or [n, M], of one example (a row of noisy_outputs), got shape {values.shape}"
        )
    if np.isnan(values).any():
        raise ValueError(f"samples have {int(np.isnan(values).sum())} NaNs: no order statistic is known")
    if np.ndim(q) or np.ndim(rho):
        raise ValueError(
            f"q and rho are one number each, got shapes {np.shape(q)} and {np.shape(rho)}; call it for each rho"
        )
    if not 0 < q < 1 or not rho >= 0:
        raise ValueError(f"q lies in (0, 1) and rho is >= 0, got {q!r} and {rho!r}")
    n, share = len(values), alpha / (2 * max(1, values[0].size))
    low, high = order_statistics(n, ndtr(ndtri(q) - rho), ndtr(ndtri(q) + rho), share)
    ends = np.full((1, *values.shape[1:]), np.inf)
    ordered = np.concatenate([-ends, np.sort(values, 0), ends])
    return np.asarray(ordered[low]), np.asarray(ordered[high])


def order_statistics(n: int, low: float, high: float, alpha: float) -> tuple[int, int]:
    """Which of n ordered draws bounds the ``low`` quantile from below and the ``high`` one from above, at alpha each; 0 and n + 1 for none.

    The k-th draw exceeds the p-quantile only if fewer than k fall at or below it: ``P(Bin(n, p) <= k - 1)``.

    >>> order_statistics(100, 0.5, 0.5, 0.025)
    (40, 61)
    """
    from scipy.special import bdtr, bdtrc

    k = np.arange(1, n + 1)
    below = bdtr(k - 1.0, n, low)  # P(Bin <= k - 1), growing
    above = bdtrc(k - 1.0, n, high)  # P(Bin >= k), falling
    return int((below <= alpha).sum()), int(n + 1 - (above <= alpha).sum())


def iou_lower(low: Any, high: Any, box: Any) -> np.ndarray:
    """The least overlap (intersection over union) with ``box`` of all boxes whose corners lie between ``low`` and ``high``.

    Args:
      low: [..., 4]: least (left, top, right, bottom).
      high: [..., 4], the largest.
      box: [4] or [..., 4], with left < right and top < bottom.

    Returns:
      float64 [...]: exact. In each coordinate alone the overlap first rises and then falls, so the least is at one of 16 corners; a box
      of no area overlaps with nothing.

    >>> iou_lower([0, 0, 1, 1], [0, 0, 2, 1], [0, 0, 1, 1]).tolist()
    0.5
    """
    low, high, box = (np.asarray(a, np.float64) for a in (low, high, box))
    if low.shape != high.shape or low.shape[-1:] != (4,) or box.shape[-1:] != (4,):
        raise ValueError(
            f"low, high and box end in 4 coordinates, got shapes {low.shape}, {high.shape} and {box.shape}"
        )
    if (low > high).any() or (box[..., :2] >= box[..., 2:]).any():
        raise ValueError("low is at most high, and box has left < right and top < bottom")
    corners = [_iou(np.where(ends, high, low), box) for ends in product((False, True), repeat=4)]
    return np.asarray(np.minimum.reduce(corners))


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    finite = np.asarray(np.isfinite(a).all(-1))
    a = np.where(finite[..., None], a, 0.0)
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    area = np.maximum(a[..., 2:] - a[..., :2], 0).prod(-1)
    common = sides.prod(-1)
    return np.where(finite, common / (area + (b[..., 2:] - b[..., :2]).prod(-1) - common), 0.0)
