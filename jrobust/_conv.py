"""Convolution as slices and one dot: the form that XLA's CPU loops run at full speed."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jrobust.typing import Array

# With more slices than this the program is too long to compile quickly; such a convolution stays as it is.
_MAX_SLICES = 1024


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


class _Phase(NamedTuple):
    """The outputs ``phase, phase + period, ...`` of an axis: the taps that meet no dilation hole, and where they read."""

    taps: range
    starts: tuple[int, ...]


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

    A forward or input-gradient convolution has few kernel taps: one strided slice per tap, concatenated along channels. A
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
    if not all(
        any(phase.taps for phase in _phases(a)) for a in axes
    ):  # every tap falls into a hole of the dilated input
        out_names = _named(out_spec, list(range(len(out_spec))))
        shape = [lhs.shape[lhs_spec[0]] // batch_group_count, rhs.shape[rhs_spec[0]], *(a.out for a in axes)]
        return jnp.zeros([shape[i] for i in out_names], preferred_element_type or lhs.dtype)
    groups = feature_group_count * batch_group_count  # XLA allows one of them to differ from 1
    spatial = [f"s{i}" for i in range(len(axes))]
    lhs_names, rhs_names = _named(lhs_spec, ["b", "c", *spatial]), _named(rhs_spec, ["o", "c", *spatial])
    if groups > 1:
        lhs, lhs_names = _split(lhs, lhs_names, "c" if feature_group_count > 1 else "b", groups)
        rhs, rhs_names = _split(rhs, rhs_names, "o", groups)
    kind = {"precision": precision, "preferred_element_type": preferred_element_type}
    if taps <= positions:
        out, names = _by_taps(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind)
    else:
        out, names = _by_positions(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind)
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
    """Patches [.., out spatial, taps * c] times kernel [taps * c, o], one product per phase of the input's dilation."""
    # a convolution over a dilated input is, for outputs of one residue, a short convolution over the input itself
    phases = [_phases(a) for a in axes]
    counts = [-(-a.out // len(p)) for a, p in zip(axes, phases, strict=True)]
    strides = [len(p) * a.stride // a.lhs_dilation for a, p in zip(axes, phases, strict=True)]
    config = [(0, 0, 0)] * lhs.ndim
    shift = []
    for name, a, phase, count, stride in zip(spatial, axes, phases, counts, strides, strict=True):
        starts = [start for p in phase for start in p.starts]
        low = max(0, -min(starts))
        high = max(0, max(starts) + (count - 1) * stride + 1 - a.size)
        config[lhs_names.index(name)] = (low, high, 0)
        shift.append(low)
    padded = _pad(lhs, config)
    channels = lhs_names.index("c")
    places = [lhs_names.index(name) for name in spatial]
    depthwise = "g" in lhs_names and lhs.shape[channels] == 1
    kernel_names = [*spatial, "c", *(["g"] if "g" in rhs_names else []), "o"]
    kernel = _transpose(rhs, rhs_names, kernel_names)
    parts, names = [], []
    for combination in itertools.product(*phases):
        slices = [
            _window(padded, places, [s + low for s, low in zip(starts, shift, strict=True)], counts, strides)
            for starts in itertools.product(*(p.starts for p in combination))
        ]
        if not slices:
            parts.append(None)
            continue
        part = kernel
        for axis, phase in enumerate(combination):
            part = lax.slice_in_dim(part, phase.taps[0], phase.taps[-1] + 1, phase.taps.step, axis)
        part = part.reshape(-1, *part.shape[len(spatial) + 1 :])
        if depthwise:
            result, names = _multiply_add(slices, lhs_names, part, kind)
        else:
            patches = slices[0] if len(slices) == 1 else lax.concatenate(slices, channels)
            result, names = _dot(patches, lhs_names, part, kernel_names[len(spatial) :], kind)
        parts.append(result)
    like = next(p for p in parts if p is not None)
    parts = [jnp.zeros_like(like) if p is None else p for p in parts]
    return _interleave(parts, [names.index(n) for n in spatial], [len(p) for p in phases], [a.out for a in axes]), names


def _by_positions(lhs, lhs_names, rhs, rhs_names, axes, spatial, kind) -> tuple[Array, list[str]]:
    """The window of every output position, concatenated along the batch, contracted with the whole kernel."""
    config = [(0, 0, 0)] * lhs.ndim
    for name, a in zip(spatial, axes, strict=True):
        config[lhs_names.index(name)] = (a.low, a.high, a.lhs_dilation - 1)
    padded = _pad(lhs, config)
    places = [lhs_names.index(name) for name in spatial]
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


def _phases(axis: _Axis) -> list[_Phase]:
    """Outputs modulo the period after which the same taps fall on the input's own points."""
    phases = []
    for first in range(axis.lhs_dilation // math.gcd(axis.lhs_dilation, axis.stride)):
        reads = [first * axis.stride + k * axis.rhs_dilation - axis.low for k in range(axis.kernel)]
        taps = [k for k, read in enumerate(reads) if read % axis.lhs_dilation == 0]
        step = taps[1] - taps[0] if len(taps) > 1 else 1
        among = range(taps[0], taps[-1] + 1, step) if taps else range(0)
        phases.append(_Phase(among, tuple(reads[k] // axis.lhs_dilation for k in among)))
    return phases


def _interleave(parts: list[Array], places: list[int], periods: list[int], sizes: list[int]) -> Array:
    """Outputs of all phases (last axis fastest) woven together along ``places`` and cut to ``sizes``."""
    out = parts[0]
    if len(parts) > 1:
        shape = out.shape
        woven = jnp.stack(parts).reshape(*periods, *shape)
        order, merged = [], []
        for axis in range(len(shape)):
            order.append(len(periods) + axis)
            merged.append(shape[axis])
            if axis in places:
                order.append(places.index(axis))
                merged[-1] *= periods[places.index(axis)]
        out = woven.transpose(order).reshape(merged)
    for place, size in zip(places, sizes, strict=True):
        out = lax.slice_in_dim(out, 0, size, axis=place)
    return out


def _multiply_add(
    slices: list[Array], names: list[str], kernel: Array, kind: dict[str, Any]
) -> tuple[Array, list[str]]:
    """One input channel per group: sum over taps of products, which fuses; a batch of tiny dots does not."""
    kept = [n for n in names if n not in ("c", "g")]
    result = kind["preferred_element_type"] or slices[0].dtype
    wide = jnp.promote_types(result, jnp.float32) if jnp.issubdtype(result, jnp.floating) else result
    total = None
    for window, weights in zip(slices, kernel, strict=True):  # weights [g, o]
        window = _transpose(window, names, [*kept, "g", "c"])  # c has size 1 and broadcasts against o
        term = window.astype(wide) * weights.astype(wide)
        total = term if total is None else total + term
    assert total is not None
    return total.astype(result), [*kept, "g", "o"]


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
