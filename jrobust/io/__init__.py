"""Files of other tools: ONNX networks, VNN-LIB specifications, and the verification competition's protocol."""

from jrobust.io._specification import Case, Specification
from jrobust.io._vnnlib import load_vnnlib

__all__ = ["Case", "Specification", "load_vnnlib"]
