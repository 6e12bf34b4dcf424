"""Minimum-norm attacks: the closest violation that was found, as a bound on the radius or as an attack within one set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count, check_precision
from jrobust._iterate import Algorithm, Iteration, iterate, violated
from jrobust._objective import Objective
from jrobust._oracle import Oracle, Radius, RadiusOracle, adaptive
from jrobust._tree import bind, where
from jrobust.typing import Array, Float, Point

BALLS = ("l1", "l2", "linf")
COUNTS = ("l0", "l0-pixels")


def unfound(s: Any) -> dict[str, Any]:
    """The fields ``radius``, ``value`` and ``witness`` of a minimum-norm attack's state before anything was evaluated."""
    infinite = jnp.full((), jnp.inf, s.center.dtype)
    return {"radius": infinite, "value": -infinite, "witness": s.center}


def closer(state: Any, z: Point, value: Float[Array, ""], s: Any) -> Any:
    """The state with ``z`` as its witness where that is a violation closer than the ones before."""
    radius = s.distance(z).astype(state.radius.dtype)
    better = violated(value) & (radius < state.radius)
    return state._replace(
        radius=jnp.where(better, radius, state.radius),
        value=jnp.where(better, value.astype(state.value.dtype), state.value),
        witness=where(better, z, state.witness),
    )


def closest(state: Any, f: Objective, s: Any) -> tuple[Float[Array, ""], Point]:
    """The `Algorithm.best` of a state whose iterate ``z`` was not evaluated yet: one more forward pass."""
    state = closer(state, state.z, f.value(f.outputs(state.z)), s)
    return state.value, state.witness


def found(state: Any) -> Array:
    """Early stop: there is a witness, at whatever distance."""
    return jnp.isfinite(state.radius)


def jacobian(fn: Callable[[Point], Float[Array, " m"]], z: Point, rows: Any = None) -> tuple[Float[Array, " m"], Array]:
    """``fn(z)`` and the gradients of its entries ``rows`` (None: all), stacked: one forward pass, one backward pass a row."""
    values, pull = jax.vjp(fn, z)
    if values.shape == (1,):
        return values, pull(jnp.ones_like(values))[0][None]
    basis = jnp.eye(values.shape[0], dtype=values.dtype)
    return values, jax.vmap(lambda row: pull(row)[0])(basis if rows is None else basis[rows])


def dual_norm(g: Array, kind: str) -> Float[Array, ""]:
    """The dual norm of ``g`` for balls of this kind: L1 for Linf, L2 for L2, Linf for L1."""
    if kind == "linf":
        return jnp.sum(jnp.abs(g))
    top = jnp.max(jnp.abs(g), initial=0.0)
    if kind == "l1":
        return top
    top = jnp.where(top > 0, top, 1.0)
    return top * jnp.sqrt(jnp.sum((g / top) ** 2))  # squares of tiny gradients would vanish


def unit(g: Array) -> Array:
    """``g`` at Euclidean norm one; 0 stays 0."""
    size = dual_norm(g, "l2")
    return g / jnp.where(size > 0, size, 1.0)


def adam(mean: Array, square: Array, g: Array, count: Array) -> tuple[Array, Array, Array, Array]:
    """Adam's moments after gradient number ``count`` (from 1), then the direction it averages and the metric that it divides by."""
    mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
    count = count.astype(g.dtype)
    return mean, square, mean / (1 - 0.9**count), jnp.sqrt(square / (1 - 0.999**count)) + 1e-8


def two_ends(s: Any) -> tuple[Array, Array, Array]:
    """Which entries the clip bounds at both ends, the lower one, and how far the other lies (0 and 1 where it does not)."""
    _, lo, hi = s.params
    if lo is None or hi is None:
        lo, hi = -jnp.inf, jnp.inf
    finite = jnp.broadcast_to(jnp.isfinite(lo) & jnp.isfinite(hi), s.center.shape)
    lo = jnp.where(finite, lo, 0.0).astype(s.center.dtype)
    return finite, lo, jnp.where(finite, hi, 1.0).astype(s.center.dtype) - lo


def farthest(s: Any) -> Float[Array, ""]:
    """How far the farthest corner of the clip lies: no violation is further; ``+inf`` without a clip."""
    _, lo, hi = s.params
    if lo is None or hi is None:
        return jnp.full((), jnp.inf, s.center.dtype)
    return s.distance(jnp.where(s.center - lo > hi - s.center, lo, hi).astype(s.center.dtype))


def only_balls(kind: str, kinds: tuple[str, ...], by: str) -> None:
    """Raise unless the method knows this kind of set."""
    if kind not in kinds:
        raise ValueError(f"{by} works on sets of kind {', '.join(kinds)}; got {kind}")


def _iteration(choose: Any, kind: str, classes: int, *, steps: Any, until: Any) -> Iteration:
    algorithm = choose(kind, classes)
    return Iteration(algorithm, steps if isinstance(steps, int) else steps(kind), until)


def _radius(adapt: Any, key: Any, f: Objective, threat: Any, x: Point, *, name: str) -> Radius:
    if threat is None:
        raise TypeError(
            f"{name} measures distances in a threat's norm: solve(key, objective, threat, x), got None for the threat"
        )
    s = threat(x)
    iteration = adapt(s.geometry.name, jax.eval_shape(f, s.center).shape[0] + 1)
    check_precision(s.center, name)
    bound = iteration.solve(key, f, s)
    radius = jnp.where(violated(bound.value), s.distance(bound.witness), jnp.inf)
    return Radius(radius, bound.witness, bound.info | {"value": bound.value})


def minimize(
    choose: Callable[[str, int], Algorithm], steps: int | Callable[[str], int], *, until: Any = None, name: str
) -> RadiusOracle:
    """The `RadiusOracle` that runs a minimum-norm algorithm and reports its closest violation.

    Args:
      choose: ``(kind of set, number of classes) -> Algorithm``, made with `bind`; the algorithm's state has the fields ``radius``,
        ``value`` and ``witness`` (see `closer`), ``+inf``, ``-inf`` and the example while nothing was found. It does not look at
        the set's eps.
      steps: how many steps, >= 1 (structure), or ``kind of set ->`` how many, made with `bind`.
      until: ``state -> bool``, made with `bind`, early stop of an example.
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper": ``value`` is the distance of ``witness`` (0 and the example itself where that is a
      violation already, ``+inf`` and the example where nothing was found); ``info`` has the violation there and the passes.
    """
    if not callable(steps):
        check_count(steps, "steps", name)
    adapt = bind(_iteration, choose, steps=steps, until=until)
    return RadiusOracle("upper", bind(_radius, adapt, name=name), name=name, adapt=adapt)


class Search(NamedTuple):
    """A minimum-norm attack's state, and whether its witness already lies in the set."""

    state: Any
    reached: Array


def _searched(state: Any, s: Any) -> Search:
    return Search(state, violated(state.value) & s.contains(state.witness, 0.0))


def _search_init(inner: Algorithm, key: Any, f: Objective, s: Any, *, name: str) -> Search:
    check_precision(s.center, name)
    return _searched(inner.init(key, f, s), s)


def _search_step(inner: Algorithm, key: Any, search: Search, f: Objective, s: Any) -> Search:
    return _searched(inner.step(key, search.state, f, s), s)


def _search_best(inner: Algorithm, search: Search, f: Objective, s: Any) -> tuple[Float[Array, ""], Point]:
    """A witness in the set, or else the closest violation moved into the set (the example, where there is none)."""
    value, witness = inner.best(search.state, f, s)
    reached = violated(value) & s.contains(witness, 0.0)
    z = s.project(witness)
    return jnp.where(reached, value, f.value(f.outputs(z)).astype(value.dtype)), where(reached, witness, z)


def _search_spent(inner: Algorithm, search: Search) -> tuple[Any, Any]:
    assert inner.spent is not None
    return inner.spent(search.state)


def _reached(until: Any, search: Search) -> Array:
    """A violation lies in the set, or the attack itself stops."""
    return search.reached if until is None else search.reached | until(search.state)


def _within(adapt: Any, kind: str, classes: int, *, name: str) -> Oracle:
    iteration = adapt(kind, classes)
    inner = iteration.algorithm
    forwards, backwards = inner.best_cost
    # the look at the projected witness takes the place of a step where steps are a query a step: a budget is a budget
    steps = max(iteration.steps - (inner.step_cost == (1, 0)), 1)
    algorithm = Algorithm(
        bind(_search_init, inner, name=name),
        bind(_search_step, inner),
        bind(_search_best, inner),
        inner.init_cost,
        inner.step_cost,
        (forwards + 1, backwards),
        None if inner.spent is None else bind(_search_spent, inner),
    )
    return iterate(algorithm, steps, until=bind(_reached, iteration.until), name=name)


def within(oracle: RadiusOracle) -> Oracle:
    """A minimum-norm attack on one set: the same steps, until a violation lies in the set.

    Args:
      oracle: a minimum-norm attack of `jr.attacks`.

    Returns:
      An `Oracle` of side "lower"; each example stops at its first violation in the set, or where the attack itself stops, and a
      driver can compact between steps. A budget of queries holds here too, the last look included (of one it takes two).

    Guarantee: a lower bound, attained at ``witness``, which lies in the set. Where none was found: the closest violation,
      projected onto the set.

    Raises:
      ValueError: a radius oracle that is not an iterative attack.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> bound = within(jr.attacks.fab(steps=10)).solve(jax.random.key(0), f, jr.sets.linf(0.6)(jnp.array([0.5])))
    >>> print(bool(bound.value >= 0), f"{bound.witness[0]:.3f}")  # 1.05 times the way to the boundary at 0
    True -0.025
    """
    if not isinstance(oracle, RadiusOracle) or oracle.side != "upper" or oracle.adapt is None:
        given = f"{oracle.name} of side {oracle.side}" if isinstance(oracle, RadiusOracle) else type(oracle).__name__
        raise ValueError(f"within takes a minimum-norm attack such as jr.attacks.fab(), got {given}")
    return adaptive("lower", bind(_within, oracle.adapt, name=oracle.name), name=oracle.name)
