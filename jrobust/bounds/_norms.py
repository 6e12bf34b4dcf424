"""Norms for Lipschitz bounds: dual norms of rows, and upper bounds of operator norms that are never below the truth."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust.typing import Array

_SQUARINGS = 5


class Gauge(NamedTuple):
    """The norm of one input: ``||d / weight||_p``, at most 1 on the set."""

    p: float
    weight: Array


def gauges(s: Any, unit: bool) -> list[Gauge]:
    """One an input leaf: the ball's own norm and radius; else that of the hull. ``unit``: weight 1."""
    if s.geometry.name == "product":
        return [g for part in s.params for g in gauges(part, unit)]
    name, found = s.geometry.name, []
    p = float(name[1:]) if name[:1] == "l" and name[1:].replace(".", "", 1).isdigit() and name != "l0" else math.inf
    for c, lo, hi in zip(*map(jax.tree.leaves, (s.center, *s.hull())), strict=True):
        weight = jnp.maximum(hi - c, c - lo) if p == math.inf else jnp.broadcast_to(s.params[0], c.shape)
        found.append(Gauge(p, jnp.ones_like(c) if unit else weight))
    return found


def dual(p: float) -> float:
    """The order of the dual norm."""
    return math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)


def size(v: Array, p: float, axis: int | None = None) -> Array:
    """The p-norm."""
    v = jnp.abs(v)
    if p == math.inf:
        return jnp.max(v, axis=axis, initial=0.0)
    if p == 1:
        return jnp.sum(v, axis=axis)
    top = jnp.max(v, axis=axis, keepdims=True, initial=0.0)
    unit = jnp.where((top > 0) & jnp.isfinite(top), top, 1.0)
    total = jnp.sum((v / unit) ** p, axis=axis, keepdims=True)
    root = jnp.where(total > 0, jnp.where(total > 0, total, 1.0) ** (1 / p), 0.0)
    return jnp.squeeze(unit * root, axis=axis)


def operator(w: Array, p_in: float, p_out: float) -> Array:
    """An upper bound of ``sup ||w d||_p_out over ||d||_p_in <= 1`` of a matrix; exact for p 1 and inf.

    For p = 2 the least of the Frobenius norm, ``sqrt(||w||_1 ||w||_inf)`` and the Gram iteration's; power iteration would be below it.
    """
    by_rows = size(size(w, dual(p_in), axis=1), p_out)
    if p_in != p_out:
        return by_rows
    most_column, most_row = size(size(w, 1.0, axis=0), math.inf), size(size(w, 1.0, axis=1), math.inf)
    if p_in in (1, math.inf):
        return most_column if p_in == 1 else most_row
    # Riesz and Thorin, between the norms of order 1 and inf
    least = jnp.minimum(by_rows, most_column ** (1 / p_in) * most_row ** (1 - 1 / p_in))
    return jnp.minimum(least, gram(w)) if p_in == 2 else least


def gram(w: Array, squarings: int = _SQUARINGS) -> Array:
    """An upper bound of the spectral norm that falls to it: ``||W^(k)||_F ^ (2^-k)`` with ``W^(k+1) = W^(k)^T W^(k)``, rescaled.

    Each product's own rounding, at most ``2 n eps`` in the Frobenius norm of factors of norm 1, is added to what is squared.

    References:
      Delattre et al., Efficient bound of Lipschitz constant for convolutional layers by Gram iteration, ICML 2023.
    """
    w = w.T if w.shape[0] < w.shape[1] else w
    scales, rounding = [], 2 * max(w.shape) * float(jnp.finfo(w.dtype).eps)
    for _ in range(squarings):
        scale = size(w, 2.0)
        w = w / jnp.where(scale > 0, scale, 1.0)
        scales.append(scale)
        w = jnp.matmul(w.T, w, precision=jax.lax.Precision.HIGHEST)
    bound = size(w, 2.0)
    for scale in reversed(scales):
        bound = scale * jnp.sqrt(bound + rounding)
    return bound
