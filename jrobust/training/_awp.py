"""Adversarial weight perturbation: the loss where the weights, too, are at their worst."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._transforms import AtWitnesses
from jrobust._tree import stop_gradient
from jrobust.typing import PyTree


def perturbation(grads: PyTree, params: PyTree, gamma: Any) -> PyTree:
    """``gamma ||w|| / ||d|| d`` for each array of two or more axes, 0 for the others (biases, normalisation)."""

    def one(d: Any, w: Any) -> Any:
        if jnp.ndim(w) < 2:
            return jnp.zeros_like(w)
        norm = lambda a: jnp.sqrt(jnp.sum(a * a))  # noqa: E731
        return (gamma * norm(w) / (norm(d) + 1e-20) * d).astype(w.dtype)

    return jax.tree.map(one, grads, params)


def awp(robust: Callable[..., Any], *, gamma: Any = 0.01) -> AtWitnesses:
    """A robust loss at weights moved against it: ``w + gamma ||w|| / ||g|| g`` with its own gradient g, tensor by tensor.

    The witnesses are crafted once, at the weights as they are; the gradient that trains is that at the moved ones. One forward and
    backward pass more. The statistics of BatchNorm are those of the pass at the moved weights.

    Args:
      robust: any loss: of `jr.worst_case`, `trades`, ..., or a plain one.
      gamma: relative size, 0.01 for adversarial training and 0.005 for TRADES (published); traced: a warm-up is `scheduled`.

    References:
      Wu, Xia & Wang, Adversarial weight perturbation helps robust generalization, NeurIPS 2020.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = jr.worst_case(loss, jr.sets.linf(0.1), jr.attacks.fgsm())
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> bool(jnp.mean(awp(robust)(*args, **how)[0]) > jnp.mean(robust(*args, **how)[0]))
    True
    """
    if isinstance(robust, AtWitnesses):
        craft, there = robust.craft, robust.at
    else:
        craft = lambda params, rest, x, y, *, key: x  # noqa: E731
        there = lambda params, rest, x, z, y, **how: robust(params, rest, x, y, **how)  # noqa: E731

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        def mean_loss(w: Any) -> Any:
            return jnp.mean(there(w, rest, x, z, y, key=key, train=train)[0])

        here = stop_gradient(params)
        moved = jax.tree.map(jnp.add, params, stop_gradient(perturbation(jax.grad(mean_loss)(here), here, gamma)))
        return there(moved, rest, x, z, y, key=key, train=train)

    return AtWitnesses(craft, at)
