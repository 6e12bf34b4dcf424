"""Boxes, points, products of sets over a tuple of inputs, and the product of one threat over a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust.sets._base import Geometry, Set, Threat, check_clip, eps_axes
from jrobust.typing import Array, Point


def _box_ends(s: Set) -> tuple[Array, Array]:
    t, lo, hi = s.params
    x = s.center
    # of this form t = 1 gives the box's own ends, to the bit
    return (1 - t) * x + t * lo, (1 - t) * x + t * hi


def _box_support(s: Set, c: Array) -> Array:
    lo, hi = _box_ends(s)
    return jnp.sum(jnp.where(c > 0, c * hi, c * lo))


def _box_argsup(s: Set, c: Array) -> Array:
    lo, hi = _box_ends(s)
    return jnp.where(c > 0, hi, jnp.where(c < 0, lo, s.center))


def _box_sample(s: Set, key: Any) -> Array:
    lo, hi = _box_ends(s)
    return lo + (hi - lo) * jax.random.uniform(key, jnp.shape(s.center), jnp.result_type(s.center))


def _box_contains(s: Set, z: Array, tol: float) -> Array:
    lo, hi = _box_ends(s)
    return jnp.all((z >= lo - tol) & (z <= hi + tol))


def _box_steepest(s: Set, g: Array, relative: bool) -> Array:
    # the unit of a box is half its own width: there is no norm to speak of
    lo, hi = _box_ends(s)
    return 0.5 * (hi - lo) * jnp.sign(g)


def _box_distance(s: Set, z: Array) -> Array:
    _, lo, hi = s.params
    room = jnp.where(z > s.center, hi - s.center, s.center - lo)
    moved = jnp.abs(z - s.center)
    return jnp.max(jnp.where(moved == 0, 0.0, moved / jnp.where(moved == 0, 1.0, room)), initial=0.0)


def _box_resize(s: Set, t: Any) -> Set:
    return Set(s.center, (t, *s.params[1:]), s.geometry)


_BOX = Geometry(
    "box",
    support=_box_support,
    argsup=_box_argsup,
    project=lambda s, z: jnp.clip(z, *_box_ends(s)),
    sample=_box_sample,
    contains=_box_contains,
    hull=_box_ends,
    scale=lambda s, t: _box_resize(s, s.params[0] * t),
    steepest=_box_steepest,
    distance=_box_distance,
    resize=_box_resize,
)


def _build_box(t: Any, args: tuple[Any, Any], x: Any) -> Set:
    x = jnp.asarray(x)
    lo, hi = (jnp.broadcast_to(jnp.asarray(end, x.dtype), x.shape) for end in args)
    return Set(jnp.clip(x, lo, hi), (jnp.asarray(t, x.dtype), lo, hi), _BOX)


def box(lo: Any, hi: Any) -> Threat:
    """The box ``{ z : lo <= z <= hi }``, whatever the example; its family scales the box about the example.

    Args:
      lo, hi: numbers or arrays that broadcast to the example's shape, lo <= hi.

    Returns:
      A `Threat` with ``eps = 1`` (the fraction of the box). The step of an attack on it is in half-widths.

    Raises:
      ValueError: lo > hi somewhere.

    >>> import jax.numpy as jnp
    >>> print(box(0.0, jnp.array([1.0, 2.0]))(jnp.zeros(2)).support(jnp.array([1.0, 1.0])))
    3.0
    """
    return Threat(1.0, check_clip((lo, hi), "box"), _build_box, "box")


def _point_distance(s: Set, z: Array) -> Array:
    return jnp.where(jnp.all(z == s.center), 0.0, jnp.inf).astype(s.center.dtype)


_POINT = Geometry(
    "point",
    support=lambda s, c: jnp.sum(c * s.center),
    argsup=lambda s, c: s.center,
    project=lambda s, z: s.center,
    sample=lambda s, key: s.center,
    contains=lambda s, z, tol: jnp.all(z == s.center),
    hull=lambda s: (s.center, s.center),
    scale=lambda s, t: s,
    steepest=lambda s, g, relative: jnp.zeros_like(g),
    distance=_point_distance,
    resize=lambda s, eps: s,
)


def _build_point(eps: Any, args: tuple[Any, Any], x: Any) -> Set:
    del eps, args
    return Set(jnp.asarray(x), (), _POINT)


def point(*, clip: tuple[Any, Any] | None = None) -> Threat:
    """The example alone, at every radius: the entry of a product that does not move.

    Args:
      clip: ``(lo, hi)``, what drivers hold the example against, or None.

    >>> import jax.numpy as jnp
    >>> s = product(point(), box(0.0, 1.0))((jnp.ones(2), jnp.zeros(3)))
    >>> print(s.support((jnp.ones(2), jnp.ones(3))))
    5.0
    """
    return Threat(0.0, check_clip(clip, "point"), _build_point, "point")


def _each(method: str) -> Callable[..., Any]:
    def over_parts(s: Set, *points: Any) -> tuple[Any, ...]:
        return tuple(getattr(part, method)(*(p[i] for p in points)) for i, part in enumerate(s.params))

    return over_parts


def _product_hull(s: Set) -> tuple[Point, Point]:
    lo, hi = zip(*(part.hull() for part in s.params), strict=True)
    return lo, hi


def _product_sample(s: Set, key: Any) -> Point:
    return tuple(part.sample(k) for part, k in zip(s.params, jax.random.split(key, len(s.params)), strict=True))


_supports, _resizes = _each("support"), _each("resize")

_PRODUCT = Geometry(
    "product",
    support=lambda s, c: sum(_supports(s, c)),
    argsup=_each("argsup"),
    project=_each("project"),
    sample=_product_sample,
    contains=lambda s, z, tol: jnp.all(
        jnp.stack([part.contains(zi, tol) for part, zi in zip(s.params, z, strict=True)])
    ),
    hull=_product_hull,
    scale=lambda s, t: Set(s.center, tuple(part.scale(t) for part in s.params), s.geometry),
    steepest=lambda s, g, relative: tuple(
        part.steepest(gi, relative=relative) for part, gi in zip(s.params, g, strict=True)
    ),
    distance=_each("distance"),
    resize=lambda s, eps: Set(s.center, _resizes(s, _one_a_part(eps, len(s.params))), s.geometry),
)


def _one_a_part(eps: Any, n: int) -> tuple[Any, ...]:
    """The radii of the parts; one number is every part's."""
    return tuple(eps) if isinstance(eps, tuple | list) else (eps,) * n


def _build_product(eps: Any, threats: tuple[Threat, ...], x: Any) -> Set:
    if not isinstance(x, tuple) or len(x) != len(threats):
        given = f"a tuple of {len(x)}" if isinstance(x, tuple) else type(x).__name__
        raise ValueError(f"product of {len(threats)} threats takes a tuple of {len(threats)} inputs, got {given}")
    radii = _one_a_part(eps, len(threats))
    parts = tuple(threat.family(e)(xi) for threat, e, xi in zip(threats, radii, x, strict=True))
    convex = all(part.geometry.convex for part in parts)
    return Set(tuple(part.center for part in parts), parts, _PRODUCT._replace(convex=convex))


def product(*threats: Threat) -> Threat:
    """The product set: input i of the tuple ``x`` moves within ``threats[i]``, independently.

    Its eps is the tuple of the parts' radii. One number instead, as `curve` and `critical_radius` give it to the family, is every
    part's eps (of a box: the fraction of the box).

    >>> import jax.numpy as jnp
    >>> s = product(box(0.0, 1.0), box(-1.0, 1.0))((jnp.zeros(2), jnp.zeros(3)))
    >>> print(s.support((jnp.ones(2), jnp.ones(3))))
    5.0
    """
    if not threats or not all(isinstance(t, Threat) for t in threats):
        given = ", ".join(type(t).__name__ for t in threats) or "none"
        raise TypeError(
            f"product takes threats, one an entry of a tuple of inputs: product(linf(0.1), box(0, 1)); got {given}"
        )
    name = " x ".join(t.name for t in threats)
    return Threat(tuple(t.eps for t in threats), threats, _build_product, name)


def _vmapped(method: str) -> Callable[..., Any]:
    def over_batch(s: Set, *points: Any) -> Any:
        return jax.vmap(lambda part, *zs: getattr(part, method)(*zs))(s.params[0], *points)

    return over_batch


def _power_sample(s: Set, key: Any) -> Point:
    n = jax.tree.leaves(s.center)[0].shape[0]
    return jax.vmap(lambda part, k: part.sample(k))(s.params[0], jax.random.split(key, n))


def _one_an_example(s: Set, eps: Any) -> Any:
    n = jax.tree.leaves(s.center)[0].shape[0]
    return jax.tree.map(lambda e: e if jnp.ndim(e) else jnp.broadcast_to(e, (n,)), eps)


_batch_support = _vmapped("support")

_POWER = Geometry(
    "power",
    support=lambda s, c: jnp.sum(_batch_support(s, c)),
    argsup=_vmapped("argsup"),
    project=_vmapped("project"),
    sample=_power_sample,
    contains=lambda s, z, tol: jnp.all(jax.vmap(lambda part, zi: part.contains(zi, tol))(s.params[0], z)),
    hull=_vmapped("hull"),
    scale=lambda s, t: Set(s.center, (jax.vmap(lambda part: part.scale(t))(s.params[0]),), s.geometry),
    steepest=lambda s, g, relative: jax.vmap(lambda part, gi: part.steepest(gi, relative=relative))(s.params[0], g),
    distance=_vmapped("distance"),
    resize=lambda s, eps: Set(
        s.center, (jax.vmap(lambda part, e: part.resize(e))(s.params[0], _one_an_example(s, eps)),), s.geometry
    ),
)


def _build_power(eps: Any, args: tuple[Threat], x: Any) -> Set:
    threat = args[0].family(eps)
    axes = eps_axes(threat, x)
    # every number of the parts becomes batched, so that one vmap serves all methods
    parts = jax.vmap(lambda t, xi: jax.tree.map(jnp.asarray, t(xi)), in_axes=(axes, 0))(threat, x)
    return Set(parts.center, (parts,), _POWER._replace(convex=parts.geometry.convex))


def power(threat: Threat) -> Threat:
    """The batch ``x[B, ...]`` as one point: each example moves within ``threat``, independently.

    This is how an attack sees batch-level terms (BatchNorm in training mode): the batch is a single point of a product set.

    >>> import jax.numpy as jnp
    >>> print(power(box(0.0, 1.0))(jnp.zeros((2, 3))).support(jnp.ones((2, 3))))
    6.0
    """
    return Threat(threat.eps, (threat,), _build_power, f"batch of {threat.name}")
