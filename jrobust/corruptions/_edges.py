"""Edges: what OpenCV's Canny finds in bytes."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust import _loops
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
        for neighbour in around(found).values():
            new = new | neighbour
        new = new & weak
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
