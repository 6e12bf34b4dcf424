"""Kernels whose filters are pushed towards an orthonormal family, group by group or all together."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._transforms import AtWitnesses
from jrobust.typing import Array, Float, PyTree


def _distance(w: Float[Array, "g n d"]) -> Float[Array, ""]:
    """``sum_g ||W W^T - I||_F^2`` of wide matrices, ``||W^T W - I||_F^2`` of tall ones, where the other cannot be 0."""
    w = w.swapaxes(1, 2) if w.shape[1] >= w.shape[2] else w
    gram = jnp.einsum("gid,gjd->gij", w, w)
    return jnp.sum((gram - jnp.eye(w.shape[1], dtype=w.dtype)) ** 2)


def orthogonality(
    params: PyTree, *, groups: int, kind: Literal["inter", "intra"] = "inter", dense: bool = False, least: int = 4
) -> Float[Array, ""]:
    """How far the filters of each group are from orthonormal: ``sum_layers sum_g ||W_g W_g^T - I||_F^2``, W_g one filter a row.

    Args:
      params: parameters as `jrobust.nnx.functional` returns them; arrays of four axes count as convolutions [H, W, I, O].
      groups: N, of O / N filters each; 1: all filters together (soft orthogonality).
      kind: which filters are a group: N runs of neighbours ("inter"), or the j-th of each run, for each j ("intra").
      dense: whether matrices [I, O] count too.
      least: with fewer filters a group a layer is cut into fewer groups, ``O // least``.

    Raises:
      ValueError: nothing to count, groups that do not divide a layer's filters, another kind.

    >>> print(orthogonality({"kernel": 2.0 * jnp.eye(4)}, groups=1, dense=True))  # four rows with (4 - 1)^2
    36.0
    """
    check_count(groups, "groups", "orthogonality")
    check_count(least, "least", "orthogonality")
    if kind not in ("inter", "intra"):
        raise ValueError(f"orthogonality: kind is 'inter' or 'intra', got {kind!r}")
    kernels = [w for w in jax.tree.leaves(params) if jnp.ndim(w) == 4 or (dense and jnp.ndim(w) == 2)]
    if not kernels:
        raise ValueError(
            f"orthogonality: no kernel [H, W, I, O]{' or [I, O]' * dense} in the parameters"
            + ("" if dense else "; give dense=True to count matrices")
        )
    total = jnp.zeros(())
    for kernel in kernels:
        filters = kernel.reshape(-1, kernel.shape[-1]).T
        n = max(1, min(groups, len(filters) // least))
        if len(filters) % n:
            raise ValueError(
                f"orthogonality: {n} groups do not divide the {len(filters)} filters of a kernel {kernel.shape}; give another groups="
            )
        each = filters.reshape(n, len(filters) // n, -1)
        total += _distance(each if kind == "inter" or n == 1 else each.swapaxes(0, 1))
    return total


def gor(
    robust: Callable[..., Any],
    *,
    groups: int,
    weight: Any = 0.01,
    kind: Literal["inter", "intra"] = "inter",
    dense: bool = False,
    least: int = 4,
) -> AtWitnesses | Callable[..., Any]:
    """Group orthogonalisation: any loss plus ``weight`` times the `orthogonality` of the kernels, in each example's loss.

    With ``groups=1`` it is soft orthogonality: all filters of a layer at once.

    Args:
      robust: any loss: a `jr.Loss`, of `jr.worst_case`, `trades`, ...; one in two stages stays one.
      weight: 0.01 in the authors' code.
      groups, kind, dense, least: as of `orthogonality`; the authors count convolutions alone, with ``least`` 4.

    Raises:
      ValueError: as of `orthogonality`, at the first call.

    References:
      Kurtz, Bar & Giryes, Group orthogonalization regularization for vision models adaptation and robustness, BMVC 2023; Bansal, Chen &
      Wang, Can we gain more from orthogonality regularizations in training deep CNNs?, NeurIPS 2018 (``groups=1``).

    Deviations: a layer of fewer than ``least`` filters is one group, where the authors' code fails.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (2.0 * jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": None, "train": True}
    >>> print((gor(loss, groups=1, dense=True)(*args, **how)[0] - loss(*args)[0]).round(3))  # 0.01 * 2 (4 - 1)^2
    [0.18 0.18]
    """
    how = {"groups": groups, "kind": kind, "dense": dense, "least": least}

    def lifted(found: Any, params: Any) -> Any:
        losses, after = found
        return losses + weight * orthogonality(params, **how), after

    if isinstance(robust, AtWitnesses):
        return AtWitnesses(robust.craft, lambda params, *args, **more: lifted(robust.at(params, *args, **more), params))
    return lambda params, *args, **more: lifted(robust(params, *args, **more), params)
