"""You only propagate once: the adversary is updated through the first layer alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._transforms import example_keys
from jrobust._tree import stop_gradient, vdot
from jrobust.sets import Threat, eps_axes
from jrobust.training._step import TrainState, check_update, updated


def yopo(
    first: Callable[..., tuple[Any, Any]],
    loss: Callable[..., Any],
    threat: Threat,
    tx: optax.GradientTransformation,
    *,
    outer: int = 5,
    inner: int = 3,
    share: Any = 0.25,
    decay: int | float = 0.995,
    measure: Callable[..., dict[str, Any]] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """YOPO-m-n, a training step: m full passes, after each n steps of the adversary that pass through the first layer only.

    A full pass at ``z`` gives the gradient by the parameters and ``p``, that by the first layer's output; with p held fixed the
    adversary climbs ``<first(z), p>``, n steps of ``share`` radii. The m gradients become one update.

    Args:
      first: the first layer, ``first(params, rest, x[B, ...], *, train) -> (h[B, ...], rest')``.
      loss: a plain loss of what follows, which takes ``h`` for its input: ``jr.objectives.cross_entropy(after_first)``.
      threat: the perturbations.
      tx: optax transformation.
      outer: m, full passes, >= 1.
      inner: n, steps after each, >= 1.
      share: length of a step in radii; the published 2/255 at 8/255.
      decay, measure: as of `make_step`; ``measure`` sees the clean batch.

    Returns:
      A step as `make_step` makes; the loss is the mean over the passes.

    References:
      Zhang et al., You only propagate once: accelerating adversarial training via maximal principle, NeurIPS 2019.

    Deviations: the update takes the mean of the m gradients, not their sum, so that a learning rate means what it means elsewhere.

    >>> import jrobust as jr
    >>> first = lambda p, rest, x, *, train: (x @ p["w"], rest)
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, h, *, train: (jax.nn.relu(h) @ p["v"], rest))
    >>> tx = optax.sgd(0.5)
    >>> state = jr.training.init({"w": jnp.eye(2), "v": jnp.eye(2)}, None, tx)
    >>> step = jax.jit(yopo(first, loss, jr.sets.linf(0.1), tx, outer=2))
    >>> state, metrics = step(state, (jnp.eye(2), jnp.arange(2)), key=jax.random.key(0))
    >>> int(state.step), sorted(metrics)
    (1, ['grad_norm', 'loss'])
    """
    check_update(tx, decay)
    check_count(outer, "outer", "yopo")
    check_count(inner, "inner", "yopo")

    def step(state: TrainState, batch: tuple[Any, ...], *, key: Any) -> tuple[TrainState, dict[str, Any]]:
        x, y, *_ = batch
        axes = eps_axes(threat, x)
        inside = jax.vmap(lambda t, xi, z: t(xi).project(z), in_axes=(axes, 0, 0))
        ascend = jax.vmap(lambda t, xi, g: t(xi).steepest(g, relative=True), in_axes=(axes, 0, 0))
        sample = jax.vmap(lambda t, xi, k: t(xi).sample(k), in_axes=(axes, 0, 0))
        fixed = stop_gradient(state.params)

        def passed(params: Any, shift: Any, rest: Any, z: Any, key: Any) -> Any:
            h, rest = first(params, rest, z, train=True)
            losses, rest = loss(params, rest, jax.tree.map(jnp.add, h, shift), y, key=key, train=True)
            return jnp.mean(losses), rest

        def full(carry: Any, j: Any) -> Any:
            z, rest, total = carry
            shape = jax.eval_shape(lambda z: first(fixed, rest, z, train=True)[0], z)
            nowhere = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)  # its gradient is the layer's
            of_both = jax.value_and_grad(passed, argnums=(0, 1), has_aux=True)
            (value, after), (grads, p) = of_both(state.params, nowhere, rest, z, jax.random.fold_in(key, j))

            def climb(z: Any, _: None) -> tuple[Any, None]:
                slope = jax.grad(lambda z: vdot(first(fixed, rest, z, train=True)[0], p))(z)
                return inside(threat, x, jax.tree.map(lambda a, d: a + share * d, z, ascend(threat, x, slope))), None

            z, _ = _loops.scan(climb, z, None, length=inner)
            return (z, after, jax.tree.map(jnp.add, total, grads)), value

        start = sample(threat, x, example_keys(key, jnp.arange(y.shape[0])))
        nothing = jax.tree.map(jnp.zeros_like, state.params)
        (_, rest, total), values = _loops.scan(full, (start, state.rest, nothing), jnp.arange(outer), length=outer)
        grads = jax.tree.map(lambda g: g / outer, total)
        metrics = {} if measure is None else measure(state.params, state.rest, x, y)
        after, line = updated(tx, state, jnp.mean(values), grads, rest, state.memory, decay)
        return after, line | metrics

    return step
