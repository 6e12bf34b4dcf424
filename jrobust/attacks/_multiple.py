"""The search for the multiple of the margin that the distance is weighed against; Carlini-Wagner, EAD, L-BFGS and ZOO share it."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust.typing import Array, Float

_LARGE = 1e9


class Multiple(NamedTuple):
    """The multiple of the margin, and what the search for it knows.

    Attributes:
      value: the multiple of the present search.
      low, high: the largest one that was too small, the smallest that was enough.
      hit: the present search has succeeded.
      before: the loss when it was last looked at.
      count: steps of the present search so far.
      ended: how many searches have ended.
      done: all of them.
    """

    value: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    hit: Array
    before: Float[Array, ""]
    count: Array
    ended: Array
    done: Array


def unsearched(value: Any, dtype: Any) -> Multiple:
    """At the start of the first search."""
    number, none, no = jnp.zeros((), dtype), jnp.asarray(0, jnp.int32), jnp.asarray(False)
    return Multiple(number + value, number, number + 10 * _LARGE, no, number + jnp.inf, none, none, no)


def stalled(m: Multiple, loss: Float[Array, ""], steps: int) -> tuple[Multiple, Array]:
    """Whether ``loss`` has not fallen since the last look; a search of ``steps`` steps is looked at ten times."""
    look = m.count % max(-(-steps // 10), 1) == 0
    return m._replace(before=jnp.where(look, loss, m.before)), look & ~(loss <= 0.9999 * m.before)


def advanced(m: Multiple, over: Array, *, steps: int, searches: int) -> tuple[Multiple, Array]:
    """One step on, and whether the search ends: it is ``over``, or has had its steps.

    At its end the interval of multiples is halved; while none was enough the multiple grows tenfold. The last of ten searches or
    more takes the smallest that was enough.
    """
    ends = over | (m.count + 1 >= steps)
    low = jnp.where(ends & ~m.hit, jnp.maximum(m.low, m.value), m.low)
    high = jnp.where(ends & m.hit, jnp.minimum(m.high, m.value), m.high)
    following = jnp.where(high < _LARGE, 0.5 * (low + high), 10 * m.value)
    if searches >= 10:
        following = jnp.where(m.ended == searches - 2, high, following)
    return Multiple(
        value=jnp.where(ends, following, m.value),
        low=low,
        high=high,
        hit=m.hit & ~ends,
        before=jnp.where(ends, jnp.inf, m.before),
        count=jnp.where(ends, 0, m.count + 1),
        ended=m.ended + ends,
        done=m.done | (m.ended + ends >= searches),
    ), ends


def finished(state: Any) -> Array:
    """Early stop of a state with the fields ``multiple`` and ``radius``: no search is left, or the example itself is a violation."""
    return state.multiple.done | (state.radius == 0)


def check_searches(steps: Any, searches: Any, by: str) -> None:
    """Both counts are ints >= 1."""
    check_count(steps, "steps", by)
    check_count(searches, "searches", by)
