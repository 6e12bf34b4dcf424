"""DeepFool: step onto the nearest linearised decision boundary, again and again, until one was crossed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._iterate import Algorithm
from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind
from jrobust.attacks._minimum import closer, closest, dual_norm, found, jacobian, minimize, only_balls, unfound
from jrobust.typing import Array, Float, Point


class FoolState(NamedTuple):
    """The iterate, the sum of all steps, the closest violation so far, and the violations that are considered."""

    z: Point
    total: Point
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    rows: Array


def _init(key: Any, f: Objective, s: Any, *, candidates: int) -> FoolState:
    del key
    x = s.center
    values = f(x)
    rows = jax.lax.top_k(values, min(candidates - 1, values.shape[0]))[1]
    state = FoolState(x, jnp.zeros_like(x), rows=rows, **unfound(s))
    return closer(state, x, jnp.max(values), s)


def _step(overshoot: Any, key: Any, state: FoolState, f: Objective, s: Any, *, kind: str) -> FoolState:
    del key
    values, gradients = jacobian(f, state.z, state.rows)
    state = closer(state, state.z, jnp.max(values), s)
    slopes = jax.vmap(lambda g: dual_norm(g, kind))(gradients)
    distances = jnp.abs(values[state.rows]) / (slopes + 1e-8)
    nearest = jnp.argmin(distances)
    total = state.total + (distances[nearest] + 1e-4) * s.steepest(gradients[nearest])
    z = jnp.clip(s.center + (1 + overshoot) * total, *s.params[1:])
    return state._replace(z=z.astype(state.z.dtype), total=total.astype(state.z.dtype))


def _for_set(overshoot: Any, kind: str, classes: int, *, candidates: int) -> Algorithm:
    only_balls(kind, ("l2", "linf"), "deepfool")
    backwards = max(min(candidates, classes) - 1, 1)
    return Algorithm(
        bind(_init, candidates=candidates),
        bind(_step, overshoot, kind=kind),
        bind(closest),
        init_cost=(1, 0),
        step_cost=(1, backwards),
        best_cost=(1, 0),
    )


def deepfool(*, steps: int = 50, candidates: int = 10, overshoot: Any = 0.02, name: str = "deepfool") -> RadiusOracle:
    """DeepFool: the sum of the shortest steps onto the nearest linearised boundary, until one is crossed; fast and rough.

    Args:
      steps: iterations at most, >= 1 (structure); an example stops at its first violation.
      candidates: how many classes are considered, the most likely ones at the example, >= 2 (structure); one backward pass a step
        for each wrong one.
      overshoot: the whole displacement is taken ``1 + overshoot`` times; traced.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``, ``linf``. `jr.attacks.within` makes it an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> found = deepfool().solve(jax.random.key(0), f, jr.sets.l2(0.0), jnp.array([0.5]))
    >>> print(f"{found.value:.3f}")  # 1.02 times the way to the boundary
    0.510

    References:
      Moosavi-Dezfooli et al., DeepFool: a simple and accurate method to fool deep neural networks, CVPR 2016.
    Deviations:
      Iterates are clipped to the box, as everyone does; the paper has none.
    """
    check_count(candidates, "candidates", "deepfool", least=2)
    choose = bind(_for_set, overshoot, candidates=candidates)
    return minimize(choose, steps, until=bind(found), name=f"{name}-{steps}")
