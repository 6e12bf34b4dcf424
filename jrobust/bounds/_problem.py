"""What is to be bounded: a flat program, whether it can be, and static facts about its affine chains."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import GatherScatterMode

from jrobust._program import Equation, Program, flatten
from jrobust.bounds._idioms import recognised
from jrobust.bounds._tables import AFFINE, CANONICAL, INTERVAL, RELAX, Mask, is_affine

Env = dict[int, Any]
"""The values of a program by number: an `Interval`, or the array itself where it is known."""


class Problem(NamedTuple):
    """A flat program, its set, and facts about its values: `levels` of the affine chain each lies on, and whether that chain
    starts at the input (``pure``). With ``rounding`` bounds hold for what floats compute (`_rounding`)."""

    program: Program
    s: Any
    levels: dict[int, int]
    pure: frozenset[int]
    rounding: bool = False


def program_of(fn: Callable[[Any], Any], *args: Any) -> Program:
    """The flat program of ``fn``, without the freedoms that JAX leaves itself."""
    program = recognised(flatten(fn, *args, keep=CANONICAL))
    return dataclasses.replace(program, equations=tuple(map(_definite, program.equations)))


def _definite(eqn: Equation) -> Equation:
    """Matrix products in full float32 where the user asked for nothing; indices out of bounds as XLA treats them, in VJPs too."""
    params = dict(eqn.params)
    # TF32 or bfloat16 passes of an accelerator would make the bounds those of another function
    if params.get("precision", 0) is None:
        params["precision"] = (jax.lax.Precision.HIGHEST,) * 2
    if params.get("mode") == GatherScatterMode.PROMISE_IN_BOUNDS:
        params["mode"] = GatherScatterMode.CLIP if eqn.name == "gather" else GatherScatterMode.FILL_OR_DROP
    return dataclasses.replace(eqn, params=params)


def mask_of(program: Program, eqn: Equation) -> Mask:
    """Which operands of an equation depend on the input."""
    return tuple(i in program.dependent for i in eqn.inputs)


def relaxable(program: Program, eqn: Equation) -> bool:
    """Whether a pair of affine functions stands in for an equation in a backward walk."""
    mask = mask_of(program, eqn)
    ruled = eqn.name in RELAX and jnp.issubdtype(eqn.avals[0].dtype, jnp.floating)
    return any(mask) and ruled and not is_affine(eqn, mask, program.avals)


def is_box(s: Any) -> bool:
    """Whether a set is its own hull."""
    if s.geometry.name in ("product", "power"):
        return all(is_box(part) for part in s.params)
    return s.geometry.name in ("linf", "box")


def missing(program: Program) -> list[Equation]:
    """The equations that depend on the input and have no interval rule, or compute in numbers that bounds do not speak of."""
    without = []
    for eqn in program.equations:
        mask = mask_of(program, eqn)
        ruled = eqn.name in INTERVAL and INTERVAL[eqn.name].accepts(mask)
        if any(mask) and not (ruled and _foreign(program, eqn) is None):
            without.append(eqn)
    return without


def _foreign(program: Program, eqn: Equation) -> Any:
    """The first dependent dtype in an equation that no bound covers: complex, or a float whose rounding is above any margin."""
    dtypes = [program.avals[i].dtype for i in (*eqn.inputs, *eqn.outputs) if i in program.dependent]
    return next((d for d in dtypes if not _covered(d)), None)


def _covered(dtype: Any) -> bool:
    real = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize >= 4
    return bool(real or dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.integer))


_WIDER = "bounds speak of float32 or wider"


def check(program: Program, method: str) -> None:
    """Raise, naming the primitive and its line, unless every equation can be bounded."""
    for i in program.inputs:
        if not _covered(program.avals[i].dtype):
            raise NotImplementedError(f"{method}: {_WIDER}; the input is {program.avals[i].dtype}: make it float32")
    for eqn in missing(program):
        dtype = _foreign(program, eqn)
        if dtype is not None:
            raise NotImplementedError(
                f"{method}: {_WIDER}; this model computes '{eqn.name}' in {dtype} at {eqn.source}: cast it to float32 to certify"
            )
        operands = "" if eqn.name not in INTERVAL else " in an operand that must not depend on the perturbed input"
        raise NotImplementedError(
            f"{method}: no rule for primitive '{eqn.name}'{operands}, used at {eqn.source}. "
            "No method of jr.bounds supports it yet; jr.bounds.supported(fn, x, method=...) lists every such primitive, "
            "and docs/adding_a_rule.md shows how to add a rule."
        )


def pose(program: Program, s: Any, rounding: bool = False) -> Problem:
    """The static facts about the affine chains of a program."""
    levels, pure = dict.fromkeys(program.inputs, 0), set(program.inputs)
    for eqn in program.equations:
        mask = mask_of(program, eqn)
        if not any(mask):
            continue
        sources = [i for i, d in zip(eqn.inputs, mask, strict=True) if d]
        affine = is_affine(eqn, mask, program.avals)
        level = AFFINE[eqn.name].level(eqn, [levels[i] for i in sources]) if affine else 0
        levels |= dict.fromkeys(eqn.outputs, level)
        if affine and all(i in pure for i in sources):
            pure |= set(eqn.outputs)
    return Problem(program, s, levels, frozenset(pure), rounding)
