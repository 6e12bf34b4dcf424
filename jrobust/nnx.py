"""Flax NNX modules as pure functions of their arrays: parameters in, statistics in, statistics out."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jrobust._checks import check_batch, check_count
from jrobust._tree import bind
from jrobust.typing import Array, PyTree

__all__ = ["Functional", "activations", "functional", "merge"]


class Functional(NamedTuple):
    """A module taken apart.

    Attributes:
      apply: ``apply(params, rest, x[B, ...], *, train) -> (logits[B, K], rest')``, pure, hashable, equal for two
        modules of one architecture (so that they share one compiled program).
      params: the trained arrays, as nested dictionaries.
      rest: every other array (batch statistics, normalisation constants, random streams), as nested dictionaries.
    """

    apply: Callable[..., tuple[Array, PyTree]]
    params: PyTree
    rest: PyTree


def functional(
    model: nnx.Module,
    *,
    trained: Any = nnx.Param,
    dtype: Any = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Functional:
    """Take a module apart into a pure function and its arrays.

    With ``train=True`` the function runs in training mode: BatchNorm normalises with the batch and ``rest'`` carries
    the updated running statistics, dropout is active. With ``train=False`` it runs in inference mode and ``rest'``
    equals ``rest``. The mode that ``model`` itself is in does not matter, and ``model`` is not changed.

    Dropout: a module that draws random numbers keeps its streams (key and counter) in ``rest``; each training call
    advances the counter, so pass ``rest'`` on and no two steps share a mask. To restart the randomness, build the
    module from another seed.

    Args:
      model: the module; ``model(x[B, ...])`` returns logits [B, K].
      trained: an NNX filter that says which variables are ``params`` (for instance ``nnx.LoRAParam``).
      dtype: of the layers' arithmetic, such as ``jnp.bfloat16`` for training (it becomes ``dtype`` of every layer that has one);
        inputs, perturbations, parameters, statistics and logits stay float32. None leaves the layers as they are.
      call: what to do with module and input, such as a method, ``Net.begin`` (the input may then be a tuple); None calls the module.

    Returns:
      ``(apply, params, rest)``.

    >>> import jax, jax.numpy as jnp
    >>> net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> apply, params, rest = functional(net)
    >>> logits, rest = jax.jit(apply, static_argnames="train")(params, rest, jnp.ones((5, 3)), train=False)
    >>> logits.shape, bool(jnp.allclose(logits, net(jnp.ones((5, 3)))))
    ((5, 2), True)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"functional takes an nnx.Module, got {type(model).__name__}; pass another callable to the drivers as it is"
        )
    graph, params, rest = nnx.split(model, trained, ...)
    # The mode is set at call time; taking the structure in one fixed mode keeps the user's mode out of compilation
    # caches.
    copy = nnx.merge(graph, params, rest)
    copy.eval()
    for _, layer in nnx.iter_modules(copy):
        if dtype is not None and hasattr(layer, "dtype"):
            layer.dtype = dtype  # pyright: ignore[reportAttributeAccessIssue]
    graph, params, rest = nnx.split(copy, trained, ...)
    apply = bind(_apply, graph=graph, trained=trained, call=call)
    return Functional(apply, nnx.to_pure_dict(params), nnx.to_pure_dict(rest))


def merge(model: nnx.Module, params: PyTree, rest: PyTree) -> nnx.Module:
    """A new module with the architecture and mode of ``model`` that holds ``params`` and ``rest``.

    Args:
      model: any module of the architecture; it is not changed.
      params: parameters as `functional` returns them.
      rest: the other arrays as `functional` returns them.

    >>> net, other = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> _, params, rest = functional(other)
    >>> bool((merge(net, params, rest).kernel == other.kernel[...]).all())
    True
    """
    return nnx.merge(nnx.graphdef(model), params, rest)


def activations(
    model: nnx.Module, x: Any, *, after: Callable[[Any], Any] | None = None, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """What every layer of a module returns on a data set, in inference mode, for the metrics of neurons.

    Args:
      model: the module; it is not changed.
      x: examples [N, ...].
      after: applied to each activation on the device, such as ``jax.nn.relu`` where the module applies it as a plain function
        between layers; it may also make them smaller.
      batch_size: examples at a time.

    Returns:
      Path -> float array [N, ...]: the outputs of the submodules' methods ("body/0"), a method of the module itself ("begin"), and what
      the module sows as ``nnx.Intermediate``, by its name; a layer called again has "#1", "#2", ... The module's own output is not
      among them, nor is anything that has not a row an example.

    Raises:
      TypeError: not an ``nnx.Module``, or x not floating.

    >>> net = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), jax.nn.relu, nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    >>> {name: a.shape for name, a in activations(net, jnp.ones((5, 3))).items()}
    {'layers/0': (5, 4), 'layers/2': (5, 2)}
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"activations takes an nnx.Module, got {type(model).__name__}")
    check_count(batch_size, "batch_size", "activations")
    n = check_batch(x)
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    graph, state = nnx.split(copy)
    parts = []
    for first in range(0, n, batch_size):
        rows = jax.tree.map(lambda a, first=first: jnp.asarray(a[first : first + batch_size]), x)
        parts.append(jax.tree.map(np.asarray, _captured(state, rows, graph=graph, after=after)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@partial(jax.jit, static_argnames=("graph", "after"))
def _captured(state: Any, x: Any, *, graph: Any, after: Any) -> dict[str, Array]:
    size = jax.tree.leaves(x)[0].shape[0]
    model: Any = nnx.merge(graph, state)
    _, seen = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(x)
    out = {}
    for path, a in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(seen)):
        *steps, call = [getattr(step, "key", getattr(step, "idx", None)) for step in path]
        name = "/".join(str(step) for step in steps if step != "__call__")
        if name and a.ndim >= 1 and a.shape[0] == size and jnp.issubdtype(a.dtype, jnp.floating):
            out[f"{name}#{call}" if call else name] = a if after is None else after(a)
    return out


def _apply(
    params: PyTree, rest: PyTree, x: PyTree, *, train: bool, graph: Any, trained: Any, call: Any
) -> tuple[Array, PyTree]:
    model: Any = nnx.merge(graph, params, rest)
    (model.train if train else model.eval)()
    logits = model(x) if call is None else call(model, x)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # a loss is no place for half precision
    _, _, rest = nnx.split(model, trained, ...)
    return logits, nnx.to_pure_dict(rest)
