"""JPEG and back, byte for byte as libjpeg(-turbo) does by default, without the entropy coding, which loses nothing.

Values are libjpeg's integers (those of its "islow" transforms, of 13 bits). Gradients are those of the exact transforms, with every
rounding and what keeps its results in the range taken for the identity: the two transforms cancel, and what is left are the linear maps of
colours, of halving and of doubling. Inputs outside [0, 1] have none, those at its ends all of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.typing import Array, Float

# the tables of Annex K of the standard, at quality 50
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# cosines times 8192 sqrt(8), rounded as the sums of libjpeg's constants come out: [frequency, place], the second half mirrored
_WAVE = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ],
    np.int32,
)
_WAVE = np.concatenate([_WAVE, _WAVE[:, ::-1] * np.array([[1], [-1]] * 4, np.int32)], 1)


def _table(base: np.ndarray, quality: int) -> np.ndarray:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((base * scale + 50) // 100, 1, 255).astype(np.int32)


def _straight(x: Array, whole: Array) -> Array:
    """The whole numbers, with the gradient of ``x``."""
    return jax.lax.stop_gradient(whole) + (x - jax.lax.stop_gradient(x))


def _rounded(x: Array) -> Array:
    return _straight(x, jnp.floor(x + 0.5))


def _whole(x: Array) -> Array:
    return _straight(x / 65536, jnp.floor(x / 65536))


def _padded(x: Array, rows: int, columns: int) -> Array:
    """The last row and column repeated up to multiples of ``rows`` and ``columns``."""
    edges = ((0, -x.shape[0] % rows), (0, -x.shape[1] % columns), *[(0, 0)] * (x.ndim - 2))
    return jnp.pad(x, edges, mode="edge")


def _pass(sums: str, x: Array, bits: int) -> Array:
    """One transform along one axis, scaled down by ``bits`` bits, halves up."""
    return (jnp.einsum(sums, _WAVE, x) + (1 << (bits - 1))) >> bits


def _coded(plane: Float[Array, "H W"], table: np.ndarray) -> Float[Array, "H W"]:
    """A plane of 0..255, whose sides are multiples of 8, as the coefficients on the table's steps give it back."""
    h, w = plane.shape[0] // 8, plane.shape[1] // 8
    blocks = jax.lax.stop_gradient(plane).astype(jnp.int32).reshape(h, 8, w, 8) - 128
    # along the rows with 2 bits more, then down the columns: 8 times the coefficients
    eightfold = _pass("ua,hawv->huwv", _pass("vb,hawb->hawv", blocks, 11), 15)
    # halves away from 0; half a unit more, so that no quotient lies near a whole number: float32 floors them all exactly
    step = 8 * table[:, None].astype(np.float32)
    count = jnp.floor((jnp.abs(eightfold).astype(jnp.float32) + (step / 2 + 0.5)) / step).astype(jnp.int32)
    back = jnp.sign(eightfold) * count * table[:, None]
    back = _pass("vb,hawv->hawb", _pass("ua,huwv->hawv", back, 11), 18) + 128
    return _straight(plane, jnp.clip(back, 0, 255).reshape(plane.shape).astype(plane.dtype))


def _halved(plane: Float[Array, "H W"]) -> Float[Array, "h w"]:
    total = plane[::2, ::2] + plane[::2, 1::2] + plane[1::2, ::2] + plane[1::2, 1::2]
    bias = 1.0 + jnp.arange(total.shape[1]) % 2  # libjpeg rounds up and down in turn
    return _straight(total / 4, jnp.floor((total + bias) / 4))


def _doubled(plane: Float[Array, "h w"]) -> Float[Array, "H W"]:
    """Twice the size: 3/4 of the nearer and 1/4 of the farther along each axis; repeated where it is at most 2 wide."""
    if plane.shape[1] <= 2:
        return jnp.repeat(jnp.repeat(plane, 2, 0), 2, 1)
    above, below = plane[jnp.array([0, *range(plane.shape[0] - 1)])], jnp.concatenate([plane[1:], plane[-1:]])
    tall = jnp.stack([3 * plane + above, 3 * plane + below], 1).reshape(-1, plane.shape[1])
    before, after = (jnp.concatenate(p, 1) for p in ((tall[:, :1], tall[:, :-1]), (tall[:, 1:], tall[:, -1:])))
    wide = jnp.stack([3 * tall + before + 8, 3 * tall + after + 7], 2).reshape(tall.shape[0], -1) / 16
    return _straight(wide, jnp.floor(wide))


def jpeg_compression(key: Any, x: Float[Array, "H W C"], quality: int) -> Float[Array, "H W C"]:
    """Coded at ``quality`` and decoded: a grey image, or a colour one with halved chroma (4:2:0)."""
    del key
    height, width, channels = x.shape
    # narrower floats do not hold the integers of colours
    z = _rounded(255 * x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    z = jnp.where((x < 0) | (x > 1), jnp.clip(jax.lax.stop_gradient(z), 0.0, 255.0), z)
    if channels == 1:
        grey = _coded(_padded(z[..., 0], 8, 8), _table(_LUMA, quality))[:height, :width, None]
        return (grey / 255).astype(x.dtype)
    # libjpeg's integers of 1 / 65536: exact in float32, ties included
    z = _padded(z, 2, 16)
    r, g, b = z[..., 0], z[..., 1], z[..., 2]
    luma = _whole(19595 * r + 38470 * g + 7471 * b + 32768)
    luma = _coded(_padded(luma, 8, 8), _table(_LUMA, quality))[:height, :width]
    blue = _whole(-11059 * r - 21709 * g + 32768 * b + 8421375)
    red = _whole(32768 * r - 27439 * g - 5329 * b + 8421375)
    tall, wide = -(-height // 2), -(-width // 2)
    coded = (_coded(_padded(_halved(c), 8, 8), _table(_CHROMA, quality))[:tall, :wide] for c in (blue, red))
    blue, red = (_doubled(c)[:height, :width] - 128.0 for c in coded)
    out = jnp.stack(
        [
            luma + _whole(91881 * red + 32768),
            luma + _whole(-22554 * blue - 46802 * red + 32768),
            luma + _whole(116130 * blue + 32768),
        ],
        -1,
    )
    return (_straight(out, jnp.clip(out, 0.0, 255.0)) / 255).astype(x.dtype)
