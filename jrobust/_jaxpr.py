"""The only file that touches ``jax.extend``: what the library needs to know about jaxprs."""

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
    "bind_eqn",
    "jaxpr_as_fun",
    "primitives",
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
