"""Affine equations as functions: of their dependent operands alone, with a derivative that is their matrix, and its absolute value."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jrobust._program import Equation
from jrobust.bounds._tables import Mask


def names(*lines: str) -> frozenset[str]:
    """A set of names, separated by blanks."""
    return frozenset(name for line in lines for name in line.split())


# Affine primitives whose linear part has no negative coefficient, so that it is its own absolute value.
_POSITIVE = names(
    "reshape squeeze transpose rev slice copy stop_gradient name optimization_barrier sharding_constraint pvary device_put",
    "split unstack expand_dims add add_any broadcast_in_dim concatenate pad stack tile gather dynamic_slice",
    "dynamic_update_slice scatter scatter-add reduce_sum cumsum reduce_window_sum convert_element_type select_n",
)
_SCALED = names("mul div dot_general conv_general_dilated")  # by a known operand of any sign
_FLIPPED: dict[str, Callable[..., Any]] = {"neg": lambda x: x, "sub": jnp.add}
PUSHED = _POSITIVE | _SCALED | frozenset(_FLIPPED)
"""The affine primitives whose absolute value is known; of any other the interval serves."""

LINEAR = names(
    "reshape squeeze transpose rev slice copy name optimization_barrier sharding_constraint pvary device_put split unstack",
    "expand_dims broadcast_in_dim tile dynamic_slice reduce_sum cumsum reduce_window_sum convert_element_type neg mul div",
    "dot_general conv_general_dilated stop_gradient",
)
"""Affine primitives that are 0 where their dependent operands are, whatever they know."""

# Primitives that work entry by entry, or choose or average entries.
ELEMENTWISE = names(
    "max min clamp abs leaky_relu mul div exp exp2 expm1 softplus square cosh sparse_plus rsqrt log log1p sqrt tanh logistic",
    "atan erf asinh cbrt soft_sign erfc sinh selu silu gelu gelu_tanh mish elu celu sin cos integer_pow pow",
)
AVERAGING = names("reduce_max reduce_min reduce_window_max reduce_window_min logsumexp")


def filled(fn: Callable[..., Any], mask: Mask, values: Sequence[Any]) -> Callable[..., list[Any]]:
    """``fn`` of the dependent operands alone."""

    def of_dependent(*xs: Any) -> list[Any]:
        queue = iter(xs)
        out = fn(*(next(queue) if d else v for d, v in zip(mask, values, strict=True)))
        return list(out) if isinstance(out, list | tuple) else [out]

    return of_dependent


def function(eqn: Equation) -> Callable[..., Any]:
    """An affine equation as a function whose derivative is its matrix."""
    if eqn.name == "stop_gradient":  # the identity in value; its own derivative would drop the rows
        return lambda x: x
    if eqn.name == "pad":
        return lambda x, v: _padded(x, v, eqn.params["padding_config"])
    return lambda *xs: eqn.bind(xs)


def _padded(x: Any, v: Any, config: Any) -> Any:
    """The primitive's own derivative by the padding is the sum of all less that of the operand, in which the few are lost."""
    hole = lax.pad(jnp.zeros(jnp.shape(x), bool), jnp.asarray(True), config)
    return jnp.where(hole, v, lax.pad(x, jnp.zeros_like(v), config))


def absolute(eqn: Equation, mask: Mask, values: Sequence[Any]) -> Callable[..., list[Any]]:
    """An affine equation (of `PUSHED`) of its dependent operands, every coefficient made positive; known terms stay."""
    scaled = [v if d else jnp.abs(v) for v, d in zip(values, mask, strict=True)] if eqn.name in _SCALED else values
    return filled(_FLIPPED.get(eqn.name, function(eqn)), mask, scaled)
