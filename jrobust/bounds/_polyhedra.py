"""Perturbation sets as rows of a (mixed-integer) linear program."""

import jax
import numpy as np

from jrobust.bounds._linear import Affine, Model, scaled, shifted, stacked, total
from jrobust.sets import Set


def input_columns(model: Model, s: Set, by: str) -> list[Affine]:
    """Columns for every entry of the input, a vector for each of its leaves, that range over the set.

    Raises:
      NotImplementedError: a set that is not a polyhedron, nor a union of such.
    """
    name = s.geometry.name
    if name == "product":
        return [leaf for part in s.params for leaf in input_columns(model, part, by)]
    if name == "power":
        n = jax.tree.leaves(s.center)[0].shape[0]
        each = [input_columns(model, jax.tree.map(lambda a, i=i: a[i], s.params[0]), by) for i in range(n)]
        return [stacked(leaves) for leaves in zip(*each, strict=True)]
    if name not in _KINDS:
        raise NotImplementedError(
            f"{by}: a set of kind {name} has no linear description; it takes linf, l1, l0, box, point and products of them. "
            "For others there is jr.bounds.crown(), or a linf ball that contains the set"
        )
    lo, hi = (np.asarray(end, np.float64).ravel() for end in s.hull())
    z = model.new(lo, hi)
    if name in _CUTS:
        _CUTS[name](model, s, z, lo, hi)
    return [z]


def _l1(model: Model, s: Set, z: Affine, lo: np.ndarray, hi: np.ndarray) -> None:
    """How far each entry moves, at least; together at most eps."""
    x = np.asarray(s.center, np.float64).ravel()
    far = model.new(np.zeros(z.size), np.maximum(hi - x, x - lo))
    model.at_most_zero(shifted(-x, z), scaled(-1, far))
    model.at_most_zero(shifted(x, scaled(-1, z)), scaled(-1, far))
    model.at_most_zero(_sum(far, -float(s.params[0])))


def _l0(model: Model, s: Set, z: Affine, lo: np.ndarray, hi: np.ndarray) -> None:
    """A choice for each entry, or pixel, whether it moves."""
    from jrobust.sets._sparse import PIXELS, budget

    x = np.asarray(s.center, np.float64).ravel()
    width = s.center.shape[-1] if s.geometry.name == PIXELS else 1
    groups = z.size // width
    moves = model.new(np.zeros(groups), np.ones(groups), choice=True)
    each = Affine(moves.matrix[np.repeat(np.arange(groups), width)], np.zeros(z.size))
    model.at_most_zero(shifted(-x, z), scaled(x - hi, each))
    model.at_most_zero(shifted(x, scaled(-1, z)), scaled(lo - x, each))
    model.at_most_zero(_sum(moves, -float(budget(s))))


def _sum(a: Affine, plus: float) -> Affine:
    return total(Affine(type(a.matrix)(a.matrix.sum(axis=0)[None]), np.array([plus + a.const.sum()])))


_CUTS = {"l1": _l1, "l0": _l0, "l0-pixels": _l0}
_KINDS = {"linf", "box", "point", *_CUTS}
