"""ONNX files against onnxruntime: every operator, random geometries, published nets; and what a bad file costs."""

import jax
import numpy as np
import onnxruntime
import pytest

import jrobust as jr
from jrobust.io._tables import OPS
from tests.io.graphs import CASES, Graph, i64, model, normal


def reference(proto, x):
    """onnxruntime's answers [B, K], one example at a time."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return np.stack([session.run(None, {name: z})[0].ravel() for z in x])


def loaded(proto, folder):
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return jr.io.load_onnx(folder / "net.onnx")


@jax.jit
def answers(nets, xs):
    """Several nets compiled as one: the fixed cost of a compilation is most of these tests' time."""
    return [net(x) for net, x in zip(nets, xs, strict=True)]


def agree(protos, folder, spans=None, examples=2):
    """Nets read from files answer as onnxruntime does."""
    nets = [loaded(proto, folder) for proto in protos]
    spans = spans or [(-2, 2)] * len(nets)
    rng = np.random.default_rng(1)
    xs = [rng.uniform(*span, (examples, *net.shape)).astype(np.float32) for net, span in zip(nets, spans, strict=True)]
    for i, (net, proto, x, ours) in enumerate(zip(nets, protos, xs, answers(nets, xs), strict=True)):
        theirs = reference(proto, x if net.graph.whole else x[:, None])
        assert ours.shape == (examples, net.output_size) == theirs.shape
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-4, atol=1e-5, err_msg=f"graph {i}")
    return nets


@pytest.mark.parametrize("op", sorted({name.split()[0] for name in CASES}))
def test_operator(op, tmp_path):
    graphs = [graph for name, graph in CASES.items() if name.split()[0] == op]
    agree([model(graph) for graph in graphs], tmp_path, [graph.span for graph in graphs])


def test_every_operator_has_a_case():
    assert {op for graph in CASES.values() for op, *_ in graph.nodes} - {"Constant"} == set(OPS)


# -- Random geometries


def geometry(rng, op):
    """A convolution or pooling of random kernel, stride, dilation, padding and groups, whose windows fit."""
    n = int(rng.integers(1, 4))
    draw = lambda low, high: tuple(int(v) for v in rng.integers(low, high, n))  # noqa: E731
    kernel, strides, dilations = draw(1, 4), draw(1, 4), draw(1, 3)
    low, high = (tuple(int(rng.integers(0, k)) for k in kernel) for _ in "ab")
    shape = tuple(int(rng.integers((k - 1) * d + 1, (k - 1) * d + 6)) for k, d in zip(kernel, dilations, strict=True))
    groups, each, out = (int(v) for v in rng.integers(1, 3, 3))
    attributes = {"strides": strides, "dilations": dilations, "pads": low + high}
    weights = {}
    if op.endswith("Pool"):
        attributes |= {"kernel_shape": kernel, "ceil_mode": int(rng.integers(2))}
        attributes |= {"count_include_pad": int(rng.integers(2))} if op == "AveragePool" else {}
    else:
        size = (groups * out, each) if op == "Conv" else (groups * each, out)
        weights = {"w": normal(*size, *kernel), "b": normal(groups * out)}
        attributes["group"] = groups
        if op == "ConvTranspose":
            shape = tuple(s + 4 for s in shape)
            attributes["output_padding"] = tuple(int(rng.integers(0, s)) for s in strides)
    nodes = ((op, ("x", *weights), attributes),)
    return Graph(nodes, (1, groups * each, *shape), weights, 19, (-2.0, 2.0))


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
def test_random_geometry(op, tmp_path):
    rng = np.random.default_rng(0)
    agree([model(geometry(rng, op)) for _ in range(15)], tmp_path)


def test_random_slices_and_paddings(tmp_path):
    rng, protos = np.random.default_rng(0), []
    for _ in range(20):
        starts, ends = rng.integers(-7, 8, (2, 2))
        steps = rng.choice([-3, -2, -1, 1, 2, 3], 2)
        pads = rng.integers(-1, 3, 6)
        nodes = (("Pad", ("x", "p"), {"mode": "constant"}), ("Slice", ("h0", "s", "e", "a", "t"), {}))
        weights = {
            "p": np.concatenate([[0], pads[:2], [0], pads[2:4]]),
            "s": starts,
            "e": ends,
            "a": i64(1, 2),
            "t": steps,
        }
        protos.append(model(Graph(nodes, (1, 5, 6), weights, 17, (-2.0, 2.0))))
    agree(protos, tmp_path)
