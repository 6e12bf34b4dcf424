"""Spatter: drops of water or mud on the lens."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.corruptions._edges import canny_bytes, correlated
from jrobust.corruptions._linear import smoothed
from jrobust.corruptions._noise import normals
from jrobust.typing import Array, Bool, Float

_WATER = np.array([175, 238, 238]) / 255
_MUD = np.array([63, 42, 20]) / 255
_FAR = 20.0  # pixels: distances to an edge are cut there


def distances(edge: Bool[Array, "H W"]) -> Float[Array, "H W"]:
    """The Euclidean distance to the nearest entry that is set, at most 20."""
    far = 4 * _FAR**2

    def nearest(square: Array, axis: int) -> Array:
        """The least of ``square + k^2`` over the entries k away along the axis."""
        n = square.shape[axis]
        reach = min(int(_FAR), n - 1)
        padded = jnp.pad(square, [(reach, reach) if i == axis else (0, 0) for i in range(2)], constant_values=far)
        away = (
            jax.lax.slice_in_dim(padded, reach + k, reach + k + n, axis=axis) + k * k for k in range(-reach, reach + 1)
        )
        return reduce(jnp.minimum, away)

    # down a column first, then along rows: the square of a distance is a sum
    square = nearest(nearest(jnp.where(edge, 0.0, far), 0), 1)
    return jnp.minimum(jnp.sqrt(square), _FAR)


def equalised(x: Float[Array, "H W"], top: int) -> Float[Array, "H W"]:
    """Whole numbers 0..``top`` spread over 0..255 by their rank: OpenCV's equalizeHist."""
    counts = jnp.sum(x[..., None] == jnp.arange(top + 1), axis=(0, 1))
    first = jnp.argmax(counts > 0)
    rest = x.size - counts[first]
    up_to = jnp.cumsum(counts) - counts[first]
    spread = jnp.where(rest > 0, jnp.round(up_to * (255.0 / jnp.maximum(rest, 1))), first)
    return jnp.where(rest > 0, jnp.clip(spread, 0, 255), x.max())[x.astype(jnp.int32)]


def _drops(layer: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """How bright water is: lit from one side, by the distance to the rim of a drop."""
    box = np.full((3, 3), 1 / 9)
    away = distances(canny_bytes(layer, 50.0, 150.0))
    flat = equalised(jnp.floor(correlated(away, box, "reflect") + 1e-4), int(_FAR))
    lit = jnp.clip(correlated(flat, [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], "reflect"), 0.0, 255.0)
    return layer * jnp.round(correlated(lit, box, "reflect"))


def spatter(
    key: Any,
    x: Array,
    mean: int | float,
    sd: int | float,
    sigma: int | float,
    least: int | float,
    strength: int | float,
    mud: int,
    splash: Any = None,
) -> Array:
    """Smoothed normal noise above ``least`` is a drop, of water (``mud`` 0; ``strength`` bright) or mud (rims softened by ``strength``).

    Args:
      key: typed.
      x: image [H, W, C], C 1 or 3.
      mean: of the noise.
      sd: of the noise.
      sigma: of its smoothing, in pixels.
      least: what a drop must reach.
      strength: of water; sigma of the rim of mud.
      mud: 0 water, 1 mud.
      splash: colour, [C]; None: the authors'.
    """
    noise = mean + sd * normals(key, (*x.shape[:2], 1), x.dtype)
    layer = smoothed(noise, sigma)
    layer = jnp.where(layer < least, 0.0, layer)
    colour = (_MUD if mud else _WATER) if x.shape[2] == 3 else (_MUD[:1] if mud else _WATER[:1])
    colour = jnp.asarray(colour if splash is None else splash, x.dtype)
    if mud:
        m = smoothed((layer > least).astype(x.dtype), strength)
        m = jnp.where(m < 0.8, 0.0, m)
        return jnp.clip(x * (1 - m) + colour * m, 0.0, 1.0)
    m = _drops(jnp.floor(255 * jnp.clip(layer[..., 0], 0.0, 1.0)))
    # without a drop there is no brightest point; the authors divide by zero
    m = strength * m / jnp.where(jnp.max(m) > 0, jnp.max(m), 1.0)
    return jnp.clip(x + m[..., None] * colour, 0.0, 1.0)
