"""`Set`, `Threat` and the table of functions (`Geometry`) that makes a set what it is."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_floating
from jrobust._tree import is_traced
from jrobust.typing import Array, Float, Point


class Geometry(NamedTuple):
    """The facts about one kind of set; each function takes the set's centre and parameters first.

    Attributes:
      name: for tables and errors.
      support: ``(s, c) -> sup_{z in S} <c, z>``; may be an upper bound of it (then the set says so), never below.
      argsup: ``(s, c) -> z in S`` that attains it.
      project: ``(s, z) ->`` the nearest point of the set (Euclidean).
      sample: ``(s, key) ->`` a random point of the set, every region reachable.
      contains: ``(s, z, tol) -> bool``.
      hull: ``(s) -> (lo, hi)``, the bounding box.
      scale: ``(s, t) ->`` the set shrunk (t < 1) or grown about its centre, still inside its clip.
      steepest: ``(s, g, relative) ->`` the displacement of unit norm (``relative``: of the set's own radius) most along ``g``.
      distance: ``(s, z) ->`` the least eps at which the family's set around the same centre holds ``z``, whatever its clip.
      resize: ``(s, eps) ->`` the family's set of radius ``eps`` around the same centre, inside the same clip.
      convex: whether it is; of a set that is not, ``project`` gives one nearest point of several.
    """

    name: str
    support: Callable[..., Any]
    argsup: Callable[..., Any]
    project: Callable[..., Any]
    sample: Callable[..., Any]
    contains: Callable[..., Any]
    hull: Callable[..., Any]
    scale: Callable[..., Any]
    steepest: Callable[..., Any]
    distance: Callable[..., Any]
    resize: Callable[..., Any]
    convex: bool = True


@partial(jax.tree_util.register_dataclass, data_fields=["center", "params"], meta_fields=["geometry"])
@dataclasses.dataclass(frozen=True)
class Set:
    """The points that an adversary may choose for one example.

    Attributes:
      center: the clean example (a tuple of them for a product).
      params: the numbers of the set: ``(eps, lo, hi)`` for balls and boxes, the parts of a composed set.
      geometry: its functions (structure).
    """

    center: Point
    params: tuple[Any, ...]
    geometry: Geometry

    def support(self, c: Point) -> Float[Array, ""]:
        """``sup_{z in S} <c, z>``, or a sound upper bound of it; differentiable in ``c`` (its gradient is `argsup`)."""
        return self.geometry.support(self, c)

    def argsup(self, c: Point) -> Point:
        """A point of the set that maximises ``<c, z>``."""
        return self.geometry.argsup(self, c)

    def project(self, z: Point) -> Point:
        """The nearest point of the set, in the Euclidean sense."""
        return self.geometry.project(self, z)

    def sample(self, key: Any) -> Point:
        """A random point of the set."""
        return self.geometry.sample(self, key)

    def contains(self, z: Point, tol: float = 1e-5) -> Any:
        """Whether ``z`` lies in the set, up to ``tol`` (relative in the norm, absolute in the box)."""
        return self.geometry.contains(self, z, tol)

    def hull(self) -> tuple[Point, Point]:
        """The bounding box ``(lo, hi)``."""
        return self.geometry.hull(self)

    def scale(self, t: Any) -> "Set":
        """The set with its radius multiplied by ``t``, about the same centre and inside the same clip."""
        return self.geometry.scale(self, t)

    def steepest(self, g: Point, *, relative: bool = False) -> Point:
        """The displacement most along ``g``, of norm one or (``relative``) of the set's own radius; the clip is ignored."""
        return self.geometry.steepest(self, g, relative)

    def distance(self, z: Point) -> Any:
        """The least eps at which the set of this family around the same centre holds ``z`` (the clip is ignored); as eps is given."""
        return self.geometry.distance(self, z)

    def resize(self, eps: Any) -> "Set":
        """The set of radius ``eps`` of this family, about the same centre and inside the same clip."""
        return self.geometry.resize(self, eps)


@partial(jax.tree_util.register_dataclass, data_fields=["eps", "args"], meta_fields=["build", "name"])
@dataclasses.dataclass(frozen=True)
class Threat:
    """A map from an example to the set of its perturbations; a pytree, and one member of its own family.

    Attributes:
      eps: the radius: a scalar, an array of the example's shape (``linf``: one radius an entry), [N] in a driver (one an
        example), or a tuple (``product``).
      args: the threat's other numbers (clip, box, parts).
      build: ``(eps, args, x) -> Set``, structure.
      name: for tables.
    """

    eps: Any
    args: tuple[Any, ...]
    build: Callable[..., Set]
    name: str

    def __call__(self, x: Point) -> Set:
        """The set of perturbations of one example ``x``, floating (a tuple for a product).

        Raises:
          TypeError: an entry that is not floating: eps would be rounded to its kind.
        """
        check_floating(x)
        return self.build(self.eps, self.args, x)

    def family(self, eps: Any) -> "Threat":
        """The same threat at another radius."""
        return dataclasses.replace(self, eps=eps)


def eps_axes(threat: Threat, x: Point) -> Threat:
    """The ``in_axes`` for vmapping ``threat`` over a batch ``x[N, ...]``: 0 where an eps has leading length N, else None.

    Raises:
      ValueError: an eps could be one an example as well as one an entry.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> eps_axes(jr.sets.linf(0.1), jnp.zeros((8, 2))).eps is None
    True
    >>> eps_axes(jr.sets.linf(jnp.full(8, 0.1)), jnp.zeros((8, 2))).eps
    0
    """
    n = jax.tree.leaves(x)[0].shape[0]
    radii, treedef = jax.tree.flatten(threat.eps)
    axes = [0 if np.ndim(e) >= 1 and np.shape(e)[0] == n else None for e in radii]
    for k, eps in enumerate(radii):
        alone = treedef.unflatten([eps if i == k else 0.0 for i in range(len(radii))])
        if axes[k] == 0 and n > 1 and _is_one_an_entry(threat.family(alone), x):
            raise ValueError(
                f"eps of shape {np.shape(eps)} may be one an example or one an entry of a batch of {n}; give it as [N, ...example] "
                "([N, 1, ..., 1] for one an example)"
            )
    return dataclasses.replace(threat, eps=treedef.unflatten(axes), args=jax.tree.map(lambda _: None, threat.args))


def _is_one_an_entry(threat: Threat, x: Point) -> bool:
    """Whether the eps, as it is, makes a set around one example of the batch ``x``."""
    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
    try:
        ends = jax.eval_shape(lambda z: threat(z).hull()[0], example)
    except (TypeError, ValueError):
        return False
    return all(a.shape == b.shape for a, b in zip(jax.tree.leaves(ends), jax.tree.leaves(example), strict=True))


def check_eps(eps: Any, name: str) -> Any:
    """``eps`` itself; raises where it is concrete and negative or not finite."""
    if not is_traced(eps):
        array = np.asarray(eps)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name}: eps must be a number or an array of numbers, got {eps!r}")
        if not np.all(np.isfinite(array)) or np.any(array < 0):
            raise ValueError(f"{name}: eps must be finite and >= 0, got {np.min(array)}")
    return eps


def check_clip(clip: Any, name: str) -> tuple[Any, Any]:
    """``(lo, hi)`` of a clip, infinite where there is none; raises where lo > hi."""
    if clip is None:
        return None, None
    if not (isinstance(clip, tuple | list) and len(clip) == 2):
        raise ValueError(f"{name}: clip is a pair (lo, hi) or None, got {clip!r}")
    lo, hi = clip
    if lo is None or hi is None:
        raise ValueError(f"{name}: an end that the clip does not have is infinite, such as (0, jnp.inf); got {clip!r}")
    if not is_traced(lo, hi) and np.any(np.asarray(lo) > np.asarray(hi)):
        raise ValueError(f"{name}: clip must have lo <= hi, got {clip!r}")
    return lo, hi


def check_finite_clip(clip: Any, name: str) -> tuple[Any, Any]:
    """``(lo, hi)`` of a clip that both ends must have."""
    lo, hi = check_clip(clip, name)
    if lo is None or hi is None or (not is_traced(lo, hi) and not np.all(np.isfinite(np.asarray(hi) - np.asarray(lo)))):
        raise ValueError(
            f"{name}: clip must be finite, such as (0, 1): nothing else bounds an entry that moves; got {clip!r}"
        )
    return lo, hi


def clamp(z: Any, lo: Any, hi: Any) -> Any:
    """``z`` moved into [lo, hi]; either end may be None."""
    return z if lo is None and hi is None else jnp.clip(z, lo, hi)
