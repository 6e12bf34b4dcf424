"""Weather: fog, frost, snow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.corruptions._blur import moved
from jrobust.corruptions._linear import level, separable, zoomer
from jrobust.corruptions._noise import normals
from jrobust.typing import Array, Float

GREY = np.array([0.299, 0.587, 0.114])
_FROST = np.array([-0.08, 0.015, 0.065])  # how ice differs from grey: of the means of the authors' textures


def plasma(key: Any, size: int, decay: int | float) -> Float[Array, "S S"]:
    """A random landscape in [0, 1] by diamonds and squares, on a torus.

    Each level adds ``U(-w^2, w^2)``, where w is 100 at first and divided by ``decay`` from level to level.

    Args:
      key: typed.
      size: a power of two, >= 2.
      decay: the larger, the smoother.
    """
    return landscape(jax.random.uniform(key, (size * size - 1,), minval=-1.0, maxval=1.0), decay)


def landscape(draws: Array, decay: int | float) -> Float[Array, "S S"]:
    """The landscape of `plasma` of S^2 - 1 given numbers in [-1, 1]: 3 n^2 for the level of n = 1, 2, 4, ...; flat where all are 0."""
    grid, w = jnp.zeros((1, 1), draws.dtype), 100.0
    while (n := len(grid)) ** 2 <= len(draws):
        level_draws = draws[n * n - 1 : 4 * n * n - 1].reshape(3, n, n)
        middle_noise, right_noise, below_noise = w * w * level_draws
        pairs = grid + jnp.roll(grid, -1, 0)
        middle = (pairs + jnp.roll(pairs, -1, 1)) / 4 + middle_noise
        right = (middle + jnp.roll(middle, 1, 0) + grid + jnp.roll(grid, -1, 1)) / 4 + right_noise
        below = (middle + jnp.roll(middle, 1, 1) + grid + jnp.roll(grid, -1, 0)) / 4 + below_noise
        rows = jnp.stack([jnp.stack([grid, right], -1), jnp.stack([below, middle], -1)], 1)
        grid, w = rows.reshape(2 * n, 2 * n), w / decay
    grid = grid - jnp.min(grid)
    top = jnp.max(grid)
    return grid / jnp.where(top > 0, top, 1.0)


def power_of_two(n: int) -> int:
    """The least one >= n."""
    return 1 << max(n - 1, 1).bit_length()


def fog(key: Any, x: Array, thickness: Any, decay: int | float, least: int = 2) -> Array:
    """A landscape of `plasma` added, then darkened so that the brightest pixel keeps its range.

    Args:
      key: typed.
      x: image [H, W, C].
      thickness: of the fog.
      decay: of the landscape.
      least: side of the landscape, of which the corner is taken; at least the next power of two.
    """
    size = max(power_of_two(max(x.shape[:2])), least)
    return fogged(x, plasma(key, size, decay), thickness)


def fogged(x: Array, heights: Array, thickness: Any) -> Array:
    """The corner of a landscape added, then darkened so that the brightest pixel keeps its range."""
    top = jnp.max(x)
    added = thickness * heights[: x.shape[0], : x.shape[1], None].astype(x.dtype)
    return jnp.clip((x + added) * top / (top + thickness), 0.0, 1.0)


def _ice(key: Any, height: int, width: int) -> Float[Array, "H W 3"]:
    """A texture of bright ridges on a landscape, of the mean, spread and tint of photographs of frost."""
    for_plasma, for_light = jax.random.split(key)
    heights = plasma(for_plasma, max(power_of_two(max(height, width)), 32), 1.5)[:height, :width]
    ridges = (1 - jnp.abs(2 * heights - 1)) ** 4
    ridges = (ridges - jnp.mean(ridges)) / (jnp.std(ridges) + 1e-6)
    grey = jax.random.uniform(for_light, minval=0.5, maxval=0.8) + 0.11 * ridges
    return jnp.clip(grey[..., None] + _FROST.astype(np.float32), 0.0, 1.0)


def frost(key: Any, x: Array, share: Any, ice: Any) -> Array:
    """``share x + ice texture``, the texture drawn."""
    texture = _ice(key, *x.shape[:2])
    texture = texture if x.shape[2] == 3 else texture @ GREY.astype(np.float32)[:, None]
    return jnp.clip(share * x + ice * texture.astype(x.dtype), 0.0, 1.0)


def frost_from(textures: Any, key: Any, x: Array, share: Any, ice: Any) -> Array:
    """``share x + ice texture``, the texture a random piece of a random one of those given, [T, h, w, C]."""
    height, width, channels = x.shape
    which, *where = jax.random.split(key, 3)
    last = (textures.shape[1] - height, textures.shape[2] - width)
    if min(last) < 0 or textures.shape[3] != channels:
        raise ValueError(
            f"frost: textures {textures.shape[1:]} are smaller than the image {x.shape}, or of other channels"
        )
    row, column = (jax.random.randint(k, (), 0, n + 1) for k, n in zip(where, last, strict=True))
    at = jax.random.randint(which, (), 0, textures.shape[0])
    piece = jax.lax.dynamic_slice(textures, (at, row, column, 0), (1, *x.shape))[0]
    return jnp.clip(share * x + ice * piece.astype(x.dtype), 0.0, 1.0)


def flakes_of(
    key: Any, x: Array, mean: int | float, sd: int | float, zoom: int | float, least: int | float
) -> Float[Array, "H W 1"]:
    """Normal noise enlarged, all below ``least`` dropped; in bytes."""
    layer = mean + sd * normals(key, (*x.shape[:2], 1), x.dtype)
    layer = separable(layer, *(zoomer(n, zoom)[None] for n in x.shape[:2]))
    return level(jnp.clip(jnp.where(layer < least, 0.0, layer), 0.0, 1.0), jnp.floor)


def snowed(x: Array, flakes: Array, radius: int, sigma: int | float, angle: Any, share: float) -> Array:
    """Flakes moved along a line at ``angle`` degrees and laid on a whiter image twice, once upside down."""
    layer = level(moved(flakes, radius, sigma, angle))
    grey = x if x.shape[2] == 1 else x @ GREY.astype(x.dtype)[:, None]
    x = share * x + (1 - share) * jnp.maximum(x, 1.5 * grey + 0.5)
    return jnp.clip(x + layer + layer[::-1, ::-1], 0.0, 1.0)


def snow(
    key: Any,
    x: Array,
    mean: int | float,
    sd: int | float,
    zoom: int | float,
    least: int | float,
    radius: int,
    sigma: int | float,
    share: float,
) -> Array:
    """Flakes: normal noise enlarged, all below ``least`` dropped, moved along a line downwards; laid on a whiter image twice.

    Args:
      key: typed.
      x: image [H, W, C], C 1 or 3.
      mean: of the noise.
      sd: of the noise.
      zoom: by how much flakes are enlarged.
      least: what a flake must reach.
      radius: of the motion.
      sigma: of the motion.
      share: of the image that is not whitened.
    """
    flakes, wind = jax.random.split(key)
    layer = flakes_of(flakes, x, mean, sd, zoom, least)
    return snowed(x, layer, radius, sigma, jax.random.uniform(wind, (), x.dtype, -135.0, -45.0), share)
