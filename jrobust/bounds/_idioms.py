"""Functions that JAX writes out as several primitives, recognised by their data flow and bounded as one.

An idiom is a canonical function of one array. Where the equations that lead to a value are, primitive for primitive and constant
for constant, those of a fresh trace of it, one equation replaces them, with rules under the idiom's name. What only looks like it
is left alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._program import Equation, Program, assembled, flatten, same_array

_LONGEST = 12  # steps from an idiom's source to its value
Tries = Callable[[int], Iterable[tuple[Callable[..., Any], int, dict[str, Any]]]]
"""From the rank of a value: (canonical function, rank of its source, what its rules must know)."""
IDIOMS: list[tuple[str, str, frozenset[str], Tries]] = []


def defidiom(name: str, last: str, needs: str, tries: Tries) -> None:
    """Recognise a canonical function by its last primitive, once all that it ``needs`` come before it."""
    IDIOMS.append((name, last, frozenset(needs.split()), tries))


@dataclasses.dataclass(frozen=True, eq=False)
class Idiom(Equation):
    """An equation that stands for several; ``fn`` is its function."""

    fn: Callable[..., Any]

    def bind(self, values: Sequence[Any], **params: Any) -> list[Any]:
        return [self.fn(*values)]


def recognised(program: Program) -> Program:
    """The program with its idioms as single equations."""
    made = {o: eqn for eqn in program.equations for o in eqn.outputs}
    equations = tuple(_recognise(program, made, eqn) for eqn in program.equations)
    if all(a is b for a, b in zip(equations, program.equations, strict=True)):
        return program
    return assembled(program.inputs, program.outputs, program.constants, program.avals, equations)


def _recognise(program: Program, made: dict[int, Equation], eqn: Equation) -> Equation:
    if not jnp.issubdtype(eqn.avals[0].dtype, jnp.floating):
        return eqn
    upstream: set[int] | None = None
    for name, last, needs, tries in IDIOMS:
        if eqn.name != last or eqn.outputs[0] not in program.dependent:
            continue
        upstream = _upstream(made, eqn) if upstream is None else upstream
        if not needs <= {made[i].name for i in upstream if i in made}:
            continue
        shapes = {program.avals[i].shape for i in upstream if i in program.dependent}
        for fn, rank, facts in tries(len(eqn.avals[0].shape)):
            source = _source(program, made, eqn, fn, [shape for shape in shapes if len(shape) == rank])
            if source is not None:
                return Idiom(name, (source,), eqn.outputs, eqn.avals, eqn.eqn, facts, fn)
    return eqn


def _source(
    program: Program,
    made: dict[int, Equation],
    eqn: Equation,
    fn: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
) -> int | None:
    """The value, of one of these shapes, of which ``eqn``'s output is ``fn``, if it is."""
    for shape in shapes:
        canonical = flatten(fn, jax.ShapeDtypeStruct(shape, eqn.avals[0].dtype))
        known: dict[int, int] = {}
        steps = {o: e for e in canonical.equations for o in e.outputs}
        if _alike(program, made, eqn.outputs[0], canonical, steps, canonical.outputs[0], known):
            return known.get(canonical.inputs[0])
    return None


def _upstream(made: dict[int, Equation], eqn: Equation) -> set[int]:
    """What leads to an equation, as far back as an idiom is long: among it is the idiom's source."""
    found, front = set(), set(eqn.inputs)
    for _ in range(_LONGEST):
        found |= front
        front = {j for i in front if i in made for j in made[i].inputs} - found
    return found


def _alike(program: Program, made: Any, i: int, canonical: Program, steps: Any, c: int, known: dict[int, int]) -> bool:
    """Whether value ``i`` of the program is value ``c`` of the canonical one; ``known``: canonical value -> value, so far."""
    if c in known:
        return known[c] == i
    if c in canonical.inputs:
        known[c] = i
        return i in program.dependent and program.avals[i].shape == canonical.avals[c].shape
    if c in canonical.constants:
        return i in program.constants and same_array(program.constants[i], canonical.constants[c])
    if c not in steps or i not in made:
        return False
    a, b = made[i], steps[c]
    same = a.name == b.name and a.avals == b.avals and repr(sorted(a.params.items())) == repr(sorted(b.params.items()))
    if not same or a.outputs.index(i) != b.outputs.index(c) or len(a.inputs) != len(b.inputs):
        return False
    known[c] = i
    return all(_alike(program, made, x, canonical, steps, y, known) for x, y in zip(a.inputs, b.inputs, strict=True))


def _along(fn: Callable[..., Any]) -> Tries:
    return lambda rank: [(partial(fn, axis=axis), rank, {"axis": axis}) for axis in reversed(range(rank))]


def _reducing(rank: int) -> Iterable[Any]:
    for axis in range(rank + 1):
        yield partial(jax.nn.logsumexp, axis=axis), rank + 1, {"axis": axis}
    for axis in range(rank):
        yield partial(jax.nn.logsumexp, axis=axis, keepdims=True), rank, {"axis": axis}


def _gelu(x: Any) -> Any:
    """What ``jax.nn.gelu(x, approximate=False)`` computes before it copies."""
    return 0.5 * x * jax.scipy.special.erfc(-x * np.sqrt(0.5).astype(x.dtype))


defidiom("gelu", "mul", "erfc", lambda rank: [(_gelu, rank, {})])
defidiom("gelu_tanh", "mul", "tanh integer_pow", lambda rank: [(jax.nn.gelu, rank, {})])
defidiom("softmax", "div", "exp reduce_sum reduce_max", _along(jax.nn.softmax))
defidiom("log_softmax", "sub", "exp reduce_sum reduce_max log", _along(jax.nn.log_softmax))
defidiom("logsumexp", "add", "exp reduce_sum reduce_max log", _reducing)
