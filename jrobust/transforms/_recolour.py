"""One map from colours to colours for all pixels of an image: a lattice of displacements in CIELUV (ReColorAdv)."""

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._tree import bind
from jrobust.transforms._base import Shape, Transform, unchanged
from jrobust.typing import Array, Float

# sRGB under D65; the white point is rounded as in the authors' code
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9504]], np.float32)
_WHITE = 0.1978, 0.4683
_DARK = (6 / 29) ** 3


def luv(rgb: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """sRGB in [0, 1] as CIELUV with L / 100, (u + 100) / 200 and (v + 100) / 200."""
    bright = ((jnp.maximum(rgb, 0.04045) + 0.055) / 1.055) ** 2.4
    x, y, z = jnp.moveaxis(jnp.where(rgb < 0.04045, rgb / 12.92, bright) @ _XYZ.T, -1, 0)
    total = x + 15 * y + 3 * z
    unit = jnp.where(total > 0, total, 1.0)
    lightness = jnp.where(y < _DARK, (29 / 3) ** 3 * y, 116 * jnp.cbrt(jnp.maximum(y, _DARK)) - 16)
    u, v = 13 * lightness * (4 * x / unit - _WHITE[0]), 13 * lightness * (9 * y / unit - _WHITE[1])
    return jnp.stack([lightness / 100, (u + 100) / 200, (v + 100) / 200], axis=-1)


def rgb(colour: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """The nearest colours of a screen: the inverse of `luv`, clipped to [0, 1]."""
    lightness, u, v = 100 * colour[..., 0], 200 * colour[..., 1] - 100, 200 * colour[..., 2] - 100
    unit = 13 * jnp.where(lightness > 0, lightness, 1.0)
    u, v = u / unit + _WHITE[0], jnp.maximum(v / unit + _WHITE[1], 1e-3)  # of almost black anything may come out
    y = jnp.where(lightness <= 8, lightness * (3 / 29) ** 3, ((lightness + 16) / 116) ** 3)
    xyz = jnp.stack([y * 9 * u / (4 * v), y, y * (12 - 3 * u - 20 * v) / (4 * v)], axis=-1)
    linear = jnp.clip(jnp.clip(xyz, 0.0, 1.1) @ np.linalg.inv(_XYZ).T.astype(np.float32), 0.0, 1.0)
    bright = 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.clip(jnp.where(linear < 0.0031308, 12.92 * linear, bright), 0.0, 1.0)


def _displacement(lattice: Float[Array, "R S T 3"], colour: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """The lattice at colours in [0, 1]^3, trilinearly; outside, the nearest of it."""
    last = np.array(lattice.shape[:3]) - 1
    place = jnp.clip(colour, 0.0, 1.0) * last
    low = jnp.clip(jnp.floor(place), 0, np.maximum(last - 1, 0)).astype(jnp.int32)
    share = place - low
    out = jnp.zeros_like(colour)
    for corner in itertools.product((0, 1), repeat=3):
        weight = jnp.prod(jnp.where(np.array(corner) == 1, share, 1 - share), axis=-1)
        at = jnp.minimum(low + np.array(corner), last)
        out += weight[..., None] * lattice[at[..., 0], at[..., 1], at[..., 2]]
    return out


def _recoloured(image: Float[Array, "H W 3"], lattice: Float[Array, "R S T 3"]) -> Float[Array, "H W 3"]:
    colour = luv(image)
    return unchanged(jnp.all(lattice == 0), image, rgb(colour + _displacement(lattice, colour)))


def _flat(shape: Shape, *, resolution: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    del shape
    return (np.zeros((*resolution, 3)),)


def recolour(bound: float = 0.06, resolution: tuple[int, int, int] = (16, 32, 32)) -> Transform:
    """Every colour goes to another one, the same in the whole image (ReColorAdv). theta: displacements [R, S, T, 3] in CIELUV.

    The displacement of a colour is interpolated between the points of a lattice over L, u, v, L over 0..100, u and v over -100..100.

    Args:
      bound: the largest displacement of a channel, >= 0, in units of its range.
      resolution: points of the lattice along L, u and v, each >= 2 (structure).

    >>> import jax.numpy as jnp
    >>> darker = jnp.zeros((2, 2, 2, 3)).at[..., 0].set(-0.06)  # L from 100 to 94
    >>> print(np.asarray(recolour(resolution=(2, 2, 2)).render(jnp.ones((1, 1, 3)), darker).round(2)).ravel())
    [0.93 0.93 0.93]

    References:
      Laidlaw & Feizi, Functional adversarial attacks, NeurIPS 2019 (bound and resolution of the authors' code).
    Deviations:
      Only the bound: the published attack also penalises lattices that are not smooth.
    """
    for count in resolution:
        check_count(count, "resolution", "recolour", least=2)
    if not (isinstance(bound, int | float) and math.isfinite(bound) and bound >= 0):
        raise ValueError(f"recolour: bound must be a number >= 0, got {bound!r}")
    flat: Any = bind(_flat, resolution=tuple(resolution))
    return Transform("recolour", _recoloured, flat, ((-float(bound), float(bound)),), 3)
