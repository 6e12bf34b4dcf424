"""Operators that move entries about, or are about shapes."""

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jrobust.io._tables import Call, defop, ints, refuse


def _shape(c: Call, x: Any) -> Any:
    return np.array(x.shape[slice(c.get("start", 0), c.get("end"))], np.int64)


def _reshape(c: Call, x: Any, shape: Any) -> Any:
    """0 keeps a dimension unless ``allowzero``."""
    wanted = ints(shape)
    if not c.get("allowzero", 0):
        wanted = tuple(x.shape[i] if d == 0 else d for i, d in enumerate(wanted))
    return c.xp.reshape(x, wanted)


def _flatten(c: Call, x: Any) -> Any:
    axis = c.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return c.xp.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeeze(c: Call, x: Any, axes: Any = None) -> Any:
    axes = c.get("axes", axes)
    return c.xp.squeeze(x, None if axes is None else ints(axes))


def _unsqueeze(c: Call, x: Any, axes: Any = None) -> Any:
    return c.xp.expand_dims(x, ints(c.get("axes", axes)))


def _split(c: Call, x: Any, sizes: Any = None) -> Any:
    axis = c.get("axis", 0) % x.ndim
    lengths = ints(c.get("split", sizes))
    if not lengths:
        n = c.get("num_outputs", c.outputs)
        each = -(-x.shape[axis] // n)
        lengths = tuple(max(0, min(each, x.shape[axis] - i * each)) for i in range(n))
    if sum(lengths) != x.shape[axis]:
        raise ValueError(f"a split into {lengths} of an axis of {x.shape[axis]}")
    ends = np.cumsum((0, *lengths)).tolist()
    return tuple(cut(x, {axis: slice(a, b)}) for a, b in itertools.pairwise(ends))


def cut(x: Any, spans: dict[int, slice]) -> Any:
    """Known slices of some axes, as slices and reversals: they are moves, where indexing would gather."""
    slices = [spans.get(i, slice(None)).indices(d) for i, d in enumerate(x.shape)]
    if isinstance(x, np.ndarray):
        return x[tuple(slice(a, b if b >= 0 else None, s) for a, b, s in slices)]
    counts = [len(range(*s)) for s in slices]
    # backwards: the same entries forwards, then reversed
    lows = [0 if n == 0 else a if s > 0 else a + (n - 1) * s for (a, _, s), n in zip(slices, counts, strict=True)]
    highs = [a + (n - 1) * abs(s) + 1 if n else a for a, n, (*_, s) in zip(lows, counts, slices, strict=True)]
    y = lax.slice(x, lows, highs, [abs(s) for *_, s in slices])
    back = [i for i, (*_, s) in enumerate(slices) if s < 0]
    return lax.rev(y, back) if back else y


def _slice(c: Call, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    first, last = ints(c.get("starts", starts)), ints(c.get("ends", ends))
    along = ints(c.get("axes", axes)) or tuple(range(len(first)))
    stride = ints(steps) or (1,) * len(first)
    spans = {}
    for a, start, end, step in zip(along, first, last, stride, strict=True):
        n, back = x.shape[a], step < 0
        start, end = (v + n * (v < 0) for v in (start, end))
        # backwards a start before the first entry is the first entry, and an end before it takes that in: None, in Python
        start, end = min(max(start, 0), n - back), min(max(end, -back), n)
        spans[a % x.ndim] = slice(start, None if end < 0 else end, step)
    return cut(x, spans)


def _gather(c: Call, x: Any, indices: Any) -> Any:
    axis = c.get("axis", 0) % x.ndim
    if isinstance(indices, np.ndarray):
        at = np.where(indices < 0, indices + x.shape[axis], indices)
        if at.size and (at.min() < 0 or at.max() >= x.shape[axis]):
            raise ValueError(f"an index is out of range: axis {axis} has {x.shape[axis]} entries")
        if at.ndim == 0 and c.xp is not np:
            return lax.squeeze(cut(x, {axis: slice(int(at), int(at) + 1)}), (axis,))
        return c.xp.take(x, at, axis)
    return jnp.take(x, _positive(indices, x.shape[axis]), axis, mode="clip")


def _positive(indices: Any, n: Any) -> Any:
    """Indices counted from the end, counted from the start."""
    xp = np if isinstance(indices, np.ndarray) else jnp
    return xp.where(indices < 0, indices + n, indices)


def _gather_elements(c: Call, x: Any, indices: Any) -> Any:
    axis = c.get("axis", 0)
    return jnp.asarray(x)[_along(x.shape, indices, axis)]


def _along(shape: tuple[int, ...], indices: Any, axis: int) -> tuple[Any, ...]:
    """The index of every entry of ``indices``: its own place, but for one axis."""
    at: list[Any] = list(np.ix_(*(range(d) for d in indices.shape)))
    at[axis] = _positive(indices, shape[axis])
    return tuple(at)


def _gather_nd(c: Call, x: Any, indices: Any) -> Any:
    if c.get("batch_dims", 0):
        raise refuse("GatherND with batch_dims")
    return jnp.asarray(x)[_rows(x.shape, indices)]


def _rows(shape: tuple[int, ...], indices: Any) -> tuple[Any, ...]:
    return tuple(_positive(indices[..., i], shape[i]) for i in range(indices.shape[-1]))


_UPDATES = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


def _update(c: Call, x: Any, at: tuple[Any, ...], updates: Any) -> Any:
    target = jnp.asarray(x, jnp.result_type(x, updates)).at[at]
    return getattr(target, _UPDATES[c.get("reduction", "none")])(updates)


def _scatter_nd(c: Call, x: Any, indices: Any, updates: Any) -> Any:
    return _update(c, x, _rows(x.shape, indices), updates)


def _scatter_elements(c: Call, x: Any, indices: Any, updates: Any) -> Any:
    return _update(c, x, _along(x.shape, indices, c.get("axis", 0)), updates)


_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _pad(c: Call, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    widths = ints(c.get("pads", pads))
    along = ints(axes) or tuple(range(x.ndim))
    low_high = [(0, 0)] * x.ndim
    for a, low, high in zip(along, widths[: len(along)], widths[len(along) :], strict=True):
        low_high[a] = (low, high)
    mode = c.get("mode", "constant")
    if mode == "constant":
        value = c.get("value", 0.0) if value is None else value
        filler = jnp.reshape(jnp.asarray(value, x.dtype), ())
        return lax.pad(jnp.asarray(x), filler, [(low, high, 0) for low, high in low_high])
    if mode not in _MODES:
        raise refuse(f"padding of mode {mode!r}")
    x = c.xp.pad(x, [(max(low, 0), max(high, 0)) for low, high in low_high], mode=_MODES[mode])
    return cut(
        x, {i: slice(max(-low, 0), d - max(-high, 0)) for i, (d, (low, high)) in enumerate(zip(x.shape, low_high))}
    )


def _blocks(c: Call, x: Any) -> Any:
    """Depth to space: of the channels b x b make one pixel's block."""
    n, channels, h, w = x.shape
    b = c.attributes["blocksize"]
    deep = channels // (b * b)
    if c.get("mode", "DCR") == "DCR":
        y = c.xp.transpose(c.xp.reshape(x, (n, b, b, deep, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = c.xp.transpose(c.xp.reshape(x, (n, deep, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return c.xp.reshape(y, (n, deep, h * b, w * b))


def _channels(c: Call, x: Any) -> Any:
    """Space to depth."""
    n, channels, h, w = x.shape
    b = c.attributes["blocksize"]
    y = c.xp.transpose(c.xp.reshape(x, (n, channels, h // b, b, w // b, b)), (0, 3, 5, 1, 2, 4))
    return c.xp.reshape(y, (n, channels * b * b, h // b, w // b))


def _triangle(c: Call, x: Any, k: Any = None) -> Any:
    return (c.xp.triu if c.get("upper", 1) else c.xp.tril)(x, 0 if k is None else int(np.ravel(k)[0]))


def _filled(c: Call, shape: Any) -> Any:
    value = c.get("value", np.zeros(1, np.float32))
    return np.full(ints(shape), value.ravel()[0], value.dtype)


def _one_hot(c: Call, indices: Any, depth: Any, values: Any) -> Any:
    n, axis = int(np.ravel(depth)[0]), c.get("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    places = np.arange(n).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    chosen = c.xp.expand_dims(c.xp.where(indices < 0, indices + n, indices), axis) == places
    return c.xp.where(chosen, values[1], values[0])


def _range(c: Call, start: Any, limit: Any, delta: Any) -> Any:
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _expand(c: Call, x: Any, shape: Any) -> Any:
    return c.xp.broadcast_to(x, np.broadcast_shapes(x.shape, ints(shape)))


defop("Shape", _shape, values=False)
defop("Size", lambda c, x: np.array(x.size, np.int64), values=False)
defop("Reshape", _reshape, static=(1,))
defop("Flatten", _flatten)
defop("Squeeze", _squeeze, static=(1,))
defop("Unsqueeze", _unsqueeze, static=(1,))
defop("Transpose", lambda c, x: c.xp.transpose(x, c.get("perm")))
defop("Concat", lambda c, *xs: c.xp.concatenate(xs, axis=c.attributes["axis"]))
defop("Split", _split, static=(1,))
defop("Slice", _slice, static=(1, 2, 3, 4))
defop("Gather", _gather)
defop("GatherElements", _gather_elements)
defop("GatherND", _gather_nd)
defop("ScatterND", _scatter_nd)
defop("ScatterElements", _scatter_elements)
defop("Pad", _pad, static=(1, 3), prefer=(2,))
defop("DepthToSpace", _blocks)
defop("SpaceToDepth", _channels)
defop("Trilu", _triangle, static=(1,))
defop("ConstantOfShape", _filled, static=(0,))
defop("OneHot", _one_hot, static=(1,))
defop("Range", _range, static=(0, 1, 2))
defop("Expand", _expand, static=(1,))
defop("Tile", lambda c, x, repeats: c.xp.tile(x, ints(repeats)), static=(1,))
defop("NonZero", lambda c, x: np.array(np.nonzero(x), np.int64), static=(0,))
