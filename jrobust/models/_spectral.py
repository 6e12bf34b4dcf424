"""Spectral normalisation of any affine layer, by power iteration on the map that it is."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jrobust._checks import check_count
from jrobust.models._layers import Constant, Normalise, Stack, flatten
from jrobust.typing import Array


def _unit(a: Array) -> Array:
    return a / jnp.maximum(jnp.linalg.norm(jnp.ravel(a)), 1e-12)


class Spectral(nnx.Module):
    """An affine layer divided by its spectral norm: ``A x + b`` becomes ``A x / sigma + b``.

    A direction is carried from pass to pass (in ``rest`` of `jrobust.nnx.functional`); each pass in training mode moves it by power
    iteration. Of a convolution it is the norm on images of this shape, strides and padding included, not that of the kernel as a matrix.

    Args:
      layer: affine, such as ``nnx.Linear`` or ``nnx.Conv``: ``layer(x[B, ...])``.
      shape: of one input.
      rngs: random streams, for the first direction.
      iterations: in each pass in training mode, >= 1.
      start: iterations when it is made, >= 1.

    Guarantee: none: power iteration comes from below, so sigma may be too small. `jr.bounds.lipschitz_constant` proves a constant.

    References:
      Miyato et al., Spectral normalization for generative adversarial networks, ICLR 2018; Farnia, Zhang & Tse, Generalizable adversarial
      training via spectral normalization, ICLR 2019 (the convolution's own operator).

    >>> layer = Spectral(nnx.Linear(2, 2, kernel_init=lambda *_: jnp.diag(jnp.array([3.0, 1.0])), rngs=nnx.Rngs(0)), (2,), rngs=nnx.Rngs(1))
    >>> print(jnp.round(layer(jnp.ones((1, 2))), 3))
    [[1.    0.333]]
    """

    def __init__(
        self,
        layer: Callable[..., Any],
        shape: Sequence[int],
        *,
        rngs: nnx.Rngs,
        iterations: int = 1,
        start: int = 15,
    ):
        check_count(iterations, "iterations", "Spectral")
        check_count(start, "start", "Spectral")
        self.layer, self.iterations = layer, iterations
        self.use_running_average = False  # as of BatchNorm: ``eval()`` and ``train()`` set it
        direction = _unit(jax.random.normal(rngs.params(), (1, *shape)))
        self.direction = Constant(self._moved(direction, start))

    def _linear(self) -> tuple[Callable[[Array], Array], Array]:
        offset = self.layer(jnp.zeros_like(self.direction[...]))
        return lambda v: self.layer(v) - offset, offset

    def _moved(self, v: Array, times: int) -> Array:
        """The direction after some iterations of ``v <- A^T A v``, a constant to a derivative."""
        zero = jnp.zeros_like(v)
        out, pull = jax.vjp(self.layer, zero)
        for _ in range(times):
            (v,) = pull(_unit(self.layer(v) - out))
            v = _unit(v)
        return jax.lax.stop_gradient(v)

    def __call__(self, x: Array) -> Array:
        """A batch through the layer, normalised."""
        if not self.use_running_average:
            self.direction[...] = self._moved(self.direction[...], self.iterations)
        linear, offset = self._linear()
        sigma = jnp.linalg.norm(jnp.ravel(linear(self.direction[...])))  # its derivative by A is u v^T, as published
        return (self.layer(x) - offset) / jnp.maximum(sigma, 1e-12) + offset


def spectral_mlp(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    widths: Sequence[int] = (256, 256),
    mean: Any = 0.0,
    std: Any = 1.0,
) -> Stack:
    """`mlp` with each layer divided by its spectral norm; `jr.bounds.lipschitz` certifies it (arguments as for `mlp`).

    References:
      Farnia, Zhang & Tse, Generalizable adversarial training via spectral normalization, ICLR 2019.

    >>> spectral_mlp((8, 8, 1), 10, rngs=nnx.Rngs(0))(jnp.zeros((3, 8, 8, 1))).shape
    (3, 10)
    """
    sizes = (prod(shape), *widths, classes)
    layers = [Spectral(nnx.Linear(a, b, rngs=rngs), (a,), rngs=rngs) for a, b in pairwise(sizes)]
    body = [part for layer in layers[:-1] for part in (layer, jax.nn.relu)]
    return Stack(Normalise(mean, std), [flatten, *body], layers[-1])
