"""Smoothing over the parameter of a transformation of images: brightness, contrast, translation, blur."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.smoothing._noise import Noise, check_level
from jrobust.typing import Array, Float, PRNGKeyArray


def brightness(sigma: Any) -> Noise:
    """One normal number added to every pixel; certifies brightness, ``x + b`` for |b| <= radius.

    Args:
      sigma: standard deviation of b, in input units, > 0. A leaf.

    Guarantee: as `gaussian`, of the one parameter: two changes of brightness are one of their sum. The images are not clipped.

    References:
      Li, Weber, Xu, Rimanic, Kailkhura, Xie, Zhang, Li. TSS: transformation-specific smoothing for robustness certification. CCS 2021.

    >>> float(brightness(0.3).certify(0.9)).__round__(4)
    0.3845
    """
    return Noise(check_level(sigma, "sigma"), _brighter, _normal, "brightness", "brightness")


def contrast(sigma: Any) -> Noise:
    """Every pixel times one log-normal number; certifies contrast, ``x e^k`` for |k| <= radius.

    Args:
      sigma: standard deviation of k, > 0. A leaf.

    Guarantee: as `gaussian`, of k: two changes of contrast are one of their sum. The images are not clipped.

    References:
      Li et al., TSS, CCS 2021.

    >>> float(contrast(0.3).certify(0.9)).__round__(4)
    0.3845
    """
    return Noise(check_level(sigma, "sigma"), _stronger, _normal, "log contrast", "contrast")


def translation(sigma: Any) -> Noise:
    """Images [H, W, C] moved by a rounded normal vector, around the edges; certifies translations by whole pixels.

    Args:
      sigma: standard deviation in pixels of either coordinate, > 0. A leaf.

    Guarantee: for whole vectors v of length at most the radius in l2: moving by v and then by a rounded normal vector t is moving by the
      rounded v + t, so that it follows from `gaussian`, of t. What leaves the image comes in on the other side.

    References:
      Li et al., TSS, CCS 2021.

    Deviations: around the edges, where translations add up exactly; TSS pads by reflection.

    >>> float(translation(2.0).certify(0.9)).__round__(4)
    2.5631
    """
    return Noise(check_level(sigma, "sigma"), _moved, _normal, "translation", "translation")


def blur(mean: Any) -> Noise:
    """Images [H, W, C] under Gaussian blur of exponential variance; certifies blur of every variance up to the radius.

    Args:
      mean: of the variance, in square pixels, > 0. A leaf.

    Guarantee: for ``blurred(x, v)`` with 0 <= v <= radius: two blurs are one of the sum of their variances, and of an exponential variable
      t + v has the likelihood ratio e^(v / mean) above v and 0 below. So the class wins while ``v < -mean log(1 - p + q)``. Tight.

    References:
      Li et al., TSS, CCS 2021.

    Deviations: the blur goes around the edges, in the frequency domain, where variances add up exactly.

    >>> float(blur(2.0).certify(0.9)).__round__(4)
    3.2189
    """
    return Noise(check_level(mean, "mean"), _blurred, _exponential, "blur variance", "blur")


def blurred(x: Float[Array, "h w c"], variance: Any) -> Float[Array, "h w c"]:
    """An image under Gaussian blur around its edges: each frequency times ``exp(-variance |w|^2 / 2)``.

    Args:
      x: image [H, W, C].
      variance: in square pixels, >= 0.

    >>> blurred(jnp.zeros((4, 4, 1)).at[1, 1].set(1.0), 0.5).sum().round(3).item()
    1.0
    """
    height, width = x.shape[:2]
    down = 2 * jnp.pi * jnp.fft.fftfreq(height)[:, None]
    across = 2 * jnp.pi * jnp.fft.rfftfreq(width)
    damped = jnp.fft.rfft2(x, axes=(0, 1)) * jnp.exp(-variance * (down**2 + across**2) / 2)[..., None]
    return jnp.fft.irfft2(damped, (height, width), axes=(0, 1)).astype(x.dtype)


def _brighter(sigma: Any, key: PRNGKeyArray, x: Array) -> Array:
    return x + sigma * jax.random.normal(key, (), x.dtype)


def _stronger(sigma: Any, key: PRNGKeyArray, x: Array) -> Array:
    return x * jnp.exp(sigma * jax.random.normal(key, (), x.dtype))


def _moved(sigma: Any, key: PRNGKeyArray, x: Array) -> Array:
    _check_image(x)
    t = jnp.round(sigma * jax.random.normal(key, (2,))).astype(jnp.int32)
    return jnp.roll(x, t, axis=(0, 1))


def _blurred(mean: Any, key: PRNGKeyArray, x: Array) -> Array:
    _check_image(x)
    return blurred(x, mean * jax.random.exponential(key, (), x.dtype))


def _check_image(x: Array) -> None:
    if x.ndim != 3:
        raise ValueError(f"an image is [H, W, C], got shape {tuple(x.shape)}")


def _normal(sigma: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    from scipy.special import ndtri

    return sigma / 2 * (ndtri(lower) - ndtri(upper))


def _exponential(mean: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    return -mean * np.log1p(upper - lower)
