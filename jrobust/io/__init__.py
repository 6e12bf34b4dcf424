"""Files of other tools: ONNX networks as pure JAX functions, VNN-LIB specifications, and the verification competition's protocol."""

from jrobust.io._network import Network
from jrobust.io._onnx import load_onnx
from jrobust.io._protocol import Outcome, verify_files
from jrobust.io._replay import counterexample
from jrobust.io._specification import Case, Specification
from jrobust.io._vnnlib import load_vnnlib

__all__ = ["Case", "Network", "Outcome", "Specification", "counterexample", "load_onnx", "load_vnnlib", "verify_files"]
