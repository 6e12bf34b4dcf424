"""Arrays rearranged so that what competes for a maximum lies along axis 0."""

import itertools
from typing import Any

import jax.numpy as jnp
from jax import lax

from jrobust._program import Equation
from jrobust.typing import Array


def axes_first(eqn: Equation, z: Array) -> Array:
    """Of a reduction over axes."""
    axes = eqn.params["axes"]
    rest = tuple(n for i, n in enumerate(z.shape) if i not in axes)
    return jnp.moveaxis(z, axes, range(len(axes))).reshape(-1, *rest)


def windows_first(eqn: Equation, z: Array, fill: Any) -> Array:
    """Of a reduction over windows: one view an entry of the window, ``fill`` where it is padding."""
    p = eqn.params
    padding = [(lo, hi, base - 1) for (lo, hi), base in zip(p["padding"], p["base_dilation"], strict=True)]
    z = lax.pad(z, lax.stop_gradient(jnp.asarray(fill, z.dtype)), padding)
    views = []
    for corner in itertools.product(*map(range, p["window_dimensions"])):
        start = [i * d for i, d in zip(corner, p["window_dilation"], strict=True)]
        counts = zip(start, eqn.avals[0].shape, p["window_strides"], strict=True)
        views.append(lax.slice(z, start, [s + (n - 1) * t + 1 for s, n, t in counts], p["window_strides"]))
    return jnp.stack(views)
