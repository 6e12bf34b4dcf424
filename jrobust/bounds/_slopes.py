"""How steep nonlinear primitives are, and their derivatives in a form that intervals bound well."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrobust import sets
from jrobust._program import Equation, Program
from jrobust.bounds._affine import ELEMENTWISE, PUSHED, function
from jrobust.bounds._arrange import axes_first, windows_first
from jrobust.bounds._methods import ibp, output_bounds
from jrobust.bounds._problem import mask_of
from jrobust.bounds._tables import Mask, is_affine
from jrobust.typing import Array

# The most that these rise anywhere, rounded up.
_EVERYWHERE = {
    **dict.fromkeys(
        ["max", "min", "clamp", "abs", "tanh", "softplus", "atan", "asinh", "sin", "cos", "soft_sign"], 1.0
    ),
    "logistic": 0.25,
    "erf": 1.1284,
    "erfc": 1.1284,
    "gelu": 1.129,
    "gelu_tanh": 1.1291,
    "silu": 1.0999,
    "mish": 1.0886,
    "selu": 1.7582,
    "sparse_plus": 1.0,
}


def _overlap(eqn: Equation, p: float) -> float:
    """Of windows: an entry enters as many as overlap, each of which may follow it."""
    params = eqn.params
    axes = zip(params["window_dimensions"], params["window_strides"], params["window_dilation"], strict=True)
    return math.prod(math.ceil(n / stride) if apart == 1 else n for n, stride, apart in axes) ** (1 / p)


def _row(eqn: Equation, p: float) -> float:
    """``I - 1 y^T``: rows of at most 2, columns of at most as many as there are classes."""
    return eqn.avals[0].shape[eqn.params["axis"]] ** (1 / p) * 2 ** (1 - 1 / p)


SLOPE: dict[str, Callable[[Equation, float], float]] = {
    **dict.fromkeys(["reduce_max", "reduce_min", "logsumexp"], lambda eqn, p: 1.0),
    **dict.fromkeys(["reduce_window_max", "reduce_window_min"], _overlap),
    "softmax": lambda eqn, p: 0.5,  # diag(y) - y y^T: rows and columns of 2 y (1 - y)
    "log_softmax": _row,
}
"""Lipschitz constants of primitives that mix entries, in the p-norm."""


def continuous(program: Program, eqn: Equation) -> bool:
    """Whether an equation cannot jump (where it is finite), so that a derivative says how far it rises."""
    mask = mask_of(program, eqn)
    if not any(mask):
        return True
    values = [program.avals[i] for i, d in zip(eqn.inputs, mask, strict=True) if d] + list(eqn.avals)
    if not all(jnp.issubdtype(a.dtype, jnp.floating) for a in values):
        return False
    if is_affine(eqn, mask, program.avals):
        return eqn.name in PUSHED
    return eqn.name in SLOPE or eqn.name in ELEMENTWISE or eqn.name in ("dot_general", "conv_general_dilated")


def slopes(eqn: Equation, mask: Mask, values: Sequence[Any]) -> list[Array] | None:
    """For each dependent operand of an elementwise equation, the most that the output changes with it on the box; else None."""
    shape = eqn.avals[0].shape
    dependent = [v for v, d in zip(values, mask, strict=True) if d]
    if eqn.name not in ELEMENTWISE or any(v.lo.shape != shape for v in dependent):
        return None
    threat = sets.product(*(sets.box(v.lo, v.hi) for v in dependent))
    centre = tuple(jnp.clip(jnp.zeros_like(v.lo), v.lo, v.hi) for v in dependent)
    rates = []
    for k in range(len(dependent)):

        def rate(zs: Any, k: int = k) -> Array:
            def fn(v: Array) -> Array:
                queue = iter([v if i == k else z for i, z in enumerate(zs)])
                return derivable(eqn, [next(queue) if d else known for d, known in zip(mask, values, strict=True)])[0]

            return jnp.ravel(jax.jvp(fn, (zs[k],), (jnp.ones_like(zs[k]),))[1])

        lo, hi = output_bounds(rate, threat(centre), method=ibp())
        most = jnp.maximum(jnp.abs(lo), jnp.abs(hi)).reshape(shape)
        rates.append(jnp.minimum(jnp.where(jnp.isnan(most), jnp.inf, most), _EVERYWHERE.get(eqn.name, math.inf)))
    return rates


# -- Derivatives ----------------------------------------------------------------------------------------------------------


def derivable(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """The equation's outputs, written so that its derivative is a selection by a comparison, not a test for equality."""
    if eqn.name in _SELECTED:
        return [_SELECTED[eqn.name](eqn, *values)]
    out = function(eqn)(*values)
    return list(out) if isinstance(out, list | tuple) else [out]


def _larger(a: Any, b: Any) -> Array:
    return jnp.where(a > b, a, b)


def _smaller(a: Any, b: Any) -> Array:
    return jnp.where(a < b, a, b)


def _tournament(pick: Callable[[Any, Any], Array], z: Array) -> Array:
    """``pick`` over axis 0, by pairs."""
    while z.shape[0] > 1:
        n = z.shape[0] // 2
        z = jnp.concatenate([pick(z[:n], z[n : 2 * n]), z[2 * n :]])
    return z[0]


def _reduced(pick: Callable[[Any, Any], Array]) -> Callable[..., Array]:
    return lambda eqn, z: _tournament(pick, axes_first(eqn, z))


def _windowed(pick: Callable[[Any, Any], Array], fill: float) -> Callable[..., Array]:
    return lambda eqn, z: _tournament(pick, windows_first(eqn, z, fill))


_SELECTED: dict[str, Callable[..., Array]] = {
    "max": lambda eqn, a, b: _larger(a, b),
    "min": lambda eqn, a, b: _smaller(a, b),
    "reduce_max": _reduced(_larger),
    "reduce_min": _reduced(_smaller),
    "reduce_window_max": _windowed(_larger, -jnp.inf),
    "reduce_window_min": _windowed(_smaller, jnp.inf),
}
