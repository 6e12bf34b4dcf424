"""Small things over pytrees: closures that are data, inner products, selection."""

import dataclasses
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jrobust.typing import Array, PyTree


@partial(jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=["fn", "static"])
@dataclasses.dataclass(frozen=True)
class Closure:
    """A function with some arguments bound, as a pytree: ``fn(*data, *args, **static, **kwargs)``.

    ``data`` are leaves (traced, vmapped, never a recompile); ``fn`` and ``static`` are structure, compared by value, so that
    two calls of one factory with equal counts share one compiled program.
    """

    fn: Callable[..., Any]
    data: tuple[Any, ...]
    static: tuple[tuple[str, Hashable], ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*self.data, *args, **dict(self.static), **kwargs)


def bind(fn: Callable[..., Any], *data: Any, **static: Hashable) -> Closure:
    """Bind leading positional ``data`` (leaves) and keyword ``static`` (structure) of ``fn``.

    >>> bind(lambda step, x, *, times: times * step * x, 0.5, times=4)(3.0)
    6.0
    """
    return Closure(fn, data, tuple(sorted(static.items())))


def as_pytree(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` itself where it is already a pytree of its arrays, else ``fn`` as a static function without leaves."""
    return jax.tree_util.Partial(fn) if jax.tree_util.all_leaves([fn]) else fn


def vdot(a: PyTree, b: PyTree) -> Array:
    """Inner product of two pytrees of equal structure."""
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))  # pyright: ignore


def normal_like(key: Any, tree: PyTree, scale: float = 1.0) -> PyTree:
    """Independent normal numbers of the shapes and dtypes of ``tree``, times ``scale``."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [scale * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return structure.unflatten(noise)


def unravel(flat: Array, like: Any) -> list[Array]:
    """The last axis of ``flat`` cut into arrays of the shapes and dtypes of ``like``, one after the other."""
    cuts = [sum(v.size for v in like[: i + 1]) for i in range(len(like) - 1)]
    parts = zip(jnp.split(flat, cuts, axis=-1), like, strict=True)
    return [part.reshape(*flat.shape[:-1], *v.shape).astype(v.dtype) for part, v in parts]


def where(condition: Array, a: PyTree, b: PyTree) -> PyTree:
    """Leafwise ``where`` with one scalar condition."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def stop_gradient(tree: PyTree) -> PyTree:
    """``lax.stop_gradient`` on every leaf."""
    return jax.tree.map(jax.lax.stop_gradient, tree)


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
