"""What iterative attacks share: one gradient at a point, the worst case kept, the start, and the class that is aimed at."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._iterate import improves, violated
from jrobust._objective import Objective
from jrobust._tree import is_traced, where
from jrobust.objectives import with_label
from jrobust.typing import Array, Float, Point

Surrogate = Callable[[Objective, Any], Float[Array, ""]]


def climb(f: Objective, surrogate: Surrogate | None, z: Point) -> tuple[Float[Array, ""], Float[Array, ""], Point]:
    """``(objective's value, surrogate, gradient of the surrogate)`` at ``z``: one forward, one backward pass."""

    (height, value), gradient = jax.value_and_grad(lambda z: f.climb(surrogate or f.surrogate, z), has_aux=True)(z)
    return value, height, gradient


def keep(state: Any, z: Point, value: Float[Array, ""]) -> Any:
    """The state (of fields ``value`` and ``witness``) with ``z`` as witness where it is the worst case so far."""
    value = value.astype(state.value.dtype)
    better = improves(value, state.value)
    return state._replace(value=jnp.where(better, value, state.value), witness=where(better, z, state.witness))


def broken(state: Any) -> Array:
    """Early stop: a violation was found."""
    return violated(state.value)


def kept(state: Any, f: Any, s: Any) -> tuple[Float[Array, ""], Point]:
    """The `Algorithm.best` of a state that has evaluated every point it keeps: no further pass."""
    del f, s
    return state.value, state.witness


def with_last(state: Any, f: Objective, s: Any) -> tuple[Float[Array, ""], Point]:
    """The `Algorithm.best` of a state whose iterate ``z`` is yet to be judged: one forward pass."""
    state = keep(state, state.z, f.value(f.outputs(state.z)))
    return kept(state, f, s)


def nothing(z: Point) -> Float[Array, ""]:
    """The value before anything was evaluated."""
    return jnp.asarray(-jnp.inf, jnp.result_type(*jax.tree.leaves(z)))


def on_the_sphere(s: Any, key: Any, *, uniform: bool) -> Point:
    """A random displacement scaled to the set's radius, then clipped: uniform noise touches the face of a box, normal noise a ball."""
    shape, dtype = s.center.shape, s.center.dtype
    d = jax.random.uniform(key, shape, dtype, -1, 1) if uniform else jax.random.normal(key, shape, dtype)
    size = s.distance(s.center + d)
    return s.project(s.center + d * (s.params[0] / jnp.where(size > 0, size, 1.0)))


def last_bits(a: Array, enough: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The bits of non-negative floats (which order as the floats do), and the largest at which ``enough(bits >= it)`` holds: no sort."""
    bits = jax.lax.bitcast_convert_type(a.astype(jnp.float32), jnp.int32)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        fits = enough(bits >= middle)
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    ends = jnp.asarray(0, jnp.int32), jnp.asarray(jnp.iinfo(jnp.int32).max, jnp.int32)
    return bits, _loops.fori_loop(0, 31, halve, ends)[0]


def ranked(f: Objective, s: Any, rank: Any, *, by: str) -> Any:
    """The wrong class of rank ``rank`` (1: the most likely) among the logits at the centre: one forward pass."""
    return wrong_class(f.outputs(s.center), with_label(f, by), rank)


def wrong_class(logits: Float[Array, " K"], y: Any, rank: Any) -> Any:
    """The class of rank ``rank`` (1: the most likely) among those other than ``y``.

    Raises:
      ValueError: a concrete rank that is not in 1..K - 1; a traced one becomes the nearest that is.
    """
    k = logits.shape[0]
    if not is_traced(rank) and not 1 <= np.asarray(rank) <= k - 1:
        raise ValueError(f"rank must lie in 1..{k - 1}: of {k} classes so many are wrong; got {rank}")
    order = jnp.argsort(-jnp.where(jnp.arange(k) == y, -jnp.inf, logits))
    return order[jnp.clip(rank, 1, k - 1) - 1].astype(jnp.int32)


def aimed(f: Objective, target: Any) -> Objective:
    """The same property, with surrogates that climb towards ``target`` (None: as they are): success stays any violation."""
    return f if target is None else dataclasses.replace(f, target=target)
