"""An iterative attack is an `Algorithm` (init, step, best); `iterate` is the one driver that makes it an oracle."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._oracle import Bound, Oracle
from jrobust._tree import as_pytree, bind, stop_gradient
from jrobust.typing import Array, Float, Int, Point


def improves(new: Float[Array, ""], old: Float[Array, ""]) -> Array:
    """Whether ``new`` is a worse case than ``old``: larger, or NaN (which does not hold) where ``old`` is a number."""
    return ~jnp.isnan(old) & ~(new <= old)


def violated(value: Any) -> Any:
    """Whether a lower bound shows a violation: not ``value < 0``, so ties and NaN count; device or host arrays."""
    return ~(value < 0)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["init", "step", "best", "spent"],
    meta_fields=["init_cost", "step_cost", "best_cost", "anchored"],
)
@dataclasses.dataclass(frozen=True)
class Algorithm:
    """An iterative method for one example, as data.

    Attributes:
      init: ``(key, f, s) -> state``.
      step: ``(key, state, f, s) -> state``.
      best: ``(state, f, s) -> (value, witness)``, the worst case seen so far, last iterate included.
      init_cost, step_cost, best_cost: passes (forward, backward) through the model of one call.
      spent: ``state -> (forwards, backwards)``, passes that the state has counted itself, where steps differ; None: none.
      anchored: the objective carries its outputs at the centre as ``reference``: one more forward pass at the start.
    """

    init: Callable[..., Any]
    step: Callable[..., Any]
    best: Callable[..., tuple[Float[Array, ""], Point]]
    init_cost: tuple[int, int] = (0, 0)
    step_cost: tuple[int, int] = (1, 1)
    best_cost: tuple[int, int] = (1, 0)
    spent: Callable[[Any], tuple[Any, Any]] | None = None
    anchored: bool = False


class Progress(NamedTuple):
    """Where one example's iteration stands: what a driver carries from chunk to chunk of steps."""

    key: Any
    state: Any
    step: Int[Array, ""]
    done: Array
    reference: Any = None


def _anchor(f: Any, reference: Any) -> Any:
    return f if reference is None else dataclasses.replace(f, reference=reference)


@partial(jax.tree_util.register_dataclass, data_fields=["algorithm", "until", "trace"], meta_fields=["steps"])
@dataclasses.dataclass(frozen=True)
class Iteration:
    """``steps`` steps of an algorithm: `start`, `advance` in as many pieces as one likes, `finish`; the pieces do not change the answer.

    Attributes:
      algorithm: the method.
      steps: how many steps at most.
      until: ``state -> bool``, stop this example early; None runs all steps.
      trace: ``state -> arrays`` recorded after each step in ``info["trace"]``; not with ``until``.
    """

    algorithm: Algorithm
    steps: int
    until: Callable[[Any], Any] | None = None
    trace: Callable[[Any], Any] | None = None

    def start(self, key: Any, f: Any, s: Any) -> Progress:
        """Step zero of one example."""
        init_key, key = jax.random.split(key)
        f = f.at(init_key)
        reference = stop_gradient(f.outputs(s.center)) if self.algorithm.anchored else None
        state = self.algorithm.init(init_key, _anchor(f, reference), s)
        done = jnp.asarray(False) if self.until is None else self.until(state)
        return Progress(key, state, jnp.asarray(0, jnp.int32), done, reference)

    def _one(self, progress: Progress, f: Any, s: Any) -> Progress:
        key, state, step, _, reference = progress
        key_now = jax.random.fold_in(key, step)
        state = self.algorithm.step(key_now, state, _anchor(f, reference).at(key_now), s)
        done = progress.done if self.until is None else self.until(state)
        return Progress(key, state, step + 1, done, reference)

    def advance(self, progress: Progress, f: Any, s: Any, *, steps: Any) -> Progress:
        """At most ``steps`` further steps (traced), fewer where ``until`` holds or the iteration ends."""
        stop = jnp.minimum(progress.step + steps, self.steps)
        return _loops.while_loop(lambda p: (p.step < stop) & ~p.done, lambda p: self._one(p, f, s), progress)

    def finish(self, progress: Progress, f: Any, s: Any) -> Bound:
        """The bound that the steps so far give."""
        value, witness = self.algorithm.best(progress.state, f.at(jax.random.fold_in(progress.key, self.steps)), s)
        forwards, backwards = (
            a + progress.step * b + c
            for a, b, c in zip(
                self.algorithm.init_cost, self.algorithm.step_cost, self.algorithm.best_cost, strict=True
            )
        )
        forwards = forwards + self.algorithm.anchored
        if self.algorithm.spent is not None:
            more = self.algorithm.spent(progress.state)
            forwards, backwards = forwards + more[0], backwards + more[1]
        return Bound(value, stop_gradient(witness), {"forwards": forwards, "backwards": backwards})

    def solve(self, key: Any, f: Any, s: Any) -> Bound:
        """All steps in one program: a scan, or a while loop with early stop."""
        progress = self.start(key, f, s)
        if self.until is not None:
            return self.finish(self.advance(progress, f, s, steps=self.steps), f, s)

        def body(p: Progress, _: None) -> tuple[Progress, Any]:
            p = self._one(p, f, s)
            return p, None if self.trace is None else self.trace(p.state)

        progress, history = _loops.scan(body, progress, None, length=self.steps)
        bound = self.finish(progress, f, s)
        return bound if self.trace is None else bound._replace(info=bound.info | {"trace": history})


def _solve(iteration: Iteration, key: Any, f: Any, s: Any) -> Bound:
    return iteration.solve(key, f, s)


def iterate(
    algorithm: Algorithm,
    steps: int,
    *,
    until: Callable[[Any], Any] | None = None,
    trace: Callable[[Any], Any] | None = None,
    name: str = "iterate",
) -> Oracle:
    """The lower oracle that runs ``steps`` steps of ``algorithm`` and keeps the worst case seen.

    Args:
      algorithm: what to run.
      steps: how many steps, >= 1 (structure: another count is another program).
      until: ``state -> bool``, per-example early stop (a while loop); None is a scan, which can also be differentiated.
      trace: ``state -> arrays``, recorded after each step in ``info["trace"]`` [steps, ...]; not together with ``until``.
      name: for tables.

    Returns:
      An `Oracle` of side "lower" whose ``stages`` hold the `Iteration`, so that a driver can compact between chunks of steps.
      ``info["forwards"]`` and ``info["backwards"]`` count passes for one example.
    """
    check_count(steps, "steps", name)
    if until is not None and trace is not None:
        raise ValueError(f"{name}: a trace needs every step; use it without early stop")
    until, trace = (None if fn is None else as_pytree(fn) for fn in (until, trace))
    functions = {part: getattr(algorithm, part) for part in ("init", "step", "best", "spent")}
    parts = {part: None if fn is None else as_pytree(fn) for part, fn in functions.items()}
    iteration = Iteration(dataclasses.replace(algorithm, **parts), steps, until, trace)
    return Oracle("lower", bind(_solve, iteration), stages=(iteration,), name=name)
