"""How one perturbation meets an example, and what it costs: placements ``(key, x, p) -> image`` and penalties ``p -> number``.

For one example and differentiable; images are [H, W] or [H, W, C]. What is random is drawn anew from each key, so an ascent over
placements is an expectation over transformations.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jrobust._tree import as_pytree, bind, is_traced
from jrobust.sets._base import clamp
from jrobust.transforms._geometric import interpolate
from jrobust.typing import Array

__all__ = ["added", "disk", "masked", "pasted", "printability", "seen", "variation"]

Placement = Any
"""``(key, x, p) -> image`` of one example."""


def _added(lo: Any, hi: Any, key: Any, x: Array, p: Array) -> Array:
    del key
    return clamp(x + p, lo, hi)


def added(*, clip: tuple[Any, Any] = (0.0, 1.0)) -> Placement:
    """``clip(x + p)``: a perturbation of the example's shape, the same for all.

    Args:
      clip: ``(lo, hi)``, the box of images; an end may be None.

    >>> import jax.numpy as jnp
    >>> print(added()(None, jnp.array([0.25, 0.75]), jnp.array([0.5, 0.5])))
    [0.75 1.  ]
    """
    return bind(_added, *clip)


def _masked(mask: Any, lo: Any, hi: Any, key: Any, x: Array, p: Array) -> Array:
    return _added(lo, hi, key, x, mask * p)


def masked(mask: Any, *, clip: tuple[Any, Any] = (0.0, 1.0)) -> Placement:
    """``clip(x + mask * p)``: only where the mask is.

    Args:
      mask: in [0, 1], of the example's shape or broadcasting to it ([H, W, 1] for images with channels).
      clip: as in `added`.

    >>> import jax.numpy as jnp
    >>> print(masked(jnp.array([1.0, 0.0]))(None, jnp.zeros(2), jnp.array([0.5, 0.5])))
    [0.5 0. ]
    """
    return bind(_masked, jnp.asarray(mask), *clip)


def _grid(shape: tuple[int, ...], centre: Any, angle: Any, scale: Any) -> tuple[Array, Array]:
    """The pixels' own coordinates about ``centre``, turned back by ``angle`` degrees and divided by ``scale``."""
    i = (jnp.arange(shape[0]) + 0.5 - centre[0])[:, None]
    j = (jnp.arange(shape[1]) + 0.5 - centre[1])[None, :]
    cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    return (cos * i + sin * j) / scale, (cos * j - sin * i) / scale


def _lit(image: Array, contrast: Any, brightness: Any, lo: Any, hi: Any) -> Array:
    """In another light: contrast about the middle of the box, then brightness."""
    return jnp.clip(image + (image - 0.5 * (lo + hi)) * contrast + brightness, lo, hi)


def _drawn(key: Any, dtype: Any, scale: tuple[Any, Any], *reach: Any) -> tuple[Array, ...]:
    """Two shares in [0, 1), a size in ``scale``, and a number in [-r, r] for each r of ``reach``: one draw, which compiles faster."""
    u = jax.random.uniform(key, (3 + len(reach),), dtype)
    return u[:2], scale[0] + (scale[1] - scale[0]) * u[2], *(r * (2 * u[3 + i] - 1) for i, r in enumerate(reach))


def _pasted(numbers: tuple[Any, ...], clip: tuple[Any, Any], key: Any, x: Array, p: Array) -> Array:
    at, scale, rotation, contrast, brightness, alpha = numbers
    if x.ndim not in (2, 3) or p.ndim != x.ndim or p.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"pasted needs images [H, W] or [H, W, C] and a patch with as many channels; got {x.shape}, {p.shape}"
        )
    h, w = p.shape[:2]
    shares, size, angle, contrast, brightness = _drawn(key, x.dtype, scale, rotation, contrast, brightness)
    if at is None:
        cos, sin = jnp.abs(jnp.cos(jnp.deg2rad(angle))), jnp.abs(jnp.sin(jnp.deg2rad(angle)))
        extent = size * jnp.stack([h * cos + w * sin, h * sin + w * cos])
        frame = jnp.asarray(x.shape[:2], x.dtype)
        room = jnp.floor(frame - extent)
        # whole pixels, so that a patch neither scaled nor turned is pasted exactly
        corner = jnp.minimum(jnp.floor(shares * (room + 1)), room)
        centre = jnp.where(room >= 0, corner + extent / 2, frame / 2)
    else:
        centre = jnp.stack([at[0] + h / 2, at[1] + w / 2])
    u, v = _grid(x.shape, centre, angle, size)
    u, v = u + (h - 1) / 2, v + (w - 1) / 2
    alpha = jnp.ones((h, w, 1), x.dtype) if alpha is None else alpha.reshape(h, w, 1)
    lit = _lit(p, contrast, brightness, *clip).reshape(h, w, -1)
    both = interpolate(jnp.concatenate([alpha * lit, alpha], -1), u, v)
    return x * (1 - both[..., -1:]).reshape(*both.shape[:2], *(1,) * (x.ndim - 2)) + both[..., :-1].reshape(x.shape)


def pasted(
    *,
    at: tuple[Any, Any] | None = None,
    scale: tuple[Any, Any] = (1.0, 1.0),
    rotation: Any = 0.0,
    contrast: Any = 0.0,
    brightness: Any = 0.0,
    alpha: Any = None,
    clip: tuple[Any, Any] = (0.0, 1.0),
) -> Placement:
    """The perturbation is a patch [h, w] or [h, w, C] that covers a part of the image; bilinear, exact where nothing is random.

    Args:
      at: (row, column) of its upper left corner (of its centre less half its size, where it is scaled or turned). None: anywhere in
        the image, uniformly.
      scale: (least, most) size relative to its own.
      rotation: the largest angle in degrees, either way.
      contrast, brightness: the largest change of the patch's light, either way: values v become
        ``m + (1 + c) (v - m) + b`` with the middle m of the box.
      alpha: [h, w] in [0, 1], where the patch covers (a disk, a sticker's outline). None: all of it.
      clip: the box of images.

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jit(pasted(at=(0, 1)))(jax.random.key(0), jnp.zeros((2, 3)), jnp.full((1, 2), 0.5)))
    [[0.  0.5 0.5]
     [0.  0.  0. ]]
    """
    low, high = scale
    if not is_traced(low, high) and not 0 < float(low) <= float(high):
        raise ValueError(f"pasted: scale is (least, most) with 0 < least <= most, got {scale!r}")
    alpha = None if alpha is None else jnp.asarray(alpha)
    return bind(_pasted, (at, scale, rotation, contrast, brightness, alpha), clip)


def _seen(place: Any, numbers: tuple[Any, ...], clip: tuple[Any, Any], key: Any, x: Array, p: Array) -> Array:
    shift, scale, rotation, contrast, brightness = numbers
    inner, outer = jax.random.split(key)
    image = place(inner, x, p)
    if image.ndim not in (2, 3):
        raise ValueError(f"seen needs images [H, W] or [H, W, C], got shape {image.shape}")
    h, w = image.shape[:2]
    shares, size, angle, contrast, brightness = _drawn(outer, x.dtype, scale, rotation, contrast, brightness)
    centre = jnp.asarray([h / 2, w / 2], x.dtype) + shift * (2 * shares - 1)
    u, v = _grid(image.shape, centre, angle, size)
    u, v = jnp.clip(u + (h - 1) / 2, 0, h - 1), jnp.clip(v + (w - 1) / 2, 0, w - 1)
    view = interpolate(image.reshape(h, w, -1), u, v).reshape(image.shape)
    return _lit(view, contrast, brightness, *clip)


def seen(
    place: Placement,
    *,
    shift: Any = 0.0,
    scale: tuple[Any, Any] = (1.0, 1.0),
    rotation: Any = 0.0,
    contrast: Any = 0.0,
    brightness: Any = 0.0,
    clip: tuple[Any, Any] = (0.0, 1.0),
) -> Placement:
    """Another placement, seen by a camera: the whole image is shifted, scaled, turned and lit at random.

    Args:
      place: the placement; it gives an image.
      shift: the largest shift in pixels, along each axis and either way.
      scale, rotation, contrast, brightness: as in `pasted`, of the whole image; beyond its border the border goes on.
      clip: the box of images.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.arange(4.0).reshape(2, 2) / 4
    >>> print(jax.jit(seen(added()))(jax.random.key(0), x, jnp.zeros((2, 2))))  # nothing is random: the image itself
    [[0.   0.25]
     [0.5  0.75]]
    """
    return bind(_seen, as_pytree(place), (shift, scale, rotation, contrast, brightness), clip)


def _printability(weight: Any, colours: Array, p: Array) -> Array:
    """Printable colours are zeros of the product: the score is smooth around them, and no square root is taken at 0."""
    pixels = p.reshape(-1, colours.shape[1])
    square = jnp.sum((pixels[:, None, :] - colours) ** 2, -1)
    far = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return weight * jnp.sum(jnp.prod(far, axis=1))


def printability(colours: Any, weight: Any = 1.0) -> Any:
    """The non-printability score: over all pixels, the product of the distances to the printable colours; 0 if all are printable.

    Args:
      colours: [k, C], the colours that a printer has ([k, 1] of greys).
      weight: factor.

    >>> import jax.numpy as jnp
    >>> print(printability(jnp.array([[0.0], [1.0]]))(jnp.array([[0.0, 0.5], [1.0, 1.0]])))
    0.25

    References:
      Sharif et al., Accessorize to a crime, CCS 2016.
    """
    colours = jnp.asarray(colours)
    if colours.ndim != 2:
        raise ValueError(f"printability: colours must be [k, C], got shape {colours.shape}")
    return bind(_printability, weight, colours)


def _variation(weight: Any, p: Array) -> Array:
    right, down = p[:-1, 1:] - p[:-1, :-1], p[1:, :-1] - p[:-1, :-1]
    square = right**2 + down**2
    return weight * jnp.sum(jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0))


def variation(weight: Any = 1.0) -> Any:
    """Total variation, the sum of the lengths of the differences to the right and down: small where the perturbation is smooth.

    Args:
      weight: factor.

    >>> import jax.numpy as jnp
    >>> print(variation()(jnp.array([[0.0, 3.0], [4.0, 0.0]])))
    5.0

    References:
      Sharif et al., Accessorize to a crime, CCS 2016.
    """
    return bind(_variation, weight)


def disk(size: int) -> Array:
    """The ``alpha`` of a round patch: [size, size], 1 at the pixels whose centre lies within the inscribed circle.

    >>> print(disk(4))
    [[0. 1. 1. 0.]
     [1. 1. 1. 1.]
     [1. 1. 1. 1.]
     [0. 1. 1. 0.]]
    """
    away = jnp.arange(size) + 0.5 - size / 2
    return (jnp.hypot(away[:, None], away[None, :]) <= size / 2).astype(jnp.float32)
