"""The one type: an oracle bounds a worst case, from a stated side.

``sup { f(z) : z in S }`` is what every method here speaks about. An attack gives a lower bound with a witness, bound
propagation an upper bound; the side is static data of the oracle, so that a nonsense combination cannot be written down.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import jax

from jrobust._tree import is_traced
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
    jax.tree_util.register_dataclass, data_fields=["run", "stages"], meta_fields=["side", "confidence", "host", "name"]
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
    """

    side: Side
    run: Callable[..., Bound]
    confidence: float = 1.0
    stages: tuple[Any, ...] = ()
    host: bool = False
    name: str = "oracle"

    def __post_init__(self) -> None:
        _check(self.side, self.confidence)

    def solve(self, key: Any, f: Any, s: Any) -> Bound:
        """Bound the supremum of the objective ``f`` over the set ``s``; ``key`` is consumed (deterministic oracles ignore it)."""
        if self.host and is_traced(key, f, s):
            raise TypeError(
                f"{self.name} runs on the host and cannot be traced (it was called under jit, vmap or grad); "
                "call it on concrete arrays, or let jr.evaluate loop over it"
            )
        return self.run(key, f, s)


@partial(jax.tree_util.register_dataclass, data_fields=["run"], meta_fields=["side", "confidence", "host", "name"])
@dataclasses.dataclass(frozen=True)
class RadiusOracle:
    """Bounds the critical radius ``inf { eps : sup { f(z) : z in S_eps } >= 0 }`` for one example.

    The side speaks of the radius: attacks bound it from above ("upper"), certificates from below ("lower").
    """

    side: Side
    run: Callable[..., Radius]
    confidence: float = 1.0
    host: bool = False
    name: str = "radius"

    def __post_init__(self) -> None:
        _check(self.side, self.confidence)

    def solve(self, key: Any, f: Any, threat: Any, x: Point) -> Radius:
        """Bound the radius of ``threat.family`` around ``x`` at which ``f`` can first be made >= 0."""
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
