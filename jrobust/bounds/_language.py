"""A flat program in the small language of certificates: values are flat arrays, and few operations make them.

``input``, ``const``, ``gather`` (from its operands in a row; -1 is 0), ``matmul`` (``[G, P, K] @ [G, K, O]``), ``scale``, ``divide``,
``add``, ``max``, ``abs`` and ``tanh``. Everything is equal in exact arithmetic: a convolution gathers its patches and multiplies, a maximum
over a
window is a tournament, ``logistic(x)`` is ``(1 + tanh(x / 2)) / 2``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust._program import Equation, Program


class Lowered:
    """What is built: operations, their arrays, and how an equation's free parameters become the slopes of operations.

    Attributes:
      ops, arrays: of the certificate.
      at: value of the program -> operation, where it depends on the input.
      slopes: equation -> function of its parameters [..., shape] to ``{operation: {side: slopes}}``, flat.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.ops, self.arrays = program, [], {}
        self.at: dict[int, int] = {}
        self.known: dict[int, Any] = dict(program.constants)
        self.slopes: dict[int, Callable[[Any], dict[int, dict[str, Any]]]] = {}
        self.size: list[int] = []
        self._consts: dict[tuple[Any, ...], int] = {}

    def op(self, kind: str, sources: Sequence[int], size: int, data: Any = None, **more: Any) -> int:
        """Append an operation."""
        k = len(self.ops)
        self.ops.append({"op": kind, **({"in": list(sources)} if sources else {}), **more})
        if kind == "input":
            self.ops[-1]["size"] = size
        if data is not None:
            self.arrays[f"function/{k}"] = np.asarray(data)
            self.ops[-1]["data"] = f"function/{k}"
        self.size.append(size)
        return k

    def const(self, value: Any) -> int:
        """A known value."""
        value = np.ravel(numbers(value))
        key = value.dtype.str, value.tobytes()
        if key not in self._consts:
            self._consts[key] = self.op("const", (), value.size, value)
        return self._consts[key]

    def gather(self, sources: Sequence[int], index: Any) -> int:
        """Entries of the sources in a row; none is made where nothing moves."""
        index = np.ravel(index)
        if len(sources) == 1 and np.array_equal(index, np.arange(self.size[sources[0]])):
            return sources[0]
        return self.op("gather", sources, index.size, index.astype(np.int32))

    def matmul(self, x: int, places: int, weights: Any) -> int:
        """``x [G, places, K] @ weights [G, K, O]``."""
        groups, _, wide = weights.shape
        return self.op("matmul", [x], groups * places * wide, numbers(weights), places=places)

    def scale(self, x: int, by: Any) -> int:
        """An entrywise product with known numbers."""
        return self.op("scale", [x], self.size[x], np.ravel(numbers(by)))

    def add(self, *xs: int) -> int:
        """A sum."""
        return self.op("add", xs, self.size[xs[0]])

    def max(self, a: int, b: int) -> int:
        """The entrywise maximum."""
        return self.op("max", (a, b), self.size[a])

    def operand(self, i: int, shape: Sequence[int]) -> int:
        """An operand as an operation of this shape (scalars are broadcast)."""
        have, n = self.program.avals[i].shape, math.prod(shape)
        if i not in self.at:
            return self.const(np.broadcast_to(numbers(self.known[i]), shape))
        return self.at[i] if tuple(have) == tuple(shape) else self.gather([self.at[i]], np.zeros(n, int))


def numbers(v: Any) -> np.ndarray:
    v = np.asarray(v)
    return v if v.dtype in (np.float32, np.float64) else v.astype(np.float32 if v.dtype.kind == "b" else np.float64)


# -- Operations that move entries ----------------------------------------------------------------------------------------

_MOVED = "reshape transpose broadcast_in_dim squeeze expand_dims slice concatenate stack unstack split pad rev tile optimization_barrier"
_SAME = ["copy", "stop_gradient", "convert_element_type", "name", "sharding_constraint"]
# which operands are data; the others say where to
MOVES: dict[str, Callable[[int], bool]] = {
    **dict.fromkeys([*_MOVED.split(), *_SAME], lambda j: True),
    "select_n": lambda j: j > 0,
    "gather": lambda j: j == 0,
    "dynamic_slice": lambda j: j == 0,
    "dynamic_update_slice": lambda j: j < 2,
}  # fmt: skip


def data(eqn: Equation) -> list[int]:
    return [i for j, i in enumerate(eqn.inputs) if eqn.name not in MOVES or MOVES[eqn.name](j)]


def moved(b: Lowered, eqn: Equation, k: int) -> list[int]:
    """Where every entry comes from: the primitive itself says, of integers."""
    if eqn.name in _SAME:
        return [b.at[eqn.inputs[0]]]
    sources, values, start = [], [], 0
    for j, i in enumerate(eqn.inputs):
        if not MOVES[eqn.name](j):
            values.append(b.known[i])
            continue
        shape = b.program.avals[i].shape
        sources.append(b.operand(i, shape))
        n = math.prod(shape)
        values.append(jnp.arange(start, start + n, dtype=jnp.int32).reshape(shape))
        start += n
    if eqn.name == "gather":  # what is read out of bounds is marked, whatever the network fills in there
        eqn = dataclasses.replace(eqn, params={**eqn.params, "fill_value": -1})
    outs = [np.asarray(o) for o in eqn.bind(values)]
    if any(np.any((o < 0) | (o >= start)) for o in outs):  # a gather out of bounds fills
        raise NotImplementedError(f"prove: '{eqn.name}' at {eqn.source} reads out of bounds")
    return [b.gather(sources, o) for o in outs]


# -- Affine operations ---------------------------------------------------------------------------------------------------


def _split_operands(b: Lowered, eqn: Equation) -> tuple[int, int, Any]:
    """Which operand is data, and the other one's known value."""
    x = 0 if eqn.inputs[0] in b.at else 1
    return x, b.at[eqn.inputs[x]], np.asarray(b.known[eqn.inputs[1 - x]])


def _add(b: Lowered, eqn: Equation, k: int) -> list[int]:
    x, y = (b.operand(i, eqn.avals[0].shape) for i in eqn.inputs)
    return [b.add(x, b.scale(y, -1.0) if eqn.name == "sub" else y)]


def _times(b: Lowered, eqn: Equation, k: int) -> list[int]:
    x, _, known = _split_operands(b, eqn)
    shape = eqn.avals[0].shape
    kind = "scale" if eqn.name == "mul" else "divide"
    known = known if known.size == 1 else np.broadcast_to(known, shape)
    value = b.operand(eqn.inputs[x], shape)
    return [b.op(kind, [value], b.size[value], np.ravel(numbers(known)))]


def _dot(b: Lowered, eqn: Equation, k: int) -> list[int]:
    x, value, w = _split_operands(b, eqn)
    contracts, batches = eqn.params["dimension_numbers"]
    shapes = [tuple(b.program.avals[i].shape) for i in eqn.inputs]
    free = [[d for d in range(len(s)) if d not in (*c, *t)] for s, c, t in zip(shapes, contracts, batches, strict=True)]
    shape, other = shapes[x], shapes[1 - x]
    size = lambda s, dims: math.prod(s[d] for d in dims)  # noqa: E731
    g, inner = size(shape, batches[x]), size(shape, contracts[x])
    index = np.arange(math.prod(shape)).reshape(shape).transpose(*batches[x], *free[x], *contracts[x])
    w = w.transpose(*batches[1 - x], *contracts[1 - x], *free[1 - x]).reshape(g, inner, size(other, free[1 - x]))
    places = size(shape, free[x])
    out = b.matmul(b.gather([value], index), places, w)
    if x == 1:  # the free axes of the first operand come first
        out = b.gather([out], np.arange(g * places * w.shape[2]).reshape(g, places, -1).transpose(0, 2, 1))
    return [out]


def windows(shape: Sequence[int], size: Any, stride: Any, padding: Any, base: Any, dilation: Any) -> np.ndarray:
    """Which flat entries (-1: padding) each window reads: [corners of the window, places]."""
    grid = np.arange(math.prod(shape)).reshape(shape)
    for axis, ((before, after), step) in enumerate(zip(padding, base, strict=True)):
        long = max(0, (grid.shape[axis] - 1) * step + 1)
        spread = np.full((*grid.shape[:axis], long + max(before, 0) + max(after, 0), *grid.shape[axis + 1 :]), -1)
        here = [slice(None)] * grid.ndim
        here[axis] = slice(max(before, 0), max(before, 0) + long, step)
        spread[tuple(here)] = grid
        here[axis] = slice(max(-before, 0), spread.shape[axis] - max(-after, 0))
        grid = spread[tuple(here)]
    reach = [(n - 1) * d + 1 for n, d in zip(size, dilation, strict=True)]
    places = [(n - r) // t + 1 for n, r, t in zip(grid.shape, reach, stride, strict=True)]
    views = []
    for corner in np.ndindex(*size):
        start = [c * d for c, d in zip(corner, dilation, strict=True)]
        views.append(
            grid[tuple(slice(s, s + (m - 1) * t + 1, t) for s, m, t in zip(start, places, stride, strict=True))]
        )
    return np.stack([v.ravel() for v in views])


def _conv(b: Lowered, eqn: Equation, k: int) -> list[int]:
    x, value, w = _split_operands(b, eqn)
    p = eqn.params
    if x != 0 or p["batch_group_count"] != 1:
        raise NotImplementedError(
            f"prove: a convolution at {eqn.source} whose kernel depends on the input, or of groups of examples"
        )
    numbers = p["dimension_numbers"]
    shape = b.program.avals[eqn.inputs[0]].shape
    index = np.arange(math.prod(shape)).reshape(shape).transpose(numbers.lhs_spec)  # [N, C, spatial]
    n, channels, *spatial = index.shape
    w = w.transpose(numbers.rhs_spec)  # [O, C / groups, window]
    at = windows(spatial, w.shape[2:], p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"])
    corners, places = at.shape
    groups = p["feature_group_count"]
    flat = np.concatenate([index.reshape(n, channels, -1), np.full((n, channels, 1), -1)], axis=2)
    patches = flat[:, :, at].reshape(n, groups, -1, corners, places)  # [N, G, C / G, corners, places]
    patches = patches.transpose(1, 0, 4, 2, 3)
    weights = w.reshape(groups, w.shape[0] // groups, -1).transpose(0, 2, 1)
    out = b.matmul(b.gather([value], patches), n * places, weights)
    made = np.arange(b.size[out]).reshape(groups, n, places, -1).transpose(1, 0, 3, 2)  # [N, G, O / G, places]
    back = np.argsort(numbers.out_spec)
    made = made.reshape([eqn.avals[0].shape[d] for d in numbers.out_spec]).transpose(*back)
    return [b.gather([out], made)]


def _reduce_sum(b: Lowered, eqn: Equation, k: int) -> list[int]:
    shape, axes = b.program.avals[eqn.inputs[0]].shape, eqn.params["axes"]
    rest = [d for d in range(len(shape)) if d not in axes]
    index = np.arange(math.prod(shape)).reshape(shape).transpose(*rest, *axes)
    n = math.prod(shape[d] for d in axes)
    out = b.gather([b.at[eqn.inputs[0]]], index)
    return [b.matmul(out, b.size[out] // n, np.ones((1, n, 1), np.float32))]


def pooled(b: Lowered, eqn: Equation) -> np.ndarray:
    p, shape = eqn.params, b.program.avals[eqn.inputs[0]].shape
    return windows(
        shape, p["window_dimensions"], p["window_strides"], p["padding"], p["base_dilation"], p["window_dilation"]
    )


def _window_sum(b: Lowered, eqn: Equation, k: int) -> list[int]:
    at = pooled(b, eqn)
    return [b.matmul(b.gather([b.at[eqn.inputs[0]]], at.T), at.shape[1], np.ones((1, len(at), 1), np.float32))]


LINEAR: dict[str, Callable[[Lowered, Equation, int], list[int]]] = {
    **dict.fromkeys(["add", "add_any", "sub"], _add),
    **dict.fromkeys(["mul", "div"], _times),
    "neg": lambda b, eqn, k: [b.scale(b.at[eqn.inputs[0]], -1.0)],
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_sum": _reduce_sum,
    "reduce_window_sum": _window_sum,
}
