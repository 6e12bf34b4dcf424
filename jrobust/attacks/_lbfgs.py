"""Box-constrained L-BFGS: the first attack of all, Euclidean distance plus a multiple of the cross-entropy of a wrong class."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._iterate import Algorithm, violated
from jrobust._objective import Objective
from jrobust._oracle import RadiusOracle
from jrobust._tree import bind, where
from jrobust.attacks._minimum import closer, minimize, only_balls, unfound
from jrobust.attacks._multiple import Multiple, advanced, check_searches, finished, unsearched
from jrobust.attacks._state import Surrogate, aimed, kept, ranked
from jrobust.typing import Array, Float, Point


class NewtonState(NamedTuple):
    """The iterate, jaxopt's state there and at the example, the multiple, the closest violation, the class aimed at, and the passes.

    ``start`` is the solver's state at the example for the multiple 1: a search begins from it without a pass.
    """

    z: Point
    solver: Any
    start: Any
    multiple: Multiple
    radius: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    target: Any
    passes: tuple[Array, Array]


def _solver(f: Objective, s: Any, surrogate: Surrogate | None, history: int) -> Any:
    """jaxopt's solver of ``|z - x|^2 - multiple * surrogate``; its auxiliary output is the objective's value."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        from jaxopt import LBFGSB

    def loss(z: Point, multiple: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        z = z + jax.lax.stop_gradient(jnp.clip(z, *s.params[1:]) - z)  # the line search may round beyond the box
        height, value = f.climb(surrogate or f.surrogate, z)
        return jnp.sum((z - s.center) ** 2) - multiple * height, value

    return LBFGSB(loss, has_aux=True, history_size=history)


def _bounds(s: Any) -> tuple[Array, Array]:
    _, lo, hi = s.params
    ends = (-jnp.inf if lo is None else lo), (jnp.inf if hi is None else hi)
    low, high = (jnp.broadcast_to(jnp.asarray(end, s.center.dtype), s.center.shape) for end in ends)
    return low, high


def _again(state: NewtonState) -> Any:
    """The solver's state at the example for the present multiple: loss and gradient there are proportional to it."""
    times = state.multiple.value
    return state.start._replace(value=times * state.start.value, grad=times * state.start.grad)


def _init(
    rank: Any, multiple: Any, key: Any, f: Objective, s: Any, *, surrogate: Surrogate | None, history: int
) -> NewtonState:
    del key
    x = s.center
    target = None if rank is None or f.target is not None else ranked(f, s, rank, by="lbfgs")
    start = _solver(aimed(f, target), s, surrogate, history).init_state(x, _bounds(s), jnp.ones((), x.dtype))
    none = jnp.asarray(0, jnp.int32)
    state = NewtonState(
        x,
        start,
        start,
        unsearched(multiple, x.dtype),
        target=target,
        passes=(none + (target is not None), none),
        **unfound(s),
    )
    return closer(state._replace(solver=_again(state)), x, start.aux, s)


def _step(
    key: Any,
    state: NewtonState,
    f: Objective,
    s: Any,
    *,
    steps: int,
    searches: int,
    surrogate: Surrogate | None,
    history: int,
) -> NewtonState:
    del key
    old, solver = state.solver, _solver(aimed(f, state.target), s, surrogate, history)
    z, new = solver.update(state.z, old, _bounds(s), state.multiple.value)
    z = jnp.clip(z, *s.params[1:]).astype(state.z.dtype)
    # jaxopt's line search begins with a forward pass that it counts as a backward one too
    passes = new.num_fun_eval - old.num_fun_eval, new.num_grad_eval - old.num_grad_eval - 1
    state = closer(state, z, new.aux, s)
    m = state.multiple._replace(hit=violated(new.aux))  # a search is judged by where it ends
    over = new.failed_linesearch | ~(old.value - new.value > 1e-5 * jnp.abs(old.value))
    m, ends = advanced(m, over, steps=steps, searches=searches)
    state = state._replace(multiple=m, passes=tuple(a + b for a, b in zip(state.passes, passes, strict=True)))
    solver_state = jax.tree.map(lambda a, b: jnp.asarray(a).astype(jnp.asarray(b).dtype), new, old)
    return state._replace(z=where(ends, s.center, z), solver=where(ends, _again(state), solver_state))


def _spent(state: NewtonState) -> tuple[Array, Array]:
    return state.passes


def _for_set(
    rank: Any,
    multiple: Any,
    kind: str,
    classes: int,
    *,
    steps: int,
    searches: int,
    surrogate: Surrogate | None,
    history: int,
) -> Algorithm:
    del classes
    only_balls(kind, ("l2",), "lbfgs")
    return Algorithm(
        bind(_init, rank, multiple, surrogate=surrogate, history=history),
        bind(_step, steps=steps, searches=searches, surrogate=surrogate, history=history),
        bind(kept),
        init_cost=(1, 1),
        step_cost=(0, 0),
        best_cost=(0, 0),
        spent=bind(_spent),
    )


def lbfgs(
    *,
    steps: int = 50,
    searches: int = 10,
    multiple: Any = 0.01,
    rank: Any = 1,
    surrogate: Surrogate | None = None,
    history: int = 10,
    name: str = "lbfgs",
) -> RadiusOracle:
    """Box-constrained L-BFGS on squared distance plus a multiple of the cross-entropy of a wrong class, and a search for the multiple.

    jaxopt's ``LBFGSB`` with its line search: several passes a step, counted as they happen.

    Args:
      steps: iterations of one search, >= 1 (structure); it ends early where the loss no longer falls.
      searches: how many multiples are tried, >= 1 (structure): ten times larger until one succeeds, then by bisection.
      multiple: the first one, > 0; traced.
      rank: aim at the class of this rank among the wrong ones at the clean logits (1 is the most likely); traced. A targeted
        objective keeps its target. None: climb the surrogate as it is. Success is any violation of the objective.
      surrogate: what the multiple weighs; None takes the objective's own (cross-entropy).
      history: pairs of differences that the curvature is estimated from, >= 1 (structure).
      name: for tables.

    Returns:
      A `RadiusOracle` of side "upper", for sets ``l2``. `jr.attacks.within` makes it an attack on one set.

    Guarantee: an upper bound of the radius, attained at ``witness``.

    >>> lbfgs(steps=20).name
    'lbfgs-10x20'

    References:
      Szegedy et al., Intriguing properties of neural networks, ICLR 2014.
    Deviations:
      The squared norm (published: the norm). An untargeted objective aims at the most likely wrong class. Points inside a line search
      are not judged.
    """
    check_searches(steps, searches, "lbfgs")
    check_count(history, "history", "lbfgs")
    choose = bind(_for_set, rank, multiple, steps=steps, searches=searches, surrogate=surrogate, history=history)
    return minimize(choose, steps * searches, until=bind(finished), name=f"{name}-{searches}x{steps}")
