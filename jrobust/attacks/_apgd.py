"""Auto-PGD: gradient ascent that sets its own step size, for Linf and L2, and its sparse relative for L1."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._iterate import Algorithm, iterate
from jrobust._objective import Objective, is_anchored
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind, where
from jrobust.attacks._state import (
    Surrogate,
    aimed,
    broken,
    climb,
    keep,
    kept,
    last_bits,
    nothing,
    on_the_sphere,
    ranked,
)
from jrobust.typing import Array, Float, Point


class _Windows(NamedTuple):
    """The static schedule of checkpoints: the first window, how much each next one is shorter, the shortest."""

    first: int
    shrink: int
    least: int


def _windows(steps: int) -> _Windows:
    return _Windows(max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))


class AscentState(NamedTuple):
    """The iterate and the one before, the highest point with its gradient, the worst case, and what the checks count."""

    z: Point
    before: Point
    top: Point
    gradient: Point
    height: Float[Array, ""]
    last: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    step: Float[Array, ""]
    evaluations: Array
    window: Array
    since: Array
    increases: Array
    reduced: Array
    height_at_check: Float[Array, ""]
    target: Any


def _start(given: Any, key: Any, s: Any) -> Point:
    if given is not None:
        return s.project(jnp.broadcast_to(given, s.center.shape))
    kind = s.geometry.name
    ball = kind.startswith("l") and s.geometry.convex
    return on_the_sphere(s, key, uniform=kind == "linf") if ball else s.sample(key)


def _init(rank: Any, start: Any, key: Any, f: Objective, s: Any, *, windows: _Windows) -> AscentState:
    z = _start(start, key, s)
    low, count = nothing(z), jnp.asarray(0, jnp.int32)
    target = None if rank is None else ranked(f, s, rank, by="apgd")
    return AscentState(
        z=z,
        before=z,
        top=z,
        gradient=jax.tree.map(jnp.zeros_like, z),
        height=low,
        last=low,
        value=low,
        witness=z,
        step=jnp.asarray(2.0, low.dtype),
        evaluations=count,
        window=jnp.asarray(windows.first, jnp.int32),
        since=count,
        increases=count,
        reduced=jnp.asarray(True),
        height_at_check=low,
        target=target,
    )


def _climbed(state: Any, f: Objective, surrogate: Surrogate | None) -> tuple[Any, Point, Array]:
    """The state with its iterate evaluated, the gradient there, and whether the surrogate rose since the last evaluation."""
    value, height, gradient = climb(aimed(f, state.target), surrogate, state.z)
    height = height.astype(state.height.dtype)
    higher, rose = height > state.height, height > state.last
    state = keep(state, state.z, value)._replace(
        top=where(higher, state.z, state.top),
        gradient=where(higher, gradient, state.gradient),
        height=jnp.where(higher, height, state.height),
        last=height,
        evaluations=state.evaluations + 1,
    )
    return state, gradient, rose


def _step(
    key: Any, state: AscentState, f: Objective, s: Any, *, windows: _Windows, surrogate: Surrogate | None
) -> AscentState:
    del key
    started = state.evaluations > 0  # the start itself is no step
    state, gradient, rose = _climbed(state, f, surrogate)
    since, increases = state.since + started, state.increases + (rose & started)
    check = since == state.window
    oscillates = increases <= 0.75 * state.window
    stuck = ~state.reduced & (state.height_at_check >= state.height)
    halve = check & (oscillates | stuck)
    state = state._replace(
        step=jnp.where(halve, 0.5 * state.step, state.step),
        window=jnp.where(check, jnp.maximum(state.window - windows.shrink, windows.least), state.window),
        since=jnp.where(check, 0, since),
        increases=jnp.where(check, 0, increases),
        reduced=jnp.where(check, halve, state.reduced),
        height_at_check=jnp.where(check | ~started, state.height, state.height_at_check),
    )
    z, gradient = where(halve, state.top, state.z), where(halve, state.gradient, gradient)
    plain = s.project(jax.tree.map(lambda a, d: a + state.step * d, z, s.steepest(gradient, relative=True)))
    momentum = s.project(jax.tree.map(lambda a, p, b: a + 0.75 * (p - a) + 0.25 * (a - b), z, plain, state.before))
    return state._replace(z=where(started, momentum, plain), before=z)


# -- L1 ---------------------------------------------------------------------------------------------------------------


class SparseState(NamedTuple):
    """The iterate, the highest point of this phase, the worst case in the set itself, and the sparsity of the next step."""

    z: Point
    top: Point
    gradient: Point
    height: Float[Array, ""]
    last: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    step: Float[Array, ""]
    evaluations: Array
    since: Array
    density: Float[Array, ""]
    moved: Float[Array, ""]
    target: Any


class _Phases(NamedTuple):
    """Radii (in units of the set's) that shrink to the set's own, each for some steps and one evaluation of its start."""

    scales: tuple[float, ...]
    steps: tuple[int, ...]

    @property
    def evaluations(self) -> int:
        return sum(self.steps) + len(self.steps)


def _phases(steps: int, large_eps: bool) -> _Phases:
    first = math.ceil(0.3 * steps)
    if not large_eps or steps - 2 * first < 1:
        return _Phases((1.0,), (steps,))
    return _Phases((3.0, 2.0, 1.0), (first, first, steps - 2 * first))


def _sparse_init(rank: Any, start: Any, key: Any, f: Objective, s: Any, *, phases: _Phases) -> SparseState:
    x = s.center
    given = x + jax.random.normal(key, x.shape, x.dtype) if start is None else jnp.broadcast_to(start, x.shape)
    z = s.resize(phases.scales[0] * s.params[0]).project(given)
    low, count, one = nothing(z), jnp.asarray(0, jnp.int32), jnp.ones((), x.dtype)
    target = None if rank is None else ranked(f, s, rank, by="apgd")
    # the witness is the centre until something in the set itself was evaluated
    return SparseState(z, z, jnp.zeros_like(z), low, low, low, x, one, count, count, one, one, target)


def _kth_largest(a: Array, k: Array) -> Array:
    """The k-th largest of non-negative numbers, exactly."""
    _, last = last_bits(a, lambda above: jnp.sum(above) >= k)
    return jax.lax.bitcast_convert_type(last, jnp.float32)


def _sparse_step(
    key: Any, state: SparseState, f: Objective, s: Any, *, phases: _Phases, surrogate: Surrogate | None
) -> SparseState:
    del key
    x, n = s.center, s.center.size
    begins = jnp.asarray([sum(phases.steps[:i]) + i for i in range(len(phases.steps))])
    phase = jnp.sum(state.evaluations >= begins) - 1
    begin, last_phase = state.evaluations == begins[phase], phase == len(phases.steps) - 1
    wide = s.resize(jnp.asarray(phases.scales, x.dtype)[phase] * s.params[0])
    warm = wide.project(state.top)
    moved = jnp.sum(warm != x).astype(x.dtype)
    state = state._replace(
        z=where(begin, warm, state.z),
        height=jnp.where(begin, nothing(x), state.height),
        step=jnp.where(begin, 1.0, state.step),
        density=jnp.where(begin, moved / n / 1.5, state.density),
        moved=jnp.where(begin, moved, state.moved),
    )
    seen = state.value, state.witness
    state, gradient, _ = _climbed(state, f, surrogate)
    # what was found in a larger ball proves nothing
    state = state._replace(
        value=jnp.where(last_phase, state.value, seen[0]), witness=where(last_phase, state.witness, seen[1])
    )
    every = jnp.asarray([max(int(0.04 * steps), 1) for steps in phases.steps])[phase]
    since = jnp.where(begin, 0, state.since + 1)
    check = since == every
    moved = jnp.sum(state.top != x).astype(x.dtype)
    sparser = check & (moved / jnp.maximum(state.moved, 1.0) < 0.95)
    slower = jnp.clip(state.step / 1.5, 0.1, 1.0)
    state = state._replace(
        since=jnp.where(check, 0, since),
        step=jnp.where(check, jnp.where(sparser, 1.0, slower), state.step),
        density=jnp.where(check, moved / n / 1.5, state.density),
        moved=jnp.where(check, moved, state.moved),
    )
    z, gradient = where(sparser, state.top, state.z), where(sparser, state.gradient, gradient)
    kept_entries = n - jnp.clip((1 - state.density) * n, 0, n - 1).astype(jnp.int32)
    chosen = jnp.abs(gradient) >= _kth_largest(jnp.abs(gradient), kept_entries)
    direction = jnp.sign(gradient) * chosen
    direction = direction / (jnp.sum(jnp.abs(direction)) + 1e-10)
    return state._replace(z=wide.project(z + state.step * wide.params[0] * direction))


# -- The oracle ---------------------------------------------------------------------------------------------------------


def _for_set(
    rank: Any,
    start: Any,
    kind: str,
    classes: int,
    *,
    steps: int,
    surrogate: Surrogate | None,
    large_eps: bool,
    name: str,
) -> Oracle:
    del classes
    init_cost = (0 if rank is None else 1, 0)
    if kind == "l1":
        phases = _phases(steps, large_eps)
        init, step = (
            bind(_sparse_init, rank, start, phases=phases),
            bind(_sparse_step, phases=phases, surrogate=surrogate),
        )
        evaluations = phases.evaluations
    else:
        windows = _windows(steps)
        init, step = bind(_init, rank, start, windows=windows), bind(_step, windows=windows, surrogate=surrogate)
        evaluations = steps + 1  # the start, then one a step
    algorithm = Algorithm(init, step, kept, init_cost=init_cost, best_cost=(0, 0), anchored=is_anchored(surrogate))
    return iterate(algorithm, evaluations, until=broken, name=name)


def apgd(
    *,
    surrogate: Surrogate | None = None,
    steps: int = 100,
    rank: Any = None,
    start: Any = None,
    large_eps: bool = True,
    name: str = "apgd",
) -> Oracle:
    """Auto-PGD: projected gradient ascent with momentum that halves its step and restarts from the highest point by itself.

    Steps are ``2 eps`` at first; at checkpoints that come closer and closer the step is halved where the surrogate rose in at
    most three quarters of the steps since the last one, or nothing was gained. On L1 sets: steps along the signs of the largest
    gradient entries, whose number follows the sparsity of the best point, in balls of ``3 eps``, ``2 eps``, then ``eps``.

    Args:
      surrogate: what is climbed; None takes the objective's own (cross-entropy), `jr.objectives.dlr` is the published other one.
      steps: gradient steps, >= 1 (structure); one evaluation more than steps, on L1 one more for each ball.
      rank: aim at the class of this rank among the wrong ones at the clean logits (1 is the most likely); traced, so that all
        ranks are one program. None: untargeted. Success is any violation of the objective either way.
      start: a point (projected onto the set), or None for a random one on the boundary.
      large_eps: on L1 sets, begin in the larger balls.
      name: for tables.

    Returns:
      An `Oracle` of side "lower"; each example stops at its first violation.

    Guarantee: a lower bound, attained at ``witness``, which lies in the set to rounding.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> print(f"{apgd(steps=10).solve(jax.random.key(0), f, jr.sets.linf(0.3)(jnp.array([0.5]))).value:.4f}")
    -0.4000

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks, ICML 2020.
      Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, ICML 2021.
    Deviations:
      Projections onto ball and box are exact (the official L2 code rescales, then clips). The start counts as the first point
      of the first window, where the official code compares with an empty slot.
    """
    check_count(steps, "steps", "apgd")
    choose = bind(_for_set, rank, start, steps=steps, surrogate=surrogate, large_eps=large_eps, name=f"{name}-{steps}")
    return adaptive("lower", choose, name=f"{name}-{steps}")
