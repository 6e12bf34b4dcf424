"""Projected ascent along gradients estimated from scores: one loop, and the estimators of NES and SPSA (bandits have their own)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jrobust._checks import check_count, check_transformation
from jrobust._objective import Objective, largest
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind
from jrobust.attacks._queries import Phase, by_scores, one_array, spending
from jrobust.attacks._rules import steepest
from jrobust.attacks._state import Surrogate, keep, nothing
from jrobust.typing import Array, Float, Point

_LOOK, _PLUS, _MINUS = range(3)


class Estimator(NamedTuple):
    """How scores at pairs of points become a gradient; each part is made with `bind`.

    Attributes:
      start: ``s -> memory``.
      noise: ``(key, memory, s) -> noise`` of one pair.
      ends: ``(memory, noise, s) -> (d, d')``, the displacements from the iterate to the two queries.
      learn: ``(memory, noise, difference, s) -> memory``, from the difference of the two scores.
      gradient: ``(memory, s) -> (gradient, memory)``, after the last pair of a step.
      step: what the rule's updates of the iterate are multiplied by; traced.
    """

    start: Callable[..., Any]
    noise: Callable[..., Any]
    ends: Callable[..., Any]
    learn: Callable[..., Any]
    gradient: Callable[..., Any]
    step: Any


class EstimateState(NamedTuple):
    """The iterate and its rule's state, the estimate so far, the pair that is being asked about, and the worst iterate."""

    phase: Array
    z: Point
    rule: Any
    memory: Any
    noise: Any
    up: Float[Array, ""]
    pair: Array
    value: Float[Array, ""]
    witness: Point


def _init(estimator: Estimator, key: Any, f: Objective, s: Any, *, rule: Any, by: str) -> EstimateState:
    del f
    one_array(s, by)
    z, none = s.center, jnp.asarray(0, jnp.int32)
    memory = estimator.start(s)
    noise = jnp.zeros_like(estimator.noise(key, memory, s))
    return EstimateState(none, z, rule.init(z), memory, noise, jnp.zeros((), z.dtype), none, nothing(z), z)


def _iterate_itself(key: Any, state: EstimateState, s: Any) -> Point:
    del key, s
    return state.z


def _looked(key: Any, state: EstimateState, s: Any, z: Point, height: Array) -> EstimateState:
    del key, s, z, height
    return state._replace(phase=jnp.asarray(_PLUS, jnp.int32))


def _plus(estimator: Estimator, key: Any, state: EstimateState, s: Any) -> Point:
    return state.z + estimator.ends(state.memory, estimator.noise(key, state.memory, s), s)[0]


def _plus_learnt(
    estimator: Estimator, key: Any, state: EstimateState, s: Any, z: Point, height: Array
) -> EstimateState:
    del z
    noise = estimator.noise(key, state.memory, s)
    return state._replace(noise=noise, up=height.astype(state.up.dtype), phase=jnp.asarray(_MINUS, jnp.int32))


def _minus(estimator: Estimator, key: Any, state: EstimateState, s: Any) -> Point:
    del key
    return state.z + estimator.ends(state.memory, state.noise, s)[1]


def _minus_learnt(
    estimator: Estimator,
    key: Any,
    state: EstimateState,
    s: Any,
    z: Point,
    height: Array,
    *,
    pairs: int,
    rule: Any,
) -> EstimateState:
    del key, z
    difference = state.up - height.astype(state.up.dtype)
    difference = jnp.where(
        jnp.isfinite(difference), difference, 0.0
    )  # a query where the model has no score says nothing
    memory = estimator.learn(state.memory, state.noise, difference, s)
    last = state.pair == pairs - 1
    gradient, rest = estimator.gradient(memory, s)
    update, after = rule.update(-gradient, state.rule, state.z, set=s)
    z = s.project(state.z + estimator.step * update)
    new = state._replace(z=z, rule=after, memory=rest, pair=jnp.zeros_like(state.pair))
    same = state._replace(memory=memory, pair=state.pair + 1)
    chosen = jax.tree.map(lambda a, b: jnp.where(last, a, b), new, same)
    return chosen._replace(phase=jnp.where(last, _LOOK, _PLUS).astype(jnp.int32))


def _only_iterates(state: EstimateState, z: Point, value: Float[Array, ""], s: Any) -> EstimateState:
    """The points of a pair may lie outside the set: only the iterate is a result."""
    del s
    kept = keep(state, z, value)
    return jax.tree.map(lambda a, b: jnp.where(state.phase == _LOOK, a, b), kept, state)


def _for_set(
    estimator: Any,
    kind: str,
    classes: int,
    *,
    pairs: int,
    queries: int,
    rule: Any,
    surrogate: Any,
    name: str,
) -> Oracle:
    del classes
    parts = estimator(kind)
    phases = (
        Phase(bind(_iterate_itself), bind(_looked)),
        Phase(bind(_plus, parts), bind(_plus_learnt, parts)),
        Phase(bind(_minus, parts), bind(_minus_learnt, parts, pairs=pairs, rule=rule)),
    )
    init = bind(_init, parts, rule=rule, by=name)
    algorithm = by_scores(init, phases, record=_only_iterates, surrogate=surrogate, own=True)
    return spending(algorithm, queries, f"{name}-{queries}")


def estimated(estimator: Any, queries: int, samples: int, rule: Any, default: Any, surrogate: Any, name: str) -> Oracle:
    """The oracle of an estimator, ``kind of set -> Estimator`` made with `bind`."""
    check_count(queries, "queries", name)
    if not (isinstance(samples, int) and samples >= 2 and samples % 2 == 0):
        raise ValueError(f"{name}: samples must be an even int >= 2 (they come in pairs), got {samples!r}")
    if rule is not None:
        check_transformation(rule, "rule")
        rule = optax.with_extra_args_support(rule)
    options = {"pairs": samples // 2, "queries": queries, "rule": rule or default, "surrogate": surrogate}
    return adaptive("lower", bind(_for_set, estimator, name=name, **options), name=f"{name}-{queries}")


# -- NES and SPSA: the mean of directions, weighted by the difference of the scores at their two ends --------------------


def _none_yet(s: Any) -> Point:
    return jnp.zeros_like(s.center)


def _normal(width: Any, key: Any, memory: Point, s: Any) -> Point:
    del memory
    return width * jax.random.normal(key, s.center.shape, s.center.dtype)


def _signs(width: Any, key: Any, memory: Point, s: Any) -> Point:
    del memory
    return width * jax.random.rademacher(key, s.center.shape, s.center.dtype)


def _both_ways(memory: Point, noise: Point, s: Any) -> tuple[Point, Point]:
    del memory, s
    return noise, -noise


def _weighted(width: Any, memory: Point, noise: Point, difference: Array, s: Any, *, pairs: int) -> Point:
    del s
    return memory + difference * noise / (2 * pairs * width**2)


def _mean(memory: Point, s: Any) -> tuple[Point, Point]:
    return memory, _none_yet(s)


def _sampled(width: Any, step: Any, kind: str, *, law: Callable[..., Any], pairs: int) -> Estimator:
    del kind
    learn = bind(_weighted, width, pairs=pairs)
    return Estimator(bind(_none_yet), bind(law, width), bind(_both_ways), learn, bind(_mean), step)


STEEPEST = steepest(relative=True)
_MOMENTUM = optax.chain(optax.trace(0.9), STEEPEST)
_ADAM = optax.with_extra_args_support(optax.adam(1.0))


def nes(
    *,
    queries: int = 10_000,
    samples: int = 50,
    width: Any = 0.001,
    step: Any = 0.2,
    rule: optax.GradientTransformation | None = None,
    surrogate: Surrogate | None = None,
    name: str = "nes",
) -> Oracle:
    """Natural evolution strategies: the gradient is estimated from scores at antithetic Gaussian points, then a projected step.

    Args:
      queries: forward passes at most, >= 1 (structure); a batch of samples that does not fit is cut.
      samples: queries of one estimate, even (structure).
      width: standard deviation of the Gaussian, in the units of the input; traced.
      step: of the iterate, in units of the set's radius (with ``rule``, a factor on its updates); traced.
      rule: any optax transformation, as in `jr.attacks.pgd`; None is momentum 0.9 and the steepest direction of the set's norm.
      surrogate: what is climbed, ``(objective, outputs) -> scalar``; None takes the objective's own (cross-entropy).
      name: for tables.

    Returns:
      An `Oracle` of side "lower", for every set of one array; each example stops at its first violation, and
      ``info["forwards"]`` are the queries it took. The model is never differentiated.

    Raises:
      ValueError: no queries, an odd number of samples.

    Guarantee: a lower bound, attained at ``witness``, an iterate (in the set to rounding).

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z.sum(), 0)
    >>> s = jr.sets.linf(0.5)(jnp.array([0.3, 0.4]))
    >>> print(bool(nes(queries=200, samples=10).solve(jax.random.key(0), f, s).value >= 0))
    True

    References:
      Ilyas, Engstrom, Athalye & Lin, Black-box adversarial attacks with limited queries and information, ICML 2018 (constants:
      the authors' code).
    Deviations:
      The step is constant (theirs is halved on plateaus); the look at each iterate counts as a query. Full scores only.
    """
    estimator = bind(_sampled, width, step, law=_normal, pairs=max(samples // 2, 1))
    return estimated(estimator, queries, samples, rule, _MOMENTUM, surrogate, name)


def spsa(
    *,
    queries: int = 10_000,
    samples: int = 128,
    width: Any = 0.01,
    step: Any = 0.01,
    rule: optax.GradientTransformation | None = None,
    surrogate: Surrogate | None = largest,
    name: str = "spsa",
) -> Oracle:
    """Simultaneous perturbation: the gradient is estimated along random sign vectors, then a projected step of Adam.

    Args:
      queries: forward passes at most, >= 1 (structure); a batch of samples that does not fit is cut.
      samples: queries of one estimate, even (structure).
      width: how far each entry moves in a query, in the units of the input; traced.
      step: of Adam, in the units of the input (with ``rule``, a factor on its updates); traced.
      rule: any optax transformation, as in `jr.attacks.pgd`; None is Adam.
      surrogate: what is climbed, ``(objective, outputs) -> scalar``: the margin; None takes the objective's own.
      name: for tables.

    Returns:
      An `Oracle` of side "lower", for every set of one array; each example stops at its first violation, and
      ``info["forwards"]`` are the queries it took. The model is never differentiated.

    Raises:
      ValueError: no queries, an odd number of samples.

    Guarantee: a lower bound, attained at ``witness``, an iterate (in the set to rounding).

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z.sum(), 0)
    >>> s = jr.sets.linf(0.5)(jnp.array([0.3, 0.4]))
    >>> print(bool(spsa(queries=400, samples=4, step=0.05).solve(jax.random.key(0), f, s).value >= 0))
    True

    References:
      Uesato, O'Donoghue, van den Oord & Kohli, Adversarial risk and the dangers of evaluating against weak attacks, ICML 2018
      (128 samples: CleverHans; the paper goes to 8192).
      Spall, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation, 1992.
    Deviations:
      It starts at the example; the look at each iterate counts as a query.
    """
    estimator = bind(_sampled, width, step, law=_signs, pairs=max(samples // 2, 1))
    return estimated(estimator, queries, samples, rule, _ADAM, surrogate, name)
