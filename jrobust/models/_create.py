"""Models by name, and an initialisation for certified training."""

import difflib
from collections.abc import Sequence
from functools import partial
from math import pi, prod
from typing import Any

import jax
from flax import nnx

from jrobust.models._lipschitz import lipschitz_cnn, lipschitz_mlp
from jrobust.models._plain import cnn7, cnn_medium, cnn_small, mlp
from jrobust.models._residual import preact_resnet18, wide_resnet
from jrobust.models._spectral import spectral_mlp
from jrobust.models._transformer import vit_tiny
from jrobust.typing import PRNGKeyArray, PyTree

registry = {
    "mlp": mlp,
    "cnn-small": cnn_small,
    "cnn-medium": cnn_medium,
    "cnn-7": cnn7,
    "preact-resnet-18": preact_resnet18,
    "wide-resnet-28-10": wide_resnet,
    "wide-resnet-34-10": partial(wide_resnet, depth=34),
    "vit-tiny": vit_tiny,
    "lipschitz-mlp": lipschitz_mlp,
    "lipschitz-cnn": lipschitz_cnn,
    "spectral-mlp": spectral_mlp,
}
"""Name -> factory ``(shape, classes, *, rngs, mean, std, ...)``."""


def create(name: str, *, shape: Sequence[int], classes: int, seed: int = 0, **options: Any) -> nnx.Module:
    """A freshly initialised model, in inference mode (``model.train()`` switches; `jrobust.nnx.functional` takes the mode as an argument).

    Args:
      name: a key of `registry`: mlp, cnn-small, cnn-medium, cnn-7, preact-resnet-18, wide-resnet-28-10, wide-resnet-34-10,
        vit-tiny, lipschitz-mlp, lipschitz-cnn, spectral-mlp.
      shape: of one example, such as (28, 28, 1).
      classes: number of logits K, >= 1.
      seed: of the initialisation.
      **options: of the factory, such as ``mean``, ``std``, ``widths``.

    Raises:
      ValueError: an unknown name (the nearest is suggested), or a shape that the model does not take.

    >>> import jax.numpy as jnp
    >>> create("cnn-small", shape=(8, 8, 1), classes=10)(jnp.zeros((2, 8, 8, 1))).shape
    (2, 10)
    """
    if name not in registry:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), registry, n=1)
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown model {name!r};{hint} there are {', '.join(registry)}")
    if classes < 1:
        raise ValueError(f"classes is >= 1, not {classes}")
    model = registry[name](tuple(shape), classes, rngs=nnx.Rngs(seed), **options)
    model.eval()
    return model


def ibp_init(key: PRNGKeyArray, params: PyTree, *, head: str | None = "head") -> PyTree:
    """Kernels from ``N(0, 2 pi / fan_in^2)``, with which interval bounds keep their width from layer to layer.

    Args:
      key: typed key.
      params: parameters as `jrobust.nnx.functional` returns them; leaves under a key ``kernel`` are drawn anew.
      head: name of the last layer, which stays as it is; None draws every kernel anew.

    Returns:
      New parameters; biases, norms and the head are unchanged.

    Raises:
      ValueError: there is no layer ``head``.

    References:
      Shi, Wang, Zhang, Yi, Hsieh. Fast certified robust training with short warmup. NeurIPS 2021.
    Deviations:
      The residual variant (half the weights behind an addition) is not applied.

    >>> params = {"body": {"kernel": jax.numpy.ones((400, 300))}, "head": {"kernel": jax.numpy.ones((300, 10))}}
    >>> new = ibp_init(jax.random.key(0), params)
    >>> round(float(new["body"]["kernel"].std() * 400), 2), float(new["head"]["kernel"].std())  # sqrt(2 pi) = 2.51
    (2.51, 0.0)
    """

    def draw(path: tuple[Any, ...], leaf: Any, key: PRNGKeyArray) -> Any:
        names = [getattr(entry, "key", None) for entry in path]
        if names[-1] != "kernel" or head in names:
            return leaf
        fan_in = prod(leaf.shape[:-1])
        return (2 * pi) ** 0.5 / fan_in * jax.random.normal(key, leaf.shape, leaf.dtype)

    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    layers = dict.fromkeys(str(getattr(entry, "key", entry)) for path, _ in leaves for entry in path[:-1])
    if head is not None and head not in layers:
        raise ValueError(
            f"ibp_init: no layer is named {head!r}; give head= one of {', '.join(layers)} (the last layer keeps its kernel), or None"
        )
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([draw(path, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)])
