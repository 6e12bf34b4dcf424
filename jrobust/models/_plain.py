"""Feed-forward nets: a perceptron and the small, medium and seven-layer CNNs of the certified-training literature."""

from collections.abc import Sequence
from math import prod
from typing import Any

import jax
from flax import nnx

from jrobust.models._layers import Normalise, Stack, conv, flatten, he, image_shape, lecun


def mlp(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    widths: Sequence[int] = (256, 256),
    mean: Any = 0.0,
    std: Any = 1.0,
) -> Stack:
    """A perceptron with ReLU: flatten, hidden layers of ``widths``, a linear head.

    Args:
      shape: of one example, any rank.
      classes: number of logits K.
      rngs: random streams of the initialisation.
      widths: hidden widths, each >= 1.
      mean: subtracted from the input, a scalar or one number per channel, in input units.
      std: what the input is then divided by.

    >>> import jax.numpy as jnp
    >>> mlp((8, 8, 1), 10, rngs=nnx.Rngs(0))(jnp.zeros((3, 8, 8, 1))).shape
    (3, 10)
    """
    body: list[Any] = [flatten]
    for a, b in zip((prod(shape), *widths), widths, strict=False):
        body += [nnx.Linear(a, b, kernel_init=he, rngs=rngs), jax.nn.relu]
    return Stack(
        Normalise(mean, std), body, nnx.Linear((prod(shape), *widths)[-1], classes, kernel_init=lecun, rngs=rngs)
    )


def cnn_small(shape: Sequence[int], classes: int, *, rngs: nnx.Rngs, mean: Any = 0.0, std: Any = 1.0) -> Stack:
    """The small CNN: 16 and 32 channels, 4x4 kernels of stride 2, 100 hidden units (arguments as for `mlp`)."""
    return _cnn("cnn_small", shape, classes, ((16, 4, 2), (32, 4, 2)), (100,), False, rngs, mean, std)


def cnn_medium(shape: Sequence[int], classes: int, *, rngs: nnx.Rngs, mean: Any = 0.0, std: Any = 1.0) -> Stack:
    """The medium CNN: 32-32-64-64 channels, 3x3 of stride 1 and 4x4 of stride 2 in turn, 512 and 512 hidden units."""
    convolutions = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
    return _cnn("cnn_medium", shape, classes, convolutions, (512, 512), False, rngs, mean, std)


def cnn7(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    width: int = 64,
    hidden: int = 512,
    mean: Any = 0.0,
    std: Any = 1.0,
) -> Stack:
    """CNN-7 of Shi et al.: 3x3 convolutions 64-64-128(stride 2)-128-128, 512 hidden units, BatchNorm before every ReLU.

    Args:
      shape: of one image, (H, W, C).
      classes: number of logits K.
      rngs: random streams of the initialisation.
      width: channels of the first two convolutions; the other three have twice as many.
      hidden: hidden units.
      mean: as for `mlp`.
      std: as for `mlp`.

    References:
      Shi, Wang, Zhang, Yi, Hsieh. Fast certified robust training with short warmup. NeurIPS 2021.
    """
    convolutions = ((width, 3, 1), (width, 3, 1), (2 * width, 3, 2), (2 * width, 3, 1), (2 * width, 3, 1))
    return _cnn("cnn7", shape, classes, convolutions, (hidden,), True, rngs, mean, std)


def _cnn(
    name: str,
    shape: Sequence[int],
    classes: int,
    convolutions: Sequence[tuple[int, int, int]],  # (channels, kernel side, stride) of each
    hidden: Sequence[int],
    norm: bool,
    rngs: nnx.Rngs,
    mean: Any,
    std: Any,
) -> Stack:
    height, width, channels = image_shape(shape, name)

    def activation(features: int) -> list[Any]:
        return [nnx.BatchNorm(features, momentum=0.9, rngs=rngs), jax.nn.relu] if norm else [jax.nn.relu]

    body: list[Any] = []
    for features, size, stride in convolutions:
        body += [conv(channels, features, size, stride, rngs=rngs), *activation(features)]
        height, width, channels = -(-height // stride), -(-width // stride), features
    body.append(flatten)
    inputs = height * width * channels
    for features in hidden:
        body += [nnx.Linear(inputs, features, kernel_init=he, rngs=rngs), *activation(features)]
        inputs = features
    return Stack(Normalise(mean, std), body, nnx.Linear(inputs, classes, kernel_init=lecun, rngs=rngs))
