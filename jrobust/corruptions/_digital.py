"""Digital changes: brightness, contrast, saturation, pixelation, elastic distortion."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.corruptions._linear import boxes, level, mirrored, reflected, sampled, smoothed
from jrobust.corruptions._noise import uniforms
from jrobust.transforms._colour import from_hue, hue_of, value_and_chroma
from jrobust.typing import Array


def brightness(key: Any, x: Array, shift: Any) -> Array:
    """The value of HSV raised; hue and saturation stay. Of greys: the grey raised."""
    del key
    value = jnp.max(x, axis=-1, keepdims=True)
    raised = jnp.clip(value + shift, 0.0, 1.0)
    return jnp.where(value > 0, x * (raised / jnp.where(value > 0, value, 1.0)), raised)


def contrast(key: Any, x: Array, share: Any) -> Array:
    """Each channel pulled towards its mean."""
    del key
    mean = jnp.mean(x, axis=(0, 1), keepdims=True)
    return jnp.clip((x - mean) * share + mean, 0.0, 1.0)


def saturate(key: Any, x: Array, factor: Any, shift: Any) -> Array:
    """The saturation of HSV times a factor plus a shift; of greys, whose hue is 0, red."""
    del key
    value, chroma = value_and_chroma(x)
    saturation = chroma / jnp.where(value > 0, value, 1.0)
    return from_hue(hue_of(x, chroma), value, value * jnp.clip(saturation * factor + shift, 0.0, 1.0))


def pixelate(key: Any, x: Array, share: int | float) -> Array:
    """Shrunk to ``share`` of its sides by box means, enlarged by repeating; rounded to bytes as Pillow does, after each axis."""
    del key
    (down, up), (left, right) = (
        (boxes(n, max(int(n * share), 1)), boxes(max(int(n * share), 1), n)) for n in x.shape[:2]
    )
    across = level(jnp.einsum("jw,hwc->hjc", left.astype(np.float32), level(x), precision="highest"), _half_up)
    small = level(jnp.einsum("ih,hjc->ijc", down.astype(np.float32), across, precision="highest"), _half_up)
    return small[up.argmax(1)][:, right.argmax(1)].astype(x.dtype)


def _half_up(x: Array) -> Array:
    return jnp.floor(x + 0.5 + 1e-4)


def elastic_transform(
    key: Any,
    x: Array,
    strength: int | float,
    smoothness: int | float,
    corners: int | float,
    *,
    fold: Any = (mirrored, reflected),
) -> Array:
    """A random affine map, then a smooth random displacement of every pixel.

    Args:
      key: typed.
      x: image [H, W, C].
      strength: of the displacement, in shorter sides of the image.
      smoothness: sigma of the Gaussian filter over uniform displacements, likewise.
      corners: the most that each of three points moves, likewise.
      fold: what lies outside the image, for the affine map and for the displacement.
    """
    height, width = x.shape[:2]
    side = min(height, width)
    for_corners, *for_field = jax.random.split(key, 3)
    arm = side // 3
    middle = np.array([height // 2, width // 2])
    points = middle + arm * np.array([[1, 1], [-1, 1], [-1, -1]])  # (row, column)
    moved = points + corners * side * jax.random.uniform(for_corners, (3, 2), x.dtype, -1.0, 1.0)
    rows, columns = jnp.meshgrid(*(jnp.arange(n, dtype=x.dtype) for n in (height, width)), indexing="ij")
    # a pixel in coordinates of the moved triangle is fetched from the same coordinates of the first one
    a, b = moved[0] - moved[1], moved[2] - moved[1]
    r, c = rows - moved[1, 0], columns - moved[1, 1]
    det = a[0] * b[1] - a[1] * b[0]
    s, t = (r * b[1] - c * b[0]) / det, (c * a[0] - r * a[1]) / det
    x = sampled(x, points[1, 0] + 2 * arm * s, points[1, 1] - 2 * arm * t, fold[0])
    if strength:
        down, right = (
            strength
            * side
            * smoothed(uniforms(k, (height, width, 1), x.dtype, -1.0, 1.0), smoothness * side, "reflect", 3.0)[..., 0]
            for k in for_field
        )
        x = sampled(x, rows + down, columns + right, fold[1])
    return jnp.clip(x, 0.0, 1.0)
