"""Pre-activation residual nets: ResNet-18 and wide ResNets."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from jrobust.models._layers import Normalise, conv, image_shape, lecun
from jrobust.typing import Array, Float


class Block(nnx.Module):
    """``shortcut(x) + conv(relu(bn(conv(relu(bn(x))))))``; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.BatchNorm(inputs, momentum=0.9, rngs=rngs)
        self.conv1 = conv(inputs, outputs, 3, stride, bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv2 = conv(outputs, outputs, 3, 1, bias=False, rngs=rngs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride, bias=False, rngs=rngs) if changes else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """One block."""
        out = jax.nn.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        out = jax.nn.relu(self.norm2(self.conv1(out)))
        return skip + self.conv2(out)


class PreActivation(nnx.Module):
    """A stem, stages of blocks, BatchNorm, ReLU, the mean over pixels, a linear head."""

    def __init__(
        self,
        normalise: Normalise,
        stem: nnx.Conv,
        blocks: Sequence[Block],
        norm: nnx.BatchNorm,
        head: nnx.Linear,
        remat: bool,
    ):
        self.normalise, self.stem, self.blocks, self.norm, self.head = normalise, stem, nnx.List(blocks), norm, head
        self.remat = remat

    def begin(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """What the first layer makes of a batch in [0, 1]."""
        return self.stem(self.normalise(x))

    def finish(self, h: Float[Array, "b h w d"]) -> Float[Array, "b k"]:
        """Logits from the output of the first layer."""
        for block in self.blocks:
            h = nnx.remat(Block.__call__)(block, h) if self.remat else block(h)
        return self.head(jax.nn.relu(self.norm(h)).mean((1, 2)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Logits of a batch in [0, 1]."""
        return self.finish(self.begin(x))


def preact_resnet18(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    width: int = 64,
    mean: Any = 0.0,
    std: Any = 1.0,
    remat: bool = False,
) -> PreActivation:
    """Pre-activation ResNet-18 for small images: four stages of two blocks, 64-128-256-512 channels.

    Args:
      shape: of one image, (H, W, C).
      classes: number of logits K.
      rngs: random streams of the initialisation.
      width: channels of the first stage; each further stage has twice as many.
      mean: subtracted from the input, a scalar or one number per channel, in input units.
      std: what the input is then divided by.
      remat: compute each block again in the backward pass instead of keeping its insides: less memory, one more forward pass.

    References:
      He, Zhang, Ren, Sun. Identity mappings in deep residual networks. ECCV 2016.
    """
    stages = [(width << i, 2, 1 if i == 0 else 2) for i in range(4)]
    return _pre_activation("preact_resnet18", shape, classes, width, stages, rngs, mean, std, remat)


def wide_resnet(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    depth: int = 28,
    widen: int = 10,
    mean: Any = 0.0,
    std: Any = 1.0,
    remat: bool = False,
) -> PreActivation:
    """WideResNet-depth-widen: three stages of (depth - 4) / 6 blocks, 16-32-64 times ``widen`` channels.

    Args:
      shape: of one image, (H, W, C).
      classes: number of logits K.
      rngs: random streams of the initialisation.
      depth: 6 n + 4 for an n >= 1, such as 10, 16, 28, 34, 70.
      widen: the widening factor, >= 1.
      mean: subtracted from the input, a scalar or one number per channel, in input units.
      std: what the input is then divided by.
      remat: compute each block again in the backward pass instead of keeping its insides: less memory, one more forward pass.

    References:
      Zagoruyko, Komodakis. Wide residual networks. BMVC 2016.

    >>> import jax.numpy as jnp
    >>> model = wide_resnet((8, 8, 1), 10, depth=10, widen=1, rngs=nnx.Rngs(0))
    >>> model.eval(); model(jnp.zeros((2, 8, 8, 1))).shape
    (2, 10)
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"a wide ResNet has depth 6 n + 4 (10, 16, 22, 28, 34, ...), not {depth}")
    stages = [(16 * widen << i, (depth - 4) // 6, 1 if i == 0 else 2) for i in range(3)]
    return _pre_activation("wide_resnet", shape, classes, 16, stages, rngs, mean, std, remat)


def _pre_activation(
    name: str,
    shape: Sequence[int],
    classes: int,
    stem: int,
    stages: Sequence[tuple[int, int, int]],  # (channels, blocks, stride of the first) of each
    rngs: nnx.Rngs,
    mean: Any,
    std: Any,
    remat: bool,
) -> PreActivation:
    first = conv(image_shape(shape, name)[-1], stem, 3, 1, bias=False, rngs=rngs)
    blocks, channels = [], stem
    for features, count, stride in stages:
        for i in range(count):
            blocks.append(Block(channels, features, stride if i == 0 else 1, rngs=rngs))
            channels = features
    norm, head = (
        nnx.BatchNorm(channels, momentum=0.9, rngs=rngs),
        nnx.Linear(channels, classes, kernel_init=lecun, rngs=rngs),
    )
    return PreActivation(Normalise(mean, std), first, blocks, norm, head, remat)
