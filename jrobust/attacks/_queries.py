"""Black-box attacks ask one query a step: a budget of queries is a number of steps, counted exactly for each example.

Such an attack is a tuple of phases; a phase says what to ask next and what to learn from the answer. The answer is the model's
score, or for decision-based attacks whether the property broke: nothing else of the model reaches the attack.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jrobust._checks import check_precision
from jrobust._iterate import Algorithm, iterate, violated
from jrobust._objective import Objective, is_anchored
from jrobust._oracle import Oracle
from jrobust._tree import bind
from jrobust.attacks._state import Surrogate, broken, kept
from jrobust.typing import Array, Float, Point


class Phase(NamedTuple):
    """One kind of query; both parts are made with `bind`.

    Attributes:
      ask: ``(key, state, s) -> z``, the point to ask about.
      learn: ``(key, state, s, z, answer) -> state``, with the same key; it names the next phase in ``state.phase``.
    """

    ask: Callable[..., Point]
    learn: Callable[..., Any]


def _in_phase(phase: Array, parts: list[Callable[..., Any]], *args: Any) -> Any:
    branches = [lambda *args, part=part: part(*args) for part in parts]
    return branches[0](*args) if len(branches) == 1 else jax.lax.switch(phase, branches, *args)


def _query(
    phases: tuple[Phase, ...], key: Any, state: Any, f: Objective, s: Any, *, record: Any, answer: Any, surrogate: Any
) -> Any:
    z = _in_phase(state.phase, [phase.ask for phase in phases], key, state, s)
    outputs = f.outputs(z)
    value = f.value(outputs)
    state = record(state, z, value, s)
    said = answer(f, outputs, value, surrogate)
    return _in_phase(state.phase, [phase.learn for phase in phases], key, state, s, z, said)


def _score(f: Objective, outputs: Any, value: Float[Array, ""], surrogate: Surrogate | None) -> Float[Array, ""]:
    return value if surrogate is None else surrogate(f, outputs)


def _own_score(f: Objective, outputs: Any, value: Float[Array, ""], surrogate: Surrogate | None) -> Float[Array, ""]:
    return _score(f, outputs, value, surrogate or f.surrogate)


def _decision(f: Objective, outputs: Any, value: Float[Array, ""], surrogate: None) -> Array:
    del f, outputs, surrogate
    return violated(value)


def by_scores(
    init: Callable[..., Any], phases: tuple[Phase, ...], *, record: Any, surrogate: Surrogate | None = None, own: bool
) -> Algorithm:
    """The algorithm whose phases learn from the surrogate's value at each query.

    Args:
      init: ``(key, f, s) -> state``; asks nothing.
      phases: the state's field ``phase`` chooses among them.
      record: ``(state, z, value, s) -> state`` keeps a query that counts as a result (structure).
      surrogate: None is the objective's own (``own``), or else the objective's value.
      own: see there.
    """
    answer = _own_score if own else _score
    step = bind(_query, phases, record=record, answer=answer, surrogate=surrogate)
    return asking(init, step, surrogate)


def by_decisions(init: Callable[..., Any], phases: tuple[Phase, ...], *, record: Any) -> Algorithm:
    """The algorithm whose phases learn from each query whether it is a violation, and no more."""
    return asking(init, bind(_query, phases, record=record, answer=_decision, surrogate=None))


def asking(init: Callable[..., Any], step: Callable[..., Any], surrogate: Surrogate | None = None) -> Algorithm:
    """The algorithm whose steps are a query each; ``init`` asks nothing."""
    return Algorithm(init, step, bind(kept), step_cost=(1, 0), best_cost=(0, 0), anchored=is_anchored(surrogate))


def spending(algorithm: Algorithm, queries: int, name: str) -> Oracle:
    """The oracle that asks ``queries`` times, until it has a violation; an anchored surrogate takes the first of them."""
    if queries <= algorithm.anchored:
        raise ValueError(f"{name}: queries must be >= 2, the surrogate takes one at the clean example; got {queries}")
    return iterate(algorithm, queries - algorithm.anchored, until=broken, name=name)


def at_once(state: Any) -> Array:
    """Early stop of a minimum-norm attack: the example itself is a violation."""
    return state.radius == 0


def cosines(length: int, count: int) -> np.ndarray:
    """The first ``count`` basis vectors of the orthonormal DCT-II, as columns [length, count]."""
    at, frequency = np.arange(length)[:, None] + 0.5, np.arange(count)
    basis = np.cos(np.pi * at * frequency / length) * np.sqrt(2.0 / length)
    return np.where(frequency == 0, np.sqrt(1.0 / length), basis).astype(np.float32)


def one_array(s: Any, by: str) -> None:
    """Raise unless the set is one of arrays, not a product, of at least single precision."""
    if not hasattr(s.center, "shape"):
        raise TypeError(f"{by} needs a set of one array, got {s.geometry.name} of {type(s.center).__name__}")
    check_precision(s.center, by)
