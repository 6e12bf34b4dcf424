"""HYDRA: which weights a robust net can do without, found by the robust loss itself."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._transforms import AtWitnesses
from jrobust.typing import Array, PyTree


def hydra_scores(params: PyTree) -> PyTree:
    """The scores that `hydra` starts from: ``sqrt(6 / fan_in) w / max |w|``, so that the largest weights are kept at first.

    Args:
      params: of a trained net.

    Returns:
      A tree like ``params``, with None for arrays of fewer than two axes (biases, normalisation), which are never pruned.

    Raises:
      ValueError: nothing to prune.

    >>> print(hydra_scores({"w": jnp.array([[3.0], [-1.5], [3.0], [3.0], [0.0], [0.0]]), "b": jnp.ones(1)})["w"].T)  # fan_in 6
    [[ 1.  -0.5  1.   1.   0.   0. ]]
    """

    def one(w: Any) -> Any:
        if jnp.ndim(w) < 2:
            return None
        most = jnp.max(jnp.abs(w))
        return (6.0 / prod(w.shape[:-1])) ** 0.5 * w / jnp.where(most > 0, most, 1.0)

    scores = jax.tree.map(one, params)
    if not jax.tree.leaves(scores):
        raise ValueError("hydra_scores: the parameters hold no array of two or more axes, so there is nothing to prune")
    return scores


def _mask(score: Array, keep: int | float) -> Array:
    """1 for the ``keep`` of the entries with the largest ``|score|``; its derivative is that of ``|score|`` itself."""
    sizes = jnp.abs(score)
    dropped = int((1 - keep) * score.size)
    order = jnp.argsort(jnp.ravel(jax.lax.stop_gradient(sizes)))
    hard = jnp.zeros(score.size, score.dtype).at[order[dropped:]].set(1.0).reshape(score.shape)
    return hard + sizes - jax.lax.stop_gradient(sizes)


def hydra_masks(scores: PyTree, keep: int | float) -> PyTree:
    """Masks of zeros and ones, None where nothing is pruned: of each array the share ``keep`` of the largest ``|score|``.

    Args:
      scores: as `hydra_scores` returns them, trained or not.
      keep: in (0, 1], the same for each array.

    Raises:
      ValueError: another ``keep``.

    >>> print(hydra_masks({"w": jnp.array([[3.0, -4.0, 1.0, 2.0]])}, 0.5)["w"])
    [[1. 1. 0. 0.]]
    """
    _check(keep, "hydra_masks")
    return jax.tree.map(lambda s: jnp.round(jax.lax.stop_gradient(_mask(s, keep))), scores)


def _check(keep: int | float, by: str) -> None:
    if not 0 < keep <= 1:
        raise ValueError(f"{by}: keep is the share of weights that stay, in (0, 1], got {keep}")


def pruned(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters times their masks.

    >>> print(pruned({"w": jnp.array([2.0, 3.0])}, {"w": jnp.array([0.0, 1.0])})["w"])
    [0. 3.]
    """
    return jax.tree.map(lambda w, m: w if m is None else w * m, params, masks)


def _of(robust: Callable[..., Any], weights: Callable[[Any], Any]) -> AtWitnesses | Callable[..., Any]:
    """A loss of something that the weights are a function of."""
    if isinstance(robust, AtWitnesses):
        return AtWitnesses(
            lambda params, *args, **how: robust.craft(weights(params), *args, **how),
            lambda params, *args, **how: robust.at(weights(params), *args, **how),
        )
    return lambda params, *args, **how: robust(weights(params), *args, **how)


def hydra(robust: Callable[..., Any], params: PyTree, *, keep: int | float = 0.1) -> AtWitnesses | Callable[..., Any]:
    """HYDRA's pruning stage: a robust loss of the scores, at weights that stay and are masked by the largest of them.

    Three stages: a net is trained by ``robust``; then `hydra_scores` of it by this loss, with any optimiser; then its weights again by
    ``finetuned(robust, hydra_masks(scores, keep))``, and ``pruned(params, masks)`` is the net.

    Args:
      robust: any loss: of `jr.worst_case`, `trades`, ...; one in two stages stays one.
      params: the trained weights, constants here.
      keep: the share of each array's weights that stays, in (0, 1] (published among others: 0.1).

    Returns:
      ``loss(scores, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``; masks pass gradients straight through.

    Raises:
      ValueError: another ``keep``.

    References:
      Sehwag, Wang, Mittal & Jana, HYDRA: pruning adversarially robust neural networks, NeurIPS 2020.

    Deviations: every array of two or more axes counts as a weight; statistics of BatchNorm go on, its scale and bias do not.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> w = jnp.array([[2.0, 0.1], [0.1, 2.0]])
    >>> losses, _ = hydra(loss, w, keep=0.5)(hydra_scores(w), None, jnp.eye(2), jnp.arange(2), key=None, train=True)
    >>> bool(jnp.allclose(losses, jnp.log(1 + jnp.exp(-2.0))))
    True
    """
    _check(keep, "hydra")
    masked = lambda scores: pruned(params, jax.tree.map(lambda s: _mask(s, keep), scores))  # noqa: E731
    return _of(robust, masked)


def finetuned(robust: Callable[..., Any], masks: PyTree) -> AtWitnesses | Callable[..., Any]:
    """HYDRA's last stage: a robust loss of weights that are masked; what is masked has no gradient.

    Args:
      robust: any loss.
      masks: as `hydra_masks` returns them.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> mean = lambda w: jnp.mean(finetuned(loss, jnp.eye(2))(w, None, jnp.eye(2), jnp.arange(2), key=None, train=True)[0])
    >>> print(jax.grad(mean)(jnp.zeros((2, 2))))
    [[-0.25  0.  ]
     [ 0.   -0.25]]
    """
    return _of(robust, lambda params: pruned(params, masks))
