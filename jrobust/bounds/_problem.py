"""What is to be bounded: a flat program, whether it can be, and static facts about its affine chains."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._jaxpr import Equation, Program, flatten
from jrobust.bounds._tables import AFFINE, CANONICAL, INTERVAL, Mask, is_affine


class Problem(NamedTuple):
    """A flat program, its set, and facts about its values: `levels` of the affine chain each lies on, and whether that chain
    starts at the input (``pure``)."""

    program: Program
    s: Any
    levels: dict[int, int]
    pure: frozenset[int]


def program_of(fn: Callable[[Any], Any], *args: Any) -> Program:
    """The flat program of ``fn``, with matrix products in full float32 where the user asked for nothing."""
    program = flatten(fn, *args, keep=CANONICAL)
    return dataclasses.replace(program, equations=tuple(map(_precise, program.equations)))


def _precise(eqn: Equation) -> Equation:
    # TF32 or bfloat16 passes of an accelerator would make the bounds those of another function
    if "precision" in eqn.params and eqn.params["precision"] is None:
        return dataclasses.replace(eqn, params=eqn.params | {"precision": (jax.lax.Precision.HIGHEST,) * 2})
    return eqn


def mask_of(program: Program, eqn: Equation) -> Mask:
    """Which operands of an equation depend on the input."""
    return tuple(i in program.dependent for i in eqn.inputs)


def missing(program: Program) -> list[Equation]:
    """The equations that depend on the input and have no interval rule."""
    without = []
    for eqn in program.equations:
        mask = mask_of(program, eqn)
        if any(mask) and not (eqn.name in INTERVAL and INTERVAL[eqn.name].accepts(mask)):
            without.append(eqn)
    return without


def check(program: Program, method: str) -> None:
    """Raise, naming the primitive and its line, unless every equation can be bounded."""
    for eqn in missing(program):
        operands = "" if eqn.name not in INTERVAL else " in an operand that must not depend on the perturbed input"
        raise NotImplementedError(
            f"{method}: no rule for primitive '{eqn.name}'{operands}, used at {eqn.source}. "
            "No method of jr.bounds supports it yet; jr.bounds.supported(fn, x, method=...) lists every such primitive, "
            "and CONTRIBUTING.md shows how to add a rule."
        )


def warn_if_narrow(program: Program) -> None:
    """Warn (UserWarning) where a float narrower than float32 is computed with: its rounding is far above what a margin may ignore."""
    for eqn in program.equations:
        mask = mask_of(program, eqn)
        avals = [*(program.avals[i] for i, d in zip(eqn.inputs, mask, strict=True) if d), *eqn.avals]
        narrow = [a.dtype for a in avals if jnp.issubdtype(a.dtype, jnp.floating) and a.dtype.itemsize < 4]
        if any(mask) and narrow:
            warnings.warn(
                f"bounds speak of real arithmetic; this model rounds to {narrow[0].name} ('{eqn.name}' at {eqn.source}), "
                "which they do not cover: cast it to float32 to certify",
                UserWarning,
                stacklevel=2,
            )
            return


def pose(program: Program, s: Any) -> Problem:
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
    return Problem(program, s, levels, frozenset(pure))
