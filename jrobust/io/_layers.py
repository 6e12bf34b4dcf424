"""Convolutions, pooling and normalisation."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jrobust.io._tables import Call, defop, ints, refuse


def _windows(c: Call, shape: Sequence[int], kernel: Sequence[int]) -> tuple[Any, Any, list[tuple[int, int]], list[int]]:
    """Strides, dilations, padding and output shape of windows that slide over the spatial axes."""
    n = len(shape)
    strides, dilations = ints(c.get("strides")) or (1,) * n, ints(c.get("dilations")) or (1,) * n
    auto, given = c.get("auto_pad", "NOTSET"), ints(c.get("pads")) or (0,) * (2 * n)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if auto.startswith("SAME"):
        counts = [-(-size // s) for size, s in zip(shape, strides, strict=True)]
        total = [max((o - 1) * s + r - i, 0) for o, s, r, i in zip(counts, strides, reach, shape, strict=True)]
        pads = [(t // 2, t - t // 2) if auto == "SAME_UPPER" else (t - t // 2, t // 2) for t in total]
        return strides, dilations, pads, counts
    pads = [(0, 0)] * n if auto == "VALID" else list(zip(given[:n], given[n:], strict=True))
    counts = []
    for i, ((low, high), r, s) in enumerate(zip(pads, reach, strides, strict=True)):
        room = shape[i] + low + high - r
        count = room // s + 1
        if c.get("ceil_mode", 0):
            # one more window where entries are left over, if it starts inside the input or its left padding
            count = -(-room // s) + 1
            count -= (count - 1) * s >= shape[i] + low
        counts.append(count)
    return strides, dilations, pads, counts


# -- Convolutions -----------------------------------------------------------------------------------------------------


def _one_type(*arrays: Any) -> list[Any]:
    dtype = jnp.result_type(*arrays)
    return [jnp.asarray(a, dtype) for a in arrays]


def _per_channel(v: Any, x: Any) -> Any:
    return v.reshape(-1, *(1,) * (x.ndim - 2))


def _conv(c: Call, x: Any, w: Any, bias: Any = None) -> Any:
    x, w = _one_type(x, w)
    strides, dilations, pads, _ = _windows(c, x.shape[2:], w.shape[2:])
    y = lax.conv_general_dilated(x, w, strides, pads, rhs_dilation=dilations, feature_group_count=c.get("group", 1))
    return y if bias is None else y + _per_channel(bias, y)


def _conv_transpose(c: Call, x: Any, w: Any, bias: Any = None) -> Any:
    """A convolution of the input with gaps between its entries, by the reversed kernel."""
    x, w = _one_type(x, w)
    shape, kernel, n, groups = x.shape[2:], w.shape[2:], x.ndim - 2, c.get("group", 1)
    strides, dilations = ints(c.get("strides")) or (1,) * n, ints(c.get("dilations")) or (1,) * n
    extra = ints(c.get("output_padding")) or (0,) * n
    auto, given, wanted = (
        c.get("auto_pad", "NOTSET"),
        ints(c.get("pads")) or (0,) * (2 * n),
        ints(c.get("output_shape")),
    )
    if auto.startswith("SAME") and not wanted:
        wanted = tuple(i * s for i, s in zip(shape, strides, strict=True))
    pads = []
    for i in range(n):
        low, high = (0, 0) if auto == "VALID" else (given[i], given[n + i])
        reach = (kernel[i] - 1) * dilations[i]
        if wanted:
            total = max(strides[i] * (shape[i] - 1) + extra[i] + reach + 1 - wanted[-n:][i], 0)
            low, high = (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)
        pads.append((reach - low, reach - high + extra[i]))
    # ONNX's kernel is [in, out / groups, ...]; a convolution's is [out, in / groups, ...]
    parts = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    flipped = jnp.flip(jnp.swapaxes(parts, 1, 2), tuple(range(3, 3 + n)))
    flipped = flipped.reshape(-1, w.shape[0] // groups, *kernel)
    y = lax.conv_general_dilated(
        x, flipped, (1,) * n, pads, lhs_dilation=strides, rhs_dilation=dilations, feature_group_count=groups
    )
    return y if bias is None else y + _per_channel(bias, y)


# -- Pooling ----------------------------------------------------------------------------------------------------------


def _reduce_windows(c: Call, x: Any, init: Any, function: Callable[..., Any]) -> tuple[Any, list[np.ndarray]]:
    """The windows reduced, and for each spatial axis how many entries a window there counts."""
    kernel = ints(c.attributes["kernel_shape"])
    strides, dilations, pads, counts = _windows(c, x.shape[2:], kernel)
    padding, sizes = [], []
    for size, k, s, d, (low, high), count in zip(x.shape[2:], kernel, strides, dilations, pads, counts, strict=True):
        end = (count - 1) * s + (k - 1) * d + 1 - size - low
        padding.append((low, max(end, 0)))
        at = np.arange(count)[:, None] * s + np.arange(k) * d - low
        first, last = (-low, size + high) if c.get("count_include_pad", 0) else (0, size)
        sizes.append(((at >= first) & (at < last)).sum(1))
    y = lax.reduce_window(
        x,
        init,
        function,
        (1, 1, *kernel),
        (1, 1, *strides),
        [(0, 0), (0, 0), *padding],
        window_dilation=(1, 1, *dilations),
    )
    return _cut_to(y, counts), sizes


def _cut_to(y: Any, counts: Sequence[int]) -> Any:
    """Without windows that the padding has room for, but that do not count."""
    return y if y.shape[2:] == tuple(counts) else y[(slice(None), slice(None), *(slice(n) for n in counts))]


def _max_pool(c: Call, x: Any) -> Any:
    return _reduce_windows(c, jnp.asarray(x), -np.inf, lax.max)[0]


def _average_pool(c: Call, x: Any) -> Any:
    y, sizes = _reduce_windows(c, jnp.asarray(x), 0.0, lax.add)
    many = reduce(np.multiply.outer, sizes)
    same = (many == many.flat[0]).all()
    return y / (float(many.flat[0]) if same else many.astype(y.dtype))


def _globally(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda c, x: function(x, axis=tuple(range(2, x.ndim)), keepdims=True)


# -- Normalisation ----------------------------------------------------------------------------------------------------


def _batch_norm(c: Call, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    if c.get("training_mode", 0) or not c.get("spatial", 1):
        raise refuse("batch normalisation in training mode or per entry")
    factor = scale * lax.rsqrt(jnp.asarray(var) + c.get("epsilon", 1e-5))
    mean, factor, bias = (_per_channel(v, x) for v in (mean, factor, bias))
    return (x - mean) * factor + bias


def _standardised(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    inverse = lax.rsqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + epsilon)
    return centred * inverse, mean, inverse


def _layer_norm(c: Call, x: Any, scale: Any, bias: Any = None) -> Any:
    axis = c.get("axis", -1) % x.ndim
    y, mean, inverse = _standardised(x, tuple(range(axis, x.ndim)), c.get("epsilon", 1e-5))
    return y * scale if bias is None else y * scale + bias, mean, inverse


def _instance_norm(c: Call, x: Any, scale: Any, bias: Any) -> Any:
    y = _standardised(x, tuple(range(2, x.ndim)), c.get("epsilon", 1e-5))[0]
    return y * _per_channel(scale, x) + _per_channel(bias, x)


def _group_norm(c: Call, x: Any, scale: Any, bias: Any) -> Any:
    groups = c.attributes["num_groups"]
    parts = x.reshape(x.shape[0], groups, -1)
    y = _standardised(parts, (2,), c.get("epsilon", 1e-5))[0].reshape(x.shape)
    if c.opset < 21:  # one number a group
        scale, bias = (jnp.repeat(v, x.shape[1] // groups, total_repeat_length=x.shape[1]) for v in (scale, bias))
    return y * _per_channel(scale, x) + _per_channel(bias, x)


def _rms_norm(c: Call, x: Any, scale: Any) -> Any:
    axes = tuple(range(c.get("axis", -1) % x.ndim, x.ndim))
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axes, keepdims=True) + c.get("epsilon", 1e-5)) * scale


def _local_response(c: Call, x: Any) -> Any:
    size = c.attributes["size"]
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    n = x.ndim - 2
    window = (1, size, *(1,) * n)
    total = lax.reduce_window(
        jnp.square(x), 0.0, lax.add, window, (1,) * x.ndim, [(0, 0), (before, after), *[(0, 0)] * n]
    )
    return x / (c.get("bias", 1.0) + c.get("alpha", 1e-4) / size * total) ** c.get("beta", 0.75)


defop("Conv", _conv)
defop("ConvTranspose", _conv_transpose)
defop("MaxPool", _max_pool)
defop("AveragePool", _average_pool)
defop("GlobalAveragePool", _globally(jnp.mean))
defop("GlobalMaxPool", _globally(jnp.max))
defop("BatchNormalization", _batch_norm)
defop("LayerNormalization", _layer_norm)
defop("InstanceNormalization", _instance_norm)
defop("GroupNormalization", _group_norm)
defop("RMSNormalization", _rms_norm)
defop("LRN", _local_response)
