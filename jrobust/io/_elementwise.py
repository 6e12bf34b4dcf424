"""Operators entry by entry, reductions and products."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jrobust.io._tables import Call, defop, ints, refuse

# -- Entry by entry ---------------------------------------------------------------------------------------------------

for _name, _function in {
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs", "Sign": "sign", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "arcsin", "Acos": "arccos", "Atan": "arctan", "Sinh": "sinh", "Cosh": "cosh",
    "Tanh": "tanh", "Asinh": "arcsinh", "Acosh": "arccosh", "Atanh": "arctanh", "Not": "logical_not", "And": "logical_and",
    "Or": "logical_or", "Xor": "logical_xor", "Equal": "equal", "Less": "less", "LessOrEqual": "less_equal", "Greater": "greater",
    "GreaterOrEqual": "greater_equal", "Where": "where", "IsNaN": "isnan",
}.items():  # fmt: skip
    defop(_name, lambda c, *xs, f=_function: getattr(c.xp, f)(*xs))

defop("Neg", lambda c, x: -x)
defop("Reciprocal", lambda c, x: 1 / x)
defop("Add", lambda c, a, b: a + b)
defop("Sub", lambda c, a, b: a - b)
defop("Mul", lambda c, a, b: a * b)
defop("Sum", lambda c, *xs: functools.reduce(lambda a, b: a + b, xs))
defop("Mean", lambda c, *xs: functools.reduce(lambda a, b: a + b, xs) / len(xs))
defop("Min", lambda c, *xs: functools.reduce(c.xp.minimum, xs))
defop("Max", lambda c, *xs: functools.reduce(c.xp.maximum, xs))


def _div(c: Call, a: Any, b: Any) -> Any:
    """Integers are cut towards zero."""
    if jnp.issubdtype(a.dtype, jnp.integer):
        return c.xp.abs(a) // c.xp.abs(b) * (c.xp.sign(a) * c.xp.sign(b))
    return a / b


def _mod(c: Call, a: Any, b: Any) -> Any:
    return c.xp.fmod(a, b) if c.get("fmod", 0) else c.xp.mod(a, b)


def _pow(c: Call, x: Any, y: Any) -> Any:
    """A known exponent becomes x^n or a square root where it can: they have tighter bounds than a power."""
    if c.xp is np:
        return np.power(x, y).astype(x.dtype)
    if isinstance(y, np.ndarray) and y.size == 1 and x.ndim >= y.ndim:
        p = float(y.ravel()[0])
        if p.is_integer() and abs(p) < 64:
            return lax.integer_pow(x, int(p)) if p != 1 else x
        if p == 0.5:
            return jnp.sqrt(x)
    return jnp.power(x, y).astype(x.dtype)


def _clip(c: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    low, high = c.get("min", low), c.get("max", high)
    x = x if low is None else c.xp.maximum(x, _like(low, x))
    return x if high is None else c.xp.minimum(x, _like(high, x))


def _like(v: Any, x: Any) -> Any:
    return np.asarray(v, x.dtype) if isinstance(v, float | np.ndarray) else v.astype(x.dtype)


def _cast(c: Call, x: Any) -> Any:
    dtype = np.dtype(c.attributes["to"])
    return x.astype(dtype if c.xp is np else jax.dtypes.canonicalize_dtype(dtype))


defop("Div", _div)
defop("Mod", _mod)
defop("Pow", _pow, prefer=(1,))
defop("Clip", _clip, prefer=(1, 2))
defop("Cast", _cast)
defop("CastLike", lambda c, x, like: x.astype(like.dtype))
defop("Erf", lambda c, x: lax.erf(jnp.asarray(x)))

# -- Activations ------------------------------------------------------------------------------------------------------


def _gelu(c: Call, x: Any) -> Any:
    return jax.nn.gelu(x, approximate=c.get("approximate", "none") == "tanh")


def _hard_sigmoid(c: Call, x: Any) -> Any:
    return jnp.clip(c.get("alpha", 0.2) * x + c.get("beta", 0.5), 0, 1)


def _softmax(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(c: Call, x: Any) -> Any:
        axis = c.get("axis", -1 if c.opset >= 13 else 1) % x.ndim
        if c.opset >= 13 or axis == x.ndim - 1:
            return function(x, axis=axis)
        # before opset 13 all axes from this one on are one
        return function(x.reshape(*x.shape[:axis], -1), axis=-1).reshape(x.shape)

    return rule


defop("Relu", lambda c, x: jax.nn.relu(x))
defop("LeakyRelu", lambda c, x: jax.nn.leaky_relu(x, c.get("alpha", 0.01)))
defop("PRelu", lambda c, x, slope: jax.nn.leaky_relu(x, slope))
defop("ThresholdedRelu", lambda c, x: jnp.where(x > c.get("alpha", 1.0), x, 0))
defop("Elu", lambda c, x: jax.nn.elu(x, c.get("alpha", 1.0)))
defop("Celu", lambda c, x: jax.nn.celu(x, c.get("alpha", 1.0)))
defop("Selu", lambda c, x: c.get("gamma", 1.0507010221481323) * jax.nn.elu(x, c.get("alpha", 1.6732631921768188)))
defop("Gelu", _gelu)
defop("Softplus", lambda c, x: jax.nn.softplus(x))
defop("Softsign", lambda c, x: jax.nn.soft_sign(x))
defop("Mish", lambda c, x: jax.nn.mish(x))
defop("Swish", lambda c, x: x * jax.nn.sigmoid(c.get("alpha", 1.0) * x))
defop("HardSigmoid", _hard_sigmoid)
defop("HardSwish", lambda c, x: x * jnp.clip(x / 6 + 0.5, 0, 1))
defop("Sigmoid", lambda c, x: jax.nn.sigmoid(x))
defop("Softmax", _softmax(jax.nn.softmax))
defop("LogSoftmax", _softmax(jax.nn.log_softmax))

# -- Reductions -------------------------------------------------------------------------------------------------------


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Axes are an attribute, or an operand in later opsets; none of them: all, unless the node says otherwise."""

    def rule(c: Call, x: Any, axes: Any = None) -> Any:
        chosen = ints(c.get("axes", axes))
        if not chosen and c.get("noop_with_empty_axes", 0):
            chosen = None
        elif not chosen:
            chosen = tuple(range(x.ndim))
        return function(c.xp, x, axis=() if chosen is None else chosen, keepdims=bool(c.get("keepdims", 1)))

    return rule


def _logsumexp(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    return jax.nn.logsumexp(x, axis=axis[0] if len(axis) == 1 else axis, keepdims=keepdims)


for _name, _reduce in {
    "Sum": lambda xp, x, **k: xp.sum(x, **k),
    "Mean": lambda xp, x, **k: xp.mean(x, **k),
    "Prod": lambda xp, x, **k: xp.prod(x, **k),
    "Max": lambda xp, x, **k: xp.max(x, **k),
    "Min": lambda xp, x, **k: xp.min(x, **k),
    "L1": lambda xp, x, **k: xp.sum(xp.abs(x), **k),
    "L2": lambda xp, x, **k: xp.sqrt(xp.sum(xp.square(x), **k)),
    "SumSquare": lambda xp, x, **k: xp.sum(xp.square(x), **k),
    "LogSum": lambda xp, x, **k: xp.log(xp.sum(x, **k)),
    "LogSumExp": _logsumexp,
}.items():
    defop(f"Reduce{_name}", _reduced(_reduce), static=(1,))


def _best(largest: bool) -> Callable[..., Any]:
    def rule(c: Call, x: Any) -> Any:
        axis, last = c.get("axis", 0), c.get("select_last_index", 0)
        x = c.xp.flip(x, axis) if last else x
        at = (c.xp.argmax if largest else c.xp.argmin)(x, axis=axis, keepdims=bool(c.get("keepdims", 1)))
        return x.shape[axis] - 1 - at if last else at

    return rule


def _top_k(c: Call, x: Any, k: Any = None) -> Any:
    n = int(np.ravel(c.get("k") if k is None else k)[0])
    axis, sign = c.get("axis", -1), 1 if c.get("largest", 1) else -1
    values, indices = lax.top_k(sign * jnp.moveaxis(jnp.asarray(x), axis, -1), n)
    return jnp.moveaxis(sign * values, -1, axis), jnp.moveaxis(indices, -1, axis)


def _cumsum(c: Call, x: Any, axis: Any) -> Any:
    axis = int(np.ravel(axis)[0]) % x.ndim
    flip = (lambda v: c.xp.flip(v, axis)) if c.get("reverse", 0) else (lambda v: v)
    total = c.xp.cumsum(flip(x), axis).astype(x.dtype)
    return flip(total - flip(x) if c.get("exclusive", 0) else total)


defop("ArgMax", _best(True))
defop("ArgMin", _best(False))
defop("TopK", _top_k, static=(1,))
defop("CumSum", _cumsum, static=(1,))

# -- Products ---------------------------------------------------------------------------------------------------------


def _gemm(c: Call, a: Any, b: Any, bias: Any = None) -> Any:
    rows, columns = c.get("transA", 0), c.get("transB", 0)
    y = c.xp.tensordot(a, b, ((0 if rows else 1,), (1 if columns else 0,)))
    y = y if c.get("alpha", 1.0) == 1 else c.get("alpha") * y
    if bias is None or c.get("beta", 1.0) == 0:
        return y
    return y + (bias if c.get("beta", 1.0) == 1 else c.get("beta") * bias)


def _einsum(c: Call, *xs: Any) -> Any:
    return c.xp.einsum(c.attributes["equation"].replace(" ", ""), *xs)


def _dropout(c: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and np.any(training):
        raise refuse("dropout in training mode (export the net for inference)")
    return x, c.xp.ones(x.shape, bool)


defop("MatMul", lambda c, a, b: c.xp.matmul(a, b))
defop("Gemm", _gemm)
defop("Einsum", _einsum)
defop("Identity", lambda c, x: x)
defop("Dropout", _dropout, static=(1, 2))
