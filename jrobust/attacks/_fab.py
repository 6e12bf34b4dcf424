"""FAB: the fast adaptive boundary attack, by exact projections onto the linearised boundary inside the box."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._minimum import BALLS, closer, dual_norm, jacobian, minimize, only_balls, unfound
from jrobust.attacks._state import kept, last_bits, on_the_sphere, wrong_class
from jrobust.objectives import with_label
from jrobust.typing import Array, Float, Point


def _saturating(a: Array, w: Array, cap: Array, r: Array) -> Array:
    """``d = min(t w, cap)`` with ``<a, d> = r``, or ``cap`` where even that is less; entries with a = 0 stay at 0.

    ``<a, min(t w, cap)>`` is concave and increasing in t: Newton's method from 0 climbs to the exact t in a few passes.
    """

    def further(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        full = carry[0] * w >= cap
        left = r - jnp.sum(jnp.where(full, a * cap, 0.0))
        rate = jnp.sum(jnp.where(full, 0.0, a * w))
        t = jnp.where(rate > 0, jnp.maximum(left, 0.0) / jnp.where(rate > 0, rate, 1.0), jnp.finfo(a.dtype).max)
        return jnp.maximum(t, carry[0]), t > carry[0]

    t, _ = _loops.while_loop(lambda carry: carry[1], further, (jnp.zeros((), a.dtype), jnp.asarray(True)))
    return jnp.minimum(t * w, cap)


def _greedy(a: Array, cap: Array, r: Array) -> Array:
    """The ``d`` in [0, cap] of least sum with ``<a, d> = r``: the largest ``a`` first; ``cap`` where even that is less.

    The last entry to move is found by bisection over the bits of ``a`` (no sort); equal entries share what is left.
    """
    worth = a * cap
    bits, last = last_bits(a, lambda above: jnp.sum(jnp.where(above, worth, 0.0)) >= r)
    left = r - jnp.sum(jnp.where(bits > last, worth, 0.0))
    shared = jnp.sum(jnp.where(bits == last, worth, 0.0))
    share = jnp.clip(left / jnp.where(shared > 0, shared, 1.0), 0.0, 1.0)
    return jnp.where(bits > last, cap, jnp.where(bits == last, share * cap, 0.0))


def to_hyperplane(t: Array, w: Array, r: Array, lo: Any, hi: Any, kind: str) -> Array:
    """The shortest ``d`` (in the norm of ``kind``) with ``<w, d> = r`` and ``t + d`` in [lo, hi]; the best corner if there is none."""
    a = jnp.abs(w)
    top = jnp.maximum(jnp.max(a, initial=0.0), jnp.finfo(a.dtype).tiny)
    a, goal, sign = a / top, jnp.abs(r) / top, jnp.sign(w) * jnp.sign(r)
    up, down = jnp.inf if hi is None else hi - t, jnp.inf if lo is None else t - lo
    # an entry that reaches the goal alone need not move further
    enough = goal / jnp.where(a > 0, a, 1.0)
    cap = jnp.where(a > 0, jnp.clip(jnp.where(sign > 0, up, down), 0.0, enough), 0.0)
    if kind == "l1":
        return sign * _greedy(a, cap, goal)
    return sign * _saturating(a, jnp.ones_like(a) if kind == "linf" else a, cap, goal)


class BoundaryState(NamedTuple):
    """The iterate, the closest violation so far, and the class aimed at (None: any)."""

    z: Point
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    target: Any


def _init(rank: Any, given: Any, key: Any, f: Objective, s: Any, *, start: Any) -> BoundaryState:
    x = s.center
    logits = f.outputs(x)
    target = None if rank is None else wrong_class(logits, with_label(f, "fab(rank=)"), rank)
    z: Any = None
    if callable(start):
        z = start(key, s)
    elif start == "random":
        z = on_the_sphere(s.scale(0.5), key, uniform=s.geometry.name == "linf")
    else:
        z = x if given is None else jnp.broadcast_to(given, x.shape).astype(x.dtype)
    state = BoundaryState(jnp.clip(z, *s.params[1:]), target=target, **unfound(s))
    return closer(state, x, f.value(logits), s)


def _step(
    alpha_max: Any, eta: Any, beta: Any, key: Any, state: BoundaryState, f: Objective, s: Any, *, kind: str
) -> BoundaryState:
    del key
    x, z, (lo, hi) = s.center, state.z, s.params[1:]

    def differences(z: Point) -> Float[Array, " m"]:
        if state.target is None:
            return f(z)
        logits = f.outputs(z)
        return (logits[state.target] - logits[f.label])[None]

    df, dg = jacobian(differences, z)
    df, dg = df.astype(z.dtype), dg.astype(z.dtype)
    slope = jax.vmap(lambda g: dual_norm(g, kind))(dg)
    nearest = jnp.argmin(jnp.where(slope > 0, jnp.abs(df) / jnp.where(slope > 0, slope, 1.0), jnp.inf))
    w, miss = dg[nearest], -df[nearest]
    # both the iterate and the example go to the same hyperplane <w, .> = <w, z> + miss
    misses = jnp.stack([miss, miss + jnp.sum(w * (z - x))])
    moves = jax.vmap(lambda t, r: to_hyperplane(t, w, r, lo, hi, kind))(jnp.stack([z, x]), misses)
    a, b = jnp.maximum(jax.vmap(lambda d: s.distance(x + d))(moves), 1e-8)
    alpha = jnp.minimum(a / (a + b), alpha_max)
    z = jnp.clip((1 - alpha) * (z + eta * moves[0]) + alpha * (x + eta * moves[1]), lo, hi)
    value = f.value(f.outputs(z))
    state = closer(state, z, value, s)
    return state._replace(z=where(violated(value), x + beta * (z - x), z))


def _for_set(
    rank: Any, given: Any, alpha_max: Any, eta: Any, beta: Any, kind: str, classes: int, *, start: Any
) -> Algorithm:
    only_balls(kind, BALLS, "fab")
    return Algorithm(
        bind(_init, rank, given, start=start),
        bind(_step, alpha_max, eta, beta, kind=kind),
        bind(kept),
        init_cost=(1, 0),
        step_cost=(2, max(classes - 1, 1) if rank is None else 1),
        best_cost=(0, 0),
    )


def fab(
    *,
    steps: int = 100,
    rank: Any = None,
    alpha_max: Any = 0.1,
    eta: Any = 1.05,
    beta: Any = 0.9,
    start: Any = "center",
    name: str = "fab",
) -> RadiusOracle:
    """FAB: the closest violation, by steps onto the linearised decision boundary that lean towards the example.

    Each step projects iterate and example onto the nearest linearised boundary inside the clip (exactly, in the norm of the set),
    goes a little beyond, and mixes the two; from a violation it goes back towards the example.

    Args:
      steps: iterations, >= 1 (structure).
      rank: go to the boundary of the class of this rank among the wrong ones at the clean logits (1 is the most likely): FAB-T, one
        backward pass a step; traced, so that all ranks are one program. None: the nearest of all, K - 1 backward passes a step.
      alpha_max: the largest weight of the example's projection, in [0, 1]; traced.
      eta: overshoot, >= 1; traced.
      beta: how much of the displacement a violation keeps, in (0, 1); traced.
      start: "center", a point, a function ``(key, set) -> z``, or "random": a random point at half the radius of the threat (the one
        choice for which the threat's eps matters).
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``linf``, ``l2``, ``l1``. ``jr.attacks.within(fab(...))`` is the attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> found = fab(steps=20).solve(jax.random.key(0), f, jr.sets.linf(0.0), jnp.array([0.5]))
    >>> print(bool(0.5 <= found.value < 0.505))
    True

    References:
      Croce & Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, ICML 2020.
    Deviations:
      Projections need no sort, and no entry of the gradient is too small for them (the official code drops those below 1e-8).
      The random start does not shrink with the best radius of earlier runs. No final search on the segment.
    """
    if isinstance(start, str) and start not in ("center", "random"):
        raise ValueError(f"fab: start is 'center', 'random', a function (key, set) -> z or a point, got {start!r}")
    given = None if isinstance(start, str) or callable(start) else start
    structure = start if given is None else "given"
    choose = bind(_for_set, rank, given, alpha_max, eta, beta, start=structure)
    return minimize(choose, steps, name=f"{name}-{steps}")
