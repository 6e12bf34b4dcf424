"""A small vision transformer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jrobust.models._layers import Normalise, image_shape, lecun
from jrobust.typing import Array, Float

linear = partial(nnx.Linear, kernel_init=lecun)


class Encoder(nnx.Module):
    """Pre-norm self-attention and a GELU perceptron, each added to its input."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.qkv, self.out = linear(width, 3 * width, rngs=rngs), linear(width, width, rngs=rngs)
        self.up, self.down = linear(width, 4 * width, rngs=rngs), linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """One layer."""
        q, k, v = jnp.split(self.qkv(self.norm1(x)).reshape(*x.shape[:-1], self.heads, -1), 3, -1)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        attended = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
        x = x + self.out(attended.reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))


class VisionTransformer(nnx.Module):
    """Patches, learned positions, encoder layers, LayerNorm, the mean over patches, a linear head."""

    def __init__(
        self,
        normalise: Normalise,
        embed: nnx.Conv,
        position: nnx.Param,
        layers: Sequence[Encoder],
        norm: nnx.LayerNorm,
        head: nnx.Linear,
    ):
        self.normalise, self.embed, self.position = normalise, embed, position
        self.layers, self.norm, self.head = nnx.List(layers), norm, head

    def begin(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """What the first layer makes of a batch in [0, 1]."""
        return self.embed(self.normalise(x))

    def finish(self, h: Float[Array, "b hh ww d"]) -> Float[Array, "b k"]:
        """Logits from the output of the first layer."""
        h = h.reshape(h.shape[0], -1, h.shape[-1]) + self.position[...]
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h).mean(1))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Logits of a batch in [0, 1]."""
        return self.finish(self.begin(x))


def vit_tiny(
    shape: Sequence[int],
    classes: int,
    *,
    rngs: nnx.Rngs,
    patch: int | None = None,
    width: int = 192,
    layers: int = 6,
    heads: int = 3,
    mean: Any = 0.0,
    std: Any = 1.0,
) -> VisionTransformer:
    """A small vision transformer without dropout and without a class token.

    Args:
      shape: of one image, (H, W, C).
      classes: number of logits K.
      rngs: random streams of the initialisation.
      patch: side of a patch in pixels, a divisor of H and W; None: 4, or 2 for images below 16 pixels.
      width: width of a token, a multiple of ``heads``.
      layers: encoder layers.
      heads: attention heads.
      mean: subtracted from the input, a scalar or one number per channel, in input units.
      std: what the input is then divided by.

    References:
      Dosovitskiy et al. An image is worth 16x16 words. ICLR 2021.
    Deviations:
      The mean over patches is the class token; 6 layers instead of 12.
    """
    h, w, channels = image_shape(shape, "vit_tiny")
    side = (4 if min(h, w) >= 16 else 2) if patch is None else patch
    if h % side or w % side:
        raise ValueError(f"vit_tiny: patches of side {side} do not tile a {h}x{w} image; give patch, a divisor of both")
    if width % heads:
        raise ValueError(f"vit_tiny: width {width} is not a multiple of heads {heads}")
    embed = nnx.Conv(channels, width, (side, side), (side, side), padding="VALID", kernel_init=lecun, rngs=rngs)
    position = nnx.Param(0.02 * jax.random.normal(rngs.params(), ((h // side) * (w // side), width)))
    encoder = [Encoder(width, heads, rngs=rngs) for _ in range(layers)]
    head = linear(width, classes, rngs=rngs)
    return VisionTransformer(Normalise(mean, std), embed, position, encoder, nnx.LayerNorm(width, rngs=rngs), head)
