"""Two affine functions that sandwich a nonlinear primitive over a box of its operands: what CROWN puts in its place.

A relaxation takes the equation and its values (`Interval` or known array) and returns ``(lo, hi)``, affine functions of all its
operands. The backward pass sends positive coefficients through ``hi`` and negative ones through ``lo``, by their VJPs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jrobust._program import Equation
from jrobust.bounds._tables import Interval, defcall, defrelax, ends
from jrobust.typing import Array

Pair = tuple[Callable[..., Any], Callable[..., Any]]


def _chord(lo: Array, hi: Array) -> tuple[Array, Array]:
    """Slope and offset of the chord of ``relu`` over [lo, hi]; exact where it has one sign."""
    crosses = (lo < 0) & (hi > 0)
    slope = jnp.where(crosses, hi / jnp.where(crosses, hi - lo, 1.0), jnp.where(lo >= 0, 1.0, 0.0))
    return slope, jnp.where(crosses, -slope * jnp.where(crosses, lo, 0.0), 0.0)


def _max(eqn: Equation, a: Any, b: Any) -> Pair:
    """``max(a, b) = b + relu(a - b)``: chord above; below, the operand with the larger centre (ReLU: slope 1 iff u > -l)."""
    (al, ah), (bl, bh) = ends(a), ends(b)
    dl, dh = al - bh, ah - bl
    slope, offset = _chord(dl, dh)
    first = (dl >= 0) | ((dh > 0) & (dh > -dl))
    hi = lambda x, y: y + slope * (x - y) + offset  # noqa: E731
    top = jnp.maximum(ah, bh)
    flat = hi(0.5 * (al + ah), 0.5 * (bl + bh)) > top
    return lambda x, y: jnp.where(first, x, y), lambda x, y: jnp.where(flat, top, hi(x, y))


def _negated(v: Any) -> Any:
    return Interval(-v.hi, -v.lo) if isinstance(v, Interval) else -v


def _min(eqn: Equation, a: Any, b: Any) -> Pair:
    lo, hi = _max(eqn, _negated(a), _negated(b))
    return lambda x, y: -hi(-x, -y), lambda x, y: -lo(-x, -y)


def _clamp(eqn: Equation, low: Any, x: Any, high: Any) -> Pair:
    """``min(max(x, low), high)``, one after the other."""
    below, above = _max(eqn, x, low)
    inner = Interval(jnp.maximum(*(ends(v)[0] for v in (x, low))), jnp.maximum(*(ends(v)[1] for v in (x, low))))
    lo, hi = _min(eqn, inner, high)
    return lambda a, v, b: lo(below(v, a), b), lambda a, v, b: hi(above(v, a), b)


def _largest(x: Interval) -> Pair:
    """The maximum over axis 0, as a tournament of pairs; where a constant is lower at the centre, the constant."""
    lo, hi = x
    rounds = []
    while lo.shape[0] > 1:
        n = lo.shape[0] // 2
        slope, offset = _chord(lo[:n] - hi[n : 2 * n], hi[:n] - lo[n : 2 * n])
        rounds.append((n, slope, offset))
        lo, hi = (jnp.concatenate([jnp.maximum(e[:n], e[n : 2 * n]), e[2 * n :]]) for e in (lo, hi))

    def above(z: Array) -> Array:
        for n, slope, offset in rounds:
            a, b = z[:n], z[n : 2 * n]
            z = jnp.concatenate([b + slope * (a - b) + offset, z[2 * n :]])
        return z[0]

    centre = 0.5 * (x.lo + x.hi)
    chosen = jax.nn.one_hot(jnp.argmax(centre, axis=0), centre.shape[0], axis=0, dtype=bool)
    flat = above(centre) > hi[0]
    return lambda z: jnp.sum(jnp.where(chosen, z, 0.0), axis=0), lambda z: jnp.where(flat, hi[0], above(z))


def _gathered(stack: Callable[[Any], Any], x: Interval, sign: int) -> Pair:
    """`_largest` (or the smallest, ``sign=-1``) of an array rearranged so that what competes lies along axis 0."""
    x = x if sign > 0 else _negated(x)
    lo, hi = _largest(Interval(stack(x.lo), stack(x.hi)))
    below, above = (lambda z: sign * lo(stack(sign * z))), (lambda z: sign * hi(stack(sign * z)))
    return (below, above) if sign > 0 else (above, below)


def _reduce(eqn: Equation, x: Interval, *, sign: int) -> Pair:
    axes = eqn.params["axes"]
    rest = tuple(n for i, n in enumerate(x.lo.shape) if i not in axes)
    return _gathered(lambda z: jnp.moveaxis(z, axes, range(len(axes))).reshape(-1, *rest), x, sign)


def _window(eqn: Equation, x: Interval, *, sign: int) -> Pair:
    p = eqn.params
    size, stride, dilation = p["window_dimensions"], p["window_strides"], p["window_dilation"]
    # padding never wins over a true entry, none of which lies below the least lower bound (so it carries no gradient; JAX 0.10
    # cannot transpose a pad in its padding value alone); a window of padding alone is infinite, and `within` ignores this
    fill = lax.stop_gradient(jnp.min(sign * x.lo if sign > 0 else sign * x.hi))
    padding = [(lo, hi, base - 1) for (lo, hi), base in zip(p["padding"], p["base_dilation"], strict=True)]

    def stack(z: Array) -> Array:
        z = lax.pad(z, fill.astype(z.dtype), padding)
        corners = [[]]
        for n in size:
            corners = [[*c, i] for c in corners for i in range(n)]
        views = []
        for corner in corners:
            start = [i * d for i, d in zip(corner, dilation, strict=True)]
            stop = [s + (n - 1) * t + 1 for s, n, t in zip(start, eqn.avals[0].shape, stride, strict=True)]
            views.append(lax.slice(z, start, stop, stride))
        return jnp.stack(views)

    return _gathered(stack, x, sign)


def _abs(eqn: Equation, x: Interval) -> Pair:
    """``|x| = 2 relu(x) - x``, exactly."""
    lo, hi = _max(eqn, x, jnp.zeros_like(x.lo))
    return lambda z: 2 * lo(z, 0.0) - z, lambda z: 2 * hi(z, 0.0) - z


def _leaky(eqn: Equation, x: Interval, slope: Any = 0.01) -> Pair:
    """``slope x + (1 - slope) relu(x)``, exactly; a slope above 1 makes it concave and swaps the sides."""
    lo, hi = _max(eqn, x, jnp.zeros_like(x.lo))
    gain = 1 - jnp.asarray(slope, x.lo.dtype)
    below, above = (lambda z: slope * z + gain * lo(z, 0.0)), (lambda z: slope * z + gain * hi(z, 0.0))
    convex = gain >= 0
    return lambda z, *_: jnp.where(convex, below(z), above(z)), lambda z, *_: jnp.where(convex, above(z), below(z))


defrelax("max", _max)
defrelax("min", _min)
defrelax("clamp", _clamp)
defrelax("reduce_max", lambda eqn, x: _reduce(eqn, x, sign=1))
defrelax("reduce_min", lambda eqn, x: _reduce(eqn, x, sign=-1))
defrelax("reduce_window_max", lambda eqn, x: _window(eqn, x, sign=1))
defrelax("reduce_window_min", lambda eqn, x: _window(eqn, x, sign=-1))
defrelax("abs", _abs)
defrelax("leaky_relu", _leaky)
defcall("leaky_relu", jax.nn.leaky_relu)
