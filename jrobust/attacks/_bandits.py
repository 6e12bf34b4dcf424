"""Bandits: the estimated gradient of one step is the prior of the next."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust._oracle import Oracle
from jrobust._tree import bind
from jrobust.attacks._estimated import STEEPEST, Estimator, estimated
from jrobust.attacks._minimum import unit
from jrobust.attacks._square import _layout
from jrobust.attacks._state import Surrogate
from jrobust.typing import Array, Float, Point


def _no_prior(s: Any, *, tiles: int | None, channels: int) -> Float[Array, "h w C"]:
    height, width, depth = _layout(s, channels).image(s.center).shape
    shape = (height, width) if tiles is None else (min(tiles, height), min(tiles, width))
    return jnp.zeros((*shape, depth), s.center.dtype)


def _tiled(tiles: Array, s: Any, *, channels: int) -> Point:
    """Each tile as a block of equal entries of the example."""
    layout = _layout(s, channels)
    height, width, _ = layout.image(s.center).shape
    rows, columns = (jnp.arange(n) * have // n for n, have in zip((height, width), tiles.shape, strict=False))
    return layout.example(tiles[rows][:, columns])


def _exploration(size: Any, key: Any, memory: Array, s: Any) -> Array:
    del s
    return size * jax.random.normal(key, memory.shape, memory.dtype) / memory.size**0.5


def _prior(memory: Array, *, bounded: bool) -> Array:
    return jnp.tanh(memory) if bounded else memory


def _around(width: Any, memory: Array, noise: Array, s: Any, *, bounded: bool, channels: int) -> tuple[Point, Point]:
    prior = _prior(memory, bounded=bounded)
    ends = (width * unit(_tiled(prior + sign * noise, s, channels=channels)) for sign in (1, -1))
    plus, minus = ends
    return plus, minus


def _followed(
    width: Any, size: Any, prior_step: Any, memory: Array, noise: Array, difference: Array, s: Any, *, bounded: bool
) -> Array:
    """The prior's own ascent; the exponentiated gradient of a prior in [-1, 1] is a step of its inverse hyperbolic tangent."""
    del s
    memory = memory + prior_step * difference / (width * size) * noise
    return jnp.clip(memory, -8.0, 8.0) if bounded else memory  # the tangent is one to rounding there


def _prior_and_keep(memory: Array, s: Any, *, bounded: bool, channels: int) -> tuple[Point, Array]:
    return _tiled(_prior(memory, bounded=bounded), s, channels=channels), memory


def _bandit(
    width: Any, exploration: Any, prior_step: Any, step: Any, kind: str, *, tiles: int | None, channels: int
) -> Estimator:
    bounded = kind == "linf"
    published = (0.1, 1.0, 100.0, 0.2) if bounded else (0.01, 0.01, 0.1, 0.1)
    given = (width, exploration, prior_step, step)
    width, exploration, prior_step, step = (p if g is None else g for g, p in zip(given, published, strict=True))
    return Estimator(
        bind(_no_prior, tiles=tiles, channels=channels),
        bind(_exploration, exploration),
        bind(_around, width, bounded=bounded, channels=channels),
        bind(_followed, width, exploration, prior_step, bounded=bounded),
        bind(_prior_and_keep, bounded=bounded, channels=channels),
        step,
    )


def bandits(
    *,
    queries: int = 10_000,
    tiles: int | None = None,
    width: Any = None,
    exploration: Any = None,
    prior_step: Any = None,
    step: Any = None,
    rule: optax.GradientTransformation | None = None,
    surrogate: Surrogate | None = None,
    channels: int = -1,
    name: str = "bandits",
) -> Oracle:
    """Bandits with priors: the gradient estimate of one step is the prior of the next, and (``tiles``) constant on tiles.

    Two queries explore around the prior, one looks at the iterate that follows it.

    Args:
      queries: forward passes at most, >= 1 (structure).
      tiles: a side of the image has this many tiles (structure); None: one for each pixel, no prior on the data.
      width: how far the two queries are from the iterate, Euclidean, in the units of the input; traced. None: 0.1 on Linf sets,
        0.01 on others.
      exploration: Euclidean length of the noise around the prior; traced. None: 1 on Linf sets, 0.01 on others.
      prior_step: of the prior; traced. None: 100 (exponentiated gradient) on Linf sets, 0.1 (plain gradient) on others.
      step: of the iterate, in units of the set's radius (with ``rule``, a factor on its updates); traced. None: 0.2 on Linf sets,
        0.1 on others.
      rule: any optax transformation, as in `jr.attacks.pgd`; None is the steepest direction of the set's norm.
      surrogate: what is climbed, ``(objective, outputs) -> scalar``; None takes the objective's own (cross-entropy).
      channels: the axis of the channels, as in `jr.attacks.square`.
      name: for tables.

    Returns:
      An `Oracle` of side "lower", for every set of one array; each example stops at its first violation, and
      ``info["forwards"]`` are the queries it took. The model is never differentiated.

    Raises:
      ValueError: no queries, no tiles.

    Guarantee: a lower bound, attained at ``witness``, an iterate (in the set to rounding).

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z.sum(), 0)
    >>> s = jr.sets.linf(0.5)(jnp.full((4, 4), 0.3))
    >>> print(bool(bandits(queries=100, tiles=2).solve(jax.random.key(0), f, s).value >= 0))
    True

    References:
      Ilyas, Engstrom & Madry, Prior convictions: black-box adversarial attacks with bandits and priors, ICLR 2019 (constants: the
      authors' code; theirs are 50 tiles on 299 pixels).
    Deviations:
      The look at each iterate counts as a query. A Linf prior keeps a little away from its ends, where it would be stuck.
    """
    if not (tiles is None or (isinstance(tiles, int) and tiles >= 1)):
        raise ValueError(f"bandits: tiles must be an int >= 1 or None, got {tiles!r}")
    estimator = bind(_bandit, width, exploration, prior_step, step, tiles=tiles, channels=channels)
    return estimated(estimator, queries, 2, rule, STEEPEST, surrogate, name)
