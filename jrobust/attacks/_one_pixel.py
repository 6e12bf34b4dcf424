"""One-pixel attack: differential evolution over places and colours of a few pixels, by scores alone."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._iterate import Algorithm, improves, iterate
from jrobust._objective import Objective, is_anchored
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind
from jrobust.attacks._minimum import COUNTS, only_balls
from jrobust.attacks._state import Surrogate, broken, keep, kept, nothing
from jrobust.sets._sparse import budget, moved_groups
from jrobust.typing import Array, Float, Point


class Evolution(NamedTuple):
    """Places and colours of the candidates' pixels, in [0, 1], the surrogate of each, the worst case so far, the generations."""

    place: Float[Array, "P n A"]
    colour: Float[Array, "P n C"]
    height: Float[Array, " P"]
    value: Float[Array, ""]
    witness: Point
    count: Array


def _init(key: Any, f: Objective, s: Any, *, pixels: int, population: int) -> Evolution:
    del f
    x = s.center
    grid = moved_groups(s, x).shape
    k_place, k_colour = jax.random.split(key)
    place = jax.random.uniform(k_place, (population, pixels, len(grid)), x.dtype)
    colours = x.size // math.prod(grid)
    colour = jnp.clip(0.5 + 0.5 * jax.random.normal(k_colour, (population, pixels, colours), x.dtype), 0.0, 1.0)
    height = jnp.full((population,), -jnp.inf, x.dtype)
    return Evolution(place, colour, height, nothing(x), x, jnp.asarray(0, jnp.int32))


def _painted(s: Any, place: Float[Array, "n A"], colour: Float[Array, "n C"]) -> Point:
    """The example with the pixels of one candidate, as many of them as the set allows."""
    _, lo, hi = s.params
    x, grid = s.center, moved_groups(s, s.center).shape
    flat, lo, hi = (jnp.reshape(a, (-1, colour.shape[-1])) for a in (x, lo, hi))
    at = jnp.minimum((place * jnp.asarray(grid)).astype(jnp.int32), jnp.asarray(grid) - 1)
    index = jnp.ravel_multi_index(tuple(at.T), grid, mode="clip")
    for n in range(place.shape[0]):
        i = index[n]
        new = jnp.clip(lo[i] + colour[n] * (hi[i] - lo[i]), lo[i], hi[i])
        flat = flat.at[i].set(jnp.where(n < budget(s), new, flat[i]))
    return flat.reshape(x.shape)


def _three(key: Any, population: int) -> Array:
    """For each child three different parents."""
    k_first, k_second, k_third = jax.random.split(key, 3)
    first = jax.random.randint(k_first, (population,), 0, population)
    second = (first + jax.random.randint(k_second, (population,), 1, population)) % population
    third = jax.random.randint(k_third, (population,), 0, population - 2)
    third += third >= jnp.minimum(first, second)
    third += third >= jnp.maximum(first, second)
    return jnp.stack([first, second, third])


def _step(
    weight: Any, key: Any, state: Evolution, f: Objective, s: Any, *, population: int, surrogate: Surrogate | None
) -> Evolution:
    first, second, third = _three(key, population)

    def child(genes: Array) -> Array:
        mixed = jnp.clip(genes[first] + weight * (genes[second] - genes[third]), 0.0, 1.0)
        return jnp.where(state.count > 0, mixed, genes)  # the first generation is evaluated as it is

    place, colour = child(state.place), child(state.colour)
    candidates = jax.vmap(lambda p, c: _painted(s, p, c))(place, colour)
    outputs = jax.vmap(f.outputs)(candidates)
    values = jax.vmap(f.value)(outputs)
    height = jax.vmap(lambda out: (surrogate or f.surrogate)(f, out))(outputs).astype(state.height.dtype)
    fitter = jax.vmap(improves)(height, state.height)
    worst = jnp.argmax(values)  # the first NaN, if any, is the largest
    return keep(state, candidates[worst], values[worst])._replace(
        place=jnp.where(fitter[:, None, None], place, state.place),
        colour=jnp.where(fitter[:, None, None], colour, state.colour),
        height=jnp.where(fitter, height, state.height),
        count=state.count + 1,
    )


def _for_set(
    weight: Any,
    kind: str,
    classes: int,
    *,
    pixels: int,
    population: int,
    steps: int,
    surrogate: Surrogate | None,
    name: str,
) -> Oracle:
    del classes
    only_balls(kind, COUNTS, "one_pixel")
    algorithm = Algorithm(
        bind(_init, pixels=pixels, population=population),
        bind(_step, weight, population=population, surrogate=surrogate),
        kept,
        step_cost=(population, 0),
        best_cost=(0, 0),
        anchored=is_anchored(surrogate),
    )
    return iterate(algorithm, steps, until=broken, name=name)


def one_pixel(
    *,
    pixels: int = 1,
    population: int = 400,
    steps: int = 100,
    weight: Any = 0.5,
    surrogate: Surrogate | None = None,
    name: str = "one_pixel",
) -> Oracle:
    """One-pixel attack: differential evolution over where a pixel is and what colour it gets. No gradients.

    Candidates are ``pixels`` places with colours; a child is a parent plus ``weight`` times the difference of two others, and
    replaces its own parent where the surrogate is higher. No crossover.

    Args:
      pixels: how many pixels a candidate changes, >= 1 (structure); the set's eps may cut it down.
      population: candidates, and queries, in a generation, >= 3 (structure).
      steps: generations, the first one included, >= 1 (structure).
      weight: of the difference; traced.
      surrogate: what has to rise, ``(objective, outputs) -> scalar``; None takes the objective's own: cross-entropy is the published
        fitness (the probability of the label, or of the target), ordered alike.
      name: for tables.

    Returns:
      An `Oracle` of side "lower" for sets ``l0``, of pixels or entries; each example stops at the generation of its first violation.
      ``info["forwards"]`` are ``population`` a generation, and one more for a surrogate that looks at the clean example (`kl`).

    Raises:
      ValueError: a count out of range; other sets (when it runs).

    Guarantee: a lower bound, attained at ``witness``, which lies in the set.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[1, 2].sum(), 0)
    >>> s = jr.sets.l0(1, clip=(0, 1), pixels=True)(jnp.full((3, 3, 2), 0.5))
    >>> print(bool(one_pixel(population=50, steps=20).solve(jax.random.key(0), f, s).value >= 0))  # it found the pixel
    True

    References:
      Su, Vargas & Sakurai, One pixel attack for fooling deep neural networks, IEEE Trans. Evolutionary Computation 2019.
    Deviations:
      It stops at the first violation, not at a probability. What leaves the image or the clip is clipped; the paper does not say.
    """
    for count, least, what in ((pixels, 1, "pixels"), (population, 3, "population"), (steps, 1, "steps")):
        check_count(count, what, "one_pixel", least=least)
    choose = bind(
        _for_set, weight, pixels=pixels, population=population, steps=steps, surrogate=surrogate, name=f"{name}-{steps}"
    )
    return adaptive("lower", choose, name=f"{name}-{steps}")
