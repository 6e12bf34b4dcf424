"""Lp balls, exactly intersected with a box of allowed values.

With capacities ``cap_i`` (how far entry i may move in the direction it wants) the linear maximiser over ball and box has
magnitudes ``min(w_i mu, cap_i)``, ``w = |c|^(1/(p-1))``, for one scalar mu; so has the L2 projection, with ``w = |v|`` and mu <= 1.
`_saturate` finds mu exactly.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._tree import bind
from jrobust.sets._base import Geometry, Set, Threat, check_clip, check_eps, clamp
from jrobust.typing import Array

_BISECTIONS = 60


def _room(s: Set, towards: Array) -> Array:
    """How far each entry may move in the direction of ``towards`` before it leaves the clip."""
    _, lo, hi = s.params
    x = s.center
    up = jnp.inf if hi is None else hi - x
    down = jnp.inf if lo is None else x - lo
    return jnp.maximum(jnp.where(towards > 0, up, down), 0.0).astype(x.dtype)  # infinities alone are of the widest type


def _safe_norm(v: Array, p: float) -> Array:
    """The p-norm, with gradient 0 (not NaN) at 0."""
    a = jnp.abs(v)
    if p == np.inf:
        # indexed, not jnp.max: the gradient of max looks for equal entries, and a fused recomputation may find none
        return a.ravel()[jnp.argmax(a)]
    if p == 1:
        return jnp.sum(a)
    top = jax.lax.stop_gradient(jnp.max(a, initial=0.0))
    unit = jnp.where((top == 0) | jnp.isinf(top), 1.0, top)
    total = jnp.sum((a / unit) ** p)
    # NaN stays NaN: a comparison with it is false, so no ball holds such a point
    return unit * jnp.where(total == 0, 0.0, jnp.where(total == 0, 1.0, total) ** (1 / p))


def _dual(p: float) -> float:
    return np.inf if p == 1 else 1.0 if p == np.inf else p / (p - 1)


def _saturate(w: Array, cap: Array, eps: Array, p: float) -> Array:
    """The mu at which ``sum_i min(w_i mu, cap_i)^p = eps^p``; +inf where even the capacities stay inside.

    Entries that saturate at one mu saturate at every larger one: the mu that spends what the saturated leave grows from step to
    step, and is exact once no further entry saturates (a handful of steps, no sort).
    """
    w, cap = w.ravel(), jnp.broadcast_to(cap, w.shape).ravel()

    def spend(full: Array, w: Array, cap: Array, eps: Array) -> Array:
        left = jnp.maximum(eps**p - jnp.sum(jnp.where(full, jnp.where(full, cap, 0.0) ** p, 0.0)), 0.0)
        rate = jnp.sum(jnp.where(full, 0.0, w) ** p)
        share = left / jnp.where(rate > 0, rate, 1.0)
        root = jnp.where(share > 0, jnp.where(share > 0, share, 1.0) ** (1 / p), 0.0)  # gradient 0, not NaN, at 0
        return jnp.where(rate > 0, root, jnp.inf)

    def saturated(mu: Array) -> Array:
        return (w > 0) & jnp.isfinite(cap) & (_times(w, mu) >= cap)

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        full = carry[0] | saturated(spend(carry[0], *fixed))
        return full, jnp.any(full != carry[0])

    fixed = jax.lax.stop_gradient((w, cap, eps))
    none = jnp.zeros(w.shape, bool)
    full, _ = jax.lax.while_loop(lambda carry: carry[1], step, (none, jnp.asarray(True)))
    return spend(full, w, cap, eps)


def _fill(c: Array, cap: Array, eps: Array) -> Array:
    """The L1 budget ``eps`` spent on the entries of largest ``|c|`` first (fractional knapsack)."""
    order = jnp.argsort(-jnp.abs(c).ravel())
    caps = jnp.broadcast_to(cap, c.shape).ravel()[order]
    caps = jnp.minimum(caps, eps)
    spent = jnp.clip(eps - (jnp.cumsum(caps) - caps), 0.0, caps)
    return jnp.zeros_like(spent).at[order].set(spent).reshape(c.shape)


def _times(a: Array, b: Array) -> Array:
    """``a * b`` with ``0 * inf = 0``."""
    return jnp.where(a == 0, 0.0, a * jnp.where(a == 0, 0.0, b))


def _move(s: Set, c: Array, p: float) -> Array:
    """The displacement that maximises ``<c, d>`` over ball and box."""
    eps, lo, hi = s.params
    if p == np.inf:
        return jnp.sign(c) * jnp.minimum(eps, _room(s, c))
    if p == 1:
        return jnp.sign(c) * _fill(c, _room(s, c), eps)
    if lo is None and hi is None:
        return eps * _unit(c, p)
    w, cap = _weights(c, p), _room(s, c)
    mu = _saturate(w, cap, eps, p)
    return jnp.sign(c) * jnp.minimum(_times(w, mu), cap)


def _weights(c: Array, p: float) -> Array:
    a = jnp.abs(c)
    return (a / jnp.maximum(jnp.max(a, initial=0.0), jnp.finfo(a.dtype).tiny)) ** (1 / (p - 1))


def _unit(g: Array, p: float) -> Array:
    """The direction of unit p-norm most along ``g``; 0 where ``g`` is 0."""
    if p == np.inf:
        return jnp.sign(g)
    if p == 1:
        return jnp.zeros(g.size, g.dtype).at[jnp.argmax(jnp.abs(g))].set(1.0).reshape(g.shape) * jnp.sign(g)
    w = _weights(g, p)
    norm = _safe_norm(w, p)
    return jnp.sign(g) * w / jnp.where(norm > 0, norm, 1.0)


def _support(s: Set, c: Array, *, p: float) -> Array:
    eps, lo, hi = s.params
    x = s.center
    if p == np.inf:
        low, high = _hull(s)
        return jnp.sum(jnp.where(c > 0, c * high, c * low))
    at_center = jnp.sum(c * x)
    if lo is None and hi is None:
        return at_center + eps * _safe_norm(c, _dual(p))
    a, cap = jnp.abs(c), _room(s, c)
    if p == 1:
        return at_center + jnp.sum(a * _fill(c, cap, eps))
    # The Lagrangian at any multiplier is a sound upper bound, and tight (with the right gradient) at this one.
    top = jnp.maximum(jax.lax.stop_gradient(jnp.max(a, initial=0.0)), jnp.finfo(a.dtype).tiny)
    mu = jax.lax.stop_gradient(_saturate(_weights(c, p), cap, eps, p))
    multiplier = jnp.where(jnp.isfinite(mu) & (mu > 0), top / jnp.where(mu > 0, mu, 1.0) ** (p - 1), 0.0)
    d = jax.lax.stop_gradient(_move(s, c, p))
    d = jnp.minimum(d * jnp.sign(c), cap)
    bound = at_center + jnp.sum(a * d - multiplier / p * d**p) + multiplier / p * eps**p
    # where powers leave the range of floats the multiplier is not to be trusted; the ball without its box always bounds, the
    # whole as a part (supports about the centre are subadditive)
    tiny, weights = jnp.finfo(a.dtype).tiny, jax.lax.stop_gradient(_weights(c, p))
    bound += eps * _safe_norm(jnp.where(weights**p < tiny, c, 0.0), _dual(p))
    lost = (eps**p < tiny) | ~jnp.isfinite(bound)
    bound = jnp.where(lost, at_center + eps * _safe_norm(c, _dual(p)), bound)
    return jnp.where(eps == 0, at_center, bound)


def _argsup(s: Set, c: Array, *, p: float) -> Array:
    _, lo, hi = s.params
    return clamp(s.center + _move(s, c, p), lo, hi)


def _project(s: Set, z: Array, *, p: float) -> Array:
    eps, lo, hi = s.params
    x = s.center
    if p == np.inf:
        return jnp.clip(z, *_hull(s))
    # no further than where squares and sums stay finite: the nearest point hardly moves, of an infinite entry it is the limit
    far = jnp.finfo(jnp.result_type(x)).max ** 0.25
    v = jnp.clip(z - x, -far, far)
    a, cap = jnp.abs(v), _room(s, v)
    if p == 2:
        d = _times(a, jnp.minimum(_saturate(a, cap, eps, 2.0), 1.0))
    elif p == 1:
        d = _soft(a, cap, eps)
    else:
        w = a ** (1 / (p - 1))
        top = (_safe_norm(w, p) / jnp.maximum(eps, jnp.finfo(a.dtype).tiny)) ** (p - 1)
        d = _bisect(lambda t: jnp.minimum(_shrunk(a, t, p), cap), top, eps, p)
        norm = _safe_norm(d, p)  # of a steep power the bisection's end may lie beyond the floats: then it is shrunk
        d = d * jnp.minimum(1.0, eps / jnp.where(norm > 0, norm, 1.0))
    d = jnp.where(eps == 0, 0.0, jnp.minimum(d, cap))
    return clamp(x + jnp.sign(v) * d, lo, hi)


def _soft(a: Array, cap: Array, eps: Array) -> Array:
    """``min(max(a - t, 0), cap)`` at the least t >= 0 that spends at most ``eps``.

    Newton's method on a piecewise linear function, inside a bracket; the last step is exact and carries the gradient.
    """

    def piece(t: Array, a: Array, cap: Array, eps: Array) -> tuple[Array, Array]:
        """Where the piece of the function at ``t`` meets eps, and whether that piece is flat."""
        full = a - t >= cap
        free = (a > t) & ~full
        spent = jnp.sum(jnp.where(free, a, 0.0)) + jnp.sum(jnp.where(full, jnp.where(full, cap, 0.0), 0.0))
        count = jnp.sum(free)
        return (spent - eps) / jnp.maximum(count, 1), count == 0

    def further(carry: tuple[Array, ...]) -> Array:
        return (carry[3] < _BISECTIONS) & ~carry[4]

    def narrow(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, t, n, _ = carry
        over = jnp.sum(jnp.clip(fixed[0] - t, 0.0, fixed[1])) - fixed[2]
        low, high = jnp.where(over > 0, t, low), jnp.where(over > 0, high, t)
        newton, flat = piece(t, *fixed)
        settled = ~flat & (jnp.abs(newton - t) <= 1e-6 * high)
        inside = ~flat & (newton > low) & (newton < high)
        return low, high, jnp.where(settled, t, jnp.where(inside, newton, 0.5 * (low + high))), n + 1, settled

    fixed = jax.lax.stop_gradient((a, cap, eps))
    zero = jnp.zeros((), a.dtype)
    start = zero, jnp.max(fixed[0], initial=0.0), zero, jnp.asarray(0, jnp.int32), jnp.asarray(False)
    _, high, t, _, settled = jax.lax.while_loop(further, narrow, start)
    exact, _ = piece(jax.lax.stop_gradient(t), a, cap, eps)
    inside = jnp.sum(jnp.minimum(a, cap)) <= eps
    t = jnp.where(inside, 0.0, jnp.where(settled, jnp.maximum(exact, 0.0), high))
    return jnp.clip(a - t, 0.0, cap)


def _bisect(magnitudes: Any, top: Array, eps: Array, p: float) -> Array:
    """``magnitudes(t)``, which shrinks as t grows, at the least t >= 0 that keeps its p-norm within eps (safe side)."""
    inside = _safe_norm(magnitudes(jnp.zeros_like(top)), p) <= eps

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        t = 0.5 * (low + high)
        fits = _safe_norm(magnitudes(t), p) <= eps
        return jnp.where(fits, low, t), jnp.where(fits, t, high)

    _, t = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(top), top))
    return magnitudes(jnp.where(inside, 0.0, t))


def _shrunk(a: Array, t: Array, p: float) -> Array:
    """The ``d`` in [0, a] with ``d + t d^(p-1) = a``, elementwise by bisection."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        d = 0.5 * (low + high)
        over = d + t * d ** (p - 1) > a
        return jnp.where(over, low, d), jnp.where(over, d, high)

    return jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(a), a))[0]


def _sample(s: Set, key: Any, *, p: float) -> Array:
    eps, lo, hi = s.params
    x = s.center
    if p == np.inf:
        low, high = _hull(s)
        return low + (high - low) * jax.random.uniform(key, jnp.shape(x), jnp.result_type(x))
    d = jax.random.ball(key, max(jnp.size(x), 1), p, dtype=jnp.result_type(x)).reshape(jnp.shape(x))
    return clamp(x + eps * d, lo, hi)


def _contains(s: Set, z: Array, tol: float, *, p: float) -> Array:
    eps, lo, hi = s.params
    x = s.center
    # an entry that moved was rounded once, relative to its own size and not to eps
    half = 0.5 * max(jnp.finfo(jnp.result_type(a)).eps for a in (x, z))
    rounding = half * jnp.where(z == x, 0.0, jnp.maximum(jnp.abs(z), jnp.abs(x)))
    if p == np.inf:
        inside = jnp.all(jnp.abs(z - x) <= (1 + tol) * eps + rounding)
    else:
        inside = _safe_norm(z - x, p) <= (1 + tol) * eps + _safe_norm(rounding, p)
    inside &= jnp.all(jnp.isfinite(z))
    low = True if lo is None else jnp.all(z >= lo - tol)
    high = True if hi is None else jnp.all(z <= hi + tol)
    return inside & low & high


def _hull(s: Set) -> tuple[Array, Array]:
    eps, lo, hi = s.params
    x = s.center
    # a centre outside the clip is the drivers' to refuse; here the hull must merely not be empty
    return jnp.minimum(clamp(x - eps, lo, hi), x), jnp.maximum(clamp(x + eps, lo, hi), x)


def _resize(s: Set, eps: Any) -> Set:
    return Set(s.center, (eps, *s.params[1:]), s.geometry)


def _scale(s: Set, t: Any) -> Set:
    return _resize(s, s.params[0] * t)


def _distance(s: Set, z: Array, *, p: float) -> Array:
    return _safe_norm(z - s.center, p)


def _steepest(s: Set, g: Array, relative: bool, *, p: float) -> Array:
    return _unit(g, p) * (s.params[0] if relative else 1.0)


def _ball(p: float, name: str) -> Geometry:
    return Geometry(
        name,
        support=bind(_support, p=p),
        argsup=bind(_argsup, p=p),
        project=bind(_project, p=p),
        sample=bind(_sample, p=p),
        contains=bind(_contains, p=p),
        hull=_hull,
        scale=_scale,
        steepest=bind(_steepest, p=p),
        distance=bind(_distance, p=p),
        resize=_resize,
    )


def _build(eps: Any, args: tuple[Any, ...], x: Any, *, geometry: Geometry) -> Set:
    if geometry.name != "linf" and jnp.ndim(eps) != 0:
        raise ValueError(
            f"{geometry.name}: eps must be one number for an example, got shape {jnp.shape(eps)}; "
            "only linf takes one eps an entry (a driver takes one an example)"
        )
    x = jnp.asarray(x)
    lo, hi = args
    return Set(x, (jnp.asarray(eps, x.dtype), lo, hi), geometry)


def lp(p: float, eps: Any, *, clip: tuple[Any, Any] | None = None) -> Threat:
    """The Lp ball ``{ z : ||z - x||_p <= eps, lo <= z <= hi }``, ``p >= 1``.

    Args:
      p: the order of the norm, >= 1 (``inf`` too).
      eps: the radius, >= 0, in the units of the input; traced.
      clip: ``(lo, hi)``, the box of allowed values, or None.

    Returns:
      A `Threat`: ``lp(...)(x)`` is the set around ``x``.

    Raises:
      ValueError: p < 1, eps negative or not finite, lo > hi.

    Guarantee:
      Support is exact for p = 1, inf, and without clip; with a clip and 1 < p < inf it is the Lagrange dual's value, a sound
      upper bound that is tight to rounding. `project` is exact for p = 1, 2, inf, and by bisection for other p.

    >>> import jax.numpy as jnp
    >>> s = lp(3.0, 1.0)(jnp.zeros(2))
    >>> print(f"{s.support(jnp.array([1.0, 1.0])):.4f}")  # eps * ||c||_1.5
    1.5874
    """
    p = float(p)
    if not p >= 1:
        raise ValueError(f"lp: p must be >= 1, got {p}")
    name = {1.0: "l1", 2.0: "l2", np.inf: "linf"}.get(p, f"l{p:g}")
    return Threat(check_eps(eps, name), check_clip(clip, name), bind(_build, geometry=_ball(p, name)), name)


def linf(eps: Any, *, clip: tuple[Any, Any] | None = None) -> Threat:
    """The L-infinity ball: every entry moves by at most ``eps`` (a number, or one an entry), inside ``clip``.

    >>> import jax.numpy as jnp
    >>> print(linf(0.1, clip=(0, 1))(jnp.array([0.05, 0.5])).hull()[0])
    [0.  0.4]
    """
    return lp(np.inf, eps, clip=clip)


def l2(eps: Any, *, clip: tuple[Any, Any] | None = None) -> Threat:
    """The Euclidean ball of radius ``eps``, inside ``clip``. See `lp`.

    >>> import jax.numpy as jnp
    >>> print(l2(1.0)(jnp.zeros(2)).project(jnp.array([3.0, 4.0])))
    [0.6 0.8]
    """
    return lp(2.0, eps, clip=clip)


def l1(eps: Any, *, clip: tuple[Any, Any] | None = None) -> Threat:
    """The L1 ball of radius ``eps``, inside ``clip``. See `lp`.

    >>> import jax.numpy as jnp
    >>> print(l1(1.0, clip=(0, 1))(jnp.array([0.5, 0.5])).argsup(jnp.array([3.0, 2.0])))
    [1. 1.]
    """
    return lp(1.0, eps, clip=clip)
