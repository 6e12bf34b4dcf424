"""A U-Net that is told the time, for diffusion models and denoisers: images [B, H, W, C] to images."""

from collections.abc import Sequence
from math import log
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jrobust._checks import check_count
from jrobust.models._layers import image_shape, lecun
from jrobust.typing import Array, Float, Int


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, *, rngs: nnx.Rngs, zero: bool = False) -> nnx.Conv:
    init = nnx.initializers.zeros_init() if zero else lecun
    return nnx.Conv(inputs, outputs, (size, size), (stride, stride), kernel_init=init, rngs=rngs)


def _norm(features: int, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
    groups = next(g for g in (8, 4, 2, 1) if features % g == 0)
    return nnx.GroupNorm(features, num_groups=groups, rngs=rngs)


def waves(t: Int[Array, " b"], features: int) -> Float[Array, "b f"]:
    """The time as sines and cosines of periods from 2 pi to 20,000 pi steps.

    >>> print(waves(jnp.array([0]), 4))
    [[0. 0. 1. 1.]]
    """
    half = features // 2
    angles = t[:, None] * jnp.exp(-log(10_000.0) / max(half - 1, 1) * jnp.arange(half))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class Residual(nnx.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))) + what the time says)))``; the second convolution starts at 0."""

    def __init__(self, inputs: int, outputs: int, told: int, *, rngs: nnx.Rngs):
        self.norm1, self.conv1 = _norm(inputs, rngs=rngs), _conv(inputs, outputs, rngs=rngs)
        self.told = nnx.Linear(told, outputs, kernel_init=lecun, rngs=rngs)
        self.norm2, self.conv2 = _norm(outputs, rngs=rngs), _conv(outputs, outputs, rngs=rngs, zero=True)
        self.shortcut = _conv(inputs, outputs, 1, rngs=rngs) if inputs != outputs else None

    def __call__(self, x: Float[Array, "b h w c"], told: Float[Array, "b e"]) -> Float[Array, "b h w d"]:
        """One block."""
        h = self.conv1(jax.nn.silu(self.norm1(x))) + self.told(told)[:, None, None]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class UNet(nnx.Module):
    """What `unet` makes: ``net(x, t, y)``, or ``net(x)`` of one without time."""

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: int, classes: int | None, time: bool, rngs: nnx.Rngs
    ):
        told = 4 * widths[0]
        self.waves, self.any, self.timed = widths[0] + widths[0] % 2, classes or 0, time
        self.told1 = nnx.Linear(self.waves, told, kernel_init=lecun, rngs=rngs)
        self.told2 = nnx.Linear(told, told, kernel_init=lecun, rngs=rngs)
        self.label = None if classes is None else nnx.Embed(classes + 1, told, rngs=rngs)
        self.stem = _conv(channels, widths[0], rngs=rngs)
        down, up, inputs, skips = [], [], widths[0], []
        for i, width in enumerate(widths):
            level = [Residual(a, width, told, rngs=rngs) for a in (inputs, *(width for _ in range(blocks - 1)))]
            shrink = _conv(width, width, 3, 2, rngs=rngs) if i < len(widths) - 1 else None
            down.append(nnx.Dict(blocks=nnx.List(level), shrink=shrink))
            skips += [width] * blocks
            inputs = width
        self.middle = Residual(inputs, inputs, told, rngs=rngs)
        for i, width in reversed(list(enumerate(widths))):
            level = []
            for _ in range(blocks):
                level.append(Residual(inputs + skips.pop(), width, told, rngs=rngs))
                inputs = width
            grow = _conv(width, width, rngs=rngs) if i else None
            up.append(nnx.Dict(blocks=nnx.List(level), grow=grow))
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.norm, self.head = _norm(inputs, rngs=rngs), _conv(inputs, channels, rngs=rngs, zero=True)

    def __call__(self, x: Float[Array, "b h w c"], t: Any = None, y: Any = None) -> Float[Array, "b h w c"]:
        """A batch of images; ``t[b]`` steps, ``y[b]`` classes, of which K (and None) says "any"."""
        if self.timed != (t is not None):
            raise ValueError(f"unet: this net takes {'x and t' if self.timed else 'x alone, no t'}")
        if y is not None and self.label is None:
            raise ValueError("unet: this net takes no label y; make it with classes=")
        t = jnp.zeros(x.shape[0], jnp.int32) if t is None else t
        told = self.told2(jax.nn.silu(self.told1(waves(t, self.waves).astype(x.dtype))))
        if self.label is not None:
            told += self.label(jnp.full(x.shape[0], self.any, jnp.int32) if y is None else y)
        told, h, skips = jax.nn.silu(told), self.stem(x), []
        for level in self.down:
            for block in level.blocks:
                h = block(h, told)
                skips.append(h)
            h = h if level.shrink is None else level.shrink(h)
        h = self.middle(h, told)
        for level in self.up:
            for block in level.blocks:
                h = block(jnp.concatenate([h, skips.pop()], -1), told)
            if level.grow is not None:
                h = jnp.repeat(jnp.repeat(h, 2, 1), 2, 2)[:, : skips[-1].shape[1], : skips[-1].shape[2]]
                h = level.grow(h)
        return self.head(jax.nn.silu(self.norm(h)))

    def of(self, given: tuple[Any, ...]) -> Float[Array, "b h w c"]:
        """``self(x, t, y)`` of one tuple, as `jr.nnx.functional` (``call=UNet.of``) and `jr.training.diffusion` pass it."""
        return self(*given)


def unet(
    shape: Sequence[int],
    *,
    rngs: nnx.Rngs,
    widths: Sequence[int] = (32, 64),
    blocks: int = 1,
    classes: int | None = None,
    time: bool = True,
) -> UNet:
    """A small U-Net: residual blocks with GroupNorm at every resolution, joined across, told the time and perhaps the class.

    Args:
      shape: of one image, (H, W, C); any sides.
      rngs: random streams of the initialisation; the net starts as 0.
      widths: channels at each resolution, each half as large as the one before.
      blocks: residual blocks at each resolution, on the way down and on the way up.
      classes: K, for a net that may be told the class; the class K says "any".
      time: False: a plain denoiser ``net(x)``, for `jr.training.denoise`.

    Returns:
      An `nnx.Module`, ``net(x[B, H, W, C], t[B], y[B]) -> [B, H, W, C]``.

    References:
      Ronneberger, Fischer & Brox, U-Net, MICCAI 2015. Ho, Jain & Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020.

    Deviations:
      No attention and no dropout, and blocks as in DDPM otherwise: it is meant for images of 8 to 32 pixels.

    >>> net = unet((8, 8, 1), widths=(4, 8), rngs=nnx.Rngs(0))
    >>> net(jnp.ones((2, 8, 8, 1)), jnp.array([0, 9])).shape
    (2, 8, 8, 1)
    """
    _, _, channels = image_shape(shape, "unet")
    if not widths or min(widths) < 1:
        raise ValueError(f"unet: widths are channels >= 1, one for each resolution, got {tuple(widths)}")
    check_count(blocks, "blocks", "unet")
    if classes is not None:
        check_count(classes, "classes", "unet")
    return UNet(channels, tuple(widths), blocks, classes, time, rngs)
