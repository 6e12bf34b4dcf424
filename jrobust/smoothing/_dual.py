"""Dual smoothing: two half-images, each of its own net under noise, and one radius for the sum of their votes."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_key
from jrobust._statistics import clopper_pearson
from jrobust._tree import bind
from jrobust.smoothing._certificate import Certificate
from jrobust.smoothing._noise import Noise, gaussian
from jrobust.smoothing._run import check_alpha, count, start, warn_if_vain
from jrobust.typing import Array, PRNGKeyArray


def halves(sigma: Any) -> tuple[Noise, Noise]:
    """Gaussian noise on either half of a checkerboard of pixels; the other half is replaced by noisy neighbours.

    Args:
      sigma: standard deviation in input units, > 0. A leaf.

    Returns:
      Two `Noise`s for images [H, W, C], W >= 2. What either draws depends on its own pixels alone; train a net on the draws of
      each, and give both nets to `dual`.

    >>> left, right = halves(1e-9)
    >>> left.sample(jax.random.key(0), jnp.arange(8.0).reshape(2, 4, 1))[..., 0].round().astype(int).tolist()
    [[0, 0, 2, 2], [5, 5, 7, 7]]
    """
    whole = gaussian(sigma)
    left, right = (
        dataclasses.replace(whole, draw=bind(_half, part=part), name=f"gaussian on half {part}") for part in (0, 1)
    )
    return left, right


def _half(sigma: Any, key: PRNGKeyArray, x: Array, *, part: int) -> Array:
    if x.ndim != 3 or x.shape[1] < 2:
        raise ValueError(f"halves are made of images [H, W, C] with W >= 2, got one of shape {tuple(x.shape)}")
    noisy = x + sigma * jax.random.normal(key, x.shape, x.dtype)
    height, width = x.shape[:2]
    column = np.arange(width)
    partner = np.where((column ^ 1) < width, column ^ 1, column - 1)
    mine = (np.arange(height)[:, None] + column) % 2 == part
    return jnp.where(mine[..., None], noisy, noisy[:, partner])


def dual(
    models: Any,
    x: Any,
    *,
    sigma: Any,
    n0: int = 100,
    n: int = 10_000,
    alpha: Any = 1e-3,
    key: Any,
    batch_size: int | None = None,
    mesh: Any = None,
) -> Certificate:
    """Certified l2 radii of the classifier that adds up two vote shares, one of each half-image (DRS).

    ``n0`` draws of each half select the class of most votes together; ``n`` independent draws of each bound its probability in
    that half from below, by l and r, at alpha / 2 each.

    Args:
      models: (left, right), nets of the draws of ``halves(sigma)``: ``model(z[B, H, W, C]) -> logits[B, K]``.
      x: images [N, H, W, C], floating.
      sigma: of both halves, in input units.
      n0: selection draws of each half, >= 1.
      n: estimation draws of each half, >= 1.
      alpha: failure probability of the statement about one example, in (0, 1).
      key: one typed PRNG key; example i uses ``fold_in(fold_in(key, half), i)``.
      batch_size: noisy inputs evaluated at once; None: by the memory that is left.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.

    Returns:
      A `Certificate`; ``counts`` are the votes of both halves, ``lower`` the one probability of that radius,
      Phi((Phi^-1(l) + Phi^-1(r)) / sqrt 2). One half may be below 1/2.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: for each example, with probability >= 1 - alpha over the draws, ``prediction`` has the largest sum of the two
      probabilities everywhere within ``radius = sigma / sqrt 2 (Phi^-1(l) + Phi^-1(r))``. Tight for two classes given l and r.
      Assumes real arithmetic and ideal noise.

    References:
      Xia, Yu, Jiang, Ding. Mitigating the curse of dimensionality for certified robustness via dual randomized smoothing. ICLR 2024.

    Deviations: the radius. The public implementation returns the root of the sum of the squared radii of both halves, which two
      half-spaces break wherever l and r differ, and takes both bounds at alpha. Erased pixels repeat their noisy neighbour of the
      other colour in the same row.

    >>> def bright(z):
    ...     s = z.mean((1, 2, 3)) - 0.5
    ...     return jnp.stack([-s, s], 1)
    >>> done = dual((bright, bright), jnp.ones((1, 4, 4, 1)), sigma=0.5, n=500, key=jax.random.key(0))
    >>> done.prediction.tolist(), bool(1 < done.radius[0] <= 2)
    ([1], True)
    """
    n0, n, alpha = count("n0", n0), count("n", n), check_alpha(alpha)
    if not (isinstance(models, tuple | list) and len(models) == 2):
        many = f"{len(models)} of them" if isinstance(models, tuple | list) else type(models).__name__
        raise TypeError(f"models are two, (left, right); got {many}")
    if np.ndim(x) != 4:
        raise ValueError(f"x must be images [N, H, W, C], got shape {np.shape(x)}")
    check_key(key)
    runs = [
        start(model, x, noise, jax.random.fold_in(key, half), batch_size, mesh)
        for half, (model, noise) in enumerate(zip(models, halves(sigma), strict=True))
    ]
    if runs[0].classes != runs[1].classes:
        raise ValueError(f"the models differ in classes: {runs[0].classes} and {runs[1].classes}")
    warn_if_vain(lambda m: bool(joint_probability(*(2 * [clopper_pearson(m, m, alpha / 2)])) > 0.5), n, alpha)
    size = min(run.batch_size for run in runs)  # of both, so that they come to the same examples together
    runs = [dataclasses.replace(run, batch_size=size) for run in runs]
    rows, began, width = [], time.perf_counter(), runs[0].width(n0)
    for selections in zip(*(run.parts(np.arange(run.n), n0, n) for run in runs), strict=True):
        group = selections[0][0]
        chosen = np.sum([votes for _, votes in selections], 0).argmax(1)
        counts = [run.votes(1, group, 0, n, width) for run in runs]
        left, right = (clopper_pearson(c[np.arange(len(c)), chosen], n, alpha / 2) for c in counts)
        rows.append((chosen, joint_probability(left, right), sum(counts)))
    chosen, lower, votes = (np.concatenate(column) for column in zip(*rows, strict=True))
    plain, many = gaussian(sigma), len(chosen)
    return Certificate(
        prediction=np.where(lower > 0.5, chosen, -1).astype(np.int32),
        radius=plain.certify(lower),
        counts=votes.astype(np.int32),
        lower=lower,
        upper=1 - lower,
        selected=chosen.astype(np.int32),
        draws=np.full(many, n, np.int32),
        seconds=np.full(many, (time.perf_counter() - began) / many),
        n0=n0,
        n=n,
        noise_digest="",  # of two halves: there is no one noise for joint statements
        confidence=1 - alpha,
        norm="l2",
        noise=f"dual {plain}",
        most=float(plain.certify(joint_probability(*[clopper_pearson(n, n, alpha / 2)] * 2))),
    )


def joint_probability(left: Any, right: Any) -> np.ndarray:
    """The probability whose radius is that of two halves with at least these: ``Phi((Phi^-1(l) + Phi^-1(r)) / sqrt 2)``.

    Within half-distances d_l, d_r the winner keeps at least Phi(Phi^-1(l) - d_l / sigma) + Phi(Phi^-1(r) - d_r / sigma), which is
    above 1 iff d_l + d_r < sigma (Phi^-1(l) + Phi^-1(r)); of all moves of length R the largest d_l + d_r is sqrt 2 R.

    >>> float(joint_probability(0.8, 0.8)) > 0.88, float(joint_probability(0.9, 0.1)) <= 0.5
    (True, True)
    """
    from scipy.special import ndtr, ndtri

    total = ndtri(np.asarray(left, np.float64)) + ndtri(np.asarray(right, np.float64))
    return np.asarray(ndtr((total - 1e-9) / np.sqrt(2)))
