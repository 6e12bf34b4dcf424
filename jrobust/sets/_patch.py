"""Patches: everything in one window of a size, wherever it lies, may move. A union of boxes, one a place; not convex."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jrobust._tree import bind
from jrobust.sets._base import Geometry, Set, Threat, check_eps, check_finite_clip
from jrobust.typing import Array


def _ends(s: Set) -> tuple[Array, Array]:
    eps, lo, hi = s.params
    x = s.center
    # a centre outside the clip is the drivers' to refuse; the set must merely hold its centre
    return jnp.minimum(jnp.maximum(lo, x - eps), x), jnp.maximum(jnp.minimum(hi, x + eps), x)


def _sums(gains: Array, size: tuple[int, ...]) -> Array:
    """What each window gains: a sum over its entries, for every place inside the example."""
    window = (*size, *gains.shape[len(size) :])
    return lax.reduce_window(gains, jnp.zeros((), gains.dtype), lax.add, window, (1,) * gains.ndim, "VALID")


def _inside(s: Set, place: Array, size: tuple[int, ...]) -> Array:
    """A mask of the window at a place (an index over all of them)."""
    shape = s.center.shape
    places = tuple(n - k + 1 for n, k in zip(shape, size, strict=False))
    mask = jnp.ones(shape, bool)
    for axis, (start, k) in enumerate(zip(jnp.unravel_index(place, places), size, strict=True)):
        at = lax.broadcasted_iota(jnp.int32, shape, axis)
        mask &= (at >= start) & (at < start + k)
    return mask


def _best(s: Set, gains: Array, size: tuple[int, ...]) -> Array:
    return _inside(s, jnp.argmax(_sums(lax.stop_gradient(gains), size)), size)


def _argsup(s: Set, c: Array, *, size: tuple[int, ...]) -> Array:
    lo, hi = _ends(s)
    end = jnp.where(c > 0, hi, lo)
    return jnp.where(_best(s, c * (end - s.center), size) & (c != 0), end, s.center)


def _support(s: Set, c: Array, *, size: tuple[int, ...]) -> Array:
    return jnp.sum(c * _argsup(s, c, size=size))


def _project(s: Set, z: Array, *, size: tuple[int, ...]) -> Array:
    lo, hi = _ends(s)
    far = jnp.finfo(z.dtype).max ** 0.25  # no further than where squares and sums stay finite
    v, end = jnp.clip(z - s.center, -far, far), jnp.clip(z, lo, hi)
    d = end - s.center
    return jnp.where(_best(s, jnp.maximum(d * (2 * v - d), 0.0), size), end, s.center)


def _sample(s: Set, key: Any, *, size: tuple[int, ...]) -> Array:
    k_where, k_what = jax.random.split(key)
    places = math.prod(n - k + 1 for n, k in zip(s.center.shape, size, strict=False))
    lo, hi = _ends(s)
    u = jax.random.uniform(k_what, s.center.shape, s.center.dtype)
    inside = _inside(s, jax.random.randint(k_where, (), 0, places), size)
    return jnp.where(inside, jnp.minimum(lo + (hi - lo) * u, hi), s.center)


def _fits(s: Set, z: Array, size: tuple[int, ...]) -> Array:
    """Whether all that differs lies in one window."""
    moved = (z != s.center).astype(jnp.float32)
    return jnp.max(_sums(moved, size)) == jnp.sum(moved)


def _contains(s: Set, z: Array, tol: float, *, size: tuple[int, ...]) -> Array:
    eps, lo, hi = s.params
    near = jnp.all((z >= lo - tol) & (z <= hi + tol) & (jnp.abs(z - s.center) <= eps + tol))
    return near & _fits(s, z, size) & jnp.all(jnp.isfinite(z))


def _distance(s: Set, z: Array, *, size: tuple[int, ...]) -> Array:
    far = jnp.max(jnp.abs(z - s.center))
    return jnp.where(_fits(s, z, size) & jnp.isfinite(far), far, jnp.inf)


def _resize(s: Set, eps: Any) -> Set:
    return Set(s.center, (eps, *s.params[1:]), s.geometry)


def _steepest(s: Set, g: Array, relative: bool) -> Array:
    lo, hi = _ends(s)
    return jnp.sign(g) * (0.5 * jnp.max(hi - lo) if relative else 1.0)


def _build(eps: Any, args: tuple[Any, Any], x: Any, *, size: tuple[int, ...]) -> Set:
    x = jnp.asarray(x)
    if jnp.ndim(eps) != 0:
        raise ValueError(f"patch: eps must be one number for an example, got shape {jnp.shape(eps)}")
    if x.ndim < len(size) or any(k > n for k, n in zip(size, x.shape, strict=False)):
        raise ValueError(f"patch: a window of size {size} does not fit an example of shape {x.shape}")
    lo, hi = (jnp.broadcast_to(jnp.asarray(end, x.dtype), x.shape) for end in args)
    geometry = Geometry(
        "patch",
        support=bind(_support, size=size),
        argsup=bind(_argsup, size=size),
        project=bind(_project, size=size),
        sample=bind(_sample, size=size),
        contains=bind(_contains, size=size),
        hull=_ends,
        scale=_scale,
        steepest=_steepest,
        distance=bind(_distance, size=size),
        resize=_resize,
        convex=False,
    )
    return Set(x, (jnp.asarray(eps, x.dtype), lo, hi), geometry)


def _scale(s: Set, t: Any) -> Set:
    return _resize(s, s.params[0] * t)


def patch(size: tuple[int, ...], *, clip: tuple[Any, Any], eps: Any = 1.0) -> Threat:
    """One window of the example, wherever it lies, may change: the union over places of
    ``{ z : z = x outside the window, |z - x| <= eps inside, lo <= z <= hi }``.

    Args:
      size: of the window, along the first axes of an example ((5, 5) for an image [H, W, C]; all channels belong to it).
      clip: ``(lo, hi)``, the box of allowed values, finite.
      eps: how far an entry in the window may move, >= 0, traced; 1 is the whole of a clip (0, 1).

    Returns:
      A `Threat`. Its support is exact: the place that gains most. Bounds take the largest over places for every value that is affine in
      the input, so they are at least as tight as those of the union's hull.

    Raises:
      ValueError: a size that is not positive or does not fit the example, a clip that is not finite.

    >>> import jax.numpy as jnp
    >>> s = patch((2,), clip=(0.0, 1.0))(jnp.array([0.5, 0.5, 0.5, 0.5]))
    >>> print(s.support(jnp.array([1.0, 0.0, 2.0, -3.0])) - 0.5 * (1 + 2 - 3))
    2.5
    """
    size = tuple(size)
    if not size or any(not isinstance(k, int) or k < 1 for k in size):
        raise ValueError(f"patch: size is one or more ints >= 1, got {size}")
    return Threat(check_eps(eps, "patch"), check_finite_clip(clip, "patch"), bind(_build, size=size), "patch")
