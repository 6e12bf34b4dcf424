"""A graph of operators as a function: its weights are leaves, all else is structure."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.io import _elementwise, _layers, _resize, _shapes  # noqa: F401  they fill the table
from jrobust.io._tables import OPS, Call
from jrobust.typing import Array, Float


class Node(NamedTuple):
    """One operator of a graph; values have numbers, and -1 is one that was left out."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...]
    name: str

    def __str__(self) -> str:
        return f"{self.op} (node {self.name!r})"


@dataclasses.dataclass(frozen=True)
class Graph:
    """What is static about a network. Two graphs are equal when their marks are: names do not count, nor do the weights' values.

    Attributes:
      mark: a hash of all that is computed.
      nodes: in order, only those that the output depends on.
      constants: known values by number.
      weights: the numbers of the values that are leaves.
      input, output: numbers.
      opset: version of the operators.
      shape: of one example.
      whole: the input is one example as it is; else it has a leading axis of 1 besides.
      output_shape: of the answer to one example.
    """

    mark: str
    nodes: tuple[Node, ...] = dataclasses.field(compare=False)
    constants: dict[int, np.ndarray] = dataclasses.field(compare=False)
    weights: tuple[int, ...] = dataclasses.field(compare=False)
    input: int = dataclasses.field(compare=False)
    output: int = dataclasses.field(compare=False)
    opset: int = dataclasses.field(compare=False)
    shape: tuple[int, ...] = dataclasses.field(compare=False)
    whole: bool = dataclasses.field(compare=False)
    output_shape: tuple[int, ...] = dataclasses.field(default=(), compare=False)

    def __digest__(self, by: Callable[[Any], str]) -> str:
        """For `digest`: the same in every process."""
        return self.mark


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["graph"])
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Network:
    """A network read from a file, as a pytree: weights are leaves, the graph is structure, so other weights never recompile.

    ``net(x[B, *shape]) -> [B, K]`` is a `model` for every driver; ``net.one(z[*shape]) -> [K]`` takes one example. The K outputs are
    the file's output flattened in C order (``output_shape`` says how it was shaped).

    Attributes:
      weights: its float arrays, in the order in which the graph uses them.
      graph: its operators; hashable, compared by what is computed.
    """

    weights: tuple[Any, ...]
    graph: Graph

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: the file's input without a leading axis that is 1 or symbolic; any other leading axis is part of the example."""
        return self.graph.shape

    @property
    def input_size(self) -> int:
        """How many numbers one example has."""
        return math.prod(self.shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the answer to one example, before it is flattened."""
        return self.graph.output_shape

    @property
    def output_size(self) -> int:
        """The K of ``net.one(z)``."""
        return math.prod(self.output_shape)

    def one(self, z: Any) -> Float[Array, " K"]:
        """The answer [K] to one example of `shape`."""
        z = jnp.asarray(z)
        if z.shape != self.shape or not jnp.issubdtype(z.dtype, jnp.floating):
            raise ValueError(
                f"this net takes one float example of shape {self.shape}, got {z.dtype} of shape {z.shape}"
            )
        return jnp.reshape(run(self.graph, self.weights, z), (-1,))

    def __call__(self, x: Any) -> Float[Array, "B K"]:
        """The answers [B, K] to a batch [B, *shape]."""
        x = jnp.asarray(x)
        if x.ndim < 1 or x.shape[1:] != self.shape or not jnp.issubdtype(x.dtype, jnp.floating):
            wanted = ", ".join(map(str, ("B", *self.shape)))
            raise ValueError(f"this net takes float batches of shape ({wanted}), got {x.dtype} of shape {x.shape}")
        return _batched(self, x)

    def __repr__(self) -> str:
        sizes = [math.prod(np.shape(w)) for w in self.weights]
        return f"Network(shape={self.shape}, output_shape={self.output_shape}, parameters={sum(sizes)})"


@jax.jit
def _batched(net: Network, x: Any) -> Any:
    return jax.vmap(net.one)(x)


def run(graph: Graph, weights: Sequence[Any], z: Any) -> Any:
    """The graph's output for one example, in the shape that the file gives it."""
    values: dict[int, Any] = {-1: None, graph.input: z if graph.whole else z[None], **graph.constants}
    values |= zip(graph.weights, map(jnp.asarray, weights), strict=True)
    for node in graph.nodes:
        with _blamed(node):
            out = _apply(node, graph.opset, [_read(values, i) for i in node.inputs])
        values |= {i: v for i, v in zip(node.outputs, out, strict=False) if i >= 0}
    return _read(values, graph.output)


def _read(values: dict[int, Any], i: int) -> Any:
    if i not in values:
        raise NotImplementedError(
            "it reads a further output of an operator (indices of a pooling?) that is not supported"
        )
    return values[i]


def _apply(node: Node, opset: int, operands: list[Any]) -> Sequence[Any]:
    """A node's outputs; those of known operands are computed on the host."""
    known = all(v is None or isinstance(v, np.ndarray) for v in operands)
    call = Call(dict(node.attributes), opset, len(node.outputs), np if known else jnp)
    with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
        out = OPS[node.op].rule(call, *operands)
        out = out if isinstance(out, tuple) else (out,)
        return [np.asarray(v) for v in out] if known else out


@contextlib.contextmanager
def _blamed(node: Node) -> Iterator[None]:
    """Errors of a rule, with the node that they are about."""
    try:
        yield
    except NotImplementedError as error:
        raise NotImplementedError(f"{node}: {error}") from error
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{node}: {said:.200}") from error
