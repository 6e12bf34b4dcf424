"""Where pixels come from: rotation, translation, flow fields. Bilinear, zeros from outside the image."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust.transforms._base import Shape, Transform
from jrobust.typing import Array, Float


def interpolate(
    image: Float[Array, "H W C"], rows: Float[Array, "h w"], columns: Float[Array, "h w"]
) -> Float[Array, "h w C"]:
    """The image at fractional places, bilinearly; 0 outside. At whole places it is the pixel itself, to the bit.

    >>> import jax.numpy as jnp
    >>> image = jnp.array([[0.0, 1.0]])[..., None]
    >>> print(interpolate(image, jnp.zeros((1, 3)), jnp.array([[0.25, 1.0, 1.5]])).ravel())
    [0.25 1.   0.5 ]
    """
    height, width = image.shape[:2]
    top, left = jnp.floor(rows), jnp.floor(columns)
    below, right = rows - top, columns - left

    def corner(r: Array, c: Array, weight: Array) -> Array:
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        at = jnp.clip(r, 0, height - 1).astype(jnp.int32), jnp.clip(c, 0, width - 1).astype(jnp.int32)
        return jnp.where(inside, weight, 0.0).astype(image.dtype)[..., None] * image[at]

    return (
        corner(top, left, (1 - below) * (1 - right))
        + corner(top, left + 1, (1 - below) * right)
        + corner(top + 1, left, below * (1 - right))
        + corner(top + 1, left + 1, below * right)
    )


def _places(image: Array) -> tuple[Array, Array]:
    """The row and the column of each pixel."""
    rows, columns = jnp.meshgrid(*(jnp.arange(n, dtype=image.dtype) for n in image.shape[:2]), indexing="ij")
    return rows, columns


def rotated(image: Float[Array, "H W C"], degrees: Any, shift: Any = None) -> Float[Array, "H W C"]:
    """The image turned counter-clockwise about its centre, then shifted by ``(down, right)`` pixels; one interpolation for both."""
    rows, columns = _places(image)
    middle = tuple((n - 1) / 2 for n in image.shape[:2])
    down, right = (0.0, 0.0) if shift is None else (shift[0], shift[1])
    y, x = rows - middle[0] - down, columns - middle[1] - right
    angle = jnp.asarray(degrees, image.dtype) * (math.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return interpolate(image, cos * y + sin * x + middle[0], cos * x - sin * y + middle[1])


def _shifted(image: Array, shift: Array) -> Array:
    rows, columns = _places(image)
    return interpolate(image, rows - shift[0], columns - shift[1])


def _nothing(shape: Shape) -> tuple[np.ndarray, ...]:
    del shape
    return (np.zeros(()),)


def _nowhere(shape: Shape) -> tuple[np.ndarray, ...]:
    del shape
    return (np.zeros(2),)


def _neither(shape: Shape) -> tuple[np.ndarray, ...]:
    return (*_nothing(shape), *_nowhere(shape))


def _reach(reach: Any, what: str, by: str) -> float:
    if not (isinstance(reach, int | float) and math.isfinite(reach) and reach >= 0):
        raise ValueError(f"{by}: {what} must be a number >= 0, got {reach!r}")
    return float(reach)


def rotation(degrees: float = 30.0) -> Transform:
    """Rotation about the centre, in either direction. theta: the angle, in degrees, counter-clockwise.

    Args:
      degrees: the largest angle, >= 0; CAA takes 10.

    >>> import jax.numpy as jnp
    >>> image = jnp.array([[1.0, 2.0], [3.0, 4.0]])[..., None]
    >>> print(np.asarray(rotation().render(image, 90.0)[..., 0]).round(3))
    [[2. 4.]
     [1. 3.]]
    """
    degrees = _reach(degrees, "degrees", "rotation")
    return Transform("rotation", rotated, _nothing, ((-degrees, degrees),))


def translation(pixels: float = 3.0) -> Transform:
    """Translation, whole pixels or parts of them; zeros move in. theta: ``(down, right)`` in pixels.

    Args:
      pixels: the largest shift along either axis, >= 0.

    >>> import jax.numpy as jnp
    >>> print(np.asarray(translation().render(jnp.array([[1.0, 2.0]])[..., None], jnp.array([0.0, 0.5])).ravel()).round(3))
    [0.5 1.5]
    """
    pixels = _reach(pixels, "pixels", "translation")
    return Transform("translation", _shifted, _nowhere, ((-pixels, pixels),))


def rotation_translation(degrees: float = 30.0, pixels: float = 3.0) -> Transform:
    """Rotation, then translation, in one interpolation. theta: the angle in degrees, and ``(down, right)`` in pixels.

    Args:
      degrees: the largest angle, >= 0.
      pixels: the largest shift along either axis, >= 0; 3 is about a tenth of a CIFAR-10 image.

    References:
      Engstrom et al., Exploring the landscape of spatial robustness, ICML 2019. Ranges are those of the authors' CIFAR-10 code,
      whose grid is ``jr.attacks.grid(points=(31, 5, 5))`` and whose worst of 10 is ``jr.attacks.sampling(samples=10)``.
    Deviations:
      Where an attack climbs, a step is in units of each range, angle and shift together.
    """
    degrees, pixels = (_reach(a, n, "rotation_translation") for a, n in ((degrees, "degrees"), (pixels, "pixels")))
    return Transform("rotation-translation", rotated, _neither, ((-degrees, degrees), (-pixels, pixels)))


def _flowed(image: Array, flow: Array) -> Array:
    rows, columns = _places(image)
    height, width = image.shape[:2]
    return interpolate(image, rows + flow[..., 0] * (height / 2), columns + flow[..., 1] * (width / 2))


def _still(shape: Shape) -> tuple[np.ndarray, ...]:
    return (np.zeros((*shape[:2], 2)),)


def flow(bound: float = 0.05) -> Transform:
    """A flow field: each pixel is fetched from a place near its own. theta: [H, W, 2], (down, right) to fetch from, in half images.

    Args:
      bound: the largest entry of the field, >= 0, where 1 is half the height or width.

    References:
      Xiao et al., Spatially transformed adversarial examples, ICLR 2018.
      Laidlaw & Feizi, Functional adversarial attacks, NeurIPS 2019, whose code bounds a flow field by 0.05 in these units.
    Deviations:
      stAdv penalises how rough the field is, and does not bound it. Here it is bounded and nothing keeps it smooth; what comes from
      outside the image is 0.
    """
    bound = _reach(bound, "bound", "flow")
    return Transform("flow", _flowed, _still, ((-bound, bound),))
