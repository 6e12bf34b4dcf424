"""EAD: Carlini and Wagner's loss with an L1 term, minimised by FISTA: elastic-net displacements, most of whose entries are zero."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective, largest
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._minimum import minimize, only_balls, unfound
from jrobust.attacks._multiple import Multiple, advanced, check_searches, finished, stalled, unsearched
from jrobust.attacks._pdpgd import shrunk
from jrobust.attacks._state import climb, kept
from jrobust.typing import Array, Float, Point


class ElasticState(NamedTuple):
    """The iterate, the point ahead of it where gradients are taken, the multiple, and the violation that the rule prefers.

    ``score``: what the rule minimises at the witness; ``radius``: its L1 distance.
    """

    z: Point
    ahead: Point
    multiple: Multiple
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    score: Float[Array, ""]


def _init(multiple: Any, key: Any, f: Objective, s: Any) -> ElasticState:
    del key, f
    x, found = s.center, unfound(s)
    return ElasticState(x, x, unsearched(multiple, x.dtype), score=found["radius"], **found)


def _preferred(state: ElasticState, z: Point, value: Array, score: Array, s: Any) -> ElasticState:
    better = violated(value) & (score < state.score)
    return state._replace(
        radius=jnp.where(better, s.distance(z), state.radius),
        value=jnp.where(better, value.astype(state.value.dtype), state.value),
        witness=where(better, z, state.witness),
        score=jnp.where(better, score, state.score),
    )


def _step(
    step: Any,
    beta: Any,
    confidence: Any,
    key: Any,
    state: ElasticState,
    f: Objective,
    s: Any,
    *,
    steps: int,
    searches: int,
    rule: str,
) -> ElasticState:
    del key
    x, m = s.center, state.multiple
    value, _, g = climb(f, largest, state.ahead)
    # the first point is the example itself
    state = _preferred(state, x, jnp.where(m.count == 0, value, -jnp.inf), jnp.zeros_like(state.score), s)
    short = jnp.maximum(confidence - value, 0.0)
    d = state.ahead - x
    loss = m.value * short + jnp.sum(d**2) + beta * jnp.sum(jnp.abs(d))
    slope = 2 * d - jnp.where(short > 0, m.value, 0.0) * g
    length = step * jnp.sqrt(1 - m.count / steps)
    z = jnp.clip(x + shrunk(d - length * slope, beta, "l1"), *s.params[1:]).astype(state.z.dtype)
    value = f.value(f.outputs(z))
    l1 = jnp.sum(jnp.abs(z - x))
    state = _preferred(state, z, value, l1 if rule == "l1" else beta * l1 + jnp.sum((z - x) ** 2), s)
    ahead = z + m.count / (m.count + 3) * (z - state.z)
    m, over = stalled(m._replace(hit=m.hit | (violated(value) & (value >= confidence))), loss, steps)
    m, ends = advanced(m, over, steps=steps, searches=searches)
    return state._replace(z=where(ends, x, z), ahead=where(ends, x, ahead), multiple=m)


def _for_set(
    step: Any,
    beta: Any,
    confidence: Any,
    multiple: Any,
    kind: str,
    classes: int,
    *,
    steps: int,
    searches: int,
    rule: str,
) -> Algorithm:
    del classes
    only_balls(kind, ("l1",), "ead")
    stepping = bind(_step, step, beta, confidence, steps=steps, searches=searches, rule=rule)
    return Algorithm(bind(_init, multiple), stepping, bind(kept), step_cost=(2, 1), best_cost=(0, 0))


def ead(
    *,
    steps: int = 1000,
    searches: int = 9,
    step: Any = 0.01,
    multiple: Any = 0.001,
    beta: Any = 0.01,
    confidence: Any = 0.0,
    rule: str = "l1",
    name: str = "ead",
) -> RadiusOracle:
    """Elastic-net attack: FISTA on the squared distance plus a multiple of the margin, entries shrunk by ``beta`` at every step.

    Args:
      steps: of one search, >= 1 (structure): two forward passes and one backward each. A search ends early where the loss no longer
        falls (looked at ten times).
      searches: how many multiples are tried, >= 1 (structure): ten times larger until one succeeds, then by bisection.
      step: of the first gradient step, in the units of the input; falls as ``sqrt(1 - i / steps)``; traced.
      multiple: the first one, > 0; traced.
      beta: what entries shrink by, >= 0, in the units of the input; traced.
      confidence: the margin that a search wants to reach, >= 0; traced.
      rule: which violation becomes the witness: the one of least "l1" norm, or of least ``beta * l1 + squared l2`` ("en").
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l1``; the radius is the L1 norm under either rule. `jr.attacks.within` makes it
      an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * (z[0] - 0.2), 0)
    >>> found = ead(steps=100, searches=6).solve(jax.random.key(0), f, jr.sets.l1(0.0, clip=(0, 1)), jnp.array([0.5]))
    >>> print(bool(0.3 <= found.value < 0.33))
    True

    References:
      Chen et al., EAD: elastic-net attacks to deep neural networks via adversarial examples, AAAI 2018.
    Deviations:
      Early abort is judged for each example, by the loss where the gradient was taken.
    """
    check_searches(steps, searches, "ead")
    if rule not in ("l1", "en"):
        raise ValueError(f'ead: rule is "l1" or "en", got {rule!r}')
    choose = bind(_for_set, step, beta, confidence, multiple, steps=steps, searches=searches, rule=rule)
    return minimize(choose, steps * searches, until=bind(finished), name=f"{name}-{searches}x{steps}")
