"""Linear parts of corruptions as small matrices: smoothing, zooming, box means, filters; and sampling at fractional places.

A blur with any border is linear, so it is a sum of ``rows @ image @ columns.T``; SciPy makes the matrices once a shape, on the host.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from jrobust.typing import Array, Float


def separable(x: Float[Array, "H W C"], rows: np.ndarray, columns: np.ndarray) -> Float[Array, "h w C"]:
    """``sum_r rows[r] @ x @ columns[r].T``, channel by channel; rows [R, h, H], columns [R, w, W]."""
    half = jnp.einsum("rih,hwc->riwc", rows.astype(np.float32), x, precision="highest")
    return jnp.einsum("rjw,riwc->ijc", columns.astype(np.float32), half, precision="highest").astype(x.dtype)


@cache
def smoother(n: int, sigma: int | float, mode: str = "nearest", truncate: int | float = 4.0) -> np.ndarray:
    """The Gaussian filter along n pixels, [n, n]; sigma 0 is the identity."""
    if sigma <= 0:
        return np.eye(n)
    return ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0, mode=mode, truncate=truncate)


def smoothed(
    x: Float[Array, "H W C"], sigma: Any, mode: str = "nearest", truncate: int | float = 4.0
) -> Float[Array, "H W C"]:
    """The Gaussian filter of both axes; of a pair of sigmas, down and across."""
    pair = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    rows, columns = (smoother(n, float(s), mode, truncate)[None] for n, s in zip(x.shape[:2], pair, strict=True))
    return separable(x, rows, columns)


@cache
def _filters(n: int, weights: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """Correlation along n pixels with each of R weights, mirrored without the edge pixel; [R, n, n]."""
    return np.stack([ndimage.correlate1d(np.eye(n), np.array(w), axis=0, mode="mirror") for w in weights])


@cache
def _split(kernel: tuple[tuple[float, ...], ...]) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """A kernel as a sum of products of a column and a row (its singular vectors, to 1e-9 of the largest)."""
    u, s, v = np.linalg.svd(np.array(kernel))
    kept = s > 1e-9 * s[0]
    left, right = (u * s)[:, kept].T, v[kept]
    return tuple(map(tuple, left.tolist())), tuple(map(tuple, right.tolist()))


def filtered(x: Float[Array, "H W C"], kernel: np.ndarray) -> Float[Array, "H W C"]:
    """Correlation with a kernel of odd sides, the image mirrored at its border without the edge pixel."""
    left, right = _split(tuple(map(tuple, kernel.tolist())))
    return separable(x, _filters(x.shape[0], left), _filters(x.shape[1], right))


@cache
def zoomer(n: int, factor: int | float) -> np.ndarray:
    """The middle of n pixels, ``1 / factor`` of them, spread linearly over n: [n, n]."""
    kept = int(np.ceil(n / factor))
    top = (n - kept) // 2
    spread = np.asarray(ndimage.zoom(np.eye(n)[top : top + kept], (factor, 1), order=1))
    trim = (len(spread) - n) // 2
    return spread[trim : trim + n]


@cache
def boxes(n: int, size: int) -> np.ndarray:
    """Means over boxes from n pixels to ``size`` (nearest pixels where there are more), as Pillow's BOX filter: [size, n]."""
    out, scale = np.zeros((size, n)), n / size
    support = 0.5 * max(scale, 1.0)
    for i in range(size):
        centre = (i + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), n)
        at = (np.arange(first, last) - centre + 0.5) / max(scale, 1.0)
        weight = ((at > -0.5) & (at <= 0.5)).astype(float)
        out[i, first:last] = weight / weight.sum()
    return out


def level(x: Array, how: Any = jnp.round) -> Array:
    """``x`` of 0..1 on the 256 levels of a byte (``how``: jnp.round, jnp.floor); gradients pass straight through."""
    values = 255 * x
    # a level that float32 puts just below itself counts as itself
    whole = how(values + 1e-3) if how is jnp.floor else how(values)
    return jax.lax.stop_gradient(jnp.clip(whole, 0, 255) / 255) + (x - jax.lax.stop_gradient(x))


def mirrored(i: Array, n: int) -> Array:
    """Indices folded back into 0..n-1, the edge pixel once: OpenCV's REFLECT_101."""
    period = max(2 * (n - 1), 1)
    i = i % period
    return jnp.minimum(i, period - i) if n > 1 else jnp.zeros_like(i)


def reflected(i: Array, n: int) -> Array:
    """Indices folded back into 0..n-1, the edge pixel twice: SciPy's reflect."""
    i = i % (2 * n)
    return jnp.minimum(i, 2 * n - 1 - i)


def clamped(i: Array, n: int) -> Array:
    """Indices cut to 0..n-1: the edge pixel goes on."""
    return jnp.clip(i, 0, n - 1)


def sampled(x: Any, rows: Any, columns: Any, fold: Any) -> Float[Array, "h w C"]:
    """The image at fractional places, bilinearly; ``fold`` (`mirrored`, `reflected`, `clamped`) brings places outside back in."""
    # XLA may compute a place twice, and round it otherwise: places are multiples of 1/1024, and each weight is used once
    rows, columns = (jnp.round(1024 * place) / 1024 for place in (rows, columns))
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    r, c = top.astype(jnp.int32), left.astype(jnp.int32)
    r0, r1 = fold(r, x.shape[0]), fold(r + 1, x.shape[0])
    c0, c1 = fold(c, x.shape[1]), fold(c + 1, x.shape[1])
    above = x[r0, c0] + (x[r0, c1] - x[r0, c0]) * right
    below = x[r1, c0] + (x[r1, c1] - x[r1, c0]) * right
    return above + (below - above) * down
