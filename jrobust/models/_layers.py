"""What every model here shares: a normaliser, an initialiser, a stack of layers with a head."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jrobust.typing import Array, Float


@partial(jax.jit, static_argnames=("shape", "dtype", "gain"))
def _normal(key: Any, shape: tuple[int, ...], dtype: Any, *, gain: float) -> Array:
    return (gain / prod(shape[:-1])) ** 0.5 * jax.random.normal(key, shape, dtype)


# N(0, gain / fan_in), He's for layers before a ReLU and LeCun's for the others: one compiled program for a shape, where
# the initialisers of JAX dispatch operation by operation.
he, lecun = partial(_normal, gain=2.0), partial(_normal, gain=1.0)


class Constant(nnx.Variable):
    """An array of a model that is not trained."""


class Normalise(nnx.Module):
    """``(x - mean) / std`` with constants of the data set: inside the model, so that eps stays in pixel units."""

    def __init__(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0):
        self.mean, self.std = Constant(jnp.asarray(mean, jnp.float32)), Constant(jnp.asarray(std, jnp.float32))

    def __call__(self, x: Array) -> Array:
        """Normalise the channels, the last axis."""
        return (x - self.mean[...]) / self.std[...]


class Stack(nnx.Module):
    """Normalise, the ``body`` in order, then the linear ``head``: a feed-forward classifier."""

    def __init__(self, normalise: Normalise, body: Sequence[Any], head: Callable[..., Any]):
        self.normalise, self.body, self.head = normalise, nnx.List(body), head

    def _cut(self) -> int:
        """How many parts of the body end with the first layer that has weights."""
        return 1 + next((i for i, layer in enumerate(self.body) if isinstance(layer, nnx.Module)), -1)

    def begin(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """What the first layer makes of a batch in [0, 1]."""
        x = self.normalise(x)
        for layer in self.body[: self._cut()]:
            x = layer(x)
        return x

    def finish(self, h: Float[Array, "b ..."]) -> Float[Array, "b k"]:
        """Logits from the output of the first layer."""
        for layer in self.body[self._cut() :]:
            h = layer(h)
        return self.head(h)

    def __call__(self, x: Float[Array, "b ..."]) -> Float[Array, "b k"]:
        """Logits of a batch in [0, 1]."""
        return self.finish(self.begin(x))


def flatten(x: Array) -> Array:
    """All axes but the first as one."""
    return x.reshape(x.shape[0], -1)


def conv(inputs: int, outputs: int, size: int, stride: int, *, rngs: nnx.Rngs, bias: bool = True) -> nnx.Conv:
    """A square convolution with zero padding that keeps ``ceil(side / stride)`` pixels."""
    return nnx.Conv(inputs, outputs, (size, size), (stride, stride), use_bias=bias, kernel_init=he, rngs=rngs)


def image_shape(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """``shape`` as (height, width, channels), or a clear error."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name} takes images [H, W, C], got the example shape {tuple(shape)}; use mlp for vectors")
    return tuple(shape)  # pyright: ignore
