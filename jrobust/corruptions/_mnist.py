"""What MNIST-C has beside noise and blur: affine maps, an inverted border, lines drawn over the image, and the edges of its strokes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.corruptions._edges import canny_unit
from jrobust.corruptions._weather import GREY
from jrobust.typing import Array, Bool, Float

_GRID = 28  # lines are drawn on 28 x 28 and stretched to the image
_WIDTH = 2.3  # where a line ends, in rows from its middle


def _either(key: Any, shape: tuple[int, ...] = ()) -> Array:
    """0 or 1, evenly."""
    return jax.random.bernoulli(key, 0.5, shape).astype(jnp.int32)


def mapped(x: Float[Array, "H W C"], maps: np.ndarray, which: Any) -> Float[Array, "H W C"]:
    """One of some linear maps of places about the middle of the image, bilinearly; zeros come in from outside.

    Args:
      x: image.
      maps: [M, 2, 2], from (right, down) of a pixel to (right, down) of where it is fetched.
      which: of the maps; traced. Places and weights are made on the host, in float64.
    """
    height, width, channels = x.shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    down, right = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = np.einsum("mij,hwj->mhwi", maps, np.stack([right, down], -1) - middle) + middle
    places = np.round(places, 9)  # a whole place that arithmetic missed by a hair is one pixel, not two
    corner = np.floor(places)
    share = places - corner
    flat = jnp.concatenate([x.reshape(-1, channels), jnp.zeros((1, channels), x.dtype)])
    out = jnp.zeros_like(x)
    for far_right, far_down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        c, r = corner[..., 0] + far_right, corner[..., 1] + far_down
        weight = np.abs(1 - far_right - share[..., 0]) * np.abs(1 - far_down - share[..., 1])
        inside = (c >= 0) & (c < width) & (r >= 0) & (r < height)
        index = np.where(inside, r * width + c, height * width).astype(np.int32)
        out = out + jnp.asarray(weight, x.dtype)[which][..., None] * flat[jnp.asarray(index)[which]]
    return out


def shear(key: Any, x: Array, angle: float) -> Array:
    """A pixel d below the middle is fetched ``sin(angle) d`` to the left and ``cos(angle) d`` below; the angle's sign is drawn."""
    both = np.array([[[1, -np.sin(a)], [0, np.cos(a)]] for a in (-angle, angle)])
    return jnp.clip(mapped(x, both, _either(key)), 0.0, 1.0)


def rotate(key: Any, x: Array, angle: float) -> Array:
    """Turned about its middle by ``angle`` radians, in either direction."""
    both = np.array([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in (-angle, angle)])
    return jnp.clip(mapped(x, both, _either(key)), 0.0, 1.0)


def scale(key: Any, x: Array, factor: float) -> Array:
    """Shrunk towards its middle to ``1 / factor`` of its sides."""
    del key
    return jnp.clip(mapped(x, factor * np.eye(2)[None], 0), 0.0, 1.0)


def translate(key: Any, x: Array, pixels: int) -> Array:
    """Moved by ``pixels`` down or up and as many right or left; zeros come in."""
    padded = jnp.pad(x, ((pixels, pixels), (pixels, pixels), (0, 0)))
    down, right = 2 * pixels * _either(key, (2,))
    return jax.lax.dynamic_slice(padded, (down, right, 0), x.shape)


def stripe(key: Any, x: Array) -> Array:
    """The left and the right quarter inverted."""
    del key
    width = x.shape[1]
    at = np.arange(width)
    outer = (at < width // 4) | (at >= width - width // 4)
    return jnp.where(outer[:, None], 1.0 - x, x)


def strokes(shape: tuple[int, ...], column: Any, row: Any, slope: Any, first: Any, last: Any) -> Float[Array, "S H W"]:
    """Lines through ``(column, row)``, 1 in their middle and dark from 1.5 rows away, on columns ``first <= c < last``.

    Args:
      shape: of the image, of which the height and the width count: 28 x 28 is stretched to it.
      column: [S], as are the others; of a point of the line.
      row: of that point.
      slope: rows a column.
      first: column of the line.
      last: column after it.
    """
    rows, columns = (jnp.arange(n) * np.float32((_GRID - 1) / max(n - 1, 1)) for n in shape[:2])
    column, row, slope, first, last = (jnp.asarray(a, jnp.float32)[:, None] for a in (column, row, slope, first, last))
    away = jnp.abs(rows[:, None] - (slope * (columns - column) + row)[:, None, :])
    bright = jnp.clip(jnp.log1p(-jnp.minimum(away, _WIDTH - 1e-6) / _WIDTH) + 1.0, 0.0, 1.0)
    return bright * ((columns >= first) & (columns < last))[:, None, :]


def dotted_line(key: Any, x: Array) -> Array:
    """A line from the left edge to the right one, from any row to any; two columns dark, two bright, in turn."""
    start, end = jax.random.randint(key, (2,), 0, _GRID - 1)
    line = strokes(x.shape, [0.0], start[None], ((end - start) / (_GRID - 1))[None], [0.0], [_GRID - 1.0])[0]
    column = np.arange(x.shape[1]) * (_GRID - 1) / max(x.shape[1] - 1, 1)
    return jnp.clip(x + jnp.where((column // 2) % 2 == 1, line, 0.0)[..., None].astype(x.dtype), 0.0, 1.0)


def _corners(rise: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of a zigzag from column 2 to 25, the rows counted from where it starts; 2 long and 2 high."""
    begin, end, long, high = 2, 25, 2.0, 2.0
    turn = np.arctan(rise / (end - begin))
    length = (end - begin) / np.cos(turn)
    count = int((length - long) // (2 * long)) + 1
    along = [0.0, *((2 * i + 1) * long for i in range(count)), length]
    across = [0.0, *((-1) ** i * high for i in range(count))]
    across.append(across[-1] / (2 * (length - 2 * long * (length // (2 * long)))))
    c, r = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [along, across]
    return c + begin, r


def zigzag(key: Any, x: Array) -> Array:
    """A zigzag line from column 2 to 25, from any row; it rises by -5 to 4 rows."""
    where, how = jax.random.split(key)
    columns, rows = (np.array(a) for a in zip(*(_corners(rise) for rise in range(-5, 5)), strict=True))
    slopes = np.diff(rows) / np.diff(columns)
    tables = columns[:, :-1], rows[:, :-1], slopes, np.floor(columns[:, :-1]), np.ceil(columns[:, 1:])
    rise = jax.random.randint(how, (), 0, len(columns))
    column, row, slope, first, last = (jnp.asarray(t, jnp.float32)[rise] for t in tables)
    start = jax.random.randint(where, (), 0, _GRID - 1)
    drawn = strokes(x.shape, column, row + start, slope, first, last)
    return jnp.clip(x + jnp.sum(drawn, 0)[..., None].astype(x.dtype), 0.0, 1.0)


def canny_edges(key: Any, x: Array) -> Array:
    """White where the grey image has an edge, else black: scikit-image's Canny with a Gaussian of one pixel."""
    del key
    grey = x[..., 0] if x.shape[2] == 1 else x @ GREY.astype(x.dtype)
    found: Bool[Array, "H W"] = canny_unit(grey, 0.1, 0.2)
    return jnp.broadcast_to(found[..., None], x.shape).astype(x.dtype)
