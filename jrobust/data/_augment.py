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


def mixup(
    key: PRNGKeyArray, x: Float[Array, "B ..."], y: Float[Array, "B K"], *, alpha: float = 1.0
) -> tuple[Float[Array, "B ..."], Float[Array, "B K"]]:
    """Each example mixed with another of the batch, ``t x + (1 - t) x'``, and their labels alike; t ~ Beta(alpha, alpha), one a batch.

    Args:
      key: typed key.
      x: examples.
      y: labels as distributions over classes.
      alpha: > 0; small: mostly one of the two.

    References:
      Zhang et al., mixup: beyond empirical risk minimization, ICLR 2018.

    >>> x, y = mixup(jax.random.key(0), jnp.eye(4), jnp.eye(4))
    >>> bool(jnp.allclose(x, y)), bool(jnp.allclose(y.sum(-1), 1))
    (True, True)
    """
    for_t, for_order = jax.random.split(key)
    t = jax.random.beta(for_t, alpha, alpha, dtype=x.dtype)
    order = jax.random.permutation(for_order, x.shape[0])
    return t * x + (1 - t) * x[order], t * y + (1 - t) * y[order]


def cutmix(
    key: PRNGKeyArray, x: Float[Array, "B H W C"], y: Float[Array, "B K"], *, alpha: float = 1.0
) -> tuple[Float[Array, "B H W C"], Float[Array, "B K"]]:
    """A rectangle of each image replaced by that of another image of the batch; labels by area.

    The rectangle, one a batch, covers a share 1 - t of the image, t ~ Beta(alpha, alpha), about a random centre; less where it leaves
    the image.

    Args:
      key: typed key.
      x: images.
      y: labels as distributions over classes.
      alpha: > 0.

    References:
      Yun et al., CutMix: regularization strategy to train strong classifiers with localizable features, ICCV 2019.

    >>> x, y = cutmix(jax.random.key(1), jnp.eye(4)[:, None, None].repeat(8, 1).repeat(8, 2), jnp.eye(4))
    >>> bool(jnp.allclose(x.mean((1, 2)), y, atol=1e-6))
    True
    """
    for_t, for_order, for_row, for_column = jax.random.split(key, 4)
    ratio = jnp.sqrt(1.0 - jax.random.beta(for_t, alpha, alpha))

    def inside(key, n):
        centre, half = jax.random.randint(key, (), 0, n), jnp.floor(n * ratio) // 2
        return (jnp.arange(n) >= centre - half) & (jnp.arange(n) < centre + half)

    rows, columns = inside(for_row, x.shape[1]), inside(for_column, x.shape[2])
    box = rows[:, None] & columns[None]
    order = jax.random.permutation(for_order, x.shape[0])
    t = 1.0 - jnp.mean(box, dtype=x.dtype)
    return jnp.where(box[None, :, :, None], x[order], x), t * y + (1 - t) * y[order]
