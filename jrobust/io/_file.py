"""ONNX files as protobuf messages: complete, from beside the model alone, and of operators that have rules."""

import gzip
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from jrobust.io import _elementwise, _layers, _resize, _shapes  # noqa: F401  they fill the table
from jrobust.io._tables import OPS

_OPSETS = range(7, 27)  # each version's changes were read
OWN = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""


def read(path: Path) -> Any:
    """The model that the file holds, with its external data and without functions of its own."""
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
    except ImportError as error:
        raise ImportError(f"reading {path.name} needs the package onnx: pip install 'jrobust[onnx]'") from error
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such ONNX file") from None
    try:
        model = onnx.load_model_from_string(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no complete gzip file: {error}") from error
    except Exception as error:  # protobuf's DecodeError, which need not be importable by name
        raise ValueError(f"{path} is no complete ONNX model: it is truncated, or of another format") from error
    if not model.graph.output or not model.opset_import:
        what = "a graph with an output" if not model.graph.output else "its operators' version"
        raise ValueError(f"{path} is no complete ONNX model: {what} is missing; it is truncated, or of another format")
    try:
        _load_external(model, path.parent)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        _check_operators(model)
        for out in model.graph.output:  # the checker wants a shape there, files need not have one, and nobody reads it
            out.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(model)
    except NotImplementedError as error:
        raise NotImplementedError(f"{path}: {error}") from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path} is no valid ONNX model: {str(error).splitlines()[0]:.300}") from error
    return model


def _load_external(model: Any, folder: Path) -> None:
    """Weights kept in other files, which must lie beside the model or below."""
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    attributes = [a for node in model.graph.node for a in node.attribute]
    for tensor in [*model.graph.initializer, *(a.t for a in attributes), *(t for a in attributes for t in a.tensors)]:
        if not uses_external_data(tensor):
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        inside = (folder / place).resolve().is_relative_to(folder.resolve())
        if not place or Path(place).is_absolute() or not inside:
            raise ValueError(f"the data of {tensor.name!r} lie in {place!r}, which is not beside the model")
        if not (folder / place).is_file():
            raise ValueError(
                f"the data of {tensor.name!r} lie in {place!r}, and there is no such file beside the model"
            )
        load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]


def needed(model: Any) -> list[Any]:
    """The nodes that the outputs depend on, in order."""
    wanted, nodes = {out.name for out in model.graph.output}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    return nodes[::-1]


def _check_operators(model: Any) -> None:
    """Everything that has no rule, at once."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = next((versions[d] for d in OWN if d in versions), None)
    missing = defaultdict(list)
    for i, node in enumerate(needed(model)):
        if node.domain not in OWN or node.op_type not in (*OPS, "Constant"):
            op = node.op_type if node.domain in OWN else f"{node.domain}.{node.op_type}"
            missing[op].append(node.name or f"#{i}")
    if missing:
        what = "; ".join(
            f"{op} (node {', '.join(map(repr, names[:3]))}{', ...' * (len(names) > 3)})"
            for op, names in missing.items()
        )
        raise NotImplementedError(f"no rule for these operators of opset {opset}: {what}")
    if opset is None:
        raise ValueError("it does not say which version of the ONNX operators it uses")
    if opset not in _OPSETS:
        raise NotImplementedError(
            f"it is written for opset {opset}; versions {_OPSETS[0]} to {_OPSETS[-1]} can be read"
        )
