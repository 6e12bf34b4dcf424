"""What a bad file costs: one clear line. And what of a good one may vary: compression, batch axes, data beside it, functions."""

import gzip
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import jrobust as jr
from tests.io.graphs import Graph, i64, model, normal


def graph(nodes, shape=(1, 4), weights=None, opset=17):
    return model(Graph(tuple(nodes), shape, weights or {}, opset, (0.0, 1.0)))


def good():
    return graph([("MatMul", ("x", "w"), {}), ("Relu", ("h0",), {})], weights={"w": normal(4, 3)})


def load(data, folder, name="net.onnx"):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return jr.io.load_onnx(folder / name)


X = np.random.default_rng(0).uniform(size=(2, 4)).astype(np.float32)


def test_truncated(tmp_path):
    whole = good().SerializeToString()
    rest = len(good().opset_import[0].SerializeToString()) + 2  # what stands last
    for n in sorted({0, 1, 2, 3, 5, 8, *range(10, len(whole), 9), len(whole) - rest, len(whole) - 1}):
        with pytest.raises(ValueError, match=r"net\.onnx is no complete ONNX model"):
            load(whole[:n], tmp_path)
    packed = gzip.compress(whole)
    for n in (1, 2, 5, 12, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        with pytest.raises(ValueError, match=r"net\.onnx\.gz is no complete"):
            load(packed[:n], tmp_path, "net.onnx.gz")
    spoilt = bytearray(packed)
    spoilt[len(packed) // 2] ^= 0xFF
    with pytest.raises(ValueError, match="is no complete"):
        load(bytes(spoilt), tmp_path, "net.onnx.gz")
    np.testing.assert_allclose(load(packed, tmp_path, "net.onnx.gz")(X), np.maximum(X @ normal(4, 3), 0), rtol=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        b"hello world, this is text\n" * 9,
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"\x80\x04K\x01.",
        bytes(64),
        b"PK\x03\x04abc",
    ],
)
def test_foreign(data, tmp_path):
    with pytest.raises(ValueError, match="is no complete ONNX model"):
        load(data, tmp_path)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        jr.io.load_onnx(tmp_path / "gone.onnx")


def altered(change):
    proto = good()
    change(proto)
    return proto


def second_input(proto):
    proto.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, (1,)))


def second_output(proto):
    proto.graph.output.append(helper.make_tensor_value_info("h0", TensorProto.FLOAT, (1, 3)))


def integer_input(proto):
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def open_axis(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"


def wrong_size(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def out_of_order(proto):
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def unknown_attribute(proto):
    proto.graph.node[1].attribute.append(helper.make_attribute("colour", 3))


def old(proto):
    proto.opset_import[0].version = 6


def beside(location):
    def change(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (second_input, ValueError, r"2 inputs \(x, other\)"),
        (second_output, NotImplementedError, r"several outputs \(h1, h0\)"),
        (integer_input, ValueError, "input 'x' is of int64"),
        (open_axis, ValueError, r"shape \(1, width\); only the leading axis"),
        (wrong_size, ValueError, r"MatMul \(node 'n0'\)"),
        (out_of_order, ValueError, "sorted"),
        (unknown_attribute, ValueError, "colour"),
        (old, NotImplementedError, "opset 6; versions 7 to"),
        (beside("../weights.bin"), ValueError, r"'\.\./weights\.bin', which is not beside"),
        (beside("/etc/hostname"), ValueError, "which is not beside"),
        (beside("gone.bin"), ValueError, "no such file beside"),
        (beside("link.bin"), ValueError, "which is not beside"),
        (beside("short.bin"), ValueError, "valid"),
    ],
)
def test_refused(change, error, message, tmp_path):
    (tmp_path / "weights.bin").write_bytes(normal(4, 3).tobytes())
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "short.bin").write_bytes(b"abc")
    with pytest.raises(error, match=message) as caught:
        load(altered(change), folder)
    assert "net.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unsupported_operators_are_named_at_once(tmp_path):
    nodes = [
        ("Hardmax", ("x",), {}),
        ("Foo", ("h0",), {"domain": "my.own"}),
        ("Relu", ("h1",), {}),
        ("Hardmax", ("h2",), {}),
    ]
    with pytest.raises(NotImplementedError, match=r"opset 17: Hardmax \(node 'n0', 'n3'\); my\.own\.Foo \(node 'n1'\)"):
        load(graph(nodes), tmp_path)
    # what the output does not depend on is nobody's business
    proto = graph([("Hardmax", ("x",), {}), ("Relu", ("x",), {})])
    np.testing.assert_allclose(load(proto, tmp_path)(X), X)


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([("Cast", ("x",), {"to": 7}), ("ConstantOfShape", ("h0",), {})], {}, "ConstantOfShape .* depends on the values of the input"),
        ([("Dropout", ("x", "r", "t"), {})], {"r": np.float32(0.5), "t": np.array(True)}, "training mode"),
        ([("Resize", ("x", "", "s"), {"antialias": 1, "mode": "linear"})], {"s": np.float32([1, 2])}, "antialias"),
        ([("Unsqueeze", ("x", "a"), {}), ("MaxPool", ("h0",), {"kernel_shape": (2,), "outputs": ("m", "i")}), ("Cast", ("i",), {"to": 1})],
         {"a": i64(1)}, "further output"),
    ],
)  # fmt: skip
def test_unsupported_cases(nodes, weights, message, tmp_path):
    with pytest.raises(NotImplementedError, match=message):
        load(graph(nodes, weights=weights, opset=18), tmp_path)


def test_output_of_integers(tmp_path):
    with pytest.raises(ValueError, match="answers with floats"):
        load(graph([("ArgMax", ("x",), {})]), tmp_path)


@pytest.mark.parametrize(
    ("declared", "shape", "whole"),
    [((1, 4), (4,), False), (("batch", 4), (4,), False), ((None, 4), (4,), False), ((3, 4), (3, 4), True), ((4,), (4,), True),
     ((1,), (1,), True)],
)  # fmt: skip
def test_batch_axis(declared, shape, whole, tmp_path):
    net = load(graph([("Relu", ("x",), {})], shape=declared), tmp_path)
    assert (net.shape, net.graph.whole, net.output_shape) == (shape, whole, shape)
    assert net.input_size == net.output_size == np.prod(shape)
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    np.testing.assert_allclose(net(x), np.maximum(x, 0).reshape(5, -1))
    for bad in (x[0], x[..., None], x.astype(int)):
        with pytest.raises(ValueError, match="this net takes float batches of shape"):
            net(bad)
    with pytest.raises(ValueError, match="this net takes one float example"):
        net.one(x)


def test_data_beside_the_model(tmp_path):
    proto = altered(beside("sub/weights.bin"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(normal(4, 3).tobytes())
    np.testing.assert_allclose(load(proto, tmp_path)(X), load(good(), tmp_path)(X))


def test_functions_of_the_model(tmp_path):
    body = [helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    twice = helper.make_function("own", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    proto = graph([("Twice", ("x",), {"domain": "own"})])
    proto.functions.append(twice)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    np.testing.assert_allclose(load(proto, tmp_path)(X), 2 * X)


def test_double_precision_becomes_single(tmp_path):
    proto = altered(
        lambda p: p.graph.initializer[0].CopyFrom(numpy_helper.from_array(normal(4, 3).astype(np.float64), "w"))
    )
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    net = load(proto, tmp_path)
    assert net.weights[0].dtype == np.float32
    np.testing.assert_allclose(net(X), load(good(), tmp_path)(X), rtol=1e-6)


def test_without_onnx(tmp_path, monkeypatch):
    """The package is asked for by name where it is missing."""
    (tmp_path / "net.onnx").write_bytes(good().SerializeToString())
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs the package onnx: pip install 'jrobust\[onnx\]'"):
        jr.io.load_onnx(tmp_path / "net.onnx")


def test_versions():
    """The newest operators that are read are those of the installed package, or older."""
    from jrobust.io._file import _OPSETS

    assert _OPSETS[-1] <= onnx.defs.onnx_opset_version()
