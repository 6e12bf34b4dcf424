"""Nets of Lipschitz constant 1 in l2, by layers that cannot stretch: Bjorck's orthonormal matrices, Cayley's convolutions, sorted pairs."""

from collections.abc import Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jrobust._checks import check_count
from jrobust.models._layers import Normalise, Stack, flatten, image_shape, lecun
from jrobust.typing import Array, Float

_orthogonal = nnx.initializers.orthogonal()


def bjorck(w: Float[Array, "m n"], iterations: int) -> Float[Array, "m n"]:
    """The nearest matrix with orthonormal rows or columns, by ``W <- 3/2 W - 1/2 W W^T W`` from ``W / sqrt(||W||_1 ||W||_inf)``.

    However few the iterations, no singular value is above 1: the start's are not, and s -> (3 s - s^3) / 2 keeps [0, 1].

    >>> print(bjorck(jnp.diag(jnp.array([4.0, 2.0])), 10))
    [[1. 0.]
     [0. 1.]]
    """
    size = jnp.sqrt(jnp.max(jnp.sum(jnp.abs(w), 0)) * jnp.max(jnp.sum(jnp.abs(w), 1)))
    w = w / jnp.where(size > 0, size, 1.0)
    w, tall = (w, True) if w.shape[0] >= w.shape[1] else (w.T, False)
    for _ in range(iterations):
        w = 1.5 * w - 0.5 * w @ (w.T @ w)
    return w if tall else w.T


def cayley(w: Any) -> Any:
    """``Q`` with ``Q^H Q = I`` (of a wide one ``Q Q^H = I``) from any matrices ``w[..., outputs, inputs]``, real or complex."""
    if w.shape[-1] > w.shape[-2]:
        return cayley(w.swapaxes(-1, -2)).swapaxes(-1, -2)
    n = w.shape[-1]
    u, v = w[..., :n, :], w[..., n:, :]
    skew = u - u.conj().swapaxes(-1, -2) + v.conj().swapaxes(-1, -2) @ v
    unit = jnp.eye(n, dtype=w.dtype)
    inverse = jnp.linalg.inv(unit + skew)  # of a matrix whose Hermitian part is at least the unit
    return jnp.concatenate([inverse @ (unit - skew), -2.0 * v @ inverse], -2)


class BjorckLinear(nnx.Module):
    """A linear layer whose matrix is orthonormal: ``x W + b`` with W from `bjorck`.

    Args:
      inputs, outputs: features, each >= 1.
      rngs: random streams of the initialisation, which is orthonormal.
      iterations: of Bjorck's in each pass, >= 1; the default is ours.

    References:
      Anil, Lucas & Grosse, Sorting out Lipschitz function approximation, ICML 2019.

    >>> layer = BjorckLinear(3, 5, rngs=nnx.Rngs(0))
    >>> bool(jnp.allclose(jnp.linalg.norm(layer(jnp.ones((1, 3))) - layer(jnp.zeros((1, 3)))), 3**0.5, atol=1e-4))
    True
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, iterations: int = 15):
        check_count(iterations, "iterations", "BjorckLinear")
        self.kernel, self.bias = nnx.Param(_orthogonal(rngs.params(), (inputs, outputs))), nnx.Param(jnp.zeros(outputs))
        self.iterations = iterations

    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        """A batch of vectors."""
        return x @ bjorck(self.kernel[...], self.iterations) + self.bias[...]


class CayleyConv(nnx.Module):
    """A convolution of stride 1 around the image's edges (periodic) that is orthonormal: a Cayley transform at each frequency.

    Args:
      inputs, outputs: channels, each >= 1.
      size: side of the kernel [size, size, inputs, outputs], no larger than the images.
      rngs: random streams of the initialisation.

    References:
      Trockman & Kolter, Orthogonalizing convolutional layers with the Cayley transform, ICLR 2021.

    >>> import jax
    >>> layer, x = CayleyConv(2, 4, 3, rngs=nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (1, 5, 6, 2))
    >>> layer(x).shape, bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x), rtol=1e-4))
    ((1, 5, 6, 4), True)
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs):
        check_count(size, "size", "CayleyConv")
        kernel = lecun(rngs.params(), (size, size, inputs, outputs), jnp.float32)
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(jnp.zeros(outputs))
        self.scale = nnx.Param(jnp.linalg.norm(kernel))  # trained apart from the kernel's direction, as published

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """A batch of images."""
        kernel, sides = self.kernel[...], x.shape[1:3]
        size = kernel.shape[0]
        if size > min(sides):
            raise ValueError(
                f"CayleyConv: a kernel of side {size} does not fit into an image {sides}; give a smaller one"
            )
        kernel = self.scale[...] * kernel / jnp.linalg.norm(kernel)
        padded = jnp.pad(kernel, ((0, sides[0] - size), (0, sides[1] - size), (0, 0), (0, 0)))
        centred = jnp.roll(padded, (-(size // 2), -(size // 2)), (0, 1))
        q = cayley(jnp.fft.rfft2(centred, axes=(0, 1)).conj().swapaxes(-1, -2))  # conj: correlation, as layers have it
        image = jnp.einsum("hwoi,bhwi->bhwo", q, jnp.fft.rfft2(x, axes=(1, 2)))
        return jnp.fft.irfft2(image, s=sides, axes=(1, 2)) + self.bias[...]


def max_min(x: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """Neighbouring pairs of channels, each sorted: an activation that keeps the norm of every gradient (GroupSort of size 2).

    >>> print(max_min(jnp.array([1.0, 2.0, 4.0, 3.0])))
    [2. 1. 4. 3.]
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    return jnp.stack([jnp.max(pairs, -1), jnp.min(pairs, -1)], -1).reshape(x.shape)


def squeeze(x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
    """Blocks of 2x2 pixels as channels, an odd side padded by zeros: a stride of 2 that loses and stretches nothing."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


class LipschitzStack(Stack):
    """A `Stack` of layers that cannot stretch."""

    @property
    def constant(self) -> Float[Array, ""]:
        """Its Lipschitz constant in l2, from inputs in their own units to logits: ``1 / min |std|``."""
        return 1.0 / jnp.min(jnp.abs(self.normalise.std[...]))


def _dense(inputs: int, widths: Sequence[int], rngs: nnx.Rngs) -> list[Any]:
    return [
        part
        for a, b in zip((inputs, *widths), widths, strict=False)
        for part in (BjorckLinear(a, b, rngs=rngs), max_min)
    ]


def _even(name: str, widths: Sequence[int]) -> None:
    if any(w < 2 or w % 2 for w in widths):
        raise ValueError(f"{name} sorts pairs of features, so every width is even and >= 2; got {tuple(widths)}")


def lipschitz_mlp(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    widths: Sequence[int] = (256, 256),
    mean: Any = 0.0,
    std: Any = 1.0,
) -> LipschitzStack:
    """A perceptron of Lipschitz constant 1 in l2: `BjorckLinear` and sorted pairs; `jr.bounds.margin` certifies it.

    Args:
      shape, classes, rngs, mean, std: as for `mlp`; the constant is ``1 / min |std|``, which `LipschitzStack.constant` knows.
      widths: hidden widths, even.

    Raises:
      ValueError: an odd width.

    References:
      Anil, Lucas & Grosse, Sorting out Lipschitz function approximation, ICML 2019.

    >>> net = lipschitz_mlp((8, 8, 1), 10, rngs=nnx.Rngs(0), std=0.5)
    >>> net(jnp.zeros((3, 8, 8, 1))).shape, float(net.constant)
    ((3, 10), 2.0)
    """
    _even("lipschitz_mlp", widths)
    body = [flatten, *_dense(prod(shape), widths, rngs)]
    return LipschitzStack(Normalise(mean, std), body, BjorckLinear((prod(shape), *widths)[-1], classes, rngs=rngs))


def lipschitz_cnn(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    channels: Sequence[int] = (32, 64),
    widths: Sequence[int] = (128,),
    mean: Any = 0.0,
    std: Any = 1.0,
) -> LipschitzStack:
    """A CNN of Lipschitz constant 1 in l2: halved sides, `CayleyConv` and sorted pairs, then `lipschitz_mlp`'s layers.

    Args:
      shape, classes, rngs, mean, std: as for `lipschitz_mlp`; of images [H, W, C].
      channels: of each convolution, even. Each comes behind a halving of the sides (2x2 pixels become channels); its kernel is 3x3, or
        of the image's side where that is less.
      widths: hidden widths, even.

    Raises:
      ValueError: an odd width; another shape.

    References:
      Trockman & Kolter, Orthogonalizing convolutional layers with the Cayley transform, ICLR 2021; the architecture is ours.
    """
    _even("lipschitz_cnn", (*channels, *widths))
    height, width, features = image_shape(shape, "lipschitz_cnn")
    body: list[Any] = []
    for wide in channels:
        height, width = -(-height // 2), -(-width // 2)
        body += [squeeze, CayleyConv(4 * features, wide, min(3, height, width), rngs=rngs), max_min]
        features = wide
    inputs = height * width * features
    body += [flatten, *_dense(inputs, widths, rngs)]
    return LipschitzStack(Normalise(mean, std), body, BjorckLinear((inputs, *widths)[-1], classes, rngs=rngs))
