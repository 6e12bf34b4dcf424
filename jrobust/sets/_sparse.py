"""L0 sets: at most so many entries, or pixels (groups along the last axis), differ from the centre; each anywhere in the clip.

Every fact about them is one choice: what each group gains by moving, and the ``eps`` groups that gain most. The sets are not convex.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jrobust._tree import bind
from jrobust.sets._base import Geometry, Set, Threat, check_eps, check_finite_clip
from jrobust.typing import Array


def largest_groups(gains: Array, count: Any) -> Array:
    """Which are the ``count`` (traced) largest of numbers >= 0, of equal ones the first: by bisection over the bits, no sort."""
    flat = jax.lax.stop_gradient(gains).ravel().astype(jnp.promote_types(gains.dtype, jnp.float32))
    integer = jnp.int64 if flat.dtype == jnp.float64 else jnp.int32
    bits = jax.lax.bitcast_convert_type(flat, integer)  # order as the floats do

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        enough = jnp.sum(bits >= middle) >= count
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    ends = jnp.asarray(0, integer), jnp.asarray(jnp.iinfo(integer).max, integer)
    last, _ = jax.lax.fori_loop(0, jnp.iinfo(integer).bits - 1, halve, ends)
    above, ties = bits > last, bits == last
    chosen = above | (ties & (jnp.cumsum(ties) <= count - jnp.sum(above)))
    return chosen.reshape(gains.shape)


def moved_groups(s: Set, z: Array) -> Array:
    """Which groups of ``z`` differ from the centre of an L0 set."""
    moved = z != s.center
    return jnp.any(moved, axis=-1) if s.geometry.name == PIXELS else moved


def spread(s: Set, groups: Array) -> Array:
    """A mask over the groups of an L0 set as one over its entries."""
    return jnp.broadcast_to(groups[..., None] if s.geometry.name == PIXELS else groups, s.center.shape)


def budget(s: Set) -> Array:
    """How many groups of an L0 set may move."""
    # an eps that was computed may lie a rounding below its integer; of large ones no more is forgiven
    return jnp.floor(s.params[0] + jnp.minimum(1e-6 * s.params[0], 0.01)).astype(jnp.int32)


PIXELS = "l0-pixels"


def _best(s: Set, gains: Array) -> Array:
    """The entries of the groups that may move and gain most, of which each gains something."""
    total = jnp.sum(gains, axis=-1) if s.geometry.name == PIXELS else gains
    return spread(s, largest_groups(total, budget(s))) & (gains > 0)


def _ends(s: Set) -> tuple[Array, Array]:
    _, lo, hi = s.params
    x = s.center
    # a centre outside the clip is the drivers' to refuse; the set must merely hold its centre
    return jnp.minimum(jnp.asarray(lo, x.dtype), x), jnp.maximum(jnp.asarray(hi, x.dtype), x)


def _argsup(s: Set, c: Array) -> Array:
    lo, hi = _ends(s)
    end = jnp.where(c > 0, hi, lo)
    return jnp.where(_best(s, jnp.abs(c) * jnp.abs(end - s.center)), end, s.center)


def _support(s: Set, c: Array) -> Array:
    return jnp.sum(c * _argsup(s, c))


def _project(s: Set, z: Array) -> Array:
    lo, hi = _ends(s)
    x = s.center
    far = jnp.finfo(x.dtype).max ** 0.25  # no further than where squares and sums stay finite
    v, end = jnp.clip(z - x, -far, far), jnp.clip(z, lo, hi)
    # by how much moving the entry as far as it may brings the squared distance down: |v|^2 - |v - d|^2 = d (2 v - d)
    d = end - x
    return jnp.where(_best(s, jnp.maximum(d * (2 * v - d), 0.0)), end, x)


def _sample(s: Set, key: Any) -> Array:
    x = s.center
    k_where, k_what = jax.random.split(key)
    shape = x.shape[:-1] if s.geometry.name == PIXELS else x.shape
    chosen = spread(s, largest_groups(jax.random.uniform(k_where, shape), budget(s)))
    lo, hi = _ends(s)
    u = jax.random.uniform(k_what, x.shape, x.dtype)
    return jnp.where(chosen, jnp.minimum(lo + (hi - lo) * u, hi), x)


def _contains(s: Set, z: Array, tol: float) -> Array:
    _, lo, hi = s.params
    inside = jnp.all((z >= lo - tol) & (z <= hi + tol))
    return (jnp.sum(moved_groups(s, z)) <= budget(s)) & inside & jnp.all(jnp.isfinite(z))


def _hull(s: Set) -> tuple[Array, Array]:
    lo, hi = _ends(s)
    some = budget(s) >= 1
    return jnp.where(some, lo, s.center), jnp.where(some, hi, s.center)


def _resize(s: Set, eps: Any) -> Set:
    return Set(s.center, (eps, *s.params[1:]), s.geometry)


def _scale(s: Set, t: Any) -> Set:
    return _resize(s, s.params[0] * t)


def _distance(s: Set, z: Array) -> Array:
    count = jnp.sum(moved_groups(s, z)).astype(jnp.promote_types(z.dtype, jnp.float32))
    return jnp.where(jnp.all(jnp.isfinite(z)), count, jnp.inf)  # no set holds such a point


def _steepest(s: Set, g: Array, relative: bool) -> Array:
    # the gradient over its L1 norm; relative to the set, of ten L1 widths of its clip: by small steps no entry gets past those that
    # have moved already, and the projection takes back what is too much
    top = jnp.max(jnp.abs(g), initial=0.0)
    g = g / jnp.where(top > 0, top, 1.0)
    size = jnp.sum(jnp.abs(g))
    lo, hi = _ends(s)
    return g / jnp.where(size > 0, size, 1.0) * (10.0 * jnp.sum(hi - lo) if relative else 1.0)


def _geometry(name: str) -> Geometry:
    return Geometry(
        name,
        support=_support,
        argsup=_argsup,
        project=_project,
        sample=_sample,
        contains=_contains,
        hull=_hull,
        scale=_scale,
        steepest=_steepest,
        distance=_distance,
        resize=_resize,
        convex=False,
    )


_GEOMETRIES = {name: _geometry(name) for name in ("l0", PIXELS)}


def _build(eps: Any, args: tuple[Any, Any], x: Any, *, name: str) -> Set:
    x = jnp.asarray(x)
    if jnp.ndim(eps) != 0:
        raise ValueError(f"{name}: eps must be one number for an example, got shape {jnp.shape(eps)}")
    if name == PIXELS and x.ndim < 2:
        raise ValueError(f"{name}: pixels are groups along the last axis of an example [..., C], got shape {x.shape}")
    lo, hi = (jnp.broadcast_to(jnp.asarray(end, x.dtype), x.shape) for end in args)
    return Set(x, (jnp.asarray(eps, jnp.promote_types(x.dtype, jnp.float32)), lo, hi), _GEOMETRIES[name])


def l0(eps: Any, *, clip: tuple[Any, Any] | None, pixels: bool = False) -> Threat:
    """At most ``eps`` entries differ from the example, each by as much as ``clip`` allows: ``{ z : ||z - x||_0 <= eps, lo <= z <= hi }``.

    Args:
      eps: how many, >= 0, rounded down; traced.
      clip: ``(lo, hi)``, the box of allowed values, finite: nothing else bounds an entry that moves.
      pixels: count pixels, groups along the last axis (an image [H, W, C]), instead of entries.

    Returns:
      A `Threat`; of its sets, ``distance`` is the count of what differs, to the bit (``contains`` forgives nothing there).

    Raises:
      ValueError: no clip, or an infinite one; eps negative or not finite, lo > hi.

    Guarantee:
      Support is exact. `project` gives a nearest point: the set is not convex, so there may be several. The direction of
      gradient attacks is the gradient over its L1 norm, as in PGD-L0; its length relative to the set is ten L1 widths of the clip, so
      that steps of `jr.attacks.pgd` change which entries move.

    >>> import jax.numpy as jnp
    >>> s = l0(1, clip=(0, 1))(jnp.array([0.5, 0.2, 0.9]))
    >>> print(s.support(jnp.array([1.0, 1.0, -1.0])), s.project(jnp.array([0.4, 0.9, 0.8])))
    0.7 [0.5 0.9 0.9]

    References:
      Croce & Hein, Sparse and imperceivable adversarial attacks, ICCV 2019 (the projection and the step of PGD-L0).
    """
    name = PIXELS if pixels else "l0"
    return Threat(check_eps(eps, name), check_finite_clip(clip, name), bind(_build, name=name), name)
