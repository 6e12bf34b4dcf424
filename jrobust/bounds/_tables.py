"""The tables that a bounding method is: primitive -> rule, one line each.

Three facts about a primitive matter: how its interval follows from those of its operands (`INTERVAL`), whether it is affine in the
operands that depend on the perturbed input (`AFFINE`: its VJP is its backward rule), and which two affine functions sandwich it
where it is not (`RELAX`, optional: without one its interval serves, as constants).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jrobust._program import Equation
from jrobust.typing import Array

Mask = tuple[bool, ...]
"""Which operands depend on the perturbed input."""


class Interval(NamedTuple):
    """Elementwise bounds; of a bool array: certainly true, possibly true. NaN at both ends allows anything, NaN included."""

    lo: Array
    hi: Array


def anything(aval: Any) -> Interval:
    """The full range of an integer value."""
    info = jnp.iinfo(aval.dtype)
    return Interval(jnp.full(aval.shape, info.min, aval.dtype), jnp.full(aval.shape, info.max, aval.dtype))


class IntervalRule(NamedTuple):
    """``apply(eqn, *values) -> [Interval, ...]``, one an output; a value is an `Interval` or (known) an array."""

    apply: Callable[..., Sequence[Interval]]
    accepts: Callable[[Mask], bool]


class AffineRule(NamedTuple):
    """When a primitive is affine, and what it does to `levels`."""

    accepts: Callable[[Mask], bool]
    level: Callable[[Equation, list[int]], int]


Pair = tuple[Callable[..., Any], Callable[..., Any]]
"""``(lo, hi)``: affine functions of all operands of a primitive, below and above it."""


class Relaxation(NamedTuple):
    """A family of pairs of affine functions, any member of which is sound.

    Attributes:
      lines: ``(eqn, theta, *values) -> Pair``; ``theta`` is a pytree of arrays in [0, 1].
      start: ``(eqn, *values) -> theta``, the member that methods without an optimiser use.
      kinks: ``(eqn, *values) -> points`` of the one dependent operand, entry by entry, between which the pair is exact; None: nowhere.
    """

    lines: Callable[..., Pair]
    start: Callable[..., Any]
    kinks: Callable[..., Sequence[Any] | None]


INTERVAL: dict[str, IntervalRule] = {}
AFFINE: dict[str, AffineRule] = {}
RELAX: dict[str, Relaxation] = {}
CANONICAL: dict[str, Callable[..., Any]] = {}


def ends(value: Any) -> tuple[Any, Any]:
    """The lower and upper end of a value; a known array is both."""
    return (value.lo, value.hi) if isinstance(value, Interval) else (value, value)


def _sign(signs: str, i: int) -> str:
    return signs[min(i, len(signs) - 1)]


def _unless_known(signs: str) -> Callable[[Mask], bool]:
    return lambda mask: not any(d and _sign(signs, i) == "k" for i, d in enumerate(mask))


def definterval(names: str, rule: Callable[..., Sequence[Interval]], accepts: Callable[[Mask], bool] = any) -> None:
    """Give each primitive in ``names`` (separated by blanks) an interval rule."""
    INTERVAL.update({name: IntervalRule(rule, accepts) for name in names.split()})


def defmonotone(names: str, signs: str = "+") -> None:
    """Primitives monotone in every operand: "+" increasing, "-" decreasing, "k" must be known; the last sign repeats."""

    def apply(eqn: Equation, *values: Any) -> list[Interval]:
        pairs = [ends(v) if _sign(signs, i) != "-" else ends(v)[::-1] for i, v in enumerate(values)]
        lo, hi = (eqn.bind([pair[side] for pair in pairs]) for side in (0, 1))
        return [Interval(*both) for both in zip(lo, hi, strict=True)]

    definterval(names, apply, _unless_known(signs))


def defaffine(names: str, signs: str, level: Callable[[Equation, list[int]], int]) -> None:
    """Primitives affine in their dependent operands with coefficients of one sign each, so monotone as well."""
    defmonotone(names, signs)
    defbackward(names, _unless_known(signs), level)


def defbackward(names: str, accepts: Callable[[Mask], bool], level: Callable[[Equation, list[int]], int]) -> None:
    """Primitives that are affine when ``accepts(mask)``; their intervals need a rule of their own."""
    AFFINE.update({name: AffineRule(accepts, level) for name in names.split()})


def _nothing(eqn: Equation, *values: Any) -> Any:
    return ()


def _nowhere(eqn: Equation, *values: Any) -> None:
    return None


def defrelax(
    names: str,
    lines: Callable[..., Pair],
    start: Callable[..., Any] = _nothing,
    kinks: Callable[..., Sequence[Any] | None] = _nowhere,
) -> None:
    """Give primitives a `Relaxation`: ``lines(eqn, theta, *values) -> (lo, hi)``, each an affine function of all operands."""
    RELAX.update({name: Relaxation(lines, start, kinks) for name in names.split()})


def defcall(name: str, canonical: Callable[..., Any]) -> None:
    """Keep calls of this name, and with this function's body, as one equation (which then needs rules under its name)."""
    CANONICAL[name] = canonical


def is_affine(eqn: Equation, mask: Mask, avals: Any) -> bool:
    """Whether an equation is affine (over floats) in its dependent operands."""
    rule = AFFINE.get(eqn.name)
    if rule is None or not rule.accepts(mask):
        return False
    dtypes = [avals[i].dtype for i, d in zip(eqn.inputs, mask, strict=True) if d] + [a.dtype for a in eqn.avals]
    return all(jnp.issubdtype(d, jnp.floating) for d in dtypes)


# -- Levels -----------------------------------------------------------------------------------------------------------
# Level 0: every entry is a multiple (plus a constant) of its own entry of the affine chain's start. Level 1: interval arithmetic is
# still exact, entry by entry. Level 2: it is not, and a backward pass to the chain's start is tighter.


def moves(eqn: Equation, levels: list[int]) -> int:
    """Reshapes, scalings, shifts: an entry goes to at most one place."""
    return max(levels)


def copies(eqn: Equation, levels: list[int]) -> int:
    """An entry may appear twice."""
    return max(1, *levels)


def mixes(eqn: Equation, levels: list[int]) -> int:
    """Sums over entries: exact over distinct ones, once."""
    return 1 if max(levels) == 0 else 2


def joins(eqn: Equation, levels: list[int]) -> int:
    """Entrywise sum or difference: exact unless both terms depend on the input."""
    return max(levels) if len(levels) == 1 else 2


def broadcasts(eqn: Equation, levels: list[int]) -> int:
    """`copies`, unless only axes of length one were added."""
    kept = [eqn.params["shape"][i] for i in eqn.params["broadcast_dimensions"]]
    return (moves if math.prod(kept) == eqn.avals[0].size else copies)(eqn, levels)
