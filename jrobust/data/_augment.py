"""Augmentation inside jit: pure functions of a key and a batch on the device."""

import jax
import jax.numpy as jnp

from jrobust.typing import Array, Float, PRNGKeyArray


def unit(x: Array) -> Float[Array, "..."]:
    """uint8 images in 0..255 as float32 in [0, 1]; float images pass unchanged.

    >>> float(unit(jnp.uint8(255)))
    1.0
    """
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


def random_crop_flip(key: PRNGKeyArray, x: Array, *, pad: int = 4, flip: bool = True) -> Array:
    """Shift each image by up to ``pad`` pixels (zeros move in) and mirror it left to right with probability 1/2.

    Args:
      key: typed key; example i uses ``fold_in(key, i)``.
      x: images [B, H, W, C], any dtype.
      pad: largest shift in pixels, >= 0; 0 shifts nothing.
      flip: whether to mirror; False for digits and letters.

    Returns:
      Images of the same shape and dtype.

    >>> random_crop_flip(jax.random.key(0), jnp.ones((2, 8, 8, 1)), pad=0).min()
    Array(1., dtype=float32)
    """
    if x.ndim != 4:
        raise ValueError(f"random_crop_flip takes images [B, H, W, C], got shape {x.shape}")

    def one(key, image):
        shift, mirror = jax.random.split(key)
        if pad:
            row, column = jax.random.randint(shift, (2,), 0, 2 * pad + 1)
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        return jnp.where(jax.random.bernoulli(mirror), image[:, ::-1], image) if flip else image

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(x.shape[0]))
    return jax.vmap(one)(keys, x)
