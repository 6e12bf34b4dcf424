"""Perturbation sets. A set *is* its support function; projections, samples and hulls are extra facts.

A *threat* maps an example to a set (``threat(x)``) and carries its family (``threat.family(eps)``). Both are pytrees: eps, centre
and clip are leaves, the norm is structure.
"""

from jrobust.sets._balls import l1, l2, linf, lp
from jrobust.sets._base import Geometry, Set, Threat, eps_axes
from jrobust.sets._composed import box, point, power, product
from jrobust.sets._patch import patch
from jrobust.sets._sparse import l0

__all__ = [
    "Geometry",
    "Set",
    "Threat",
    "box",
    "eps_axes",
    "l0",
    "l1",
    "l2",
    "linf",
    "lp",
    "patch",
    "point",
    "power",
    "product",
]
