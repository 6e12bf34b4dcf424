"""The only file that touches ``jax.extend``: what the library needs to know about jaxprs."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var, jaxpr_as_fun, primitives

from jrobust._tree import is_traced

__all__ = [
    "ClosedJaxpr",
    "Equation",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "Program",
    "Var",
    "avals",
    "bind_eqn",
    "flatten",
    "jaxpr_as_fun",
    "map_jaxprs",
    "primitives",
    "source_line",
    "subjaxprs",
    "trace",
]


def trace(fn: Any, *args: Any) -> ClosedJaxpr:
    """The closed jaxpr of ``fn`` at ``args`` (arrays or ShapeDtypeStructs), arrays flattened in order."""
    return jax.make_jaxpr(fn)(*args)


def bind_eqn(eqn: JaxprEqn, values: list[Any], params: dict[str, Any] | None = None) -> list[Any]:
    """Evaluate one equation on ``values``, with other ``params`` if given; custom derivatives are kept."""
    bound = eqn.primitive.get_bind_params(params if params is not None else eqn.params)
    functions, bind_params = bound if isinstance(bound, tuple) else ((), bound)  # JAX < 0.10.2 returns a pair
    out = eqn.primitive.bind(*functions, *values, **bind_params)
    return list(out) if eqn.primitive.multiple_results else [out]


def avals(closed: ClosedJaxpr) -> list[jax.ShapeDtypeStruct]:
    """Shapes, dtypes and weak types of a jaxpr's inputs."""
    inputs = [v.aval for v in closed.jaxpr.invars]
    return [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=getattr(a, "weak_type", False)) for a in inputs]


def subjaxprs(params: dict[str, Any]) -> list[Jaxpr]:
    """The jaxprs among an equation's parameters, alone or in a tuple, opened."""
    parts = [p for value in params.values() for p in (value if isinstance(value, tuple) else (value,))]
    return [p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in parts if isinstance(p, ClosedJaxpr | Jaxpr)]


def map_jaxprs(fn: Callable[[ClosedJaxpr], ClosedJaxpr], params: dict[str, Any]) -> dict[str, Any]:
    """An equation's parameters with ``fn`` of every jaxpr among them; ``fn`` keeps inputs, outputs and, if open, no constants."""

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(one(v) for v in value) if type(value) is tuple else value
        if isinstance(value, ClosedJaxpr):
            return fn(value)
        if not isinstance(value, Jaxpr) or value.constvars:
            return value
        new = fn(ClosedJaxpr(value, ()))
        return value if new.jaxpr.constvars else new.jaxpr

    return {name: one(value) for name, value in params.items()}


# -- Flat programs: what bound propagation reads ---------------------------------------------------------------------

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


def _flatten(closed: Any, keep: Mapping[str, Any]) -> Program:
    avals: dict[int, jax.ShapeDtypeStruct] = {}
    constants: dict[int, Any] = {}
    equations: list[Equation] = []

    def new(aval: jax.ShapeDtypeStruct) -> int:
        avals[len(avals)] = aval
        return len(avals) - 1

    def constant(var: Any, value: Any) -> int:
        i = new(_aval(var))
        constants[i] = value
        return i

    def walk(inner: Any, ids: Sequence[int]) -> list[int]:
        jaxpr = getattr(inner, "jaxpr", inner)
        env: dict[Any, int] = dict(zip(jaxpr.invars, ids, strict=True))
        env |= {v: constant(v, c) for v, c in zip(jaxpr.constvars, getattr(inner, "consts", ()), strict=True)}

        def read(atom: Any) -> int:
            return constant(atom, np.asarray(atom.val, _aval(atom).dtype)) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            inputs, name = [read(v) for v in eqn.invars], eqn.primitive.name
            body = eqn.params[_INLINED[name]] if name in _INLINED else None
            if body is not None and not _is_canonical(eqn, body, keep):
                env |= dict(zip(eqn.outvars, walk(body, inputs), strict=True))
                continue
            shapes = tuple(_aval(v) for v in eqn.outvars)
            outputs = tuple(new(a) for a in shapes)
            label = name if body is None else eqn.params["name"]
            equations.append(Equation(label, tuple(inputs), outputs, shapes, eqn, dict(eqn.params)))
            env |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    inputs = [new(_aval(v)) for v in getattr(closed, "jaxpr", closed).invars]
    outputs = walk(closed, inputs)

    needed, live = set(outputs), []
    for equation in reversed(equations):
        if needed & set(equation.outputs):
            live.append(equation)
            needed |= set(equation.inputs)
    dependent = set(inputs)
    for equation in reversed(live):
        if dependent & set(equation.inputs):
            dependent |= set(equation.outputs)
    return Program(tuple(inputs), tuple(outputs), constants, avals, tuple(reversed(live)), frozenset(dependent))


def _is_canonical(eqn: JaxprEqn, body: Any, keep: Mapping[str, Any]) -> bool:
    """Whether a call is the canonical function that its name claims, by name and body."""
    canonical = keep.get(eqn.params.get("name", ""))
    if canonical is None:
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

    def equal(x: Any, y: Any) -> bool:
        if is_traced(x, y):
            return x is y
        return bool(np.array_equal(np.asarray(x), np.asarray(y)))

    return shape(a) == shape(b) and all(equal(a.constants[i], b.constants[i]) for i in a.constants)


def source_line(eqn: JaxprEqn) -> str:
    """``file:line`` of the innermost frame outside JAX, flax and this library; "an unknown line" where there is none."""
    frames = getattr(getattr(eqn.source_info, "traceback", None), "frames", None) or ()
    for frame in frames:
        if not frame.file_name.startswith(_LIBRARIES) and not frame.file_name.startswith("<frozen"):
            return f"{frame.file_name}:{frame.line_num}"
    return "an unknown line"


_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(str(jax.__file__))))
_LIBRARIES = (
    *(os.path.join(_PACKAGES, name) + os.sep for name in ("jax", "flax")),
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
)
