"""Files of other tools: ONNX networks, VNN-LIB specifications, and the verification competition's protocol."""

from typing import TYPE_CHECKING, Any

from jrobust.io._protocol import Outcome, verify_files
from jrobust.io._replay import counterexample
from jrobust.io._specification import Case, Specification
from jrobust.io._vnnlib import load_vnnlib

if TYPE_CHECKING:
    from jrobust.io._onnx import load_onnx

__all__ = ["Case", "Outcome", "Specification", "counterexample", "load_onnx", "load_vnnlib", "verify_files"]


def __getattr__(name: str) -> Any:
    if name == "load_onnx":  # it needs onnx, an extra
        from jrobust.io._onnx import load_onnx

        return load_onnx
    raise AttributeError(f"module 'jrobust.io' has no attribute {name!r}")
