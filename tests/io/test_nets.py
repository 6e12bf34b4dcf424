"""Whole nets from ONNX files: published ones, one compilation for many weights, bounds, the command line."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust._digest import digest
from jrobust.cli import main
from tests.io.graphs import Graph, i64, model, normal
from tests.io.test_onnx import loaded, reference
from tests.shared import SHARED

FILES = sorted((SHARED / "fixtures" / "vnncomp").glob("*/*.onnx.gz"))
FAMILIES = sorted({path.parent.name for path in FILES})


@pytest.mark.parametrize("family", FAMILIES)
def test_published_nets(family):
    seen = set()
    for path in FILES:
        if path.parent.name != family:
            continue
        net = jr.io.load_onnx(path)
        x = np.random.default_rng(0).uniform(0, 1, (3, *net.shape)).astype(np.float32)
        theirs = reference(gzip.decompress(path.read_bytes()), x[:, None])
        np.testing.assert_allclose(net(x), theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max(), err_msg=path.name)
        if net.graph not in seen:
            assert jr.bounds.supported(net.one, x[0], method=jr.bounds.crown()) == []
            assert jr.bounds.supported(net.one, x[0], method=jr.bounds.ibp()) == []
        seen.add(net.graph)
    assert len(seen) == (1 if family == "acasxu" else sum(path.parent.name == family for path in FILES))


def net_of(nodes, shape, weights, folder, **kwargs):
    return loaded(model(Graph(tuple(nodes), (1, *shape), weights, 17, (0.0, 1.0), **kwargs)), folder)


def small(folder, seed, names=("w", "v")):
    """A convolution and a linear layer, whose reshape is computed from a shape."""
    a, b = names
    nodes = (("Conv", ("x", a), {"pads": (1, 1, 1, 1)}), ("Relu", ("h0",), {}), ("Shape", ("h1",), {}),
             ("Slice", ("h2", "zero", "one"), {}),
             ("Concat", ("h3", "all"), {"axis": 0}), ("Reshape", ("h1", "h4"), {}), ("MatMul", ("h5", b), {}))  # fmt: skip
    weights = {
        a: normal(3, 1, 3, 3, seed=seed),
        b: normal(48, 2, seed=seed),
        "zero": i64(0),
        "one": i64(1),
        "all": i64(-1),
    }
    return net_of(nodes, (1, 4, 4), weights, folder)


def test_other_weights_do_not_recompile(tmp_path, key):
    first, second, third = small(tmp_path, 0), small(tmp_path, 1), small(tmp_path, 2, names=("other", "names"))
    traced = []

    @jax.jit
    def answer(net, x):
        traced.append(1)
        return net(x)

    x = np.asarray(jax.random.uniform(key, (2, 1, 4, 4)))
    answers = [np.asarray(answer(net, x)) for net in (first, second, third)]
    assert len(traced) == 1
    assert not np.allclose(answers[0], answers[1])
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(first))
    assert [leaf.shape for leaf in jax.tree.leaves(first)] == [(3, 1, 3, 3), (48, 2)]
    assert hash(first.graph) == hash(third.graph)
    nodes = (("Reshape", ("x", "s"), {}), ("MatMul", ("h0", "w"), {}))
    weights = {"s": i64(1, 16), "w": normal(16, 2)}
    assert (
        net_of(nodes, (1, 4, 4), weights, tmp_path).graph
        != net_of(nodes, (1, 4, 4), weights | {"s": i64(-1, 16)}, tmp_path).graph
    )
    assert digest(small(tmp_path, 0)) == digest(first) != digest(second)


def test_gradients_and_leaves(tmp_path, key):
    net = small(tmp_path, 0)
    x = jax.random.uniform(key, (3, 1, 4, 4))
    doubled = jax.tree.map(lambda w: 2 * w, net)
    np.testing.assert_allclose(doubled(x), 4 * net(x), rtol=1e-5)
    grads = jax.grad(lambda net: net(x).sum())(net)
    assert float(jnp.abs(grads.weights[0]).max()) > 0
    assert net.one(x[0]).shape == (2,)
    np.testing.assert_allclose(jnp.stack([net.one(z) for z in x]), net(x), rtol=1e-5, atol=1e-6)
    # host arrays are weights as good as any
    np.testing.assert_allclose(jax.tree.map(np.asarray, net).one(np.asarray(x[0])), net.one(x[0]), rtol=1e-5)


CONV = {"w": normal(3, 1, 3, 3), "v": 0.3 * normal(48, 3)}
NETS = {
    "conv": ((("Conv", ("x", "w"), {"pads": (1, 1, 1, 1)}), ("Relu", ("h0",), {}),
              ("Flatten", ("h1",), {}), ("Gemm", ("h2", "v"), {})), CONV),
    "max pooling": (
        (("Conv", ("x", "w"), {"pads": (1, 1, 1, 1)}), ("MaxPool", ("h0",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
         ("Flatten", ("h1",), {}), ("Gemm", ("h2", "v"), {})), CONV | {"v": normal(12, 3)},
    ),
    "transposed": (
        (("ConvTranspose", ("x", "w"), {"strides": (2, 2), "output_padding": (1, 1), "pads": (1, 1, 1, 1)}), ("Sigmoid", ("h0",), {}),
         ("AveragePool", ("h1",), {"kernel_shape": (2, 2), "strides": (2, 2)}), ("Flatten", ("h2",), {}), ("Gemm", ("h3", "v"), {})),
        {"w": normal(1, 3, 3, 3), "v": 0.3 * normal(48, 3)},
    ),
    "attention": (
        (("Squeeze", ("x", "one"), {}), ("LayerNormalization", ("h0", "g", "g"), {}), ("Transpose", ("h1",), {"perm": (0, 2, 1)}),
         ("MatMul", ("h1", "h2"), {}), ("Softmax", ("h3",), {"axis": -1}), ("MatMul", ("h4", "h0"), {}), ("Gelu", ("h5",), {}),
         ("ReduceMean", ("h6", "one"), {"keepdims": 0})), {"one": i64(1), "g": normal(3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_bounds_contain_samples(name, tmp_path, key):
    nodes, weights = NETS[name]
    opset = 20 if name == "attention" else 17
    shape = (1, 1, 2, 3) if name == "attention" else (1, 1, 4, 4)
    net = loaded(model(Graph(nodes, shape, weights, opset, (0.0, 1.0))), tmp_path)
    z = jax.random.uniform(key, net.shape)
    s = jr.sets.linf(0.05, clip=(0, 1))(z)
    samples = net(jax.vmap(s.sample)(jax.random.split(key, 500)))
    widths = []
    # attention's backward pass takes long to compile
    for method in (jr.bounds.ibp(), jr.bounds.crown())[: 1 + (name != "attention")]:
        assert jr.bounds.supported(net.one, z, method=method) == []
        lo, hi = jax.jit(lambda net, s, m=method: jr.bounds.output_bounds(net.one, s, method=m))(net, s)
        slack = 1e-5 * (1 + np.abs(samples).max())
        assert np.isfinite(lo).all()
        assert (lo - slack <= samples).all()
        assert (samples <= hi + slack).all()
        widths.append(float(jnp.sum(hi - lo)))
    assert jr.bounds.supported(net.one, z, method=jr.bounds.crown()) == []
    assert widths[-1] <= widths[0] * (1 + 1e-5)


def test_evaluate_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nodes = (("Sub", ("x", "m"), {}), ("Gemm", ("h0", "w"), {}))
    net = net_of(nodes, (2,), {"m": np.float32([0, 0]), "w": np.eye(2, dtype=np.float32)}, tmp_path)
    Path("net.onnx.gz").write_bytes(gzip.compress(Path("net.onnx").read_bytes()))
    x = np.array([[0.2, 0.8], [0.55, 0.45], [0.9, 0.1], [0.5, 0.4]], np.float32)
    np.save("x.npy", x)
    np.save("y.npy", np.array([1, 0, 0, 1]))
    np.testing.assert_allclose(net(x), x)
    files = ["--x", "x.npy", "--y", "y.npy", "--eps", "0.1", "0.3", "--quiet"]
    words = ["evaluate", "--model", "net.onnx", *files, "--oracle", "clean", "fgsm", "ibp", "--out", "result"]
    for _ in range(2):  # the second goes on where the first was done
        assert main(words) == 0
        share = {(r["name"], r["eps"]): r["value"] for r in json.loads(Path("result/summary.json").read_text())["rows"]}
        assert share["fgsm", 0.1] == share["ibp", 0.1] == 0.5
        assert share["fgsm", 0.3] == share["ibp", 0.3] == 0.25
    capsys.readouterr()
    assert main(["evaluate", "--model", "net.onnx.gz", *files, "--oracle", "clean", "ibp"]) == 0
    np.save("x.npy", x[:, None])
    assert main(words[:-2]) == 2
    assert "(B, 2)" in capsys.readouterr().err
    Path("net.onnx").write_bytes(Path("net.onnx").read_bytes()[:60])
    assert main(words[:-2]) == 2
    assert "net.onnx is no complete ONNX model" in capsys.readouterr().err
    assert main([*words[:2], "gone.onnx", *words[3:-2]]) == 2
    assert "gone.onnx" in capsys.readouterr().err
