"""ONNX files as networks."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.io._file import OWN, needed, read
from jrobust.io._network import Graph, Network, Node, run
from jrobust.io._tables import OPS

__all__ = ["load_onnx"]


def load_onnx(path: str | Path) -> Network:
    """A network from an ONNX file, as a pure function of its input and its weights.

    Args:
      path: an .onnx file, or one compressed by gzip. Opset 7 to 26; one float input of a fixed shape (only its leading axis may be
        symbolic), one output. Weights kept in files of their own are read from beside the model and from nowhere else.

    Returns:
      A `Network`: ``net(x[B, *net.shape]) -> [B, K]`` and ``net.one(z) -> [K]``, the output flattened in C order. One example has the
      file's input shape without its leading axis if that is 1 or symbolic (the batch); an input whose leading axis is
      anything else, or that has no other, is one example as a whole.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no complete ONNX model, has another number of inputs, or an input that is not of floats.
      NotImplementedError: operators without a rule (all are named), several outputs, shapes that depend on the values of the input.
      ImportError: the package ``onnx`` is not installed.

    Guarantee: what the file means by the ONNX standard, in the dtype of the weights and at JAX's default precision of products (on
      accelerators that may be less than float32: see ``jax.default_matmul_precision``). Nothing is unpickled or executed.

    >>> import onnx.helper as h, onnx.numpy_helper as n, numpy as np, tempfile, pathlib
    >>> ends = [h.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (1, 2)), ("y", (1, 3)))]
    >>> w = n.from_array(np.array([[1, 0, -1], [0, 2, 1]], np.float32), "w")
    >>> nodes = [h.make_node("MatMul", ["x", "w"], ["h"]), h.make_node("Relu", ["h"], ["y"])]
    >>> graph = h.make_graph(nodes, "net", ends[:1], ends[1:], [w])
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "net.onnx"
    >>> _ = file.write_bytes(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)]).SerializeToString())
    >>> net = load_onnx(file)
    >>> net
    Network(shape=(2,), output_shape=(3,), parameters=6)
    >>> print(net(np.array([[1, 2], [-1, 1]], np.float32)))
    [[1. 4. 1.]
     [0. 2. 2.]]

    References:
      ONNX operators, https://onnx.ai/onnx/operators.

    Deviations: dropout is the identity; 64-bit values are 32-bit unless JAX is told otherwise (``jax_enable_x64``), as everywhere in JAX.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"load_onnx takes the path of a file, got {type(path).__name__}")
    path = Path(path)
    model = read(path)
    try:
        net = _network(model)
        if not jnp.issubdtype(net[1].dtype, jnp.floating):
            raise ValueError(
                f"its output is of {net[1].dtype}; a network answers with floats (drop the last ArgMax or Cast)"
            )
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f"{path}: {error}") from error
    return net[0]


def _network(model: Any) -> tuple[Network, Any]:
    """The network, and the shape and dtype of its answer."""
    from onnx.numpy_helper import to_array

    known = {t.name: to_array(t) for t in model.graph.initializer}
    if model.graph.sparse_initializer:
        raise NotImplementedError("sparse weights are not supported")
    info, shape, whole = _input(model, known)
    if len(model.graph.output) != 1:
        raise NotImplementedError(
            f"it has several outputs ({', '.join(o.name for o in model.graph.output)}); one is expected"
        )
    nodes = []
    for i, proto in enumerate(needed(model)):
        attributes = {a.name: _attribute(a) for a in proto.attribute}
        if proto.op_type == "Constant":
            known[proto.output[0]] = _constant(attributes)
            continue
        if proto.op_type == "Cast":
            attributes["to"] = _dtype(attributes["to"])
        nodes.append((proto, attributes, proto.name or f"#{i}"))
    bad = [name for name, value in known.items() if value.dtype == object]
    if bad:
        raise NotImplementedError(f"{bad[0]!r} holds strings")
    host = _shaping([proto for proto, *_ in nodes], known, info.name)
    # numbers by first use, so that names do not count
    numbers: dict[str, int] = {info.name: 0}
    number = lambda name: numbers.setdefault(name, len(numbers)) if name else -1  # noqa: E731
    made = tuple(
        Node(p.op_type, tuple(map(number, p.input)), tuple(map(number, p.output)), tuple(sorted(a.items())), name)
        for p, a, name in nodes
    )
    output = number(model.graph.output[0].name)
    used = {i: known[name] for name, i in numbers.items() if name in known}
    names = {i: name for name, i in numbers.items()}
    weights = tuple(i for i, v in used.items() if jnp.issubdtype(v.dtype, jnp.floating) and names[i] not in host)
    constants = {i: v for i, v in used.items() if i not in weights}
    opset = next(e.version for e in model.opset_import if e.domain in OWN)
    graph = Graph("", made, constants, weights, 0, output, opset, shape, whole)
    graph = dataclasses.replace(graph, mark=_mark(graph))
    leaves = tuple(jnp.asarray(used[i]) for i in weights)
    dtype = jax.dtypes.canonicalize_dtype(_dtype(info.type.tensor_type.elem_type))
    answer = jax.eval_shape(lambda w, z: jnp.asarray(run(graph, w, z)), leaves, jax.ShapeDtypeStruct(shape, dtype))
    batched = not whole and answer.shape[:1] == (1,)
    return Network(leaves, dataclasses.replace(graph, output_shape=answer.shape[batched:])), answer


def _input(model: Any, known: Iterable[str]) -> tuple[Any, tuple[int, ...], bool]:
    """The one input, the shape of one example, and whether the input is that as a whole."""
    inputs = [i for i in model.graph.input if i.name not in known]
    if len(inputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); one is expected")
    kind = inputs[0].type.tensor_type
    if _dtype(kind.elem_type) not in ("float32", "float64"):
        raise ValueError(f"its input {inputs[0].name!r} is of {_dtype(kind.elem_type)}; float32 or float64 is expected")
    if not kind.HasField("shape"):
        raise ValueError(f"its input {inputs[0].name!r} has no shape; export it with one")
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    batch = bool(dims) and (dims[0] is None or (dims[0] == 1 and len(dims) > 1))
    rest = dims[1:] if batch else dims
    if None in rest:
        given = ", ".join(d.dim_param or str(d.dim_value or "?") for d in kind.shape.dim)
        raise ValueError(
            f"its input {inputs[0].name!r} has the shape ({given}); only the leading axis may be left open"
        )
    return inputs[0], tuple(d for d in rest if d is not None), not batch


def _dtype(code: int) -> str:
    """The name of a tensor's element type."""
    import onnx

    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)).name
    except KeyError:
        return f"type {code}"


def _attribute(attribute: Any) -> Any:
    """A number, a string, a tuple of them, or an array."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _constant(attributes: dict[str, Any]) -> np.ndarray:
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in attributes:
            return np.array(attributes[name], dtype)
    if not isinstance(attributes.get("value"), np.ndarray):
        raise NotImplementedError(f"a constant given as {', '.join(attributes)} is not supported")
    return attributes["value"]


def _shaping(nodes: list[Any], known: Iterable[str], source: str) -> set[str]:
    """The constants that shape the program (a new shape, scales), so must not be leaves."""
    varies, makers = {source}, {}
    for node in nodes:
        makers |= dict.fromkeys(node.output, node)
        if OPS[node.op_type].values and varies & set(node.input):
            varies |= set(node.output)
    front = []
    for node in nodes:
        op = OPS[node.op_type]
        for i, name in enumerate(node.input):
            if i in op.static and name in varies:
                what = f"{node.op_type} (node {node.name!r})"
                raise NotImplementedError(
                    f"{what}: its operand {i} depends on the values of the input; it must be known beforehand"
                )
            front += [name] * (i in op.static or (i in op.prefer and name not in varies))
    seen: set[str] = set()
    while front:
        name = front.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in makers and OPS[makers[name].op_type].values:
            front += makers[name].input
    return seen & set(known)


def _mark(graph: Graph) -> str:
    def say(v: Any) -> str:
        return f"{v.dtype}{v.shape}{v.tobytes().hex()}" if isinstance(v, np.ndarray) else repr(v)

    h = hashlib.sha256(repr((graph.weights, graph.input, graph.output, graph.opset, graph.shape, graph.whole)).encode())
    for node in graph.nodes:
        h.update(repr((node.op, node.inputs, node.outputs, [(k, say(v)) for k, v in node.attributes])).encode())
    for i, value in graph.constants.items():
        h.update(f"{i}:{say(value)}".encode())
    return h.hexdigest()
