"""A model of images as a model of images and the parameters of a rendering: how a composition f . g(x, .) is attacked."""

from collections.abc import Callable
from typing import Any

import jax

from jrobust._objective import Stochastic
from jrobust._tree import as_pytree, bind


def _rendered(render: Any, x: Any) -> Any:
    image, *theta = x
    return jax.vmap(render)(image, *theta)


def _through(model: Any, render: Any, x: Any) -> Any:
    return model(_rendered(render, x))


def _through_random(model: Any, render: Any, key: Any, x: Any) -> Any:
    return model(key, _rendered(render, x))


def through(model: Callable[[Any], Any] | Stochastic, render: Callable[..., Any]) -> Any:
    """The model of the tuple ``(x, *theta)`` that sees ``render(x, *theta)``: a box of parameters is then an ordinary set.

    Args:
      model: batched, ``model(x[B, ...]) -> logits[B, K]``; a random one (`stochastic`) stays random.
      render: ``(x, *theta) -> x'`` of one example, differentiable in what an attack is to climb; `jr.transforms` has some.

    Returns:
      A batched model of tuples, as `evaluate` takes with a product set:
      ``evaluate(through(model, render), (x, theta0), y, threat=product(point(clip=(0, 1)), box(lo, hi)), ...)``.

    >>> import jax.numpy as jnp
    >>> brighter = through(lambda x: x, lambda z, b: z + b)
    >>> print(brighter((jnp.zeros((2, 3)), jnp.array([0.5, 1.0]))))
    [[0.5 0.5 0.5]
     [1.  1.  1. ]]
    """
    if isinstance(model, Stochastic):
        return Stochastic(bind(_through_random, model.model, as_pytree(render)), model.n)
    if not callable(model):
        raise TypeError(f"through takes a batched model, model(x[B, ...]) -> logits[B, K]; got {type(model).__name__}")
    if jax.tree_util.all_leaves([model]):  # a closure stays one: the driver finds its arrays
        return lambda x: model(_rendered(render, x))
    return bind(_through, model, as_pytree(render))
