"""Two affine functions that sandwich a nonlinear primitive over a box of its operands: what CROWN puts in its place.

A relaxation takes the equation, its free parameters and its values (`Interval` or known array) and returns ``(lo, hi)``, affine functions
of all its operands. The backward pass sends positive coefficients through ``hi`` and negative ones through ``lo``, by their VJPs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._program import Equation
from jrobust.bounds._arrange import axes_first, windows_first
from jrobust.bounds._tables import Interval, Pair, defcall, defrelax, ends
from jrobust.typing import Array


def _chord(lo: Array, hi: Array) -> tuple[Array, Array]:
    """Slope and offset of the chord of ``relu`` over [lo, hi]; exact where it has one sign."""
    crosses = (lo < 0) & (hi > 0)
    slope = jnp.where(crosses, hi / jnp.where(crosses, hi - lo, 1.0), jnp.where(lo >= 0, 1.0, 0.0))
    return slope, jnp.where(crosses, -slope * jnp.where(crosses, lo, 0.0), 0.0)


def _difference(a: Any, b: Any) -> tuple[Array, Array]:
    (al, ah), (bl, bh) = ends(a), ends(b)
    return al - bh, ah - bl


def _max(eqn: Equation, theta: Array, a: Any, b: Any) -> Pair:
    """``max(a, b) = b + relu(a - b)``: chord above; below, ``theta a + (1 - theta) b``."""
    (al, ah), (bl, bh) = ends(a), ends(b)
    dl, dh = _difference(a, b)
    slope, offset = _chord(dl, dh)
    share = jnp.where(dl >= 0, 1.0, jnp.where(dh <= 0, 0.0, theta))
    hi = lambda x, y: y + slope * (x - y) + offset  # noqa: E731
    top = jnp.maximum(ah, bh)
    flat = hi(0.5 * (al + ah), 0.5 * (bl + bh)) > top
    return lambda x, y: y + share * (x - y), lambda x, y: jnp.where(flat, top, hi(x, y))


def _larger(eqn: Equation, a: Any, b: Any) -> Array:
    """Whether the first operand has the larger centre (ReLU: slope 1 iff u > -l)."""
    dl, dh = _difference(a, b)
    return ((dl >= 0) | ((dh > 0) & (dh > -dl))).astype(dl.dtype)


def _negated(v: Any) -> Any:
    return Interval(-v.hi, -v.lo) if isinstance(v, Interval) else -v


def _min(eqn: Equation, theta: Array, a: Any, b: Any) -> Pair:
    lo, hi = _max(eqn, theta, _negated(a), _negated(b))
    return lambda x, y: -hi(-x, -y), lambda x, y: -lo(-x, -y)


def _smaller(eqn: Equation, a: Any, b: Any) -> Array:
    return _larger(eqn, _negated(a), _negated(b))


def _known(eqn: Equation, *values: Any) -> list[Any] | None:
    """The known operands, where one alone is bounded."""
    known = [v for v in values if not isinstance(v, Interval)]
    return known if len(known) == len(values) - 1 else None


def _raised(x: Any, low: Any) -> Interval:
    return Interval(*(jnp.maximum(*both) for both in zip(ends(x), ends(low), strict=True)))


def _clamp(eqn: Equation, theta: tuple[Array, Array], low: Any, x: Any, high: Any) -> Pair:
    """``min(max(x, low), high)``, one after the other."""
    below, above = _max(eqn, theta[0], x, low)
    lo, hi = _min(eqn, theta[1], _raised(x, low), high)
    return lambda a, v, b: lo(below(v, a), b), lambda a, v, b: hi(above(v, a), b)


def _clamp_start(eqn: Equation, low: Any, x: Any, high: Any) -> tuple[Array, Array]:
    return _larger(eqn, x, low), _smaller(eqn, _raised(x, low), high)


def _largest(theta: Array, x: Interval) -> Pair:
    """The maximum over axis 0: above, a tournament of pairs (a constant where that is lower at the centre); below, any mean of entries."""
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
    total = jnp.sum(theta, axis=0)
    shares = jnp.where(total > 1e-3, theta / jnp.where(total > 1e-3, total, 1.0), _first_largest(centre))
    flat = above(centre) > hi[0]
    # where, not a product: an entry without a share may be infinite
    below = lambda z: jnp.sum(jnp.where(shares == 0, 0.0, shares * z), axis=0)  # noqa: E731
    return below, lambda z: jnp.where(flat, hi[0], above(z))


def _first_largest(centre: Array) -> Array:
    return jax.nn.one_hot(jnp.argmax(centre, axis=0), centre.shape[0], axis=0, dtype=centre.dtype)


def _gathered(stack: Callable[[Any], Any], theta: Array, x: Interval, sign: int) -> Pair:
    """`_largest` (or the smallest, ``sign=-1``) of an array rearranged so that what competes lies along axis 0."""
    x = x if sign > 0 else _negated(x)
    lo, hi = _largest(theta, Interval(stack(x.lo), stack(x.hi)))
    below, above = (lambda z: sign * lo(stack(sign * z))), (lambda z: sign * hi(stack(sign * z)))
    return (below, above) if sign > 0 else (above, below)


def _chosen(stack: Callable[[Any], Any], x: Interval, sign: int) -> Array:
    return _first_largest(stack(sign * 0.5 * (x.lo + x.hi)))


def _reduced(eqn: Equation, x: Interval, sign: int) -> Callable[[Array], Array]:
    return lambda z: axes_first(eqn, z)


def _windows(eqn: Equation, x: Interval, sign: int) -> Callable[[Array], Array]:
    # padding never wins over a true entry, none of which lies below the least lower bound (so it carries no gradient; JAX 0.10
    # cannot transpose a pad in its padding value alone); a window of padding alone is infinite, and `within` ignores this
    fill = jnp.min(sign * x.lo if sign > 0 else sign * x.hi)
    return lambda z: windows_first(eqn, z, fill)


def relax_extreme(names: str, arrange: Callable[..., Callable[[Array], Array]], sign: int) -> None:
    """Relax the maximum (``sign=1``) or minimum of what ``arrange`` puts along axis 0."""

    def lines(eqn: Equation, theta: Array, x: Interval) -> Pair:
        return _gathered(arrange(eqn, x, sign), theta, x, sign)

    defrelax(names, lines, lambda eqn, x: _chosen(arrange(eqn, x, sign), x, sign))


def _at_zero(eqn: Equation, *values: Any) -> list[Any]:
    return [0.0]


def _abs(eqn: Equation, theta: Array, x: Interval) -> Pair:
    """``|x| = 2 relu(x) - x``, exactly."""
    lo, hi = _max(eqn, theta, x, jnp.zeros_like(x.lo))
    return lambda z: 2 * lo(z, 0.0) - z, lambda z: 2 * hi(z, 0.0) - z


def _leaky(eqn: Equation, theta: Array, x: Interval, slope: Any = 0.01) -> Pair:
    """``slope x + (1 - slope) relu(x)``, exactly; a slope above 1 makes it concave and swaps the sides."""
    lo, hi = _max(eqn, theta, x, jnp.zeros_like(x.lo))
    gain = 1 - jnp.asarray(slope, x.lo.dtype)
    below, above = (lambda z: slope * z + gain * lo(z, 0.0)), (lambda z: slope * z + gain * hi(z, 0.0))
    convex = gain >= 0
    return lambda z, *_: jnp.where(convex, below(z), above(z)), lambda z, *_: jnp.where(convex, above(z), below(z))


def _positive(eqn: Equation, x: Interval, *rest: Any) -> Array:
    return _larger(eqn, x, jnp.zeros_like(x.lo))


defrelax("max", _max, _larger, _known)
defrelax("min", _min, _smaller, _known)
defrelax("clamp", _clamp, _clamp_start, _known)
defrelax("abs", _abs, _positive, _at_zero)
defrelax("leaky_relu", _leaky, _positive, _at_zero)
relax_extreme("reduce_max", _reduced, 1)
relax_extreme("reduce_min", _reduced, -1)
relax_extreme("reduce_window_max", _windows, 1)
relax_extreme("reduce_window_min", _windows, -1)
defcall("leaky_relu", jax.nn.leaky_relu)
