"""JSMA: pairs of entries by a saliency map, made of the logits' Jacobian."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._iterate import Algorithm, iterate
from jrobust._objective import Objective
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind
from jrobust.attacks._minimum import only_balls
from jrobust.attacks._state import broken, keep, nothing, with_last, wrong_class
from jrobust.objectives import with_label
from jrobust.sets._sparse import budget, moved_groups
from jrobust.typing import Array, Float, Point

_ROWS = 64  # of the matrix of all pairs that exist at once


class SaliencyState(NamedTuple):
    """The iterate, the class it is moved to (-1: not known yet), whether no pair is left, the worst case so far."""

    z: Point
    target: Array
    spent: Array
    value: Float[Array, ""]
    witness: Point


def _init(key: Any, f: Objective, s: Any) -> SaliencyState:
    del key
    target = jnp.asarray(-1 if f.target is None else f.target, jnp.int32)
    return SaliencyState(s.center, target, jnp.asarray(False), nothing(s.center), s.center)


def _best_pair(up: Array, rest: Array, free: Array, new: Array, left: Array) -> tuple[Array, Array, Array]:
    """The largest ``-(up_p + up_q) (rest_p + rest_q)``, both factors of the right sign, and the pair; a pair p = p where one is left."""
    n = up.size
    q = jnp.arange(n)

    def block(p: Array) -> tuple[Array, Array, Array]:
        here = jnp.minimum(p, n - 1)
        both = lambda a: a[here][:, None] + a  # noqa: E731
        same = here[:, None] == q
        fits = jnp.where(same, left == 1, both(new.astype(jnp.int32)) <= left)
        allowed = (p < n)[:, None] & free[here][:, None] & free & fits & (both(up) > 0) & (both(rest) < 0)
        scores = jnp.where(allowed, -both(up) * both(rest), -jnp.inf).ravel()
        best = jnp.argmax(scores)
        return scores[best], here[best // n], best % n

    scores, firsts, seconds = _loops.map(block, jnp.arange(-(-n // _ROWS) * _ROWS).reshape(-1, _ROWS))
    k = jnp.argmax(scores)
    return scores[k], firsts[k], seconds[k]


def _step(theta: Any, rank: Any, key: Any, state: SaliencyState, f: Objective, s: Any) -> SaliencyState:
    del key
    _, lo, hi = s.params
    logits, pull = jax.vjp(f.outputs, state.z)
    state = keep(state, state.z, f.value(logits))
    target = jnp.where(state.target < 0, wrong_class(logits, with_label(f, "jsma"), rank), state.target)
    wanted = jax.nn.one_hot(target, logits.shape[0], dtype=logits.dtype)
    up, rest = (
        jnp.sign(theta) * g.ravel() for g in jax.vmap(lambda row: pull(row)[0])(jnp.stack([wanted, 1 - wanted]))
    )
    moved = moved_groups(s, state.z)
    left = budget(s) - jnp.sum(moved)
    free = jnp.where(theta > 0, state.z < hi, state.z > lo).ravel()
    score, first, second = _best_pair(up, rest, free, ~moved.ravel(), left)
    pair = jnp.zeros(state.z.size, bool).at[jnp.stack([first, second])].set(True).reshape(state.z.shape)
    found = score > 0
    z = jnp.where(found & pair, jnp.clip(state.z + theta, lo, hi), state.z).astype(state.z.dtype)
    return state._replace(z=z, target=target, spent=~found)


def _over(state: SaliencyState) -> Array:
    return broken(state) | state.spent


def _for_set(theta: Any, rank: Any, kind: str, classes: int, *, steps: int, name: str) -> Oracle:
    del classes
    only_balls(kind, ("l0",), "jsma")
    return iterate(
        Algorithm(_init, bind(_step, theta, rank), with_last, step_cost=(1, 2)), steps, until=_over, name=name
    )


def jsma(*, steps: int = 100, theta: Any = 1.0, rank: Any = 1, name: str = "jsma") -> Oracle:
    """Jacobian saliency map attack: move the pair of entries that raises the target's logit and lowers the others' sum the most.

    The saliency of a pair is minus the product of the two derivatives, where the first is positive and the second negative. Entries
    at the end of the clip are left out. The published ``gamma`` (the share of entries that may change) is the set's eps over their number.

    Args:
      steps: pairs moved at most, >= 1 (structure). With ``theta = 1`` in a clip of [0, 1] an entry moves once: eps / 2 are enough.
      theta: by how much an entry moves, in the units of the input; negative ones lower it; not 0; traced.
      rank: without a target: the class to move to, by rank among the wrong ones at the clean logits (1 is the most likely); traced.
        Success is any violation of the objective.
      name: for tables.

    Returns:
      An `Oracle` of side "lower" for sets ``l0`` of entries; each example stops at its first violation, or where no pair is left.

    Raises:
      ValueError: no steps; a concrete theta of 0; other sets (when it runs).
      TypeError: an objective without a label (when it runs).

    Guarantee: a lower bound, attained at ``witness``, which lies in the set.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> w = jnp.array([[0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 2.0, -1.0]])
    >>> f = jr.objectives.classification(lambda z: w @ z - jnp.array([0.0, 4.0]) - 0.1 * z.sum(), 0)
    >>> bound = jsma().solve(jax.random.key(0), f, jr.sets.l0(2, clip=(0, 1))(jnp.zeros(4)))
    >>> print(bound.witness, f"{bound.value:.1f}")
    [0. 1. 1. 0.] 1.0

    References:
      Papernot et al., The limitations of deep learning in adversarial settings, EuroS&P 2016.
    Deviations:
      Derivatives are those of the logits. Where the set has room for one more entry only, a single one moves.
    """
    check_count(steps, "steps", "jsma")
    if isinstance(theta, int | float) and theta == 0:
        raise ValueError("jsma: theta must not be 0")
    choose = bind(_for_set, theta, rank, steps=steps, name=f"{name}-{steps}")
    return adaptive("lower", choose, name=f"{name}-{steps}")
