"""Adversarial fine-tuning of an encoder without labels: FARE, and LORE, whose clean embeddings stay near by a constraint."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, Crafting, crafting_by
from jrobust._tree import stop_gradient
from jrobust.sets import Threat
from jrobust.training._paired import inner
from jrobust.training._step import TrainState, check_update, updated
from jrobust.typing import Array, Float, PyTree

Encoder = Callable[[Any], Any]
"""``x[B, ...] -> embeddings[B, D]``, a model that does not change, in inference mode."""


def _apart(a: Array, b: Array) -> Array:
    if a.shape != b.shape:
        raise ValueError(f"the model gives embeddings of shape {a.shape}, the reference of shape {b.shape}")
    return jnp.sum((a - b) ** 2, -1)


def _away(loss: Loss, threat: Threat, attack: Oracle | int, crafting: Crafting, by: str) -> Callable[..., Any]:
    """Crafts points whose embeddings lie far from the targets that it gets in the place of labels."""
    distance = dataclasses.replace(loss, reduce=jax.tree_util.Partial(_apart))
    return crafting_by(distance, threat, inner(attack, "random"), crafting=crafting, by=by)


def fare(
    loss: Loss,
    threat: Threat,
    reference: Encoder,
    *,
    weight: Any = 0.0,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """FARE: perturbed images keep the embeddings that the original encoder gives to the clean ones, ``max_x' ||f(x') - f_0(x)||^2``.

    Args:
      loss: a `jr.Loss` whose outputs are embeddings [B, D]; what it makes of them, and labels, are not looked at.
      threat: the perturbations.
      reference: the encoder as it was before, ``x[B, ...] -> embeddings[B, D]``, in inference mode.
      weight: of ``||f(x) - f_0(x)||^2`` beside it, >= 0: a clean penalty. FARE has none; LORE's authors compare with it.
      attack: a lower oracle, or how many steps of PGD climb the distance from a random start.
      crafting: as of `jr.worst_case`.

    Returns:
      A robust loss; start from the original encoder's parameters.

    Raises:
      ValueError: embeddings of another shape than the reference's.

    References:
      Schlarmann, Singh, Croce & Hein, Robust CLIP: unsupervised adversarial fine-tuning of vision embeddings for robust large
      vision-language models, ICML 2024.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = fare(loss, jr.sets.linf(0.5), lambda x: x)
    >>> losses, _ = robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)
    >>> print(losses)  # both entries move by a half
    [0.5 0.5]
    """
    away = _away(loss, threat, attack, crafting, "fare")

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        del y
        return away(params, rest, x, stop_gradient(reference(x)), key=key)

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del y, key
        target = stop_gradient(reference(x))
        if isinstance(weight, int | float) and weight == 0:
            perturbed, rest = loss.outputs(params, rest, z, train=train)
            return _apart(perturbed, target), rest
        clean, rest = loss.outputs(params, rest, x, train=train)
        perturbed, rest = loss.outputs(params, rest, z, train=train)
        return _apart(perturbed, target) + weight * _apart(clean, target), rest

    return AtWitnesses(craft, at)


class Duals(NamedTuple):
    """What LORE remembers: the dual network's parameters, and its optimiser's state."""

    net: PyTree
    opt_state: PyTree


def multipliers(net: PyTree, embeddings: Float[Array, "B D"]) -> Float[Array, " B"]:
    """LORE's multiplier of each example, > 0: a perceptron of two layers on the original embedding, softplus at its end."""
    if (width := net["in"].shape[0]) != embeddings.shape[-1]:
        raise ValueError(
            f"lore: duals(key, {width}) are for embeddings of {width} entries, the reference gives {embeddings.shape[-1]}"
        )
    hidden = jax.nn.relu(embeddings @ net["in"] + net["in_bias"])
    return jax.nn.softplus(hidden @ net["out"] + net["out_bias"])


def duals(key: Any, width: int, *, hidden: int = 512, dual: optax.GradientTransformation | None = None) -> Duals:
    """Where `lore` starts: a dual network for embeddings of so many entries, drawn at random.

    Args:
      key: typed key.
      width: D, entries of an embedding.
      hidden: width of its hidden layer (published: 512).
      dual: its optimiser, the one that `lore` gets.

    >>> memory = duals(jax.random.key(0), 4, hidden=8)
    >>> bool(jnp.all(multipliers(memory.net, jnp.eye(4)) > 0))
    True
    """
    check_count(width, "width", "duals")
    check_count(hidden, "hidden", "duals")
    a, b = jax.random.split(key)
    net = {
        "in": jax.random.normal(a, (width, hidden)) / width**0.5,
        "in_bias": jnp.zeros(hidden),
        "out": jax.random.normal(b, (hidden,)) / hidden**0.5,
        "out_bias": jnp.zeros(()),
    }
    return Duals(net, _ascent(dual).init(net))


def _ascent(dual: optax.GradientTransformation | None) -> optax.GradientTransformation:
    return optax.adam(5e-4) if dual is None else dual


def lore(
    loss: Loss,
    threat: Threat,
    tx: optax.GradientTransformation,
    reference: Encoder,
    *,
    rho: Any = 0.1,
    descents: int = 5,
    dual: optax.GradientTransformation | None = None,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
    decay: int | float = 0.995,
    measure: Callable[..., dict[str, Any]] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """A training step of LORE: FARE's loss where each clean embedding stays within a margin of the original one.

    ``min_theta E max_x' ||f(x') - f_0(x)||^2`` such that ``||f(x) - f_0(x)||^2 <= rho ||f_0(x)||^2`` for every x. By duality: a batch is
    attacked once, then the parameters descend ``descents`` times on ``||f(x') - f_0(x)||^2 + l(x) (||f(x) - f_0(x)||^2 - rho
    ||f_0(x)||^2)``, then the net of multipliers ``l``, which sees ``f_0(x)``, climbs the same once: it grows where an embedding is too far.

    Args:
      loss: a `jr.Loss` whose outputs are embeddings [B, D]; what it makes of them, and labels, are not looked at.
      threat: the perturbations.
      tx: optimiser of the encoder; it counts ``descents`` updates a step.
      reference: the encoder as it was before, ``x[B, ...] -> embeddings[B, D]``, in inference mode.
      rho: how far a clean embedding may move, squared, over its squared length; published 0.01 to 0.2.
      descents: K, >= 1 (published 5).
      dual: optimiser of the multipliers (None: Adam at 5e-4, the published rate).
      attack: a lower oracle, or how many steps of PGD climb the distance from a random start.
      crafting: as of `jr.worst_case`.
      decay, measure: as of `make_step`.

    Returns:
      A step as `make_step` makes, for ``init(params, rest, tx, memory=duals(key, D))`` with the original encoder's parameters. Its metrics
      are means over the descents, and before the first of them ``moved``, the mean of ``||f(x) - f_0(x)||^2 / ||f_0(x)||^2``, with
      ``multiplier``, the mean of ``l``.

    Raises:
      ValueError: a count or ``rho`` out of range; embeddings of another shape than the reference's; a state without `duals`.

    References:
      Khodabandeh, Afzali, Afsharrad, Mousavi, Lall, Amini & Moosavi-Dezfooli, LORE: Lagrangian-optimized robust embeddings for visual
      encoders, 2025 (arXiv 2505.18884).
    Deviations:
      The optimiser of the multipliers and their initialisation are not published; ours are Adam and normal kernels.

    >>> import jrobust as jr
    >>> loss, tx = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest)), optax.sgd(0.01)
    >>> state = jr.training.init(jnp.eye(2), None, tx, memory=duals(jax.random.key(0), 2, hidden=4))
    >>> step = jax.jit(lore(loss, jr.sets.linf(0.5), tx, lambda x: x, descents=2))
    >>> state, metrics = step(state, (jnp.eye(2), jnp.arange(2)), key=jax.random.key(0))
    >>> int(state.step), f"{metrics['moved']:.1f}", bool(metrics["multiplier"] > 0)
    (1, '0.0', True)
    """
    check_update(tx, decay)
    check_count(descents, "descents", "lore")
    if isinstance(rho, int | float) and not rho >= 0:
        raise ValueError(f"lore: rho is >= 0, got {rho!r}")
    ascent, away = _ascent(dual), _away(loss, threat, attack, crafting, "lore")

    def step(state: TrainState, batch: tuple[Any, ...], *, key: Any) -> tuple[TrainState, dict[str, Any]]:
        x, y, *_ = batch
        if not isinstance(state.memory, Duals):
            raise ValueError("lore: the state has no multipliers; start with init(..., memory=duals(key, D))")
        target = stop_gradient(reference(x))
        z = away(state.params, state.rest, x, target, key=key)
        margin = jnp.sum(target**2, -1)
        weights = multipliers(state.memory.net, target)

        def excess(params: Any, rest: Any) -> tuple[Array, Any]:
            clean, rest = loss.outputs(params, rest, x, train=True)
            return _apart(clean, target) - rho * margin, rest

        def descend(now: TrainState, _: None) -> tuple[TrainState, dict[str, Any]]:
            def lagrangian(params: Any) -> Any:
                over, rest = excess(params, now.rest)
                perturbed, rest = loss.outputs(params, rest, z, train=True)
                moved = jnp.mean((over + rho * margin) / jnp.maximum(margin, jnp.finfo(margin.dtype).tiny))
                return jnp.mean(_apart(perturbed, target) + weights * over), (rest, moved)

            (value, (rest, moved)), grads = jax.value_and_grad(lagrangian, has_aux=True)(now.params)
            after, metrics = updated(tx, now, value, grads, rest, now.memory, decay)
            return after, metrics | {"moved": moved}

        metrics = {} if measure is None else measure(state.params, state.rest, x, y)
        after, lines = _loops.scan(descend, state, None, length=descents)
        over = stop_gradient(excess(after.params, after.rest)[0])
        net, opt_state = state.memory
        slope = jax.grad(lambda net: -jnp.mean(multipliers(net, target) * over))(net)
        updates, opt_state = ascent.update(slope, opt_state, net)
        memory = Duals(optax.apply_updates(net, updates), opt_state)
        lines = {name: line[0] if name == "moved" else jnp.mean(line) for name, line in lines.items()}
        metrics = lines | {"multiplier": jnp.mean(weights)} | metrics
        return dataclasses.replace(after, step=state.step + 1, memory=memory), metrics

    return step
