"""Bound propagation: upper oracles that interpret a function's jaxpr, primitive by primitive."""

from jrobust.bounds._methods import crown, crown_ibp, ibp, output_bounds, supported
from jrobust.bounds._milp import lp, milp

__all__ = ["crown", "crown_ibp", "ibp", "lp", "milp", "output_bounds", "supported"]
