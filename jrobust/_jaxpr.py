"""The only file that touches ``jax.extend``: what the library needs to know about jaxprs."""

import os
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var, jaxpr_as_fun, primitives

__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "Var",
    "avals",
    "bind_eqn",
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
