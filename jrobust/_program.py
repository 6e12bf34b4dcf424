"""Flat programs: what bound propagation reads. A function without calls and without control flow."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jrobust._jaxpr import JaxprEqn, Literal, bind_eqn, jaxpr_as_fun, source_line, trace
from jrobust._tree import is_traced

_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "call": "call_jaxpr",
    "composite": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive application (or one kept canonical call) of a `Program`.

    Attributes:
      name: of the primitive, or of the canonical call.
      inputs, outputs: ids of values.
      avals: shapes and dtypes of the outputs.
      eqn: the jaxpr equation it came from.
      params: its parameters.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    avals: tuple[jax.ShapeDtypeStruct, ...]
    eqn: JaxprEqn
    params: dict[str, Any]

    def bind(self, values: Sequence[Any], **params: Any) -> list[Any]:
        """The outputs at ``values``, with other ``params`` where given."""
        return bind_eqn(self.eqn, list(values), self.params | params)

    @property
    def source(self) -> str:
        """``file:line`` of the user's code, as far as JAX recorded it."""
        return source_line(self.eqn)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function without calls: equations in order, values named by ids.

    Attributes:
      inputs, outputs: ids.
      constants: id -> array; what the function closed over, and literals. May be tracers: never baked in.
      avals: id -> shape and dtype, of every value.
      equations: only those that the outputs depend on.
      dependent: ids that depend on an input; all else is *known*.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: dict[int, Any]
    avals: dict[int, jax.ShapeDtypeStruct]
    equations: tuple[Equation, ...]
    dependent: frozenset[int]


def flatten(fn: Any, *args: Any, keep: Mapping[str, Any] | None = None) -> Program:
    """Trace ``fn`` at ``args`` and inline every call in it (jit, custom derivatives, remat): a `Program` of primitives.

    Args:
      fn: a function of pytrees of arrays.
      args: arrays or ShapeDtypeStructs.
      keep: name -> canonical function. A call of that name stays one equation iff its body is, primitive for primitive,
        that of a fresh trace of the canonical function; an impostor of the same name is inlined.
    """
    return _flatten(trace(fn, *args), keep or {})


def _aval(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype, weak_type=getattr(var.aval, "weak_type", False))


def assembled(
    inputs: Sequence[int],
    outputs: Sequence[int],
    constants: dict[int, Any],
    avals: dict[int, jax.ShapeDtypeStruct],
    equations: Sequence[Equation],
) -> Program:
    """A `Program` of those equations that its outputs depend on."""
    needed, live = set(outputs), []
    for eqn in reversed(equations):
        if needed & set(eqn.outputs):
            live.append(eqn)
            needed |= set(eqn.inputs)
    dependent = set(inputs)
    for eqn in reversed(live):
        if dependent & set(eqn.inputs):
            dependent |= set(eqn.outputs)
    return Program(tuple(inputs), tuple(outputs), constants, avals, tuple(reversed(live)), frozenset(dependent))


def same_array(x: Any, y: Any) -> bool:
    """Whether two constants are equal; tracers are, where they are the same one."""
    return x is y if is_traced(x, y) else bool(np.array_equal(np.asarray(x), np.asarray(y)))


def _flatten(closed: Any, keep: Mapping[str, Any]) -> Program:
    avals: dict[int, jax.ShapeDtypeStruct] = {}
    constants: dict[int, Any] = {}
    equations: list[Equation] = []
    made: dict[int, Equation] = {}
    concrete: dict[int, Any] = {}  # what `known` has found
    dependent: set[int] = set()

    def new(aval: jax.ShapeDtypeStruct) -> int:
        avals[len(avals)] = aval
        return len(avals) - 1

    def constant(var: Any, value: Any) -> int:
        i = new(_aval(var))
        constants[i] = value
        concrete[i] = None if is_traced(value) else value
        return i

    def walk(inner: Any, ids: Sequence[int]) -> list[int]:
        jaxpr = getattr(inner, "jaxpr", inner)
        env: dict[Any, int] = dict(zip(jaxpr.invars, ids, strict=True))
        env |= {v: constant(v, c) for v, c in zip(jaxpr.constvars, getattr(inner, "consts", ()), strict=True)}

        def read(atom: Any) -> int:
            return constant(atom, np.asarray(atom.val, _aval(atom).dtype)) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            inputs, name = [read(v) for v in eqn.invars], eqn.primitive.name
            perturbed = not dependent.isdisjoint(inputs)
            if name in _CONTROL and perturbed:
                outputs = _CONTROL[name](eqn, inputs, walk, known, avals)
                if outputs is not None:
                    env |= dict(zip(eqn.outvars, outputs, strict=True))
                    continue
            body = eqn.params[_INLINED[name]] if name in _INLINED else None
            if body is not None and not _is_canonical(eqn, body, keep):
                env |= dict(zip(eqn.outvars, walk(body, inputs), strict=True))
                continue
            shapes = tuple(_aval(v) for v in eqn.outvars)
            outputs = tuple(new(a) for a in shapes)
            label = name if body is None else eqn.params["name"]
            equations.append(Equation(label, tuple(inputs), outputs, shapes, eqn, dict(eqn.params)))
            made.update(dict.fromkeys(outputs, equations[-1]))
            dependent.update(outputs if perturbed else ())
            env |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def known(i: int) -> Any:
        """The concrete value ``i``, or None where it depends on an input or a tracer."""
        waiting = [i]
        while waiting:  # a stack of our own: chains may be longer than Python's
            j = waiting[-1]
            if j in concrete or j in dependent:
                waiting.pop()
                continue
            missing = [k for k in made[j].inputs if k not in concrete and k not in dependent]
            if missing:
                waiting += missing
                continue
            values = [concrete.get(k) for k in made[j].inputs]
            outs: list[Any] = [None] * len(made[j].outputs)
            if all(v is not None for v in values):
                with jax.ensure_compile_time_eval():
                    outs = made[j].bind(values)
            concrete.update(zip(made[j].outputs, outs, strict=True))
        return concrete.get(i)

    inputs = [new(_aval(v)) for v in getattr(closed, "jaxpr", closed).invars]
    dependent.update(inputs)
    return assembled(inputs, walk(closed, inputs), constants, avals, equations)


# Control flow that the perturbed input enters is unrolled; over known values alone it stays one equation.


def _scan(eqn: JaxprEqn, inputs: Sequence[int], walk: Any, known: Any, avals: Any) -> list[int] | None:
    """Unrolled: its trip count is a parameter."""
    p = eqn.params
    body, constants, carried = jaxpr_as_fun(p["jaxpr"]), p["num_consts"], p["num_carry"]

    def unrolled(*args: Any) -> Any:
        carry, outs = args[constants : constants + carried], []
        for i in reversed(range(p["length"])) if p["reverse"] else range(p["length"]):
            out = body(*args[:constants], *carry, *(x[i] for x in args[constants + carried :]))
            carry = out[:carried]
            outs.append(out[carried:])
        stacked = zip(*(outs[::-1] if p["reverse"] else outs), strict=True)
        return [*carry, *(jax.numpy.stack(ys) for ys in stacked)]

    return walk(trace(unrolled, *(avals[i] for i in inputs)), inputs) if p["length"] else None


def _while(eqn: JaxprEqn, inputs: Sequence[int], walk: Any, known: Any, avals: Any) -> list[int] | None:
    """Unrolled, where the condition can be computed."""
    p = eqn.params
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry = list(inputs[m:])
    while True:
        (goes_on,) = walk(p["cond_jaxpr"], [*inputs[:n], *carry])
        decided = known(goes_on)
        if decided is None:
            return None
        if not decided:
            return carry
        carry = walk(p["body_jaxpr"], [*inputs[n:m], *carry])


def _cond(eqn: JaxprEqn, inputs: Sequence[int], walk: Any, known: Any, avals: Any) -> list[int]:
    """The branch that is taken, or all of them and a selection."""
    branches, index = eqn.params["branches"], known(inputs[0])
    if index is not None:
        return walk(branches[int(np.clip(index, 0, len(branches) - 1))], inputs[1:])
    cases = [walk(branch, inputs[1:]) for branch in branches]

    def choose(which: Any, *flat: Any) -> Any:
        rows = [flat[i :: len(eqn.outvars)] for i in range(len(eqn.outvars))]
        return [jax.lax.select_n(jax.numpy.clip(which, 0, len(branches) - 1), *row) for row in rows]

    flat = [inputs[0], *(i for case in cases for i in case)]
    return walk(trace(choose, *(avals[i] for i in flat)), flat)


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}


def _is_canonical(eqn: JaxprEqn, body: Any, keep: Mapping[str, Any]) -> bool:
    """Whether a call is the canonical function that its name claims, by name and body."""
    canonical = keep.get(eqn.params.get("name", ""))
    # a call is bound at its own shapes alone
    if canonical is None or _aval(eqn.outvars[0]).shape != _aval(eqn.invars[0]).shape:
        return False
    try:
        fresh = trace(canonical, *(_aval(v) for v in eqn.invars))
    except (TypeError, ValueError):  # it does not even take these arguments
        return False
    return _same_body(_flatten(body, {}), _flatten(fresh, {}))


def _same_body(a: Program, b: Program) -> bool:
    def shape(p: Program) -> Any:
        rows = [(e.name, e.inputs, e.outputs, repr(e.avals), repr(sorted(e.params.items()))) for e in p.equations]
        return p.inputs, p.outputs, rows, sorted(p.constants)

    return shape(a) == shape(b) and all(same_array(a.constants[i], b.constants[i]) for i in a.constants)
