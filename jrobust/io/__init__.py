"""Networks from files: ONNX as a pure JAX function."""

from jrobust.io._network import Network
from jrobust.io._onnx import load_onnx

__all__ = ["Network", "load_onnx"]
