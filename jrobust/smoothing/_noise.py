"""Noise to smooth with, and the smoothed function."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._tree import Closure, as_pytree, bind, is_traced
from jrobust.typing import Array, Float, PRNGKeyArray


@partial(jax.tree_util.register_dataclass, data_fields=["scale"], meta_fields=["draw", "radius", "norm", "name"])
@dataclasses.dataclass(frozen=True)
class Noise:
    """A smoothing distribution; a pytree with one leaf, so that levels can be swept without a recompile.

    Attributes:
      scale: the level, in input units.
      draw: ``(scale, key, x) -> noisy x``, structure.
      radius: ``(scale, p) -> radius`` in float64 on the host: how far a class of probability >= p > 1/2 goes on
        winning.
      norm: in which the radius is measured: the name of a threat of `jr.sets`.
      name: for tables.
    """

    scale: Any
    draw: Callable[[Any, Any, Any], Any]
    radius: Callable[[Any, Any], Any]
    norm: str
    name: str

    def sample(self, key: PRNGKeyArray, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """One noisy copy of one example."""
        return self.draw(self.scale, key, x)

    def certify(self, probability: Any) -> np.ndarray:
        """The certified radius (float64) for lower bounds on the top class's probability; 0 where they are <= 1/2."""
        p = np.asarray(probability, np.float64)
        return np.where(p > 0.5, self.radius(float(self.scale), np.maximum(p, 0.5)), 0.0)


def gaussian(sigma: Any) -> Noise:
    """Isotropic Gaussian noise, ``x + N(0, sigma^2)`` on every entry; certifies l2 radii.

    Args:
      sigma: standard deviation in input units, > 0 (0.12 to 1 for images in [0, 1]). A leaf.

    Guarantee: where the class has probability >= p under the noise, it stays the most likely one within l2 distance
      ``sigma Phi^-1(p)`` (Cohen et al., theorem 1; tight). Assumes real numbers: float32 rounding of ``x + noise`` is
      not accounted for.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019.

    >>> float(gaussian(0.5).certify(0.75)).__round__(4)
    0.3372
    """
    if not is_traced(sigma) and not (np.ndim(sigma) == 0 and np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma is one finite number > 0, got {sigma!r}")
    return Noise(sigma, _gaussian_draw, _gaussian_radius, "l2", "gaussian")


def _gaussian_draw(sigma: Any, key: PRNGKeyArray, x: Array) -> Array:
    return x + sigma * jax.random.normal(key, x.shape, x.dtype)


def _gaussian_radius(sigma: float, p: Any) -> Any:
    from scipy.special import ndtri

    return sigma * ndtri(p)


def smooth(f: Callable[[Any], Any], noise: Noise, n: int, *, batch_size: int = 128) -> Closure:
    """The smoothed function ``g(key, x) = mean_j f(x + noise_j)`` over ``n`` independent draws, for one example.

    A pytree like ``f``; pure and differentiable, under jit and vmap. To smooth probabilities, let ``f`` end in a
    softmax.

    Args:
      f: one example -> array (or pytree of arrays).
      noise: such as `gaussian`.
      n: draws, >= 1.
      batch_size: draws that are evaluated at once.

    Guarantee: none; a Monte Carlo estimate of the expectation. Certificates come from `certify`.

    >>> g = smooth(lambda x: jnp.sum(x**2), gaussian(1.0), 20_000, batch_size=20_000)
    >>> bool(abs(g(jax.random.key(0), jnp.zeros(3)) - 3) < 0.1)
    True
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size are >= 1, got {n} and {batch_size}")
    return bind(_smoothed, as_pytree(f), noise, n=int(n), batch_size=int(min(n, batch_size)))


def _smoothed(f: Any, noise: Noise, key: PRNGKeyArray, x: Any, *, n: int, batch_size: int) -> Any:
    def one(j: Array) -> Any:
        return f(noise.sample(jax.random.fold_in(key, j), x))

    draws = jnp.arange(n)
    out = jax.vmap(one)(draws) if n == batch_size else _loops.map(one, draws, batch_size=batch_size)
    return jax.tree.map(lambda a: a.mean(0), out)
