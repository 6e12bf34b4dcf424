"""PDPGD: the closest violation as a saddle point, by proximal gradient steps on the point and ascent on the multiplier."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._iterate import Algorithm
from jrobust._objective import Objective, largest
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._minimum import BALLS, adam, closer, closest, dual_norm, minimize, only_balls, unfound
from jrobust.attacks._state import climb
from jrobust.sets import l1
from jrobust.typing import Array, Float, Point

_RATIOS = (1e-6, 1e6)


class SaddleState(NamedTuple):
    """The iterate, Adam's moments, the multiplier's logarithm and its averaged weights, the closest violation, the steps taken."""

    z: Point
    mean: Point
    square: Point
    dual: Float[Array, ""]
    weights: Float[Array, "2"]
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    count: Array


def _weights(dual: Array) -> Array:
    """Of the norm and of the constraint: they add up to one."""
    return jax.nn.softmax(jnp.stack([jnp.zeros_like(dual), dual]))


def _init(ratio: Any, key: Any, f: Objective, s: Any) -> SaddleState:
    del key, f
    x = s.center
    dual = -jnp.log(jnp.asarray(ratio, x.dtype))
    zero = jnp.zeros_like(x)
    return SaddleState(x, zero, zero, dual, _weights(dual), count=jnp.asarray(0, jnp.int32), **unfound(s))


def shrunk(d: Array, t: Any, kind: str) -> Array:
    """The proximal map of ``t`` times the L1 or Linf norm: ``argmin_y t ||y|| + ||y - d||^2 / 2``."""
    if kind == "l1":
        return jnp.sign(d) * jnp.maximum(jnp.abs(d) - t, 0.0)
    return d - l1(t)(jnp.zeros_like(d)).project(d)  # by Moreau: the rest of the projection onto the dual ball


def _shrunk_l2(a: Array, metric: Array, t: Array) -> Array:
    """The proximal map of ``t`` times the L2 norm in a diagonal metric: ``argmin_d t ||d|| + <metric, (d - a)^2> / 2``.

    It is ``metric a / (metric + t / r)`` at the norm ``r`` that solves ``sum (metric a / (metric r + t))^2 = 1``.
    """

    def norm(r: Array) -> Array:
        return dual_norm(metric * a / (metric * r + t), "l2")

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        r = 0.5 * (low + high)
        return jnp.where(norm(r) > 1, r, low), jnp.where(norm(r) > 1, high, r)

    ends = jnp.zeros_like(t), dual_norm(a, "l2")
    r = _loops.fori_loop(0, 30, halve, ends)[0]
    return metric * a * r / (metric * r + t)


def _step(
    step: Any, dual_step: Any, key: Any, state: SaddleState, f: Objective, s: Any, *, steps: int, kind: str
) -> SaddleState:
    del key
    x, (lo, hi) = s.center, s.params[1:]
    value, _, g = climb(f, largest, state.z)
    state = closer(state, state.z, value, s)
    # the constraint is max(margin, 0): a violation is pulled back by the norm alone
    g = jnp.where(value < 0, -g, 0.0)
    done, i = state.count / steps, state.count + 1
    step = step * 0.01**done
    mean, square, direction, metric = adam(state.mean, state.square, g, i)
    to = state.z - x - step * direction / metric
    stiffest = jnp.max(metric)
    t = step * jnp.clip(state.weights[0] / state.weights[1], *_RATIOS) / stiffest

    def proximal(_: Any, d: Array) -> Array:
        d = shrunk(d - metric / stiffest * (d - to), t, kind)
        return jnp.clip(x + d, lo, hi) - x

    if kind == "l2":
        d = _shrunk_l2(to, metric / stiffest, t)
    else:
        d = _loops.fori_loop(0, 5, proximal, jnp.clip(x + to, lo, hi) - x)
    dual = state.dual + dual_step * (1 - 0.9 * done) * jnp.where(value < 0, 1.0, -1.0)
    weights = 0.9 * state.weights + 0.1 * _weights(dual)
    z = jnp.clip(x + d, lo, hi)
    return state._replace(z=z, mean=mean, square=square, dual=dual, weights=weights, count=i)


def _for_set(step: Any, dual_step: Any, ratio: Any, kind: str, classes: int, *, steps: int) -> Algorithm:
    del classes
    only_balls(kind, BALLS, "pdpgd")
    return Algorithm(bind(_init, ratio), bind(_step, step, dual_step, steps=steps, kind=kind), bind(closest))


def pdpgd(
    *, steps: int = 500, step: Any = 0.1, dual_step: Any = 0.1, ratio: Any = 0.01, name: str = "pdpgd"
) -> RadiusOracle:
    """Primal-dual proximal gradient descent: Adam on the margin, the norm by its proximal map, a multiplier that balances the two.

    Args:
      steps: gradient steps, >= 1 (structure).
      step: of the point, in the units of the input; decays exponentially to 1/100; traced.
      dual_step: of the multiplier's logarithm, up without a violation and down at one; decays linearly to 1/10; traced.
      ratio: the weight of the norm over that of the margin at first, > 0; traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l1``, ``l2``, ``linf``. `jr.attacks.within` makes it an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> found = pdpgd(steps=200).solve(jax.random.key(0), f, jr.sets.l2(0.0), jnp.array([0.5]))
    >>> print(bool(0.5 <= found.value < 0.55))
    True

    References:
      Matyasko & Chau, PDPGD: primal-dual proximal gradient descent adversarial attack, 2021.
    Deviations:
      The constraint is the margin cut off at 0. On L2 the proximal map in Adam's metric is solved by bisection (five proximal steps
      elsewhere, as published): five steps do not come near it where entries differ much in scale. The last iterate is evaluated too.
    """
    choose = bind(_for_set, step, dual_step, ratio, steps=steps)
    return minimize(choose, steps, name=f"{name}-{steps}")
