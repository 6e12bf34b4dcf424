"""Branch and bound: domains of one example, hundreds a compiled step, until the two sides meet or the budget is spent."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle, check_problem, require
from jrobust._tree import bind
from jrobust.bounds._domains import Domain, Leaf, input_root, neuron, neuron_root, piece, splittable
from jrobust.bounds._methods import alpha_crown, crown
from jrobust.bounds._pool import Pool, Waiting, children, filled_up
from jrobust.bounds._problem import Problem, is_box, pose, program_of
from jrobust.typing import Array

_FEW_INPUTS, _FEW_NEURONS, _TRIES = 20, 4096, 4
_KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "input": (input_root, piece),
    "neurons": (neuron_root, neuron),
}


@partial(jax.jit, static_argnames="over")
def root_of(oracle: Oracle, f: Any, s: Any, *, over: str) -> Any:
    return _KINDS[over][0](oracle, f, s)


@partial(jax.jit, static_argnames=("over", "tried"))
def _step(oracle: Oracle, f: Any, s: Any, root: Any, domains: Domain, *, over: str, tried: int) -> tuple[Domain, Leaf]:
    return jax.vmap(lambda domain: _KINDS[over][1](oracle, f, s, root, domain, tried))(domains)


class Search(NamedTuple):
    """Where a search stands: both sides of the worst case, and what is open.

    Attributes:
      lower: the worst violation met; ``witness`` is its point.
      elements: upper bounds [m] of the violations; ``upper`` is the largest.
      nodes: domains bounded so far.
      closed: upper bounds [m] of the domains that are done with (-inf: none).
      open: the other domains (pass the search on to `branch` to go on).
      leaves: the domains that are done with, where they were recorded.
      about: arrays of the set, and the bounds at the start: what tells another problem.
    """

    lower: float
    witness: Any
    elements: np.ndarray
    nodes: int
    closed: np.ndarray
    open: Any
    leaves: Any = None
    about: Any = None

    @property
    def upper(self) -> float:
        """The upper bound of the largest violation."""
        return float(np.max(self.elements))

    @property
    def gap(self) -> float:
        """``upper - lower``."""
        return self.upper - self.lower


def branch(
    f: Objective,
    s: Any,
    *,
    method: Oracle | None = None,
    over: str = "auto",
    order: str = "best",
    batch: int | None = None,
    tried: int = 3,
    target: int | float | None = 0.0,
    tolerance: int | float = 1e-4,
    nodes: int | float = math.inf,
    seconds: int | float = math.inf,
    resume: Search | None = None,
    record: bool = False,
) -> Search:
    """Branch and bound on one example: cut the domain in two where a relaxation costs most, bound both parts, go on with what is open.

    Args:
      f, s: the objective and the set.
      method: what bounds a domain: over the input any upper oracle, by default `crown`; over neurons a method whose walks go backward, by
        default ``alpha_crown(steps=10, target=0)``, of nets of at most 4096 neurons with ``intermediates=alpha_crown()``: once, before
        the first cut.
      over: "input" cuts the set's box (sets that are boxes), "neurons" the inputs of nonlinear operations, at their kink or in the
        middle, as Lagrangian constraints (beta-CROWN); "auto": the input where it is a box of at most 20 numbers.
      order: "best" takes the largest upper bounds first, "depth" the newest domains (less memory).
      batch: domains a step, one compiled program; None: what some 64 MiB of coefficients hold, at most 512.
      tried: of the best entries to cut, how many have both children bounded before one is chosen (filtered smart branching); neurons only.
      target: a domain whose upper bound is below it is closed, and a point above it ends the search: 0 decides the property. None
        closes the gap down to ``tolerance`` instead.
      nodes, seconds: budgets > 0; the search ends after the step in which one is spent, the first at the earliest, and compilation
        is not interrupted.
      resume: a search that was ended by its budget, of the same problem and options.
      record: keep the domains that are done with, as ``leaves`` (what `prove` makes certificates of).

    Returns:
      A `Search`: its two sides enclose the worst case whenever it ends.

    Raises:
      ValueError: ``over="input"`` on a set that is not a box of one array; a search of another problem in ``resume``.

    Guarantee: ``elements`` are upper bounds in exact arithmetic; float rounding is not directed outward. ``lower`` is attained at
      ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jnp.sum(jnp.abs(z), keepdims=True) - jnp.abs(z[:1] + z[1:]) - 1.01)
    >>> found = branch(f, jr.sets.linf(0.5)(jnp.zeros(2)), method=jr.bounds.ibp(), batch=8)
    >>> found.upper < 0, found.open is None
    (True, True)

    References:
      Bunel et al., Branch and bound for piecewise linear neural network verification, JMLR 2020 (BaBSR); De Palma et al., Improved branch
      and bound for neural network verification via Lagrangian decomposition, 2021 (FSB); Wang et al., Beta-CROWN, NeurIPS 2021.

    Deviations: an entry's score is the gap between its relaxation and its function, weighted by the coefficients that meet it, so that it
      is defined for every nonlinear operation; intermediate bounds of a domain are the root's, cut, and interval arithmetic's. An input
      is cut where width times slope is largest: that of the function at the centre and of the affine functions that bound it, added.
    """
    check_problem(f, s)
    if order not in ("best", "depth"):
        raise ValueError(f"branch: order is best or depth, got {order!r}")
    if not (nodes > 0 and seconds > 0):
        raise ValueError(f"branch: nodes and seconds are > 0, got {nodes} and {seconds}")
    started = time.monotonic()
    kind, problem = cut_over(s, over), pose(program_of(f, s.center), s)
    oracle = _default(problem, kind) if method is None else method
    require(("upper",), oracle, by="branch(method=)")
    if oracle.host:
        raise TypeError(f"branch: a method is one compiled program, {oracle.name} runs on the host")
    root, elements, domain = root_of(oracle, f, s, over=kind)
    size = _batch(problem) if batch is None else batch
    about = [*map(np.asarray, jax.tree.leaves(s)), np.asarray(elements)]
    closed = np.full(elements.shape, -np.inf, elements.dtype)
    lower, witness, counted = -math.inf, s.center, 0
    pool, stuck = Pool(), []
    kept = [resume.leaves] if resume is not None and resume.leaves is not None else []
    if resume is not None and resume.nodes > 0:
        _check_same(resume, f, s, about)
        lower, witness, counted, closed, fresh = resume.lower, resume.witness, resume.nodes, resume.closed, None
        if resume.open is not None:
            pool.push(resume.open, resume.open.elements.max(1))
    else:
        fresh = jax.tree.map(np.asarray, domain), np.zeros(len(domain.row), int)
        proven = np.asarray(elements) < (-math.inf if target is None else target)
        if kind == "neurons":
            closed = np.where(proven, elements, closed)
            fresh = jax.tree.map(lambda a: a[~proven], fresh)
            if not fresh[0].lo.shape[1]:  # an affine function: there is nothing to cut, and its bound is attained
                witness, fresh, closed = (
                    s.argsup(jax.grad(lambda z: jnp.max(f(z)))(s.center)),
                    None,
                    np.asarray(elements),
                )
                lower = float(jnp.max(f(witness)))
    ceiling = np.asarray(elements)

    def done() -> bool:
        if target is not None and lower >= target:
            return True
        return counted >= nodes or time.monotonic() - started >= seconds

    while fresh is not None or (pool.bound and not done()):
        if fresh is not None:
            (domains, tries), fresh = fresh, None
        else:
            depth = max(1, int(math.log2(max(1, size / len(pool.bound)))))
            parents = pool.pop(max(1, size >> depth), order)
            domains, tries = children(parents, depth)
        for start in range(0, len(tries), size):
            part = jax.tree.map(lambda a, start=start: a[start : start + size], domains)
            n = len(part.row)
            bounded, leaf = jax.device_get(_step(oracle, f, s, root, filled_up(part, size), over=kind, tried=tried))
            bounded, leaf = jax.tree.map(lambda a, n=n: a[:n], (bounded, leaf))
            counted += n
            at = int(np.argmax(np.where(np.isnan(leaf.lower), np.inf, leaf.lower)))
            if not leaf.lower[at] <= lower:
                lower = math.inf if np.isnan(leaf.lower[at]) else float(leaf.lower[at])
                witness = jax.tree.map(lambda a, at=at: a[at], leaf.witness)
            upper = np.minimum(leaf.elements, ceiling).max(1)
            finished = upper < target if target is not None else upper <= lower + tolerance
            closed = np.maximum(closed, np.max(leaf.elements, axis=0, where=finished[:, None], initial=-np.inf))
            kept += [jax.tree.map(lambda a, done=finished: a[done], bounded)] if record and finished.any() else []
            waiting = Waiting(bounded, leaf.elements, leaf.entries, leaf.points, tries[start : start + size])
            hopeless = ~finished & (waiting.tries >= _TRIES)
            stuck += [jax.tree.map(lambda a, h=hopeless: a[h], waiting)] if hopeless.any() else []
            keep = ~finished & ~hopeless
            pool.push(jax.tree.map(lambda a, keep=keep: a[keep], waiting), upper[keep])
    witness = jax.tree.map(jnp.asarray, witness)
    remaining = _joined([part for part in (*stuck, pool.everything()) if part is not None])
    elements = closed if remaining is None else np.maximum(closed, remaining.elements.max(0))
    return Search(lower, witness, np.minimum(elements, ceiling), counted, closed, remaining, _joined(kept), about)


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *a: np.concatenate(a), *parts) if parts else None


def _check_same(resume: Search, f: Objective, s: Any, about: list[np.ndarray]) -> None:
    """Raise where a search speaks of another function or set, as far as the set, the first bounds and its witness show."""
    there, here = ([np.shape(a) for a in each] for each in (resume.about, about))
    if there != here:
        raise ValueError(f"branch: resume= is a search of another problem: shapes {there} where this one has {here}")
    if not all(
        np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in zip(resume.about, about, strict=True)
    ):
        raise ValueError(
            "branch: resume= is a search of another problem: its set, or the bounds it began with, are others"
        )
    again = float(jnp.max(f(resume.witness)))
    if not np.isclose(again, resume.lower, rtol=1e-3, atol=1e-3) and np.isfinite(resume.lower):
        raise ValueError(
            f"branch: resume= is a search of another problem: it met a violation of {resume.lower:.6g} at its witness, which has "
            f"{again:.6g} here"
        )


def cut_over(s: Any, over: str) -> str:
    """What is cut, "input" or "neurons", where "auto" leaves it open."""
    if over not in ("auto", *_KINDS):
        raise ValueError(f"branch: over is one of auto, input, neurons, got {over!r}")
    leaves = jax.tree.leaves(s.center)
    one_box = len(leaves) == 1 and is_box(s)
    if over == "input" and not one_box:
        raise ValueError(
            f"branch: over='input' cuts a box of one array, got a set of kind {s.geometry.name!r}; use over='neurons'"
        )
    if over == "auto":
        return "input" if one_box and leaves[0].size <= _FEW_INPUTS else "neurons"
    return over


def _default(problem: Problem, kind: str) -> Oracle:
    """Intermediate bounds are optimised for every neuron where there are few."""
    if kind == "input":
        return crown()
    neurons = sum(math.prod(problem.program.avals[i].shape) for i in splittable(problem) if i not in problem.pure)
    return alpha_crown(steps=10, target=0.0, intermediates=alpha_crown() if neurons <= _FEW_NEURONS else crown())


def _batch(problem: Problem) -> int:
    # the optimiser's derivative keeps every value
    entries = sum(math.prod(problem.program.avals[j].shape) for j in problem.program.dependent)
    return 2 ** int(np.clip(math.log2(2**26 / (24 * entries)), 3, 9))


def _solve(key: Any, f: Objective, s: Any, *, options: tuple[tuple[str, Any], ...]) -> Bound:
    found = branch(f, s, **dict(options))
    info: dict[str, Array] = {"elements": jnp.asarray(found.elements), "lower": jnp.asarray(found.lower)}
    return Bound(jnp.max(info["elements"]), None, info | {"nodes": jnp.asarray(found.nodes)})


def branch_and_bound(**options: Any) -> Oracle:
    """`branch` as an oracle of side "upper": what it has proven when its budget ends.

    Args:
      options: of `branch`; give ``seconds`` or ``nodes`` where the problem may be hard.

    Returns:
      A host `Oracle` (drivers loop over it); ``info`` holds ``elements``, ``lower`` (attained in the set) and ``nodes``.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jnp.sum(jnp.abs(z), keepdims=True) - jnp.abs(z[:1] + z[1:]) - 1.01)
    >>> oracle = branch_and_bound(nodes=2000, batch=8)
    >>> bool(oracle.solve(jax.random.key(0), f, jr.sets.linf(0.5)(jnp.zeros(2))).value < 0)
    True
    """
    return Oracle("upper", bind(_solve, options=tuple(sorted(options.items()))), host=True, name="branch-and-bound")
