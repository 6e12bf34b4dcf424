"""Noise to smooth with, and the smoothed function."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._tree import Closure, as_pytree, bind, is_traced
from jrobust.typing import Array, Float, PRNGKeyArray


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["scale"],
    meta_fields=["draw", "radius", "norm", "name", "domain"],
)
@dataclasses.dataclass(frozen=True)
class Noise:
    """A smoothing distribution; a pytree whose levels are leaves, so that they can be swept without a recompile.

    Attributes:
      scale: the level (an array or a tuple of them), in input units.
      draw: ``(scale, key, x) -> noisy x``, structure. The result may have another shape than x.
      radius: ``(scale, lower, upper, shape, norm) -> radius`` in float64 on the host: how far a class of probability >= lower goes on
        winning against others of probability <= upper < lower each; shape is that of an example.
      norm: in which the radius is measured: the name of a threat of `jr.sets`, or what a transformation's parameter is.
      name: for tables.
      domain: of the examples: "real", or "binary" (0 and 1 only).
    """

    scale: Any
    draw: Callable[[Any, Any, Any], Any]
    radius: Callable[[Any, Any, Any, Any, str], Any]
    norm: str
    name: str
    domain: Literal["real", "binary"] = "real"

    def sample(self, key: PRNGKeyArray, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """One noisy copy of one example."""
        return self.draw(self.scale, key, x)

    def certify(self, lower: Any, upper: Any = None, *, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The certified radius (float64).

        Args:
          lower: lower bounds on the probability of the class that wins.
          upper: upper bounds on that of any other; ``1 - lower`` where there are none, or where that is less.
          shape: of an example, for the noises and norms whose radius depends on the dimension.

        Returns:
          Radii, 0 where ``lower <= upper``: >= 0, increasing in ``lower``.

        Raises:
          ValueError: the radius depends on ``shape`` and there is none.
        """
        p, q = probabilities(lower, upper)
        leads = p > q
        scale = jax.tree.map(lambda a: np.asarray(a, np.float64), self.scale)
        p, q = np.where(leads, p, 0.75), np.where(leads, q, 0.25)  # any numbers, where there is no radius
        return np.where(leads, np.maximum(self.radius(scale, p, q, shape, self.norm), 0.0), 0.0)

    def __str__(self) -> str:
        """Name and levels, for tables."""
        levels = [np.asarray(a) for a in jax.tree.leaves(self.scale)]
        said = [f"{float(a):g}" if a.ndim == 0 else f"{a.min():g}..{a.max():g}" for a in levels]
        return " ".join((self.name, *said))


def probabilities(lower: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
    """A lower bound on the winner's probability and the upper one on any other's, which is at most the rest."""
    p = np.asarray(lower, np.float64)
    q = np.asarray(1.0 - p if upper is None else np.minimum(np.asarray(upper, np.float64), 1.0 - p))
    if not (((p >= 0) & (p <= 1)).all() and ((q >= 0) & (q <= 1)).all()):
        raise ValueError(f"bounds on probabilities lie in [0, 1], got lower {lower!r} and upper {upper!r}")
    return p, q


def gaussian(sigma: Any, *, norm: Literal["l2", "l1", "linf"] = "l2") -> Noise:
    """Isotropic Gaussian noise, ``x + N(0, sigma^2)`` on every entry; certifies l2 radii.

    Args:
      sigma: standard deviation in input units, > 0 (0.12 to 1 for images in [0, 1]). A leaf.
      norm: of the radii: "l2"; "l1", the same number; "linf", that over the square root of the dimension.

    Guarantee: where the class has probability >= p and every other one <= q under the noise, it stays the most likely one within l2
      distance ``sigma / 2 (Phi^-1(p) - Phi^-1(q))`` (Cohen et al., theorem 1; tight). Assumes real numbers: float32 rounding of
      ``x + noise`` is not accounted for.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019. Yang, Duan, Hu, Salman, Razenshteyn,
      Li. Randomized smoothing of all shapes and sizes. ICML 2020 (the other norms).

    >>> float(gaussian(0.5).certify(0.75)).__round__(4), float(gaussian(0.5).certify(0.75, 0.05)).__round__(4)
    (0.3372, 0.5798)
    """
    return Noise(check_level(sigma, "sigma"), _gaussian_draw, _gaussian_radius, check_norm(norm), "gaussian")


def anisotropic(sigma: Any, *, norm: Literal["l2", "l1", "linf"] = "l2") -> Noise:
    """Gaussian noise with a standard deviation of its own for every entry.

    Args:
      sigma: > 0, an array that broadcasts to an example. A leaf. The same for all examples: one chosen by looking at the example would
        make another smoothed classifier of every input, about which the radius says nothing.
      norm: of the radii.

    Guarantee: the class stays the most likely one within the ellipsoid ``||delta / sigma||_2 <= (Phi^-1(p) - Phi^-1(q)) / 2``; the radius
      is that of the largest ball inside, of the smallest sigma. The ellipsoid has the volume of a ball of ``radius`` times the geometric
      mean of sigma over its minimum.

    References:
      Eiras, Alfarra, Kumar, Torr, Dokania, Ghanem, Bibi. ANCER: anisotropic certification via sample-wise volume maximization. TMLR 2022.

    >>> float(anisotropic(jnp.array([0.5, 2.0])).certify(0.75)).__round__(4)
    0.3372
    """
    return Noise(
        check_level(sigma, "sigma", many=True), _gaussian_draw, _gaussian_radius, check_norm(norm), "anisotropic"
    )


def _gaussian_draw(sigma: Any, key: PRNGKeyArray, x: Array) -> Array:
    if (
        jnp.broadcast_shapes(jnp.shape(sigma), x.shape) != x.shape
    ):  # copies of x under one noise, which could be taken out again
        raise ValueError(f"sigma of shape {jnp.shape(sigma)} does not broadcast to an example of shape {x.shape}")
    return x + sigma * jax.random.normal(key, x.shape, x.dtype)


def _gaussian_radius(sigma: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    return across({"l2": normal_radius(np.min(sigma), lower, upper, shape, norm)}, norm, shape)


def normal_radius(sigma: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
    """``sigma / 2 (Phi^-1(lower) - Phi^-1(upper))``: of a shift of normal noise in its own norm."""
    from scipy.special import ndtri

    return sigma / 2 * (ndtri(lower) - ndtri(upper))


def across(radii: dict[str, Any], norm: str, shape: tuple[int, ...] | None) -> Any:
    """The largest ball of ``norm`` that lies in one of the balls ``radii`` of other norms: ``r d^min(0, 1/q - 1/p)``.

    >>> print(across({"l2": 1.0}, "l1", None), across({"l1": 1.0, "l2": 0.6}, "l2", (4,)))
    1.0 0.6
    """
    inverse = {"l1": 1.0, "l2": 0.5, "linf": 0.0}
    fits = []
    for other, radius in radii.items():
        power = min(0.0, inverse[norm] - inverse[other])
        if power and shape is None:
            raise ValueError(f"a radius of {other} in {norm} depends on the dimension: pass shape=, that of an example")
        fits.append(radius * np.prod(shape or (), dtype=float) ** power)
    return np.maximum.reduce(fits)


def check_level(level: Any, name: str, *, many: bool = False) -> Any:
    """A noise level > 0 (``many``: an array of them), looked at where it is concrete."""
    if not is_traced(level):
        a = np.asarray(level)
        if a.dtype.kind not in "fiu" or (a.ndim and not many) or not a.size or not (np.isfinite(a) & (a > 0)).all():
            raise ValueError(f"{name} is {'finite numbers' if many else 'one finite number'} > 0, got {level!r}")
    return level


def check_norm(norm: str) -> str:
    """One of those between which radii are converted."""
    if norm not in ("l1", "l2", "linf"):
        raise ValueError(f'norm is "l1", "l2" or "linf", got {norm!r}')
    return norm


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
    check_count(n, "n", "smooth")
    check_count(batch_size, "batch_size", "smooth")
    return bind(_smoothed, as_pytree(f), noise, n=int(n), batch_size=int(min(n, batch_size)))


def _smoothed(f: Any, noise: Noise, key: PRNGKeyArray, x: Any, *, n: int, batch_size: int) -> Any:
    def one(j: Array) -> Any:
        return f(noise.sample(jax.random.fold_in(key, j), x))

    draws = jnp.arange(n)
    out = jax.vmap(one)(draws) if n == batch_size else _loops.map(one, draws, batch_size=batch_size)
    return jax.tree.map(lambda a: a.mean(0), out)
