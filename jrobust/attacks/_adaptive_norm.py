"""Attacks that follow the boundary with a ball whose radius shrinks at a violation and grows elsewhere: FMN and DDN."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective, largest
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._minimum import (
    BALLS,
    COUNTS,
    closer,
    closest,
    dual_norm,
    farthest,
    minimize,
    only_balls,
    unfound,
    unit,
)
from jrobust.attacks._state import Surrogate, climb
from jrobust.typing import Array, Float, Point


class NormState(NamedTuple):
    """The iterate, the radius of the ball it is held to, the closest violation so far, and the steps taken."""

    z: Point
    eps: Float[Array, ""]
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    count: Array


def cosine(first: Any, last: Any, count: Array, steps: int) -> Array:
    """From ``first`` to ``last`` along half a cosine."""
    return last + 0.5 * (first - last) * (1 + jnp.cos(jnp.pi * count / steps))


def _stuck(s: Any, z: Array, towards: Array) -> Array:
    """The entries that the clip does not let move any further."""
    _, lo, hi = s.params
    low = False if lo is None else (towards < 0) & (z <= lo)
    high = False if hi is None else (towards > 0) & (z >= hi)
    return jnp.broadcast_to(low | high, z.shape)


def _init(eps: Any, key: Any, f: Objective, s: Any) -> NormState:
    del key, f
    eps = jnp.asarray(eps, s.center.dtype)
    return NormState(s.center, eps, count=jnp.asarray(0, jnp.int32), **unfound(s))


# -- FMN --------------------------------------------------------------------------------------------------------------


def _fmn_step(
    step: Any, gamma: Any, key: Any, state: NormState, f: Objective, s: Any, *, steps: int, kind: str
) -> NormState:
    del key
    value, _, g = climb(f, largest, state.z)
    state = closer(state, state.z, value, s)
    step = cosine(step, 0.01 * step, state.count, steps)
    gamma = cosine(gamma, 0.02 * gamma, state.count, steps)
    if kind in COUNTS:
        eps = _counted(gamma, state, value)
    else:
        eps = _measured(gamma, state, value, g, s, kind=kind)
    eps = jnp.minimum(eps, farthest(s)).astype(state.eps.dtype)
    z = s.resize(eps).project(state.z + step * unit(g))
    return state._replace(z=z, eps=eps, count=state.count + 1)


def _counted(gamma: Any, state: NormState, value: Array) -> Array:
    """The next radius of an L0 set: whole numbers, by one at least."""
    less = jnp.minimum(state.eps - 1, jnp.floor(state.eps * (1 - gamma)))
    more = jnp.maximum(state.eps + 1, jnp.floor(state.eps * (1 + gamma)))
    return jnp.where(violated(value), jnp.maximum(jnp.minimum(less, state.radius), 0.0), more)


def _measured(gamma: Any, state: NormState, value: Array, g: Array, s: Any, *, kind: str) -> Array:
    """The next radius of a ball: smaller at a violation, larger elsewhere."""
    slope = dual_norm(jnp.where(_stuck(s, state.z, g), 0.0, g), kind)
    to_boundary = jnp.where(slope > 0, jnp.abs(value) / jnp.where(slope > 0, slope, 1.0), 0.0)
    outside = jnp.where(
        jnp.isfinite(state.radius), (1 + gamma) * state.eps, s.distance(state.z) + to_boundary
    )  # before the first violation: as far as the linearised boundary
    return jnp.where(violated(value), jnp.minimum((1 - gamma) * state.eps, state.radius), outside)


def _fmn_for_set(step: Any, gamma: Any, kind: str, classes: int, *, steps: int) -> Algorithm:
    del classes
    only_balls(kind, BALLS + COUNTS, "fmn")
    return Algorithm(
        bind(_init, 1.0 if kind in COUNTS else jnp.inf),
        bind(_fmn_step, step, gamma, steps=steps, kind=kind),
        bind(closest),
    )


def fmn(*, steps: int = 100, step: Any = 1.0, gamma: Any = 0.05, name: str = "fmn") -> RadiusOracle:
    """Fast minimum norm: climb the margin by gradient steps inside a ball that adapts to the closest violation.

    The ball shrinks by ``1 - gamma`` at a violation (and never exceeds the best radius then), grows by ``1 + gamma`` elsewhere;
    before the first violation it reaches to the linearised boundary. Step and gamma decay along a cosine, to 1/100 and 1/50. On L0
    sets the radius is a whole number that begins at 1 and changes by at least one.

    Args:
      steps: gradient steps, >= 1 (structure); the authors' benchmarks use 1000.
      step: Euclidean length of the first step, in the units of the input; traced.
      gamma: the first relative change of the radius, in (0, 1); traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l0`` (entries or pixels), ``l1``, ``l2``, ``linf``. `jr.attacks.within` makes it
      an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> found = fmn(steps=30).solve(jax.random.key(0), f, jr.sets.l2(0.0), jnp.array([0.5]))
    >>> print(bool(0.5 <= found.value < 0.51))
    True

    References:
      Pintor et al., Fast minimum-norm adversarial attacks through adaptive norm constraints, NeurIPS 2021.
    Deviations:
      The projection onto ball and box is exact (published: onto the ball, then clipped), and entries at the edge of the box do
      not count as ways to the linearised boundary. The last iterate is evaluated too.
    """
    return minimize(bind(_fmn_for_set, step, gamma, steps=steps), steps, name=f"{name}-{steps}")


# -- DDN --------------------------------------------------------------------------------------------------------------


def _ddn_step(
    gamma: Any, key: Any, state: NormState, f: Objective, s: Any, *, steps: int, surrogate: Surrogate | None
) -> NormState:
    x = s.center
    value, _, g = climb(f, surrogate, state.z)
    state = closer(state, state.z, value, s)
    flat = ~(dual_norm(g, "l2") > 1e-12)
    direction = unit(jnp.where(flat, jax.random.normal(key, g.shape, g.dtype), g))
    d = state.z - x + cosine(1.0, 0.01, state.count, steps) * direction
    eps = state.eps * jnp.where(violated(value), 1 - gamma, 1 + gamma)
    eps = jnp.minimum(eps, farthest(s)).astype(state.eps.dtype)
    z = jnp.clip(x + eps * unit(d), *s.params[1:])
    return state._replace(z=z.astype(state.z.dtype), eps=eps, count=state.count + 1)


def _ddn_for_set(
    gamma: Any, first: Any, kind: str, classes: int, *, steps: int, surrogate: Surrogate | None
) -> Algorithm:
    del classes
    only_balls(kind, ("l2",), "ddn")
    return Algorithm(bind(_init, first), bind(_ddn_step, gamma, steps=steps, surrogate=surrogate), bind(closest))


def ddn(
    *, steps: int = 100, gamma: Any = 0.05, radius: Any = 1.0, surrogate: Surrogate | None = None, name: str = "ddn"
) -> RadiusOracle:
    """Decoupled direction and norm: gradient steps on a sphere that shrinks at a violation and grows elsewhere (L2).

    Args:
      steps: gradient steps, >= 1 (structure). Their length decays along a cosine from 1 to 0.01.
      gamma: relative change of the sphere's radius a step, in (0, 1); traced.
      radius: of the first sphere, in the units of the input; traced. Radii far below ``radius * (1 - gamma) ** steps`` are out of reach.
      surrogate: what is climbed; None takes the objective's own (cross-entropy).
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``. `jr.attacks.within` makes it an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> found = ddn(steps=50).solve(jax.random.key(0), f, jr.sets.l2(0.0), jnp.array([0.5]))
    >>> print(bool(0.5 <= found.value < 0.53))
    True

    References:
      Rony et al., Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses, CVPR 2019.
    Deviations:
      No quantisation of the input. The last iterate is evaluated too.
    """
    return minimize(bind(_ddn_for_set, gamma, radius, steps=steps, surrogate=surrogate), steps, name=f"{name}-{steps}")
