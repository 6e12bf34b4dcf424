"""Convolution as slices and dots: the form that XLA's CPU loops run at full speed.

Names of dimensions: b batch, c channels in, o channels out, g group, s0 s1 .. places, p0 p1 .. their phases, t tap.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jrobust._named import Named, concatenated
from jrobust.typing import Array, PyTree

# With more slices than this the program is too long to compile quickly; such a convolution stays as it is.
_MAX_SLICES = 1024

# Numbers that one tap contributes to a dot (measured in loops: experiments/bench/cliff.py): with few, all taps share a dot;
# with many, each has its own, for patches would cost more to copy than the dots lose; between them, a row of taps.
_NARROW, _DEEP = 8, 64

# Numbers from which a copy of an array costs less than fusing what makes it into its transpose.
_LARGE = 2**20


class _Axis(NamedTuple):
    """One spatial axis: output o reads the dilated input at ``o * stride + k * rhs_dilation - low`` for tap k.

    Where a step was split off, every tap has ``phases``, the last one only those of ``last``; where these are the outputs',
    the axis begins ``skipped`` outputs before the one that is wanted first.
    """

    size: int
    kernel: int
    stride: int
    low: int
    high: int
    lhs_dilation: int
    rhs_dilation: int
    phases: int = 1
    last: tuple[int, int] = (0, 1)
    skipped: int = 0

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
    """The value of ``lax.conv_general_dilated`` (its primitive's parameters), from slices and dots.

    A step s, of a stride or of the input's dilation, is split off first: neighbours by s become channels, and no such step is left.
    A dilation of the kernel stays, as do steps of several kinds, strides that skip inputs, and groups of one channel. Then a
    forward convolution has few kernel taps: slices, concatenated along channels, and dots. An input gradient has them too, but
    the dots come first, then a shifted sum. A weight gradient (of an input gradient, too) has few output positions: one slice of the
    input per position, each dotted with the whole kernel.

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
    if 0 in (lhs.size, rhs.size, *(a.out for a in axes)):
        return None
    groups = feature_group_count * batch_group_count  # XLA allows one of them to differ from 1
    spatial = [f"s{i}" for i in range(len(axes))]
    sizes = {name: a.out for name, a in zip(spatial, axes, strict=True)}
    x, w = Named(lhs, _named(lhs_spec, ["b", "c", *spatial])), Named(rhs, _named(rhs_spec, ["o", "c", *spatial]))
    if groups > 1:
        which = "c" if feature_group_count > 1 else "b"
        x, w = x.split(which, "g", which, x.size(which) // groups), w.split("o", "g", "o", w.size("o") // groups)
    kind: dict[str, Any] = {"precision": precision, "preferred_element_type": preferred_element_type}
    products = groups > 1 and x.size("c") == 1
    if not products:
        x, w, axes = _without_steps(x, w, axes, spatial)
    taps, positions = math.prod(a.kernel for a in axes), math.prod(a.out for a in axes)
    if min(taps, positions) > _MAX_SLICES:
        return None
    plain = all(a.stride == a.lhs_dilation == a.phases == 1 for a in axes)
    if taps > positions:
        form = _by_positions
    elif any(n in w.names and n not in x.names for n in _phases(spatial)):
        form = _by_scatter
    elif products:
        form = _by_products
    else:
        form = _by_scatter if taps > 1 and plain and w.size("o") < x.size("c") else _by_taps
    out = form(x, w, axes, spatial, kind)
    split = {n: p for n, p in zip(spatial, _phases(spatial), strict=True) if p in out.names}
    if split:  # the outputs' phases side by side, then those that are wanted
        pairs, rest = [[n, split[n]] if n in split else [n] for n in spatial], [n for n in out.names if n[0] in "go"]
        out = out.ordered(["b", *itertools.chain(*pairs), *rest])
        for pair in pairs:
            out = out.joined(pair, pair[0])
        out = out.cut({n: (a.skipped, a.skipped + sizes[n], 1) for n, a in zip(spatial, axes, strict=True)}).settled()
    wanted = _named(out_spec, ["b", "o", *spatial])
    if groups > 1:
        out = out.ordered([m for n in wanted for m in (["g", "o"] if n == "o" else [n])]).joined(["g", "o"], "o")
    return out.ordered(wanted).array


def _without_steps(x, w, axes, spatial) -> tuple[Named, Named, list[_Axis]]:
    """Strides, or an input's dilation, split off: neighbours by a step become channels that come in, or go out.

    Steps stay where axes have different kinds of them, and where a stride skips inputs.
    """
    kinds = {k for k in ("stride", "lhs_dilation", "rhs_dilation") if any(getattr(a, k) > 1 for a in axes)}
    if kinds not in ({"stride"}, {"lhs_dilation"}):
        return x, w, axes
    if kinds == {"stride"}:
        x = _channels_last(x, spatial)
    axes = list(axes)
    for i, (a, name, phase) in enumerate(zip(axes, spatial, _phases(spatial), strict=True)):
        s = a.stride * a.lhs_dilation
        taps = -(-a.kernel // s)
        if s == 1 or a.kernel < a.stride:
            continue
        w = w.padded({name: (0, taps * s - a.kernel, 0)}).split(name, name, phase, s)
        if a.stride == s:  # reads s * o + k - low
            size = a.out - 1 + taps
            x = x.padded({name: (a.low, size * s - a.low - a.size, 0)}).split(name, name, phase, s)
            axes[i] = _Axis(size, taps, 1, 0, 0, 1, 1, s, (0, a.kernel - s * (taps - 1)))
        else:  # input i is at s * i = o + k - low: with some outputs more in front, phases of o and of k are aligned
            skipped = (s - 1 - a.low) % s
            low, count = (a.low + skipped + 1) // s - 1, -(-(a.out + skipped) // s)
            w = w._replace(array=lax.rev(w.array, (w.names.index(phase),)))
            high = count + taps - 1 - low - a.size
            axes[i] = _Axis(a.size, taps, 1, low, high, 1, 1, s, (taps * s - a.kernel, s), skipped)
    return x, w, axes


def _by_taps(x, w, axes, spatial, kind) -> Named:
    """Patches [.., out spatial, taps * c] times kernel [taps * c, o], in dots of some taps each, added."""
    deep = [*(p for p in _phases(spatial) if p in w.names), "c"]
    x, w = _channels_last(x, spatial, deep), w.ordered([*spatial, *deep, *_groups(w), "o"])
    patches, kernels = [], []
    for taps, window in _windows(x, axes, spatial):
        spans = _spans(axes, spatial, taps, deep)
        patches.append(window.cut(spans).joined(deep, "c"))
        kernels.append(_tap(w, spatial, taps).cut(spans).joined(deep, "c"))
    depth = math.prod(x.size(n) for n in deep)
    some = len(patches) if depth < _NARROW else axes[-1].kernel if depth < _DEEP else 1
    kind, result = _accumulating(kind, x.array.dtype) if some < len(patches) else (kind, None)
    dots = [
        _dot(concatenated(patches[i : i + some], "c"), concatenated(kernels[i : i + some], "c"), kind)
        for i in range(0, len(patches), some)
    ]
    return _added(dots, result)


def _by_scatter(x, w, axes, spatial, kind) -> Named:
    """Product first, [.., in spatial, taps * o], then every tap's share added where it belongs: an input gradient's form."""
    columns = [*(p for p in _phases(spatial) if p in w.names), "o"]
    x, w = _channels_last(x, spatial), w.ordered([*spatial, "c", *_groups(w), *columns])
    kind, result = _accumulating(kind, x.array.dtype)
    narrow = math.prod(w.size(n) for n in columns) < _NARROW
    if narrow:
        together = _dot(x, w.ordered(["c", *_groups(w), *spatial, *columns]).joined(spatial, "t"), kind)
    shares = []
    for i, taps in enumerate(itertools.product(*(range(a.kernel) for a in axes))):
        if narrow:
            spans = {}
            share = together.cut({"t": (i, i + 1, 1)}).joined(["t", columns[0]], columns[0])
        else:
            spans = _spans(axes, spatial, taps, columns)
            share = _dot(x, _tap(w, spatial, taps).cut(spans), kind)
        config = {}
        for name, phase, a, tap in zip(spatial, _phases(spatial), axes, taps, strict=True):
            low = a.low - tap * a.rhs_dilation  # input i lands on output i + low
            config[name] = (low, a.out - a.size - low, 0)
            if phase in spans:
                config[phase] = (spans[phase][0], a.phases - spans[phase][1], 0)
        shares.append(share.padded(config))
    return _added(shares, result)


def _by_products(x, w, axes, spatial, kind) -> Named:
    """One input channel per group: sum over taps of products, which fuses; a batch of tiny dots does not."""
    kept = [n for n in x.names if n not in ("c", "g")]
    w = w.ordered([*spatial, "c", "g", "o"])
    kind, result = _accumulating(kind, x.array.dtype)
    wide = kind["preferred_element_type"]
    terms = []
    for taps, window in _windows(x, axes, spatial):
        window = window.ordered([*kept, "g", "c"])  # c has size 1 and broadcasts against o
        weights = _tap(w, spatial, taps).joined(["c", "g"], "g")
        terms.append(Named(window.array.astype(wide) * weights.array.astype(wide), [*kept, "g", "o"]))
    return _added(terms, result)


def _by_positions(x, w, axes, spatial, kind) -> Named:
    """The window of every output position, concatenated along the batch, contracted with the whole kernel."""
    x = _padded(x, axes, spatial)
    windows = []
    for starts in itertools.product(*(range(0, a.out * a.stride, a.stride) for a in axes)):
        spans = {
            n: (start, start + (a.kernel - 1) * a.rhs_dilation + 1, a.rhs_dilation)
            for n, a, start in zip(spatial, axes, starts, strict=True)
        }
        windows.append(x.cut(spans))
    # a dot transposes its left operand: the kernel is smaller, and where large not what comes before it, entry by entry, as well
    w = w._replace(array=stored(w.array)) if w.array.size >= _LARGE else w.settled()
    out = _dot(w, concatenated(windows, "b"), kind)
    b, batch = out.names.index("b"), x.size("b")
    shape = [*out.array.shape[:b], *(a.out for a in axes), batch, *out.array.shape[b + 1 :]]
    return Named(out.array.reshape(shape), [*out.names[:b], *spatial, *out.names[b:]])


@jax.custom_jvp
def stored(values: PyTree) -> PyTree:
    """The same arrays, held in memory: XLA on CPU fuses cheap operations into every use that they have, but not through a branch.

    >>> float(stored(jnp.ones(())))
    1.0
    """
    always = lax.optimization_barrier(jnp.asarray(True))
    return lax.cond(always, lambda v: v, lambda v: jax.tree.map(jnp.zeros_like, v), values)


@stored.defjvp
def _stored_jvp(primals: tuple[PyTree], tangents: tuple[PyTree]) -> tuple[PyTree, PyTree]:
    return stored(*primals), tangents[0]


def _groups(x: Named) -> list[str]:
    return [n for n in x.names if n == "g"]


def _channels_last(x: Named, spatial: list[str], last: Sequence[str] = ("c",)) -> Named:
    return x.ordered(["b", *spatial, *_groups(x), *last]).settled()


def _padded(x: Named, axes: list[_Axis], spatial: list[str]) -> Named:
    return x.padded({n: (a.low, a.high, a.lhs_dilation - 1) for n, a in zip(spatial, axes, strict=True)}).settled()


def _windows(x: Named, axes: list[_Axis], spatial: list[str]) -> Iterator[tuple[tuple[int, ...], Named]]:
    """Every tap of the kernel, and what it reads at all outputs."""
    x = _padded(x, axes, spatial)
    for taps in itertools.product(*(range(a.kernel) for a in axes)):
        spans = {}
        for name, a, tap in zip(spatial, axes, taps, strict=True):
            start = tap * a.rhs_dilation
            spans[name] = (start, start + (a.out - 1) * a.stride + 1, a.stride)
        yield taps, x.cut(spans)


def _tap(w: Named, spatial: list[str], taps: tuple[int, ...]) -> Named:
    """The kernel of one tap; its places come first in ``w``."""
    return Named(w.array[taps], w.names[len(spatial) :])


def _spans(axes, spatial, taps, names) -> dict[str, tuple[int, int, int]]:
    """The phases that a tap has, of those among ``names``."""
    spans = {}
    for phase, a, tap in zip(_phases(spatial), axes, taps, strict=True):
        if phase in names:
            spans[phase] = (*(a.last if tap == a.kernel - 1 else (0, a.phases)), 1)
    return spans


def _phases(spatial: Sequence[str]) -> list[str]:
    return ["p" + name[1:] for name in spatial]


def _added(parts: Sequence[Named], dtype: Any) -> Named:
    total = functools.reduce(operator.add, (p.array for p in parts))
    return parts[0]._replace(array=total if dtype is None else total.astype(dtype))


def _accumulating(kind: dict[str, Any], dtype: Any) -> tuple[dict[str, Any], Any]:
    """For sums of several terms: float32 at least while they are added, and the type that the result has."""
    result = kind["preferred_element_type"] or dtype
    wide = jnp.promote_types(result, jnp.float32) if jnp.issubdtype(result, jnp.floating) else result
    return kind | {"preferred_element_type": wide}, result


def _dot(x: Named, w: Named, kind: dict[str, Any]) -> Named:
    """Contract every name that both operands have, but for the group, which is a batch dimension."""
    shared = [n for n in x.names if n in w.names and n != "g"]
    batch = _groups(x)
    numbers = tuple(
        tuple(tuple(operand.names.index(n) for n in which) for operand in (x, w)) for which in (shared, batch)
    )
    out = lax.dot_general(x.array, w.array, numbers, **kind)  # pyright: ignore[reportArgumentType]
    return Named(out, batch + [n for operand in (x, w) for n in operand.names if n not in shared and n not in batch])


def _named(spec: Sequence[int], names: list[Any]) -> list[Any]:
    """Names in the operand's own order of dimensions."""
    return [names[list(spec).index(i)] for i in range(len(names))]
