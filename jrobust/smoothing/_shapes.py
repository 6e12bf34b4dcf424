"""Noise of other shapes than the Gaussian: exponential in any norm (Laplace), uniform in a cube or a ball."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._tree import bind
from jrobust.smoothing._noise import Noise, across, check_level, check_norm
from jrobust.typing import Array, PRNGKeyArray

Norm = Literal["l1", "l2", "linf"]


def laplace(scale: Any, *, norm: Norm = "l1") -> Noise:
    """Laplace noise on every entry, of density ``exp(-||z||_1 / scale)``; certifies l1 radii: `exponential` of the l1 norm.

    Args:
      scale: > 0, in input units; the standard deviation is ``sqrt(2) scale``. A leaf.
      norm: of the radii.

    References:
      Teng, Lee, Yuan. l1 adversarial robustness certificates: a randomized smoothing approach. 2020. Yang et al., Randomized smoothing
      of all shapes and sizes, ICML 2020.

    >>> float(laplace(1.0).certify(0.75)).__round__(4)
    0.6931
    """
    return Noise(check_level(scale, "scale"), _laplace_draw, bind(_ratio_radius, of="l1"), check_norm(norm), "laplace")


def exponential(scale: Any, *, of: Norm = "linf", norm: Norm | None = None) -> Noise:
    """Noise of density ``exp(-||z|| / scale)``, with any of the three norms inside; certifies radii in that norm.

    Args:
      scale: > 0, in input units; the noise's own norm is ``d scale`` in the mean, d the dimension. A leaf.
      of: the norm in the density; "l1" is `laplace`.
      norm: of the radii; by default that of the density.

    Guarantee: a step of norm r changes the density by a factor of at most ``exp(r / scale)``. So where the class has probability >= p and
      every other one <= q, it stays the most likely one within ``scale max(-log(1 - p + q), log(p / q) / 2)``.

    References:
      Yang et al., Randomized smoothing of all shapes and sizes, ICML 2020; Teng, Lee, Yuan 2020 (with q); Hardt & Talwar, On the
      geometry of differential privacy, STOC 2010 (how to draw it).

    >>> float(exponential(1.0, of="l2").certify(0.75)).__round__(4)
    0.6931
    """
    if check_norm(of) == "l1":
        return laplace(scale, norm=norm or "l1")
    draw, radius = _l2_draw if of == "l2" else _linf_draw, bind(_ratio_radius, of=of)
    return Noise(check_level(scale, "scale"), draw, radius, check_norm(norm or of), f"exponential {of}")


def uniform(width: Any, *, norm: Norm = "l1") -> Noise:
    """Uniform noise in ``[-width, width]`` on every entry; certifies l1 radii.

    Args:
      width: > 0, in input units; the standard deviation is ``width / sqrt(3)``. A leaf.
      norm: of the radii; "linf" has a formula of its own.

    Guarantee: the noise of two examples overlaps in a box of volume ``prod(1 - |delta_i| / (2 width))``, at least
      ``1 - ||delta||_1 / (2 width)``; the class stays the most likely one while that is above ``1 - (p - q) / 2``: within
      ``width (p - q)`` in l1 and ``2 width (1 - (1 - (p - q) / 2)^(1/d))`` in linf.

    References:
      Yang et al., Randomized smoothing of all shapes and sizes, ICML 2020.

    >>> float(uniform(1.0).certify(0.75)), float(uniform(1.0, norm="linf").certify(0.75, shape=(2,))).__round__(4)
    (0.5, 0.2679)
    """
    return Noise(check_level(width, "width"), _uniform_draw, _uniform_radius, check_norm(norm), "uniform")


def uniform_ball(size: Any, *, norm: Norm = "l2") -> Noise:
    """Uniform noise in the l2 ball of radius ``size``; certifies l2 radii.

    Args:
      size: > 0, in input units. A leaf.
      norm: of the radii.

    Guarantee: the noise of two examples overlaps in two caps of the ball; the class stays the most likely one while their share is above
      ``1 - (p - q) / 2``: within ``size (2 - 4 I^-1(1/2 - (p - q) / 4))``, I the incomplete beta function of ``(d + 1) / 2`` twice.

    References:
      Yang et al., Randomized smoothing of all shapes and sizes, ICML 2020.

    >>> float(uniform_ball(1.0).certify(0.75, shape=(1,)))  # in one dimension the same as `uniform`
    0.5
    """
    return Noise(check_level(size, "size"), _ball_draw, _ball_radius, check_norm(norm), "uniform ball")


def _laplace_draw(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
    return x + scale * jax.random.laplace(key, x.shape, x.dtype)


def _linf_draw(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
    size, where = jax.random.split(key)
    cube = jax.random.uniform(where, x.shape, x.dtype, -1.0, 1.0)
    return x + scale * jax.random.gamma(size, x.size + 1.0, dtype=x.dtype) * cube


def _l2_draw(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
    size, where = jax.random.split(key)
    return x + scale * jax.random.gamma(size, float(x.size), dtype=x.dtype) * _direction(where, x)


def _ball_draw(size: Any, key: PRNGKeyArray, x: Array) -> Array:
    far, where = jax.random.split(key)
    return x + size * jax.random.uniform(far, (), x.dtype) ** (1.0 / x.size) * _direction(where, x)


def _direction(key: PRNGKeyArray, x: Array) -> Array:
    z = jax.random.normal(key, x.shape, x.dtype)
    return z / jnp.sqrt(jnp.sum(z**2))


def _uniform_draw(width: Any, key: PRNGKeyArray, x: Array) -> Array:
    return x + width * jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)


def _ratio_radius(scale: Any, lower: Any, upper: Any, shape: Any, norm: str, *, of: str) -> Any:
    """Of any noise whose density changes by at most ``exp(r / scale)`` over a step of r in the norm ``of``."""
    with np.errstate(divide="ignore"):
        native = scale * np.maximum(-np.log(1 - lower + upper), np.log(lower / upper) / 2)
    return across({of: native}, norm, shape)


def _uniform_radius(width: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    native = {"l1": width * (lower - upper)}
    if norm != "l1":
        d = np.prod(_known(shape, "uniform noise"), dtype=float)
        native["linf"] = 2 * width * -np.expm1(np.log1p(-(lower - upper) / 2) / d)
    return across(native, norm, shape)


def _ball_radius(size: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    from scipy.special import betaincinv

    half = (np.prod(_known(shape, "uniform noise in a ball"), dtype=float) + 1) / 2
    return across({"l2": size * (2 - 4 * betaincinv(half, half, 0.5 - (lower - upper) / 4))}, norm, shape)


def _known(shape: tuple[int, ...] | None, who: str) -> tuple[int, ...]:
    if shape is None:
        raise ValueError(f"the radius of {who} depends on the dimension: pass shape=, that of an example")
    return shape
