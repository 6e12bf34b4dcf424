"""Blurs: Gaussian, defocus, glass, motion, zoom."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from jrobust import _loops
from jrobust.corruptions._linear import filtered, level, separable, smoothed, zoomer
from jrobust.typing import Array, Float


def gaussian_blur(key: Any, x: Array, sigma: int | float) -> Array:
    """A Gaussian filter of ``sigma`` pixels, cut at 4 sigma; the edge goes on outside."""
    del key
    return jnp.clip(smoothed(x, sigma), 0.0, 1.0)


@cache
def disk(radius: int | float, softness: int | float) -> np.ndarray:
    """A disk of ones that sum to one, its rim smoothed by a Gaussian of 3 x 3 pixels (5 x 5 for radii beyond 8)."""
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    at = np.arange(-reach, reach + 1)
    inside = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    weight = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * softness**2))
    out = inside / inside.sum()
    for axis in range(2):
        out = ndimage.correlate1d(out, weight / weight.sum(), axis=axis, mode="mirror")
    return out


def defocus_blur(key: Any, x: Array, radius: int | float, softness: int | float) -> Array:
    """A disk as kernel; the image mirrored at its border."""
    del key
    return jnp.clip(filtered(x, disk(radius, softness)), 0.0, 1.0)


def shuffled(x: Array, there: Array, moves: Array | None, reach: int) -> Array:
    """Pixels exchanged with near ones, one after another, from the last to the first.

    Args:
      x: image [H, W, C].
      there: [T, (H - 2 reach) (W - 2 reach), 2], (down, right) to the other pixel, in the order of the walk, T times over.
      moves: whether each step is taken; None: all.
      reach: pixels at the border that the walk leaves out.
    """
    height, width, channels = x.shape
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    here = np.broadcast_to((rows[:, None] * width + columns).ravel(), there.shape[:2]).ravel()
    other = here + (there[..., 0] * width + there[..., 1]).ravel()
    taken = jnp.ones(len(here), bool) if moves is None else moves.ravel()

    def step(order: Array, at: tuple[Array, Array, Array]) -> tuple[Array, None]:
        i, j, go = at
        first, second = order[i], order[j]
        order = order.at[i].set(jnp.where(go, second, first))
        if (
            channels == 1
        ):  # a colour is copied, as the authors' code does: the second half of their swap reads what the first wrote
            order = order.at[j].set(jnp.where(go, first, order[j]))
        return order, None

    order = _loops.scan(step, jnp.arange(height * width), (here, other, taken))[0]
    return x.reshape(-1, channels)[order].reshape(x.shape)


def glass_blur(
    key: Any,
    x: Array,
    sigma: int | float,
    reach: int,
    times: int,
    *,
    share: int | float = 1.0,
    upright: bool = False,
) -> Array:
    """Blurred, pixels exchanged with neighbours up to ``reach`` away ``times`` times over, blurred again.

    Args:
      key: typed.
      x: image [H, W, C].
      sigma: of the blur, in pixels.
      reach: how far a pixel may go at a time.
      times: walks over the image.
      share: how many of the exchanges are made.
      upright: blur down the columns only.
    """
    spread = (sigma, 0.0 if upright else sigma)
    x = level(jnp.clip(smoothed(x, spread), 0.0, 1.0), jnp.floor)
    steps = max(x.shape[0] - 2 * reach, 0) * max(x.shape[1] - 2 * reach, 0)
    if steps:
        where, whether = jax.random.split(key)
        there = jax.random.randint(where, (times, steps, 2), -reach, reach)
        moves = jax.random.bernoulli(whether, share, (times, steps)) if share < 1 else None
        x = shuffled(x, there, moves, reach)
    return jnp.clip(smoothed(x, spread), 0.0, 1.0)


def moved(x: Float[Array, "H W C"], radius: int, sigma: int | float, angle: Any) -> Float[Array, "H W C"]:
    """The mean along a line of ``2 radius + 1`` whole pixels, weighted by half a Gaussian; the edge goes on outside.

    Args:
      x: image.
      radius: half the length of the line.
      sigma: of the weights, in pixels.
      angle: of the line, in degrees; traced.
    """
    width = 2 * radius + 1
    step = np.arange(width)
    weight = np.exp(-(step**2) / (2 * sigma**2))
    turn = jnp.asarray(angle, x.dtype) * (np.pi / 180)
    down, right = (jnp.ceil(step * f(turn) - 0.5).astype(jnp.int32) for f in (jnp.sin, jnp.cos))
    padded = jnp.pad(x, ((width, width), (width, width), (0, 0)), mode="edge")

    def add(total: Array, at: tuple[Array, Array, Array]) -> tuple[Array, None]:
        w, d, r = at
        return total + w * jax.lax.dynamic_slice(padded, (width + d, width + r, 0), x.shape), None

    weights = jnp.asarray(weight / weight.sum(), x.dtype)
    return _loops.scan(add, jnp.zeros_like(x), (weights, down, right))[0]


def motion_blur(key: Any, x: Array, radius: int, sigma: int | float) -> Array:
    """A line at an angle between -45 and 45 degrees."""
    return jnp.clip(moved(x, radius, sigma, jax.random.uniform(key, (), x.dtype, -45.0, 45.0)), 0.0, 1.0)


def zoom_blur(key: Any, x: Array, end: int | float, step: int | float) -> Array:
    """The mean of the image and of its middle enlarged by each of ``arange(1, end, step)``."""
    del key
    factors = np.arange(1, end, step).tolist()
    rows, columns = (np.stack([zoomer(n, f) for f in factors]) for n in x.shape[:2])
    return jnp.clip((x + separable(x, rows, columns)) / (len(factors) + 1), 0.0, 1.0)
