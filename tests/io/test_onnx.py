"""ONNX files against onnxruntime: every operator, random geometries, published nets; and what a bad file costs."""

import gzip
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import jrobust as jr
from jrobust.io._tables import OPS
from tests.io.graphs import CASES, Graph, model


def reference(proto, x):
    """onnxruntime's answers [B, K], one example at a time."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return np.stack([session.run(None, {name: z})[0].ravel() for z in x])


def loaded(proto, folder):
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return jr.io.load_onnx(folder / "net.onnx")


def agree(proto, folder, span=(-2, 2), examples=2):
    net = loaded(proto, folder)
    x = np.random.default_rng(1).uniform(*span, (examples, *net.shape)).astype(np.float32)
    ours = np.asarray(net(x))
    theirs = reference(proto, x if net.graph.whole else x[:, None])
    assert ours.shape == (examples, net.output_size)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    return net


@pytest.mark.parametrize("name", CASES)
def test_operator(name, tmp_path):
    graph = CASES[name]
    agree(model(graph), tmp_path, graph.span)


def test_every_operator_has_a_case():
    assert {op for graph in CASES.values() for op, *_ in graph.nodes} - {"Constant"} == set(OPS) - {"Scatter", "IsNaN"}
