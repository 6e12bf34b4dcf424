"""Noise on every entry: Gaussian, shot, impulse, speckle."""

from typing import Any

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust.typing import Array

_BY_INVERSION = 60  # counts up to here are drawn by summing probabilities: exp(-60) is still a normal float32


def gaussian_noise(key: Any, x: Array, sd: Any) -> Array:
    """``x + sd N(0, 1)``."""
    return jnp.clip(x + sd * jax.random.normal(key, x.shape, x.dtype), 0.0, 1.0)


def shot_noise(key: Any, x: Array, photons: int) -> Array:
    """``Poisson(photons x) / photons``.

    A count beyond ``photons`` is clipped to white, so up to 60 photons the distribution function is inverted term by term, several
    times faster than rejection (uniforms of 23 bits: rarer counts than 1e-7 do not occur); beyond, `jax.random.poisson`.
    """
    rate = photons * jnp.clip(x, 0.0, 1.0)
    if photons > _BY_INVERSION:
        return jnp.clip(jax.random.poisson(key, rate).astype(x.dtype) / photons, 0.0, 1.0)
    u = jax.random.uniform(key, x.shape, x.dtype)

    def term(k: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, probability, below = state
        return count + (u >= below), (p := probability * rate / (k + 1)), below + p

    p0 = jnp.exp(-rate)
    count = _loops.fori_loop(0, photons, term, (jnp.zeros_like(x), p0, p0))[0]
    return count / photons


def impulse_noise(key: Any, x: Array, share: Any) -> Array:
    """Each entry black or white, evenly, with probability ``share``."""
    hit, white = jax.random.split(key)
    spots = jax.random.bernoulli(white, 0.5, x.shape).astype(x.dtype)
    return jnp.where(jax.random.uniform(hit, x.shape) < share, spots, x)


def speckle_noise(key: Any, x: Array, sd: Any) -> Array:
    """``x + x sd N(0, 1)``."""
    return jnp.clip(x + x * sd * jax.random.normal(key, x.shape, x.dtype), 0.0, 1.0)
