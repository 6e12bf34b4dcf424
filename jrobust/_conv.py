"""Convolution as slices and one dot: the form that XLA's CPU loops run at full speed."""

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jrobust.typing import Array

# With more slices than this the program is too long to compile quickly; such a convolution stays as it is.
_MAX_SLICES = 1024

# Channels from which one dot a tap beats one dot of all patches (measured in loops: experiments/bench/cliff.py).
_DEEP = 32


class _Axis(NamedTuple):
    """One spatial axis: output o reads the dilated input at ``o * stride + k * rhs_dilation - low`` for tap k."""

    size: int
    kernel: int
    stride: int
    low: int
    high: int
    lhs_dilation: int
    rhs_dilation: int

    @property
    def out(self) -> int:
        dilated = (self.size - 1) * self.lhs_dilation + 1
        span = (self.kernel - 1) * self.rhs_dilation + 1
        return max(0, (self.low + dilated + self.high - span) // self.stride + 1)


def conv_as_dot(
    lhs: Array,
    rhs: Array,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: lax.ConvDimensionNumbers,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **_: Any,
) -> Array | None:
    """The value of ``lax.conv_general_dilated`` (its primitive's parameters), from slices and a dot.

    A forward convolution has few kernel taps: one strided slice per tap, concatenated along channels, then the dot (with many
    channels: a dot per tap, and their sum). An input
    gradient has them too, but a dilated input or fewer channels out than in: the dot first, then one shifted sum per tap. A
    weight gradient has few output positions: one slice of the input per position, each dotted with the whole kernel.

    Returns:
        the output, or None where both counts exceed 1024 slices or an operand is empty.

    >>> x, w = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    >>> numbers = lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
    >>> conv_as_dot(x, w, window_strides=(2, 2), padding=((1, 1), (1, 1)), lhs_dilation=(1, 1), rhs_dilation=(1, 1),
    ...             dimension_numbers=numbers).shape
    (2, 3, 3, 4)
    """
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    axes = [
        _Axis(lhs.shape[i], rhs.shape[k], stride, low, high, ld, rd)
        for i, k, stride, (low, high), ld, rd in zip(
            lhs_spec[2:], rhs_spec[2:], window_strides, padding, lhs_dilation, rhs_dilation, strict=True
        )
    ]
    taps, positions = math.prod(a.kernel for a in axes), math.prod(a.out for a in axes)
    if min(taps, positions) > _MAX_SLICES or 0 in (taps, positions, lhs.size, rhs.size):
        return None
    groups = feature_group_count * batch_group_count  # XLA allows one of them to differ from 1
    spatial = [f"s{i}" for i in range(len(axes))]
    lhs_names, rhs_names = _named(lhs_spec, ["b", "c", *spatial]), _named(rhs_spec, ["o", "c", *spatial])
    if groups > 1:
        lhs, lhs_names = _split(lhs, lhs_names, "c" if feature_group_count > 1 else "b", groups)
        rhs, rhs_names = _split(rhs, rhs_names, "o", groups)
    kind = {"precision": precision, "preferred_element_type": preferred_element_type}
    inputs, outputs = lhs.shape[lhs_names.index("c")], rhs.shape[rhs_names.index("o")]
    dilated, strided = any(a.lhs_dilation > 1 for a in axes), any(a.stride > 1 for a in axes)
    if taps > positions:
        form = _by_positions
    elif groups > 1 and inputs == 1:
        form = _by_products
    elif taps > 1 and not strided and (dilated or outputs < inputs):
        form = _by_scatter
    else:
        form = _by_taps
    out, names = form(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind)
    wanted = _named(out_spec, ["b", "o", *spatial])
    if groups > 1:
        wanted.insert(wanted.index("o"), "g")
    out = _transpose(out, names, wanted)
    shape = list(out.shape)
    if groups > 1:
        o = wanted.index("o")
        shape[o - 1 : o + 1] = [shape[o - 1] * shape[o]]
    return out.reshape(shape)


def _by_taps(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind) -> tuple[Array, list[str]]:
    """Patches [.., out spatial, taps * c] times kernel [taps * c, o]; or, where a tap alone is a dot deep enough, their sum."""
    groups = [n for n in rhs_names if n == "g"]
    kernel = _transpose(rhs, rhs_names, [*spatial, "c", *groups, "o"])
    kernel = kernel.reshape(-1, *kernel.shape[len(spatial) :])  # [taps, c, .., o]
    windows, names = _tap_windows(lhs, lhs_names, axes, spatial), ["c", *groups, "o"]
    if kernel.shape[1] >= _DEEP:  # patches would cost more to copy than the dots lose
        kind, result = _accumulating(kind, lhs.dtype)
        dots = [_dot(w, lhs_names, k, names, kind) for w, k in zip(windows, kernel, strict=True)]
        return functools.reduce(operator.add, (d for d, _ in dots)).astype(result), dots[0][1]
    patches = windows[0] if len(windows) == 1 else lax.concatenate(windows, lhs_names.index("c"))
    return _dot(patches, lhs_names, kernel.reshape(-1, *kernel.shape[2:]), names, kind)


def _by_scatter(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind) -> tuple[Array, list[str]]:
    """Product first, [.., in spatial, taps * o], then every tap's share added where it belongs: an input gradient's form."""
    groups = [n for n in rhs_names if n == "g"]
    kernel = _transpose(rhs, rhs_names, ["c", *groups, *spatial, "o"])
    outputs = kernel.shape[-1]
    shares, names = _dot(
        lhs, lhs_names, kernel.reshape(*kernel.shape[: 1 + len(groups)], -1), ["c", *groups, "o"], kind
    )
    total = None
    for i, taps in enumerate(itertools.product(*(range(a.kernel) for a in axes))):
        share = lax.slice_in_dim(shares, i * outputs, (i + 1) * outputs, axis=shares.ndim - 1)
        config = [(0, 0, 0)] * share.ndim
        for name, a, tap in zip(spatial, axes, taps, strict=True):  # input i lands on output i * lhs_dilation + low
            low = a.low - tap * a.rhs_dilation
            config[names.index(name)] = (low, a.out - (a.size - 1) * a.lhs_dilation - 1 - low, a.lhs_dilation - 1)
        share = _pad(share, config)
        total = share if total is None else total + share
    assert total is not None
    return total, names


def _by_products(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind) -> tuple[Array, list[str]]:
    """One input channel per group: sum over taps of products, which fuses; a batch of tiny dots does not."""
    kept = [n for n in lhs_names if n not in ("c", "g")]
    kernel = _transpose(rhs, rhs_names, [*spatial, "c", "g", "o"])
    kind, result = _accumulating(kind, lhs.dtype)
    wide = kind["preferred_element_type"]
    total = None
    windows = _tap_windows(lhs, lhs_names, axes, spatial)
    for window, weights in zip(windows, kernel.reshape(-1, *kernel.shape[-2:]), strict=True):  # weights [g, o]
        window = _transpose(window, lhs_names, [*kept, "g", "c"])  # c has size 1 and broadcasts against o
        term = window.astype(wide) * weights.astype(wide)
        total = term if total is None else total + term
    assert total is not None
    return total.astype(result), [*kept, "g", "o"]


def _by_positions(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind) -> tuple[Array, list[str]]:
    """The window of every output position, concatenated along the batch, contracted with the whole kernel."""
    padded, places = _padded(lhs, lhs_names, axes, spatial)
    batch = lhs_names.index("b")
    windows = [
        _window(padded, places, starts, [a.kernel for a in axes], [a.rhs_dilation for a in axes])
        for starts in itertools.product(*(range(0, a.out * a.stride, a.stride) for a in axes))
    ]
    stacked = windows[0] if len(windows) == 1 else lax.concatenate(windows, batch)
    out, names = _dot(stacked, lhs_names, rhs, rhs_names, kind)
    b = names.index("b")
    out = out.reshape(*out.shape[:b], *(a.out for a in axes), lhs.shape[batch], *out.shape[b + 1 :])
    return out, [*names[:b], *spatial, *names[b:]]


def _accumulating(kind: dict[str, Any], dtype: Any) -> tuple[dict[str, Any], Any]:
    """For sums of several terms: float32 at least while they are added, and the type that the result has."""
    result = kind["preferred_element_type"] or dtype
    wide = jnp.promote_types(result, jnp.float32) if jnp.issubdtype(result, jnp.floating) else result
    return kind | {"preferred_element_type": wide}, result


def _padded(lhs, lhs_names, axes, spatial) -> tuple[Array, list[int]]:
    """The input with its padding and dilation, and where its spatial axes are."""
    places = [lhs_names.index(name) for name in spatial]
    config = [(0, 0, 0)] * lhs.ndim
    for place, a in zip(places, axes, strict=True):
        config[place] = (a.low, a.high, a.lhs_dilation - 1)
    # padded once: without the barrier XLA fuses what comes before into every slice, and computes it once a tap
    return lax.optimization_barrier(_pad(lhs, config)), places


def _tap_windows(lhs, lhs_names, axes, spatial) -> list[Array]:
    """What every tap of the kernel reads, at all outputs."""
    padded, places = _padded(lhs, lhs_names, axes, spatial)
    counts, strides = [a.out for a in axes], [a.stride for a in axes]
    offsets = itertools.product(*(range(0, a.kernel * a.rhs_dilation, a.rhs_dilation) for a in axes))
    return [_window(padded, places, starts, counts, strides) for starts in offsets]


def _dot(
    lhs: Array, lhs_names: list[str], rhs: Array, rhs_names: list[str], kind: dict[str, Any]
) -> tuple[Array, list[str]]:
    """Contract every name that both operands have, but for the group, which is a batch dimension."""
    shared = [n for n in lhs_names if n in rhs_names and n != "g"]
    batch = ["g"] if "g" in lhs_names else []
    numbers = tuple(
        tuple(tuple(names.index(n) for n in which) for names in (lhs_names, rhs_names)) for which in (shared, batch)
    )
    out = lax.dot_general(lhs, rhs, numbers, **kind)  # pyright: ignore[reportArgumentType]
    free = [n for names in (lhs_names, rhs_names) for n in names if n not in shared and n not in batch]
    return out, batch + free


def _window(x: Array, places: list[int], starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]) -> Array:
    low, high, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
    for place, start, count, stride in zip(places, starts, counts, strides, strict=True):
        low[place], high[place], step[place] = start, start + (count - 1) * stride + 1, stride
    return lax.slice(x, low, high, step)


def _pad(x: Array, config: list[tuple[int, int, int]]) -> Array:
    return x if all(c == (0, 0, 0) for c in config) else lax.pad(x, jnp.zeros((), x.dtype), config)


def _named(spec: Sequence[int], names: list[Any]) -> list[Any]:
    """Names in the operand's own order of dimensions."""
    return [names[list(spec).index(i)] for i in range(len(names))]


def _split(x: Array, names: list[str], name: str, groups: int) -> tuple[Array, list[str]]:
    i = names.index(name)
    x = x.reshape(*x.shape[:i], groups, x.shape[i] // groups, *x.shape[i + 1 :])
    return x, [*names[:i], "g", *names[i:]]


def _transpose(x: Array, names: list[str], wanted: list[str]) -> Array:
    return x if names == wanted else x.transpose([names.index(n) for n in wanted])
