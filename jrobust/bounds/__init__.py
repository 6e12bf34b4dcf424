"""Bound propagation: upper oracles that interpret a function's jaxpr, primitive by primitive."""

from jrobust.bounds._branch import Search, branch, branch_and_bound
from jrobust.bounds._forward import forward_crown, zonotope
from jrobust.bounds._inside import inside
from jrobust.bounds._ladder import ladder
from jrobust.bounds._lipschitz import lipschitz, lipschitz_constant
from jrobust.bounds._margin import margin
from jrobust.bounds._methods import alpha_crown, crown, crown_ibp, ibp, output_bounds, outward, supported
from jrobust.bounds._milp import lp, milp
from jrobust.bounds._proofs import Certificate, load_certificate, prove

__all__ = [
    "Certificate",
    "Search",
    "alpha_crown",
    "branch",
    "branch_and_bound",
    "crown",
    "crown_ibp",
    "forward_crown",
    "ibp",
    "inside",
    "ladder",
    "lipschitz",
    "lipschitz_constant",
    "load_certificate",
    "lp",
    "margin",
    "milp",
    "output_bounds",
    "outward",
    "prove",
    "supported",
    "zonotope",
]
