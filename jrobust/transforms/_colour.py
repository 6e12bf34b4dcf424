"""What pixels look like: hue, saturation, brightness, contrast, colour filters. Images in [0, 1]; grey pixels have finite gradients."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._tree import bind
from jrobust.sets._base import check_clip
from jrobust.transforms._base import Shape, Transform, any_order, chain, unchanged
from jrobust.transforms._geometric import rotation
from jrobust.typing import Array, Float


def _zero(shape: Shape) -> tuple[np.ndarray, ...]:
    del shape
    return (np.zeros(()),)


def _one(shape: Shape) -> tuple[np.ndarray, ...]:
    del shape
    return (np.ones(()),)


def _two_zeros(shape: Shape) -> tuple[np.ndarray, ...]:
    del shape
    return (np.zeros(()), np.zeros(()))


def _around(ends: tuple[float, float], middle: float, by: str) -> tuple[float, float]:
    """A range that holds the identity."""
    lo, hi = check_clip(ends, by)
    if not lo <= middle <= hi:
        raise ValueError(f"{by}: the range must hold {middle:g}, where nothing changes; got {ends}")
    return float(lo), float(hi)


def value_and_chroma(image: Float[Array, "... 3"]) -> tuple[Array, Array]:
    """The largest channel, and how far the smallest lies below it."""
    value = jnp.max(image, axis=-1)
    return value, value - jnp.min(image, axis=-1)


def hue_of(image: Float[Array, "... 3"], chroma: Array) -> Array:
    """The hue in sixths of a turn; 0 (red) of grey."""
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    unit = jnp.where(chroma > 0, chroma, 1.0)
    from_red, from_green, from_blue = (g - b) / unit, (b - r) / unit + 2, (r - g) / unit + 4
    return jnp.where((r >= g) & (r >= b), from_red, jnp.where(g >= b, from_green, from_blue))


def from_hue(hue: Array, value: Array, chroma: Array) -> Float[Array, "... 3"]:
    k = (jnp.asarray([5.0, 3.0, 1.0], value.dtype) + hue[..., None]) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)


def _turned(image: Array, angle: Any) -> Array:
    value, chroma = value_and_chroma(image)
    out = from_hue(hue_of(image, chroma) + angle * (3 / math.pi), value, chroma)
    return unchanged(angle == 0, image, out)


def hue(radians: float = math.pi) -> Transform:
    """The hue of every pixel turned by one angle (HSV). theta: the angle in radians.

    Args:
      radians: the largest angle, in [0, pi]; pi is every hue.

    >>> import jax.numpy as jnp
    >>> print(np.asarray(hue().render(jnp.array([[[1.0, 0.0, 0.0]]]), 2 * math.pi / 3).ravel()).round(3))  # red becomes green
    [0. 1. 0.]

    References:
      Hsiung et al., Towards compositional adversarial robustness, CVPR 2023 (the range).
    """
    if not 0 <= radians <= math.pi:
        raise ValueError(f"hue: radians must lie in [0, pi], got {radians!r}")
    return Transform("hue", _turned, _zero, ((-float(radians), float(radians)),), 3)


def _saturated(image: Array, factor: Any) -> Array:
    value, chroma = value_and_chroma(image)
    most = value / jnp.where(chroma > 0, chroma, 1.0)  # saturation 1: the smallest channel is 0
    ratio = jnp.where(chroma > 0, jnp.minimum(factor, most), 1.0)
    out = jnp.maximum(value[..., None] - (value[..., None] - image) * ratio[..., None], 0.0)
    return unchanged(factor == 1, image, out)


def saturation(factor: tuple[float, float] = (0.7, 1.3)) -> Transform:
    """The saturation of every pixel times one factor (HSV; at most 1). theta: the factor.

    Args:
      factor: its range, >= 0, around 1.

    >>> import jax.numpy as jnp
    >>> print(np.asarray(saturation().render(jnp.array([[[0.8, 0.6, 0.4]]]), 0.5).ravel()).round(3))
    [0.8 0.7 0.6]

    References:
      Hsiung et al., Towards compositional adversarial robustness, CVPR 2023 (the range).
    """
    return Transform("saturation", _saturated, _one, (_factors(factor, "saturation"),), 3)


def _factors(factor: tuple[float, float], by: str) -> tuple[float, float]:
    lo, hi = _around(factor, 1.0, by)
    if lo < 0:
        raise ValueError(f"{by}: a factor is >= 0, got {factor}")
    return lo, hi


def _brighter(image: Array, shift: Any) -> Array:
    return jnp.clip(image + shift, 0.0, 1.0)


def brightness(shift: tuple[float, float] = (-0.2, 0.2)) -> Transform:
    """One number added to every entry, then clipped. theta: the number.

    Args:
      shift: its range, around 0.

    >>> import jax.numpy as jnp
    >>> print(np.asarray(brightness().render(jnp.array([[[0.5, 0.9]]]), 0.2).ravel()).round(3))
    [0.7 1. ]

    References:
      Hsiung et al., Towards compositional adversarial robustness, CVPR 2023 (the range).
    """
    return Transform("brightness", _brighter, _zero, (_around(shift, 0.0, "brightness"),))


def _stretched(image: Array, factor: Any) -> Array:
    return jnp.clip(image * factor, 0.0, 1.0)


def contrast(factor: tuple[float, float] = (0.7, 1.3)) -> Transform:
    """Every entry times one factor, then clipped. theta: the factor.

    Args:
      factor: its range, >= 0, around 1.

    >>> import jax.numpy as jnp
    >>> print(np.asarray(contrast().render(jnp.array([[[0.5, 0.9]]]), 1.2).ravel()).round(3))
    [0.6 1. ]

    References:
      Hsiung et al., Towards compositional adversarial robustness, CVPR 2023 (the range).
    """
    return Transform("contrast", _stretched, _one, (_factors(factor, "contrast"),))


def _moved(image: Array, delta: Any) -> Array:
    return jnp.clip(image + delta, 0.0, 1.0)


def _no_move(shape: Shape) -> tuple[np.ndarray, ...]:
    return (np.zeros(shape),)


def pixels(eps: float = 8 / 255) -> Transform:
    """Every entry moves by itself: the Linf ball as a transform, to be chained with others. theta: the displacement [H, W, C].

    >>> import jax.numpy as jnp
    >>> print(np.asarray(pixels(0.1).render(jnp.full((1, 1, 1), 0.95), jnp.full((1, 1, 1), 0.1)).ravel()).round(3))
    [1.]
    """
    _around((-eps, eps), 0.0, "pixels")
    return Transform("pixels", _moved, _no_move, ((-float(eps), float(eps)),))


def _shifted(image: Array, turns: Any, shift: Any) -> Array:
    value, chroma = value_and_chroma(image)
    share = chroma / jnp.where(value > 0, value, 1.0)
    out = from_hue(hue_of(image, chroma) + 6 * turns, value, value * jnp.clip(share + shift, 0.0, 1.0))
    return unchanged((turns == 0) & (shift == 0), image, out)


def hsv_shift(turns: float = 0.5, saturation: float = 1.0) -> Transform:
    """One shift of the hue and one of the saturation for all pixels (HSV); the value stays. theta: turns of hue, shift of saturation.

    A grey pixel has hue 0: a shift of saturation upwards makes it red, then the hue turns that.

    Args:
      turns: the largest turn of the hue, in [0, 1/2]; 1/2 is every hue.
      saturation: the largest shift of the saturation, in [0, 1].

    >>> import jax.numpy as jnp
    >>> print(np.asarray(hsv_shift().render(jnp.array([[[0.8, 0.4, 0.4]]]), 1 / 3, 0.25).ravel()).round(3))
    [0.2 0.8 0.2]

    References:
      Hosseini & Poovendran, Semantic adversarial examples, CVPR workshops 2018: the nearest paper.
    Deviations:
      The ranges are our own, by default the whole of both.
    """
    if not (0 <= turns <= 0.5 and 0 <= saturation <= 1):
        raise ValueError(
            f"hsv_shift: turns must lie in [0, 1/2] and saturation in [0, 1], got {turns!r} and {saturation!r}"
        )
    ranges = ((-float(turns), float(turns)), (-float(saturation), float(saturation)))
    return Transform("hsv-shift", _shifted, _two_zeros, ranges, 3)


def _filtered(image: Float[Array, "H W C"], slopes: Float[Array, "C K"]) -> Float[Array, "H W C"]:
    pieces = slopes.shape[1]
    ends = jnp.cumsum(slopes, axis=1)
    piece = jnp.clip(jnp.floor(image * pieces), 0, pieces - 1)
    at = piece.astype(jnp.int32)
    channel = jnp.arange(image.shape[2])
    slope = slopes[channel, at]
    # the end of a piece, and back from there: the curve meets 1 at 1
    out = (ends[channel, at] - slope * (piece + 1 - image * pieces)) / ends[:, -1]
    return unchanged(jnp.all(slopes == 1), image, jnp.clip(out, 0.0, 1.0))


def _straight(shape: Shape, *, pieces: int) -> tuple[np.ndarray, ...]:
    return (np.ones((shape[2], pieces)),)


def colour_filter(eps: float = 8.0, pieces: int = 64) -> Transform:
    """One monotone curve for each channel, piecewise linear from 0 to 1 (ACE). theta: the slopes [C, K], up to a common factor.

    ``F(x) = sum_k theta_k clip(K x - k, 0, 1) / sum_k theta_k``.

    Args:
      eps: the largest slope where the least is 1, >= 1; 1 changes nothing.
      pieces: K, >= 1 (structure).

    >>> import jax.numpy as jnp
    >>> print(np.asarray(colour_filter(pieces=2).render(jnp.array([[[0.25], [0.5], [1.0]]]), jnp.array([[3.0, 1.0]])).ravel()).round(3))
    [0.375 0.75  1.   ]

    References:
      Zhao, Liu & Larson, Adversarial colour enhancement: generating unrestricted adversarial images by optimizing a colour filter,
      BMVC 2020.
    Deviations:
      Climbed by the attack at hand, such as `jr.attacks.pgd` in signs; ACE-PGD normalises the gradient by its L2 norm. Not quantised.
    """
    check_count(pieces, "pieces", "colour_filter")
    if not (isinstance(eps, int | float) and math.isfinite(eps) and eps >= 1):
        raise ValueError(f"colour_filter: eps must be a number >= 1 (1 changes nothing), got {eps!r}")
    return Transform("colour-filter", _filtered, bind(_straight, pieces=pieces), ((1.0, float(eps)),))


def caa(*, order: tuple[int, ...] | None = (0, 1, 2, 3, 4, 5), eps: Any = 8 / 255) -> Transform:
    """Six changes in turn: hue, saturation, rotation (10 degrees), brightness, contrast, and every entry by itself (Linf).

    Args:
      order: of those six, by number, the first one on the image itself; fewer leave some out. None: any order of all, see `any_order`.
      eps: the Linf radius.

    >>> caa(order=(2, 3)).name
    'rotation+brightness'

    References:
      Hsiung, Tsai, Chen & Ho, Towards compositional adversarial robustness: generalizing adversarial training to composite semantic
      perturbations, CVPR 2023 (the ranges).
    Deviations:
      The order is given, drawn, or searched exhaustively; the paper's attack learns a schedule. All parameters are climbed at once,
      theirs one operation after another.
    """
    all_six = (hue(), saturation(), rotation(10.0), brightness(), contrast(), pixels(eps))
    if order is None:
        return any_order(*all_six, name="caa-any-order")
    if not order or len(set(order)) != len(order) or not set(order) <= set(range(6)):
        raise ValueError(f"caa: order is made of different numbers 0..5, got {order!r}")
    return chain(*(all_six[i] for i in order), name="caa" if order == (0, 1, 2, 3, 4, 5) else None)


def caa_any_order(*, eps: Any = 8 / 255) -> Transform:
    """`caa` in any of its 720 orders.

    >>> len(caa_any_order().ranges)
    7
    """
    return caa(order=None, eps=eps)
