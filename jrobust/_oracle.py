"""The one type: an oracle bounds a worst case, from a stated side.

``sup { f(z) : z in S }`` is what every method here speaks about. An attack gives a lower bound with a witness, bound
propagation an upper bound; the side is static data of the oracle, so that a nonsense combination cannot be written down.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jrobust._objective import Objective
from jrobust._tree import bind, is_traced
from jrobust.typing import Array, Float, Point, Side


class Bound(NamedTuple):
    """A bound on ``max_i sup_{z in S} f_i(z)`` for one example; arrays only.

    Attributes:
      value: the bound on the largest violation; ``value < 0`` says that the property holds (from the oracle's side).
        ``+inf`` where an upper bound could not be computed.
      witness: a point of the set that attains ``value`` (lower oracles), without gradient; None for upper oracles.
      info: a dictionary of arrays, never needed to go on. Lower: ``forwards``, ``backwards`` (passes for one example).
        Upper: ``elements``, the elementwise bounds [m].
    """

    value: Float[Array, "..."]
    witness: Point | None
    info: dict[str, Any]


class Radius(NamedTuple):
    """A bound on the critical radius of one example: how far until the property breaks; arrays only.

    Attributes:
      value: the bound on the radius; an attack's is an upper bound (``+inf``: nothing found), a certificate's a lower one.
      witness: a violating point at distance ``value``, where there is one.
      info: a dictionary of arrays.
    """

    value: Float[Array, "..."]
    witness: Point | None
    info: dict[str, Any]


def _check(side: str, confidence: float) -> None:
    if side not in get_args(Side):
        raise ValueError(f"side is one of {', '.join(get_args(Side))}, not {side!r}")
    if not 0.0 <= confidence <= 1.0:
        raise ValueError(f"confidence lies in [0, 1], not {confidence!r}")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["run", "stages", "adapt"],
    meta_fields=["side", "confidence", "host", "name"],
)
@dataclasses.dataclass(frozen=True)
class Oracle:
    """Bounds ``sup { f(z) : z in S }`` for one example, from a stated side.

    A pytree: step sizes and other numbers that sweep are leaves; side, counts and functions are structure.

    Attributes:
      side: "lower" (attack), "upper" (certificate), "exact", or "estimate" (bounds nothing; metrics refuse it).
      run: the function behind `solve`.
      confidence: 1 for a deterministic statement, less for one that holds with that probability.
      stages: what a driver may run piece by piece: the oracles of a cascade, or the `Iteration` of an iterative one.
      host: it runs on the host; calling it under a trace is an error.
      name: for tables.
      adapt: ``(kind of set, number of classes) -> Oracle``, where a method differs between norms; see `adaptive`.
    """

    side: Side
    run: Callable[..., Bound]
    confidence: float = 1.0
    stages: tuple[Any, ...] = ()
    host: bool = False
    name: str = "oracle"
    adapt: Callable[[str, int], "Oracle"] | None = None

    def __post_init__(self) -> None:
        _check(self.side, self.confidence)

    def solve(self, key: Any, f: Any, s: Any) -> Bound:
        """Bound the supremum of the objective ``f`` over the set ``s``; ``key`` is consumed (deterministic oracles ignore it)."""
        check_problem(f, s)
        if self.host and is_traced(key, f, s):
            raise TypeError(
                f"{self.name} runs on the host and cannot be traced (it was called under jit, vmap or grad); "
                "call it on concrete arrays, or let jr.evaluate loop over it"
            )
        if self.side in ("upper", "exact") and isinstance(f, Objective) and f.draws is not None:
            raise TypeError(f"{self.name} proves nothing about a random model from a few draws of it; see jr.smoothing")
        return self.run(key, f, s)


def check_problem(f: Any, s: Any) -> None:
    """An objective and a set, in this order; a threat is not yet a set."""
    if hasattr(s, "family"):
        raise TypeError("s must be the set of one example, got a threat: call it, threat(x)")
    if not (hasattr(f, "outputs") and hasattr(s, "center")):
        raise TypeError(
            f"an oracle solves (key, objective, set) in this order, got {type(f).__name__} and {type(s).__name__} as the second and "
            "third; jr.objectives makes objectives, threat(x) is a set"
        )
    if 0 in (jnp.size(x) for x in jax.tree.leaves(s.center)):
        raise ValueError(f"the example is empty: shape {jax.tree.map(jnp.shape, s.center)}")
    if is_traced(s):
        return
    with jax.ensure_compile_time_eval():  # the set may be known where a trace goes on
        inside = bool(s.contains(s.center))
    if not inside:
        raise ValueError(
            f"the centre does not lie in its own set ({s.geometry.name}): it is outside of the clip or box, or holds NaN"
        )


def _adapted(adapt: Callable[[str, int], Oracle], key: Any, f: Any, s: Any) -> Bound:
    shape = jax.eval_shape(f.outputs, s.center)
    classes = shape.shape[0] if getattr(shape, "ndim", 0) == 1 else 0
    return adapt(s.geometry.name, classes).solve(key, f, s)


def adaptive(side: Side, adapt: Callable[[str, int], Oracle], *, name: str) -> Oracle:
    """An oracle that is another one for each kind of set (``"linf"``, ``"l2"``, ...) and number of classes (0: not a classifier).

    ``adapt`` is called while tracing; it should be made with `bind`, so that its numbers are leaves.
    """
    return Oracle(side, bind(_adapted, adapt), name=name, adapt=adapt)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["run", "adapt"],
    meta_fields=["side", "confidence", "host", "name", "about"],
)
@dataclasses.dataclass(frozen=True)
class RadiusOracle:
    """Bounds the critical radius ``inf { eps : sup { f(z) : z in S_eps } >= 0 }`` for one example.

    The side speaks of the radius: attacks bound it from above ("upper"), certificates from below ("lower").

    Attributes:
      side, run, confidence, host, name: as in `Oracle`.
      about: whose radius it is: that of the "model", or of the "smoothed" one, which an attack on the model says nothing about.
      adapt: ``(kind of set, number of classes) -> Iteration`` of an iterative attack, whose steps can also be run on one set.
    """

    side: Side
    run: Callable[..., Radius]
    confidence: float = 1.0
    host: bool = False
    name: str = "radius"
    adapt: Callable[[str, int], Any] | None = None
    about: Literal["model", "smoothed"] = "model"

    def __post_init__(self) -> None:
        _check(self.side, self.confidence)

    def solve(self, key: Any, f: Any, threat: Any, x: Point) -> Radius:
        """Bound the radius of ``threat.family`` around ``x`` at which ``f`` can first be made >= 0."""
        if not hasattr(f, "outputs") or not (threat is None or hasattr(threat, "family")):
            raise TypeError(
                f"RadiusOracle.solve takes (key, objective, threat, x), got {type(f).__name__} and {type(threat).__name__} as "
                "the second and third"
            )
        if self.host and is_traced(key, f, threat, x):
            raise TypeError(f"{self.name} runs on the host and cannot be traced; call it on concrete arrays")
        return self.run(key, f, threat, x)

    @property
    def sup_side(self) -> Side:
        """The side of ``sup f`` that "holds iff radius > eps" speaks from: a radius bounded above is a sup bounded below."""
        return {"upper": "lower", "lower": "upper"}.get(self.side, self.side)  # pyright: ignore


def require(sides: Sequence[Side], *oracles: Oracle, by: str) -> None:
    """Raise unless every oracle's side is among ``sides`` ("exact" counts as both "lower" and "upper")."""
    for oracle in oracles:
        if not isinstance(oracle, Oracle):
            raise TypeError(f"{by} takes oracles, got {type(oracle).__name__}")
        if oracle.side not in sides and not (oracle.side == "exact" and {"lower", "upper"} & set(sides)):
            raise ValueError(f"{by} takes oracles of side {' or '.join(sides)}; {oracle.name} has side {oracle.side}")


def joint_confidence(*oracles: Any) -> float:
    """Confidence that several probabilistic statements hold together: ``max(0, 1 - sum(1 - c_i))``."""
    return max(0.0, 1.0 - sum(1.0 - o.confidence for o in oracles))
