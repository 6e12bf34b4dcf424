"""Sparse-RS: random search over which pixels to change and to which corner of the colour cube, by scores alone."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._iterate import improves, violated
from jrobust._objective import Objective
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind, where
from jrobust.attacks._minimum import COUNTS, only_balls
from jrobust.attacks._queries import asking, spending
from jrobust.attacks._state import Surrogate, keep, nothing
from jrobust.sets._sparse import budget, largest_groups, moved_groups, spread
from jrobust.typing import Array, Float, Point

# After these queries (of 10,000) the share of the pixels that a proposal exchanges is alpha over the number below.
_AFTER = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_OVER = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)


class PixelState(NamedTuple):
    """The point that the search stands on, the pixels it has chosen, its surrogate, the worst case so far, the queries spent."""

    z: Point
    chosen: Array
    height: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    queries: Array


def _corners(s: Any, key: Any) -> Point:
    """Every entry at a random end of the clip."""
    _, lo, hi = s.params
    return jnp.where(jax.random.bernoulli(key, shape=s.center.shape), hi, lo)


def _init(key: Any, f: Objective, s: Any) -> PixelState:
    del f
    k_where, k_what = jax.random.split(key)
    chosen = largest_groups(jax.random.uniform(k_where, moved_groups(s, s.center).shape), budget(s))
    z = jnp.where(spread(s, chosen), _corners(s, k_what), s.center)
    return PixelState(z, chosen, nothing(z), nothing(z), s.center, jnp.asarray(0, jnp.int32))


def _proposed(key: Any, state: PixelState, s: Any, alpha: Any) -> tuple[Point, Array]:
    """Some of the chosen pixels go back, as many others get a random corner."""
    k_out, k_in, k_what = jax.random.split(key, 3)
    count, chosen = budget(s), state.chosen
    exchanged = jnp.clip(jnp.floor(alpha * count).astype(jnp.int32), jnp.minimum(count, 1), count)
    u = jax.random.uniform(k_out, chosen.shape)
    out = largest_groups(jnp.where(chosen, 1 + u, 0.0), exchanged) & chosen
    # where fewer pixels are outside than exchanged, the rest of them are recoloured
    u = jax.random.uniform(k_in, chosen.shape)
    taken = largest_groups(jnp.where(chosen, jnp.where(out, 1 + u, 0.0), 2 + u), exchanged)
    z = jnp.where(spread(s, taken), _corners(s, k_what), jnp.where(spread(s, out), s.center, state.z))
    return z, (chosen & ~out) | taken


def _step(
    alpha: Any,
    key: Any,
    state: PixelState,
    f: Objective,
    s: Any,
    *,
    after: tuple[int, ...],
    surrogate: Surrogate | None,
) -> PixelState:
    over = jnp.asarray(_OVER)[jnp.sum(state.queries >= np.asarray(after))]
    first = state.queries == 0  # the first query is the start itself
    z, chosen = where(first, (state.z, state.chosen), _proposed(key, state, s, alpha / over))
    outputs = f.outputs(z)
    value = f.value(outputs)
    if surrogate is None and f.target is not None:
        surrogate = f.surrogate
    height = (value if surrogate is None else surrogate(f, outputs)).astype(state.height.dtype)
    accept = improves(height, state.height) | violated(value)
    return keep(state, z, value)._replace(
        z=where(accept, z, state.z),
        chosen=where(accept, chosen, state.chosen),
        height=jnp.where(accept, height, state.height),
        queries=state.queries + 1,
    )


def _for_set(
    alpha: Any, kind: str, classes: int, *, queries: int, after: tuple[int, ...], surrogate: Surrogate | None, name: str
) -> Oracle:
    del classes
    only_balls(kind, COUNTS, "sparse_rs")
    step = bind(_step, alpha, after=after, surrogate=surrogate)
    return spending(asking(bind(_init), step, surrogate), queries, name)


def sparse_rs(
    *,
    queries: int = 5000,
    alpha: Any = 0.3,
    resc_schedule: bool = True,
    surrogate: Surrogate | None = None,
    name: str = "sparse_rs",
) -> Oracle:
    """Sparse random search: some of the changed pixels are exchanged for others, and a change is kept where the surrogate rises.

    Pixels (entries on ``l0`` sets of entries) that change go to random corners of the clip. The share that is exchanged shrinks from
    ``alpha`` to ``alpha / 20``. No gradients.

    Args:
      queries: forward passes at most, >= 1 (structure); the first evaluates the start.
      alpha: the first share, in (0, 1]; the paper takes 0.3, and 0.1 for targeted attacks; traced.
      resc_schedule: shrink the share at the same fractions of ``queries`` as in a run of 10,000, not at the same query numbers.
      surrogate: what has to rise, ``(objective, outputs) -> scalar``; None takes the margin, or the objective's own surrogate
        (cross-entropy) where there is a target.
      name: for tables.

    Returns:
      An `Oracle` of side "lower" for sets ``l0``, of pixels or entries; each example stops at its first violation, and
      ``info["forwards"]`` are the queries it took.

    Raises:
      ValueError: no queries; a concrete share outside (0, 1]; other sets (when it runs).

    Guarantee: a lower bound, attained at ``witness``, which lies in the set.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z.sum(), 0)
    >>> s = jr.sets.l0(3, clip=(0, 1), pixels=True)(jnp.full((4, 4, 2), 0.5))
    >>> print(sparse_rs(queries=100).solve(jax.random.key(0), f, s).value)  # margin -2 (16 - 3)
    -26.0

    References:
      Croce, Andriushchenko, Singh, Flammarion & Hein, Sparse-RS: a versatile framework for query-efficient sparse black-box
      adversarial attacks, AAAI 2022 (the L0 form; the schedule is that of the authors' code).
    Deviations:
      Which of the pixels are exchanged is drawn for each example, not for the batch.
    """
    check_count(queries, "queries", "sparse_rs")
    if isinstance(alpha, int | float) and not 0 < alpha <= 1:
        raise ValueError(f"sparse_rs: alpha must lie in (0, 1], got {alpha}")
    after = tuple(math.ceil((n + 1) * queries / 10_000) if resc_schedule else n + 1 for n in _AFTER)
    choose = bind(_for_set, alpha, queries=queries, after=after, surrogate=surrogate, name=f"{name}-{queries}")
    return adaptive("lower", choose, name=f"{name}-{queries}")
