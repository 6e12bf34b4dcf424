"""Bound propagation: upper oracles that interpret a function's jaxpr, primitive by primitive."""

from jrobust.bounds import _order, _special  # noqa: F401  (they fill the tables)
from jrobust.bounds._methods import crown, crown_ibp, ibp, output_bounds, supported

__all__ = ["crown", "crown_ibp", "ibp", "output_bounds", "supported"]
