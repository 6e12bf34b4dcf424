"""Rules of what orders its entries: sorting, the largest ones, where they lie, running extremes."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jrobust._program import Equation
from jrobust.bounds._relaxations import relax_extreme
from jrobust.bounds._tables import Interval, definterval, ends
from jrobust.typing import Array


def _sort(eqn: Equation, *values: Any) -> list[Interval]:
    """Known keys: a known permutation. Else the first key is sorted by itself, and the rest goes anywhere in its row."""
    axis, keys = eqn.params["dimension"], eqn.params["num_keys"]
    los, his = zip(*map(ends, values), strict=True)
    if not any(isinstance(v, Interval) for v in values[:keys]):
        return [Interval(*pair) for pair in zip(eqn.bind(los), eqn.bind(his), strict=True)]
    first, *rest = [Interval(lax.sort(los[0], axis), lax.sort(his[0], axis))], *zip(los[1:], his[1:], strict=True)
    for lo, hi in rest:
        least, most = jnp.min(lo, axis, keepdims=True), jnp.max(hi, axis, keepdims=True)
        first.append(Interval(jnp.broadcast_to(least, lo.shape), jnp.broadcast_to(most, hi.shape)))
    return first


def _top(eqn: Equation, x: Interval) -> list[Interval]:
    """The k-th largest grows with every entry; its place is anywhere."""
    (lo, index), (hi, _) = (eqn.bind([end]) for end in x)
    return [Interval(lo, hi), Interval(jnp.zeros_like(index), jnp.full_like(index, x.lo.shape[eqn.params["axis"]] - 1))]


def _place(eqn: Equation, x: Interval) -> list[Interval]:
    """The first and the last entry that may be the largest (or smallest), NaN included, which counts as both."""
    (axis,) = eqn.params["axes"]
    (aval,) = eqn.avals
    if eqn.name == "argmax":
        may = ~(x.hi < jnp.max(x.lo, axis, keepdims=True))
    else:
        may = ~(x.lo > jnp.min(x.hi, axis, keepdims=True))
    first = jnp.argmax(may, axis).astype(aval.dtype)
    last = x.lo.shape[axis] - 1 - jnp.argmax(jnp.flip(may, axis), axis).astype(aval.dtype)
    return [Interval(first, last)]


def _past(eqn: Equation, x: Interval, sign: int) -> Callable[[Array], Array]:
    """Entry j of a running maximum competes with entries i <= j, which are laid along axis 0."""
    axis, reverse = eqn.params["axis"], eqn.params["reverse"]
    n = x.lo.shape[axis]
    i, j = jnp.arange(n)[:, None], jnp.arange(n)
    past = (i >= j if reverse else i <= j).reshape(n, *(n if k == axis else 1 for k in range(x.lo.ndim)))
    fill = jnp.min(sign * x.lo if sign > 0 else sign * x.hi)  # never wins, see `_relaxations._windows`

    def stack(z: Array) -> Array:
        entries = jnp.expand_dims(jnp.moveaxis(z, axis, 0), axis + 1)
        return jnp.where(past, entries, fill.astype(z.dtype))

    return stack


definterval("sort", _sort)
definterval("top_k", _top)
definterval("argmax argmin", _place)
relax_extreme("cummax", _past, 1)
relax_extreme("cummin", _past, -1)
