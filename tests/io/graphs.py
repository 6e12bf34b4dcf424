"""Small ONNX graphs, one or more an operator; what each computes is onnxruntime's affair."""

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT


class Graph(NamedTuple):
    """Nodes ``(op, inputs, attributes)`` in a row, the first reads "x", each makes "h0", "h1", ...; the last is the output."""

    nodes: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...]
    shape: tuple[Any, ...]
    weights: dict[str, np.ndarray]
    opset: int
    span: tuple[float, float]
    reads: str | None = None


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def i64(*values):
    return np.array(values, np.int64)


def model(graph):
    """The ModelProto."""
    nodes = []
    for i, (op, inputs, attributes) in enumerate(graph.nodes):
        outputs = attributes.get("outputs", (f"h{i}",))
        kept = {k: v for k, v in attributes.items() if k not in ("outputs", "domain")}
        nodes.append(helper.make_node(op, inputs, outputs, name=f"n{i}", domain=attributes.get("domain"), **kept))
    last = graph.reads or nodes[-1].output[0]
    tensors = [numpy_helper.from_array(v, k) for k, v in graph.weights.items()]
    ends = [helper.make_tensor_value_info("x", FLOAT, graph.shape), helper.make_tensor_value_info(last, FLOAT, None)]
    made = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", graph.opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=min(10, onnx.IR_VERSION))


TWO, FOUR = numpy_helper.from_array(np.float32([2])), numpy_helper.from_array(normal(4))
CASES: dict[str, Graph] = {}


def add(op, shape=(3, 4), *operands, name="", opset=17, span=(-2.0, 2.0), cast=False, **attributes):
    """One operator on x and known operands (None: left out); ``cast``: its answer made float."""
    weights = {f"w{i}": v for i, v in enumerate(operands) if v is not None}
    inputs = ("x", *(f"w{i}" if v is not None else "" for i, v in enumerate(operands)))
    chain(((op, inputs, attributes),), shape, weights, name=f"{op} {name}", opset=opset, span=span, cast=cast)


def chain(nodes, shape, weights=None, *, name, opset=17, span=(-2.0, 2.0), cast=False, reads=None):
    if cast:
        nodes = (*nodes, ("Cast", (f"h{len(nodes) - 1}",), {"to": FLOAT}))
    key = f"{name} {opset}" if opset != 17 else name.strip()
    assert key not in CASES, key
    CASES[key] = Graph(tuple(nodes), (1, *shape), weights or {}, opset, span, reads)


# -- Entry by entry
for op in (
    "Relu",
    "Elu",
    "Selu",
    "Celu",
    "Softplus",
    "Softsign",
    "Mish",
    "HardSigmoid",
    "HardSwish",
    "Sigmoid",
    "Tanh",
    "Exp",
    "Erf",
    "Sin",
    "Cos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
):
    add(op, opset=18)
for op in (
    "Neg",
    "Abs",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Reciprocal",
    "Identity",
    "Tan",
    "LeakyRelu",
    "ThresholdedRelu",
    "Dropout",
):
    add(op)
for op in ("Log", "Sqrt"):
    add(op, span=(0.1, 3.0))
for op in ("Asin", "Acos", "Atanh"):
    add(op, span=(-0.9, 0.9))
add("Acosh", span=(1.1, 3.0))
add("Round", (5,), name="halves", span=(-2.5, 2.5))
add("LeakyRelu", name="slope", alpha=0.3)
add("ThresholdedRelu", name="level", alpha=0.4)
add("Elu", name="slope", alpha=0.5)
add("Celu", name="slope", alpha=2.0)
add("Selu", name="other", alpha=1.5, gamma=2.0)
add("HardSigmoid", name="other", alpha=0.4, beta=0.1)
add("Gelu", opset=20)
add("Gelu", name="tanh", opset=20, approximate="tanh")
add("PRelu", (3, 4, 4), normal(3, 1, 1))
add("PRelu", (3, 4, 4), normal(1), name="one")
add("Swish", opset=24, alpha=1.3)
for op in ("Add", "Sub", "Mul", "Div"):
    add(op, (3, 4), normal(4))
    add(op, (3, 4), normal(2, 1, 1, 4), name="wider")
add("Pow", (3,), np.float32(2), span=(-2, 2))
add("Pow", (3,), np.float32([3]), name="cube")
add("Pow", (3,), i64(2)[0], name="integer")
add("Pow", (3,), np.float32(0.5), name="root", span=(0.1, 2))
add("Pow", (3,), np.float32(-1), name="inverse", span=(0.2, 2))
add("Pow", (3,), np.float32([0.5, 2.2, 1.0]), name="several", span=(0.1, 2))
chain((("Exp", ("x",), {}), ("Pow", ("h0", "x"), {})), (3,), name="Pow of the input")
for op in ("Min", "Max", "Sum", "Mean"):
    add(op, (3, 4), normal(3, 4, seed=1), normal(4))
for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"):
    add(op, (3, 4), normal(4), cast=True)
for op in ("And", "Or", "Xor"):
    nodes = (("Greater", ("x", "w"), {}), ("Less", ("x", "v"), {}), (op, ("h0", "h1"), {}), ("Not", ("h2",), {}))
    chain(nodes, (20,), {"w": np.float32(-1), "v": np.float32(1)}, name=op, cast=True)
chain(
    (("Greater", ("x", "w"), {}), ("Exp", ("x",), {}), ("Where", ("h0", "h1", "v"), {})),
    (3, 4), {"w": normal(4), "v": np.float32([-1])}, name="Where",
)  # fmt: skip
add("Clip", (5,), np.float32(-1), np.float32(0.5))
add("Clip", (5,), None, np.float32(0.5), name="above")
add("Clip", (5,), np.float32(0.5), name="below")
add("Clip", (5,), opset=9, min=-0.5, max=1.0)
add("Mod", (7,), np.float32(0.7), fmod=1)
for kind in ("INT32", "INT64", "BOOL", "DOUBLE", "FLOAT16"):
    add("Cast", (9,), name=kind, to=getattr(TensorProto, kind), cast=True)
chain(
    (("Cast", ("x",), {"to": INT}), ("Div", ("h0", "w"), {})),
    (40,),
    {"w": i64(3)},
    name="Div of integers",
    span=(-9, 9),
    cast=True,
)
chain(
    (("Cast", ("x",), {"to": INT}), ("Mod", ("h0", "w"), {})),
    (40,),
    {"w": i64(3)},
    name="Mod of integers",
    span=(-9, 9),
    cast=True,
)
chain((("Cast", ("x",), {"to": INT}), ("CastLike", ("h0", "x"), {})), (9,), name="CastLike")
for op in ("Softmax", "LogSoftmax"):
    add(op, (3, 4))
    add(op, (3, 4), name="axis", axis=1)
    add(op, (3, 4), opset=11)
    add(op, (3, 4), name="axis", opset=11, axis=2)

# -- Reductions
for op in ("Sum", "Mean", "Prod", "Max", "Min", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"):
    add(f"Reduce{op}", (3, 4), span=(0.5, 1.5))
    add(
        f"Reduce{op}",
        (3, 4),
        name="axes",
        **({"axes": (1,)} if op != "Sum" else {"noop_with_empty_axes": 1}),
        span=(0.5, 1.5),
    )
    add(f"Reduce{op}", (3, 4), i64(-1, 1), opset=18, keepdims=0, span=(0.5, 1.5))
nodes = (("Less", ("x", "w"), {}), ("Where", ("h0", "n", "x"), {}), ("IsNaN", ("h1",), {}))
chain(nodes, (9,), {"w": np.float32(0), "n": np.float32(np.nan)}, name="IsNaN", cast=True)
add("ReduceSum", (3, 4), i64(2), name="one")
for op in ("ArgMax", "ArgMin"):
    add(op, (3, 4), axis=2, cast=True)
    add(op, (3, 4), name="flat", axis=-1, keepdims=0, cast=True)
    chain(
        (("Sign", ("x",), {}), (op, ("h0",), {"axis": -1, "select_last_index": 1})),
        (3, 6),
        name=f"{op} last",
        cast=True,
    )
add("TopK", (3, 6), i64(2), outputs=("v", "i"), axis=-1)
add("TopK", (3, 6), i64(2), name="least", outputs=("v", "i"), axis=1, largest=0)
chain(
    (("TopK", ("x", "k"), {"outputs": ("v", "i")}), ("Cast", ("i",), {"to": FLOAT})),
    (3, 6),
    {"k": i64(3)},
    name="TopK where",
)
add("CumSum", (3, 4), i64(2)[0])
add("CumSum", (3, 4), i64(1), name="other", exclusive=1, reverse=1)

# -- Products
add("MatMul", (4,), normal(4, 3))
add("MatMul", (2, 3, 4), normal(2, 4, 3), name="stacked")
add("MatMul", (3, 4), normal(4), name="vector")
add("Gemm", (4,), normal(4, 3), normal(3))
add("Gemm", (4,), normal(3, 4), normal(1, 3), name="transposed", transB=1, alpha=0.5, beta=2.0)
add("Gemm", (4,), normal(4, 3), opset=11)
chain((("Reshape", ("x", "s"), {}), ("Gemm", ("h0", "w", "b"), {"transA": 1, "beta": 0.5})), (12,),
      {"s": i64(4, 3), "w": normal(4, 2), "b": normal(3, 1)}, name="Gemm both")  # fmt: skip
chain((("Gemm", ("w", "h"), {"transB": 1}),), (1,), {"w": normal(3, 1), "h": normal(2, 1)}, name="Gemm of constants")
chain(
    (("Exp", ("x",), {}), ("Transpose", ("x",), {"perm": (0, 2, 1)}), ("MatMul", ("h0", "h1"), {})),
    (3, 4),
    name="MatMul of the input",
)
add("Einsum", (3, 4), normal(4, 5), equation="bij,jk->bik")
chain(
    (("Exp", ("x",), {}), ("Einsum", ("x", "h0"), {"equation": "bij,bkj -> bik"})), (3, 4), name="Einsum of the input"
)

# -- Shapes
add("Reshape", (3, 4), i64(1, 2, 6))
add("Reshape", (3, 4), i64(0, -1), name="keeps")
add("Reshape", (3, 4), i64(-1), name="flat", opset=8)
add("Flatten", (3, 4))
add("Flatten", (3, 4), name="axis", axis=2)
add("Flatten", (3, 4), name="negative", axis=-1)
add("Flatten", (3, 4), name="none", axis=0)
add("Transpose", (3, 4))
add("Transpose", (3, 4), name="perm", perm=(0, 2, 1))
add("Squeeze", (1, 4), i64(1))
add("Squeeze", (1, 4), name="all")
add("Squeeze", (3, 1), opset=11, axes=(2,))
add("Unsqueeze", (3,), i64(-1, 1))
add("Unsqueeze", (3,), opset=11, axes=(0, 3))
chain((("Exp", ("x",), {}), ("Concat", ("x", "w", "h0"), {"axis": 1})), (3, 4), {"w": normal(1, 2, 4)}, name="Concat")
for name, operands, attributes, opset in (
    ("sizes", (i64(1, 3, 2),), {}, 17), ("attribute", (), {"split": (1, 3, 2)}, 11), ("equal", (), {}, 17),
    ("ragged", (), {"num_outputs": 4}, 18),
):  # fmt: skip
    outputs = ("a", "b", "c", "d")[: attributes.get("num_outputs", 3)]
    weights = {f"w{i}": v for i, v in enumerate(operands)}
    nodes = (
        ("Split", ("x", *weights), {"axis": 2, "outputs": outputs, **attributes}),
        ("Concat", tuple(reversed(outputs)), {"axis": 2}),
    )
    shape = (3, 7) if name == "ragged" else (3, 6)
    chain(nodes, shape, weights, name=f"Split {name}", opset=opset)
add("Slice", (5, 6), i64(1), i64(4), i64(1))
add("Slice", (5, 6), i64(1, -2), i64(2**63 - 1, -6), i64(-2, -1), i64(2, -1), name="steps")
add("Slice", (5, 6), i64(-1), i64(-(2**63)), i64(2), i64(-2), name="to the front")
add("Slice", (5, 6), i64(0, 100), i64(1, -100), i64(0, 2), i64(1, -4), name="beyond")
add("Slice", (5, 6), i64(3), i64(2), i64(1), name="nothing")
add("Slice", (5, 6), opset=9, starts=(1, 2), ends=(-1, 100), axes=(1, 2))
add("Gather", (5, 6), i64(2)[0], axis=1)
add("Gather", (5, 6), np.array([[0, -1], [3, 3]]), name="several", axis=2)
chain((("Cast", ("x",), {"to": INT}), ("Gather", ("w", "h0"), {"axis": 0})), (4,), {"w": normal(3, 2)}, name="Gather by the input",
      span=(-2.9, 2.9))  # fmt: skip
add("GatherElements", (3, 4), np.array([[[0, 1, -1, 2]]]), axis=1)
add("GatherND", (3, 4), np.array([[0, 1], [0, -1]]))
add("ScatterND", (3, 4), np.array([[0, 1], [0, -1]]), normal(2, 4))
add("ScatterND", (3, 4), np.array([[0, 1], [0, 1]]), normal(2, 4), name="add", reduction="add", opset=18)
add("ScatterND", (3, 4), np.array([[0, 1], [0, 2]]), normal(2, 4), name="max", reduction="max", opset=18)
add("ScatterElements", (3, 4), np.array([[[0, 1, -1, 2]]]), normal(1, 1, 4), axis=1)
add(
    "ScatterElements",
    (3, 4),
    np.array([[[0, 1, -1, 2]]]),
    normal(1, 1, 4),
    name="mul",
    axis=1,
    reduction="mul",
    opset=18,
)
for mode in ("constant", "reflect", "edge"):
    add("Pad", (5, 6), i64(0, 1, 2, 0, 3, 0), name=mode, mode=mode)
    add("Pad", (5, 6), name=mode, mode=mode, pads=(0, 1, 2, 0, 3, 0), opset=9)
add("Pad", (5, 6), i64(0, 1, 2, 0, 3, 0), name="wrap", mode="wrap", opset=19)
add("Pad", (5, 6), i64(0, -1, 2, 0, 3, -2), np.float32(0.7), name="value")
add("Pad", (5, 6), i64(1, 2), None, i64(-1), name="axes", opset=18)
add("Pad", (5, 6), name="value", value=0.3, pads=(0, 1, 0, 0, 0, 1), opset=9)
add("DepthToSpace", (8, 3, 2), blocksize=2)
add("DepthToSpace", (8, 3, 2), name="CRD", blocksize=2, mode="CRD")
add("SpaceToDepth", (2, 4, 6), blocksize=2)
add("Trilu", (4, 4))
add("Trilu", (4, 4), i64(-1)[0], name="lower", upper=0)
add("Expand", (3, 1), i64(2, 1, 4))
add("Tile", (3, 4), i64(1, 2, 3))
nodes = (("Shape", ("x",), {}), ("Gather", ("h0", "i"), {}), ("Unsqueeze", ("h1", "i0"), {}), ("Concat", ("one", "h2", "m"), {"axis": 0}),
         ("Reshape", ("x", "h3"), {}), ("Range", ("zero", "h1", "two"), {}), ("Gather", ("h4", "h5"), {"axis": 1}))  # fmt: skip
chain(
    nodes,
    (4, 3),
    {"i": i64(1)[0], "i0": i64(0), "one": i64(1), "m": i64(-1), "zero": i64(0)[0], "two": i64(2)[0]},
    name="Range and Shape",
)
nodes = (("Shape", ("x",), {"start": 1, "end": -1}), ("ConstantOfShape", ("h0",), {"value": TWO}),
         ("Size", ("x",), {}), ("Cast", ("h2",), {"to": FLOAT}), ("Mul", ("h1", "h3"), {}),
         ("Unsqueeze", ("h4", "a"), {}), ("Add", ("x", "h5"), {}))  # fmt: skip
chain(nodes, (3, 4), {"a": i64(0, 2)}, name="ConstantOfShape and Size")
nodes = (("Cast", ("x",), {"to": INT}), ("OneHot", ("h0", "d", "v"), {"axis": 1}))
chain(nodes, (5,), {"d": i64(4), "v": np.float32([-1, 2])}, name="OneHot", span=(-3.9, 3.9))
nodes = (
    ("Equal", ("m", "one"), {}),
    ("NonZero", ("h0",), {}),
    ("Transpose", ("h1",), {}),
    ("GatherND", ("x", "h2"), {}),
)
chain(nodes, (3,), {"m": i64(1, 0, 1)[None], "one": i64(1)}, name="NonZero")
nodes = (("Constant", (), {"value": FOUR}), ("Constant", (), {"value_float": 2.0}), ("Constant", (), {"value_ints": (1, 12)}),
         ("Add", ("x", "h0"), {}), ("Mul", ("h3", "h1"), {}), ("Reshape", ("h4", "h2"), {}))  # fmt: skip
chain(nodes, (3, 4), name="Constant")
chain((("Mul", ("s", "w"), {}), ("Cast", ("h0",), {"to": INT}), ("Reshape", ("x", "h1"), {})), (6,), {"s": np.float32([1, 2]),
      "w": np.float32([1, 3.2])},
      name="a shape from floats")  # fmt: skip

# -- Layers
for n, shape in ((1, (4, 9)), (2, (4, 7, 6)), (3, (4, 5, 4, 6))):
    kernel = (3, 2, 3)[:n]
    add("Conv", shape, normal(6, 4, *kernel), normal(6), name=f"{n}d")
    add("Conv", shape, normal(6, 2, *kernel), normal(6), name=f"{n}d all", group=2, strides=(2, 1, 2)[:n], dilations=(1, 2, 1)[:n],
        pads=(1, 0, 2)[:n] + (0, 2, 1)[:n])  # fmt: skip
    add("ConvTranspose", shape, normal(4, 5, *kernel), normal(5), name=f"{n}d")
    add("ConvTranspose", shape, normal(4, 3, *kernel), normal(6), name=f"{n}d all", group=2, strides=(2, 3, 2)[:n], dilations=(2, 1, 1)[:n],
        pads=(1, 0, 1)[:n] + (0, 1, 2)[:n], output_padding=(1, 1, 0)[:n])  # fmt: skip
    for op in ("MaxPool", "AveragePool"):
        add(op, shape, name=f"{n}d", kernel_shape=kernel, strides=(2, 1, 2)[:n], pads=(1, 0, 1)[:n] + (0, 1, 1)[:n])
    for op in ("GlobalMaxPool", "GlobalAveragePool"):
        add(op, shape, name=f"{n}d")
    add("InstanceNormalization", shape, normal(4), normal(4, seed=1), name=f"{n}d")
    add(
        "BatchNormalization",
        shape,
        *(normal(4, seed=i) for i in range(3)),
        np.abs(normal(4, seed=3)) + 0.2,
        name=f"{n}d",
        epsilon=1e-3,
    )
for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
    add("Conv", (4, 7, 6), normal(6, 4, 3, 4), name=auto, auto_pad=auto, strides=(2, 3))
    add("ConvTranspose", (4, 7, 6), normal(4, 5, 3, 4), name=auto, auto_pad=auto, strides=(2, 3))
    for op in ("MaxPool", "AveragePool"):
        add(op, (4, 7, 6), name=auto, kernel_shape=(3, 4), auto_pad=auto, strides=(2, 3))
add("ConvTranspose", (4, 5, 4), normal(4, 5, 3, 3), name="shape", strides=(2, 2), output_shape=(10, 9))
add(
    "ConvTranspose",
    (4, 5, 4),
    normal(4, 5, 3, 3),
    name="shape upper",
    strides=(2, 2),
    output_shape=(10, 8),
    auto_pad="SAME_UPPER",
)
add(
    "BatchNormalization",
    (4,),
    *(normal(4, seed=i) for i in range(3)),
    np.abs(normal(4, seed=3)) + 0.2,
    name="flat",
    opset=9,
)
for ceil in (0, 1):
    pool = {"kernel_shape": (3, 2), "strides": (2, 3), "pads": (1, 0, 1, 1), "ceil_mode": ceil}
    add("MaxPool", (2, 8, 7), name=f"dilated {ceil}", dilations=(2, 1), **pool)
    for opset in (11, 19, 22):
        add("AveragePool", (2, 8, 7), name=f"with padding {ceil}", opset=opset, count_include_pad=1, **pool)
        add("AveragePool", (2, 8, 7), name=f"without {ceil}", opset=opset, **pool)
add("AveragePool", (2, 8, 7), name="dilated", opset=19, kernel_shape=(3, 2), dilations=(2, 3))
add("LayerNormalization", (3, 4), normal(4), normal(4, seed=1))
add("LayerNormalization", (3, 4), normal(3, 4), name="axis", axis=1, epsilon=1e-2)
add("GroupNormalization", (6, 3, 2), normal(6), normal(6, seed=1), opset=21, num_groups=3)
add("RMSNormalization", (3, 4), normal(4), opset=23)
add("LRN", (5, 3, 2), size=3, alpha=0.1, beta=0.6, bias=1.5)

# -- Resizing
for mode in ("nearest", "linear", "cubic"):
    for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        extra = {"mode": mode, "coordinate_transformation_mode": coordinates}
        if mode == "nearest":
            extra["nearest_mode"] = "floor" if coordinates == "asymmetric" else "round_prefer_floor"
        add("Resize", (2, 4, 5), None, np.float32([1, 1, 2, 1.6]), name=f"{mode} {coordinates} up", **extra)
        add("Resize", (2, 4, 5), None, None, i64(1, 2, 3, 2), name=f"{mode} {coordinates} down", **extra)
for rounding in ("round_prefer_ceil", "ceil", "round_prefer_floor"):
    add("Resize", (2, 4, 5), None, np.float32([1, 1, 2, 3]), name=rounding, mode="nearest", nearest_mode=rounding)
add("Resize", (2, 4, 5), np.float32([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.8]), None, i64(1, 2, 6, 4), name="crop", mode="linear",
    coordinate_transformation_mode="tf_crop_and_resize")  # fmt: skip
add("Resize", (2, 4, 5), None, np.float32([1, 1, 0.7, 1.3]), name="symmetric", mode="linear", opset=19,
    coordinate_transformation_mode="half_pixel_symmetric")  # fmt: skip
add("Resize", (2, 4, 5), None, np.float32([2, 1.5]), name="axes", mode="linear", opset=18, axes=(2, 3))
add(
    "Resize",
    (2, 4, 6),
    None,
    None,
    i64(6, 6),
    name="aspect",
    mode="linear",
    opset=18,
    axes=(2, 3),
    keep_aspect_ratio_policy="not_larger",
)
add(
    "Resize",
    (2, 4, 5),
    None,
    np.float32([1, 1, 2, 2]),
    name="edges",
    mode="cubic",
    exclude_outside=1,
    cubic_coeff_a=-0.5,
)
add("Resize", (2, 4, 5), np.float32([1, 1, 2, 1.6]), opset=10, mode="nearest")
add("Resize", (2, 4, 5), np.float32([1, 1, 0.5, 0.6]), name="down", opset=10, mode="nearest")
add("Resize", (2, 4, 5), np.float32([1, 1, 2, 2]), name="linear", opset=10, mode="linear")
add("Upsample", (2, 4, 5), np.float32([1, 1, 2, 3]), opset=9, mode="nearest")
add("Upsample", (2, 4, 5), np.float32([1, 1, 2, 2]), name="linear", opset=9, mode="linear")
add("Upsample", (2, 4, 5), name="attribute", opset=8, mode="nearest", scales=(1.0, 1.0, 2.0, 3.0))
