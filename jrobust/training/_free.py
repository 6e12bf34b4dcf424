"""Free adversarial training: each backward pass improves the parameters and the perturbation at once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jrobust import _loops
from jrobust._checks import check_count
from jrobust.sets import Threat, eps_axes
from jrobust.training._step import TrainState, check_update, updated


def free(
    loss: Callable[..., Any],
    threat: Threat,
    tx: optax.GradientTransformation,
    *,
    replays: int = 8,
    decay: int | float = 0.995,
    measure: Callable[..., dict[str, Any]] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """A training step that replays its batch: ``replays`` updates, each by one backward pass to parameters and input alike.

    The perturbation goes on from replay to replay and from batch to batch: the state remembers it
    (``init(..., memory=jnp.zeros((batch_size, *shape)))``). Train for ``1 / replays`` of the epochs.

    Args:
      loss: a plain loss such as `jr.objectives.cross_entropy`.
      threat: the perturbations.
      tx: optax transformation; it counts one update a replay.
      replays: m, >= 1.
      decay, measure: as of `make_step`.

    Returns:
      A step as `make_step` makes; metrics are means over the replays.

    References:
      Shafahi et al., Adversarial training for free!, NeurIPS 2019.

    Deviations: what is remembered is the perturbation within the clip too.

    >>> import jrobust as jr
    >>> loss, tx = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest)), optax.sgd(0.5)
    >>> state = jr.training.init(jnp.zeros((2, 2)), None, tx, memory=jnp.zeros((2, 2)))
    >>> step = free(loss, jr.sets.linf(0.1), tx, replays=4)
    >>> state, metrics = step(state, (jnp.eye(2), jnp.arange(2)), key=jax.random.key(0))
    >>> int(state.step), bool(jnp.all(jnp.abs(state.memory) < 0.1001))
    (1, True)
    """
    check_update(tx, decay)
    check_count(replays, "replays", "free")

    def step(state: TrainState, batch: tuple[Any, ...], *, key: Any) -> tuple[TrainState, dict[str, Any]]:
        x, y, *_ = batch
        if jax.tree.map(jnp.shape, state.memory) != jax.tree.map(jnp.shape, x):
            raise ValueError(
                f"free: the state remembers a perturbation of shape {jax.tree.map(jnp.shape, state.memory)}, the batch has "
                f"{jax.tree.map(jnp.shape, x)}; start with init(..., memory=jnp.zeros_like(batch))"
            )
        axes = eps_axes(threat, x)
        inside = jax.vmap(lambda t, xi, d: t(xi).project(jax.tree.map(jnp.add, xi, d)), in_axes=(axes, 0, 0))
        ascend = jax.vmap(lambda t, xi, g: t(xi).steepest(g, relative=True), in_axes=(axes, 0, 0))
        less = lambda z: jax.tree.map(jnp.subtract, z, x)  # noqa: E731

        def replay(now: TrainState, i: Any) -> tuple[TrainState, dict[str, Any]]:
            def mean_loss(params: Any, z: Any) -> Any:
                losses, rest = loss(params, now.rest, z, y, key=jax.random.fold_in(key, i), train=True)
                return jnp.mean(losses), rest

            z = inside(threat, x, now.memory)
            (value, rest), (grads, slope) = jax.value_and_grad(mean_loss, argnums=(0, 1), has_aux=True)(now.params, z)
            further = inside(threat, x, less(jax.tree.map(jnp.add, z, ascend(threat, x, slope))))
            return updated(tx, now, value, grads, rest, less(further), decay)

        first = state.step
        metrics = {} if measure is None else measure(state.params, state.rest, x, y)
        state, lines = _loops.scan(replay, state, jnp.arange(replays), length=replays)
        return dataclasses.replace(state, step=first + 1), jax.tree.map(jnp.mean, lines) | metrics

    return step
