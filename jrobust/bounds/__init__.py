"""Bound propagation: upper oracles that interpret a function's jaxpr, primitive by primitive."""

from jrobust.bounds._forward import forward_crown, zonotope
from jrobust.bounds._lipschitz import lipschitz, lipschitz_constant
from jrobust.bounds._methods import crown, crown_ibp, ibp, output_bounds, supported

__all__ = [
    "crown",
    "crown_ibp",
    "forward_crown",
    "ibp",
    "lipschitz",
    "lipschitz_constant",
    "output_bounds",
    "supported",
    "zonotope",
]
