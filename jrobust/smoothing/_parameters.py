"""Smoothing over the parameter of a transformation of images: brightness, contrast, translation, blur."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._tree import bind
from jrobust.smoothing._noise import Noise, check_level, normal_radius
from jrobust.typing import Array, Float, PRNGKeyArray


def brightness(sigma: Any) -> Noise:
    """One normal number added to every pixel; certifies brightness, ``x + b`` for ``|b| <= radius``.

    Args:
      sigma: standard deviation of b, in input units, > 0. A leaf.

    Guarantee: as `gaussian`, of the one parameter: two changes of brightness are one of their sum. The images are not clipped.

    References:
      Li, Weber, Xu, Rimanic, Kailkhura, Xie, Zhang, Li. TSS: transformation-specific smoothing for robustness certification. CCS 2021.

    >>> float(brightness(0.3).certify(0.9)).__round__(4)
    0.3845
    """
    return Noise(check_level(sigma, "sigma"), _brighter, normal_radius, "brightness", "brightness")


def contrast(sigma: Any) -> Noise:
    """Every pixel times one log-normal number; certifies contrast, ``x e^k`` for ``|k| <= radius``.

    Args:
      sigma: standard deviation of k, > 0. A leaf.

    Guarantee: as `gaussian`, of k: two changes of contrast are one of their sum. The images are not clipped.

    References:
      Li et al., TSS, CCS 2021.

    >>> float(contrast(0.3).certify(0.9)).__round__(4)
    0.3845
    """
    return Noise(check_level(sigma, "sigma"), _stronger, normal_radius, "log contrast", "contrast")


def brightness_contrast(sigma: Any, sigma_contrast: Any, *, contrast: Any) -> Noise:
    """Both at once, ``e^k (x + b)`` of normal b and k; certifies brightness together with every contrast up to a given one.

    Args:
      sigma: standard deviation of b, in input units, > 0. A leaf.
      sigma_contrast: standard deviation of k, > 0. A leaf.
      contrast: the largest ``|k|`` of the adversary, >= 0. Structure; the samples do not depend on it.

    Returns:
      A `Noise` whose radius (norm "brightness with log contrast c") is the largest ``|b|``.

    Guarantee: after ``e^k (x + b)`` the noise is that about (k, b) with ``e^-k sigma`` in place of sigma. What the scaling costs is
      bounded by the worst set of its likelihood ratio (``|B|`` large or small), what the shift costs as for `gaussian`; of k and -k the
      worse counts, and what lies between is no worse. The images are not clipped.

    References:
      Li et al., TSS, CCS 2021.

    >>> noises = [brightness_contrast(0.4, 0.4, contrast=k) for k in (0.0, 0.1, 0.3)]
    >>> [round(float(noise.certify(0.95)), 3) for noise in noises]
    [0.658, 0.564, 0.295]
    """
    if not (np.ndim(contrast) == 0 and 0 <= contrast < np.inf):
        raise ValueError(f"contrast is one finite number >= 0, got {contrast!r}")
    scale = check_level(sigma, "sigma"), check_level(sigma_contrast, "sigma_contrast")
    radius = bind(_with_contrast, contrast=float(contrast))
    return Noise(
        scale, _brighter_and_stronger, radius, f"brightness with log contrast {contrast:g}", "brightness contrast"
    )


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
    return Noise(check_level(sigma, "sigma"), _moved, normal_radius, "translation", "translation")


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


def _brighter_and_stronger(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
    b, k = jax.random.normal(key, (2,), x.dtype)
    return jnp.exp(scale[1] * k) * (x + scale[0] * b)


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


def _exponential(mean: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    return -mean * np.log1p(upper - lower)


def _with_contrast(scale: Any, lower: Any, upper: Any, shape: Any, norm: str, *, contrast: float) -> Any:
    from scipy.special import ndtri

    sigma, of_contrast = scale
    radii = []
    for k in (contrast, -contrast):
        lead = (ndtri(_rescaled(lower, k)) - ndtri(1 - _rescaled(1 - upper, k))) / 2
        left = np.maximum(np.maximum(lead, 0) ** 2 - (k / of_contrast) ** 2, 0)
        radii.append(sigma * min(np.exp(-k), 1.0) * np.sqrt(left))
    return np.minimum(*radii)


def _rescaled(p: Any, k: float) -> Any:
    """The least probability, once a normal variable is multiplied by e^-k, of a set that had p before."""
    from scipy.special import ndtr, ndtri

    if k >= 0:
        return 2 * ndtr(np.exp(k) * ndtri(p / 2))  # the set is |B| > t
    return 2 * ndtr(np.exp(k) * ndtri(0.5 + p / 2)) - 1  # |B| < t
