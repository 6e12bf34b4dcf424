"""Edges: what OpenCV's Canny finds in bytes, and scikit-image's in floats."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust.corruptions._linear import smoothed
from jrobust.typing import Array, Bool, Float


def correlated(x: Float[Array, "H W"], kernel: Any, mode: Any) -> Float[Array, "H W"]:
    """Correlation with 3 x 3 weights; ``mode`` of the border as `jnp.pad` takes it."""
    padded = jnp.pad(x, 1, mode=mode)
    height, width = x.shape
    weights = np.asarray(kernel, float).tolist()
    terms = (w * padded[i : i + height, j : j + width] for i, row in enumerate(weights) for j, w in enumerate(row) if w)
    return sum(terms, jnp.zeros_like(x))


def around(x: Array) -> dict[tuple[int, int], Array]:
    """The eight neighbours of each entry by (down, right); 0 outside."""
    padded = jnp.pad(x, 1)
    places = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    return {(i, j): padded[1 + i : 1 + i + x.shape[0], 1 + j : 1 + j + x.shape[1]] for i, j in places}


def joined(weak: Any, strong: Any) -> Bool[Array, "H W"]:
    """What is weak and touches, through others that are weak, something strong."""

    def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        found, _ = state
        new = found
        for _ in range(4):  # several steps a look at whether anything changed
            tall = jnp.pad(new, ((1, 1), (0, 0)))
            tall = jnp.pad(tall[:-2] | tall[1:-1] | tall[2:], ((0, 0), (1, 1)))
            new = (tall[:, :-2] | tall[:, 1:-1] | tall[:, 2:]) & weak
        return new, jnp.any(new != found)

    return _loops.while_loop(lambda state: state[1], grow, (strong & weak, jnp.any(strong)))[0]


_SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def canny_bytes(x: Float[Array, "H W"], low: Any, high: Any) -> Bool[Array, "H W"]:
    """Edges of an image of whole numbers 0..255: sums of absolute Sobel derivatives, largest along one of four directions."""
    right, down = correlated(x, _SOBEL, "edge"), correlated(x, _SOBEL.T, "edge")
    size = jnp.abs(right) + jnp.abs(down)
    near = around(size)
    a, d = jnp.abs(right), jnp.abs(down)
    tan = np.tan(np.pi / 8)
    rows = (size > near[0, -1]) & (size >= near[0, 1])
    columns = (size > near[-1, 0]) & (size >= near[1, 0])
    falling = (size > near[-1, -1]) & (size > near[1, 1])
    rising = (size > near[-1, 1]) & (size > near[1, -1])
    slanted = jnp.where((right < 0) != (down < 0), rising, falling)
    largest = jnp.where(d < a * tan, rows, jnp.where(d > a / tan, columns, slanted))
    weak = largest & (size > low)
    return joined(weak, weak & (size > high))


def _beyond(size: Array, ahead: tuple[Array, Array], behind: tuple[Array, Array], share: Array) -> Array:
    """Whether an entry is no smaller than between its two neighbours ahead, and between those behind."""
    sides = [near + (far - near) * share for near, far in (ahead, behind)]
    # what the neighbours tie with in exact arithmetic they tie with here
    return (sides[0] <= size * (1 + 1e-6)) & (sides[1] <= size * (1 + 1e-6))


def canny_unit(x: Float[Array, "H W"], low: Any, high: Any) -> Bool[Array, "H W"]:
    """Edges of an image in [0, 1]: lengths of Sobel gradients, after a Gaussian of one pixel, largest between interpolated neighbours.

    The Gaussian sees nothing outside the image, and its weights inside sum to one. The outermost pixels are no edges.
    """
    inside = smoothed(jnp.ones_like(x)[..., None], 1.0, "constant")
    x = (smoothed(x[..., None], 1.0, "constant") / inside)[..., 0]
    right, down = correlated(x, _SOBEL, "symmetric"), correlated(x, _SOBEL.T, "symmetric")
    size = jnp.sqrt(right**2 + down**2)
    a, d = jnp.abs(right), jnp.abs(down)
    near = around(size)
    falling = right * down >= 0
    ahead, behind = (jnp.where(falling, near[s, s], near[s, -s]) for s in (1, -1))  # the corners, by rows
    steep = _beyond(size, (near[1, 0], ahead), (near[-1, 0], behind), a / jnp.where(d > 0, d, 1.0))
    flat = _beyond(
        size,
        (near[0, 1], jnp.where(falling, ahead, behind)),
        (near[0, -1], jnp.where(falling, behind, ahead)),
        d / jnp.where(a > 0, a, 1.0),
    )
    height, width = x.shape
    rows, columns = np.arange(height)[:, None], np.arange(width)
    within = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    weak = jnp.where(d >= a, steep, flat) & within & (size >= low)
    return joined(weak, weak & (size >= high))
