"""Sparse matrices of affine functions: what a linear program needs of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.bounds._linear import Affine, apply, constant, total

_ENTRIES = 2**23  # of a dense block of a matrix, before its zeros are dropped

ELEMENTWISE = frozenset(
    ["add", "add_any", "sub", "neg", "mul", "div", "convert_element_type", "copy", "stop_gradient", "name"]
)
"""Affine primitives whose every entry depends on that entry of an operand alone, where the shapes agree."""


def affine_map(fn: Callable[..., Any], avals: Sequence[Any], operands: Sequence[Affine], *, diagonal: bool) -> Affine:
    """``fn``, affine, of affine functions: its outputs one after the other.

    Each entry of a matrix is one product of a derivative with one, so the weights of a network arrive as they are.

    Args:
      fn: arrays -> list of arrays.
      avals: the operands' shapes and dtypes.
      operands: one vector each.
      diagonal: whether every operand enters elementwise.
    """

    def flat(*xs: Any) -> Any:
        return jnp.concatenate([jnp.ravel(o) for o in fn(*xs)])

    zeros = [jnp.zeros(a.shape, a.dtype) for a in avals]
    at_zero, pull = jax.vjp(flat, *zeros)
    if diagonal:
        matrices = [_diagonal(np.asarray(d, np.float64).ravel()) for d in pull(jnp.ones_like(at_zero))]
    else:
        inputs = sum(math.prod(a.shape) for a in avals)
        matrices = (
            _by_columns(flat, zeros, at_zero) if inputs < at_zero.size else _by_rows(pull, avals, at_zero, inputs)
        )
    return total(constant(at_zero), *(apply(m, a) for m, a in zip(matrices, operands, strict=True)))


def _diagonal(d: np.ndarray) -> Any:
    from scipy import sparse

    return sparse.diags_array(d, format="csr")


def _chunks(n: int, other: int) -> list[np.ndarray]:
    """Indices of unit vectors, so many at a time as the memory allows; the last are repeated, so that one program serves all."""
    size = min(n, max(1, _ENTRIES // max(other, 1)))
    return [np.arange(start, start + size) for start in range(0, n, size)]


def _by_rows(pull: Any, avals: Sequence[Any], out: Any, inputs: int) -> list[Any]:
    from scipy import sparse

    parts: list[list[Any]] = [[] for _ in avals]
    for at in _chunks(out.size, inputs):
        rows = jax.vmap(pull)(jax.nn.one_hot(at, out.size, dtype=out.dtype))
        for part, r in zip(parts, rows, strict=True):
            part.append(sparse.csr_array(np.asarray(r, np.float64).reshape(len(at), -1)[: out.size - at[0]]))
    return [sparse.vstack(part, format="csr") for part in parts]


def _by_columns(flat: Any, zeros: Sequence[Any], out: Any) -> list[Any]:
    from scipy import sparse

    _, push = jax.linearize(flat, *zeros)
    matrices = []
    for k, z in enumerate(zeros):
        parts = []
        for at in _chunks(z.size, out.size):

            def one(unit: Any, k: int = k) -> Any:
                return push(*(unit.reshape(o.shape) if i == k else jnp.zeros_like(o) for i, o in enumerate(zeros)))

            columns = jax.vmap(one)(jax.nn.one_hot(at, z.size, dtype=z.dtype))
            parts.append(sparse.csc_array(np.asarray(columns, np.float64)[: z.size - at[0]].T))
        matrices.append(sparse.hstack(parts, format="csr"))
    return matrices
