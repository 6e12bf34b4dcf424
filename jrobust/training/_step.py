"""One training step over a `TrainState`: the same line for natural, adversarial and certified training."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jrobust import _loops
from jrobust._checks import check_count, check_transformation
from jrobust._tree import vdot
from jrobust.typing import Array, Float, PyTree


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "rest", "opt_state", "step", "ema", "memory"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes, as a pytree.

    Attributes:
      params: the trained arrays.
      rest: the model's other arrays (BatchNorm statistics, random streams).
      opt_state: of the optax transformation.
      step: int32, updates done so far.
      ema: moving average of ``params``, or None where none is kept.
      memory: what a `Remembering` loss or a step keeps between batches, or None.
    """

    params: PyTree
    rest: PyTree
    opt_state: PyTree
    step: Any
    ema: PyTree = None
    memory: PyTree = None

    @property
    def averaged(self) -> PyTree:
        """The moving average where one is kept, else ``params``: what to evaluate (with the live ``rest``)."""
        return self.params if self.ema is None else self.ema


def init(
    params: PyTree, rest: PyTree, tx: optax.GradientTransformation, *, ema: bool = False, memory: PyTree = None
) -> TrainState:
    """The state before the first step.

    Args:
      params: initial parameters.
      rest: the model's other arrays, or None.
      tx: the optimiser that `make_step` gets.
      ema: whether to keep a moving average of the parameters.
      memory: where a loss that is `Remembering`, or a step that keeps something between batches, starts.

    >>> state = init({"w": jnp.ones(2)}, None, optax.sgd(0.1))
    >>> int(state.step), state.ema
    (0, None)
    """
    check_transformation(tx, "tx")
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(
        params, rest, tx.init(params), jnp.zeros((), jnp.int32), average, jax.tree.map(jnp.asarray, memory)
    )


class Remembering(NamedTuple):
    """A loss that remembers something from batch to batch, in `TrainState.memory`.

    Attributes:
      loss: ``loss(params, rest, x, y, *, key, train, memory) -> ([B], rest', memory')``.
      start: its first memory, for `init`.
      indexed: it remembers single examples: it is called with ``index[B]`` too, where each example lies in the training set, which
        `fit` knows.
    """

    loss: Callable[..., Any]
    start: PyTree
    indexed: bool = False


class Scheduled(NamedTuple):
    """A loss that changes with the step: ``build(step) -> loss``, called under the trace of every step (see `scheduled`)."""

    build: Callable[[Any], Callable[..., Any]]


def scheduled(build: Callable[[Any], Callable[..., Any]]) -> Scheduled:
    """Mark a function of the step as one that builds a loss, for `make_step`; the step is traced, so nothing recompiles.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> eps = jr.training.linear(0.0, 0.1, end=1000)
    >>> robust = scheduled(lambda t: jr.worst_case(loss, jr.sets.linf(eps(t), clip=(0, 1)), jr.attacks.fgsm()))
    """
    return Scheduled(build)


def ema_decay(decay: Any, step: Any) -> Float[Array, ""]:
    """``min(decay, (1 + t) / (10 + t))``: the average forgets its random start quickly.

    >>> [round(float(ema_decay(0.995, t)), 3) for t in (0, 10, 10_000)]
    [0.1, 0.55, 0.995]
    """
    t = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + t) / (10 + t))


def make_step(
    loss: Callable[..., Any] | Scheduled | Remembering,
    tx: optax.GradientTransformation,
    *,
    mode: Literal["train", "inference"] = "train",
    decay: int | float = 0.995,
    accumulate: int = 1,
    measure: Callable[..., dict[str, Any]] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """A training step; natural, adversarial and certified training differ in ``loss`` alone.

    Args:
      loss: ``loss(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``: a `jr.Loss`, what `jr.worst_case` returns,
        or `scheduled`(step -> such a loss). A `Remembering` loss finds its memory in the state.
      tx: optax transformation.
      mode: how the loss sees BatchNorm: "train" normalises with the batch and updates the running statistics, "inference"
        keeps them fixed. How an attack sees it while crafting is `jr.worst_case`'s argument ``crafting``.
      decay: of the moving average, where the state keeps one; ramped as in `ema_decay`.
      accumulate: parts of a batch that are worked at one after another, for batches too large for the memory; one update with the mean of
        their gradients. BatchNorm sees each part by itself.
      measure: ``measure(params, rest, x, y) -> {name: scalar}``, further metrics of the batch before the update
        (`accuracy` makes one).

    Returns:
      ``step(state, (x, y), *, key) -> (state, metrics)``, pure: jit it, or give it to `fit`, which hands over ``(x, y, index)``.
      Metrics are scalars: ``loss``, ``grad_norm`` (before the optimiser clips it) and what ``measure`` returns.

    References:
      Gowal et al. Uncovering the limits of adversarial training. 2020 (the moving average).

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = jr.worst_case(loss, jr.sets.linf(0.1), jr.attacks.fgsm())
    >>> tx = optax.sgd(0.5)
    >>> step, state = jax.jit(make_step(robust, tx)), init(jnp.zeros((2, 2)), None, tx)
    >>> x, y = jnp.eye(2), jnp.arange(2)
    >>> state, first = step(state, (x, y), key=jax.random.key(0))
    >>> state, second = step(state, (x, y), key=jax.random.key(1))
    >>> int(state.step), bool(second["loss"] < first["loss"])
    (2, True)
    """
    check_update(tx, decay)
    check_count(accumulate, "accumulate", "make_step")
    if mode not in ("train", "inference"):
        raise ValueError(f"mode is 'train' or 'inference', not {mode!r}")

    def gradient(state: TrainState, batch: tuple[Any, ...], rest: PyTree, memory: PyTree, key: Any) -> Any:
        x, y, *index = batch
        current = loss.build(state.step) if isinstance(loss, Scheduled) else loss

        def mean_loss(params: PyTree) -> tuple[Float[Array, ""], PyTree]:
            options = {"key": key, "train": mode == "train"}
            if isinstance(current, Remembering):
                if memory is None and current.start is not None:
                    raise ValueError("the loss remembers: begin with init(params, rest, tx, memory=loss.start)")
                where = {"index": _known(index)} if current.indexed else {}
                losses, *after = current.loss(params, rest, x, y, memory=memory, **options, **where)
            else:
                losses, *after = *current(params, rest, x, y, **options), memory
            if losses.shape != y.shape[:1]:
                raise ValueError(f"a training loss returns ([B], rest'), got losses of shape {losses.shape}")
            return jnp.mean(losses), tuple(after)

        return jax.value_and_grad(mean_loss, has_aux=True)(state.params)

    def step(state: TrainState, batch: tuple[Any, ...], *, key: Any) -> tuple[TrainState, dict[str, Array]]:
        if accumulate == 1:
            (value, (rest, memory)), grads = gradient(state, batch, state.rest, state.memory, key)
        else:
            value, rest, memory, grads = _accumulated(gradient, state, batch, key, accumulate)
        after, metrics = updated(tx, state, value, grads, rest, memory, decay)
        if measure is not None:
            metrics |= measure(state.params, state.rest, *batch[:2])
        return after, metrics

    return step


def _accumulated(gradient: Callable[..., Any], state: TrainState, batch: Any, key: Any, parts: int) -> Any:
    """The mean of the gradients of equal parts of the batch, one after another; statistics and memory pass from each to the next."""
    if len(batch[1]) % parts:
        raise ValueError(f"accumulate={parts} does not divide the batch of {len(batch[1])}")
    # the i-th part has every so-manieth example, so that each device of a mesh has its share in every part
    turns = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)

    def part(carry: Any, given: Any) -> tuple[Any, None]:
        rest, memory, value, grads = carry
        i, batch = given
        (v, (rest, memory)), g = gradient(state, batch, rest, memory, jax.random.fold_in(key, i))
        return (rest, memory, value + v / parts, jax.tree.map(lambda a, b: a + b / parts, grads, g)), None

    start = state.rest, state.memory, jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
    (rest, memory, value, grads), _ = _loops.scan(part, start, (jnp.arange(parts), turns))
    return value, rest, memory, grads


def _known(index: list[Any]) -> Any:
    if not index:
        raise ValueError("this loss remembers single examples: give the step (x, y, index), or train with fit")
    return index[0]


def check_update(tx: Any, decay: Any) -> None:
    """Raise unless a step can be made of these."""
    check_transformation(tx, "tx")
    if not 0 <= decay < 1:
        raise ValueError(f"decay lies in [0, 1), not {decay!r}")


def updated(
    tx: Any, state: TrainState, value: Any, grads: PyTree, rest: PyTree, memory: PyTree, decay: Any
) -> tuple[TrainState, dict[str, Array]]:
    """The state after one update of the optimiser, and of the average where one is kept; the metrics of every step."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params: PyTree = optax.apply_updates(state.params, updates)
    ema = None
    if state.ema is not None:
        d = ema_decay(decay, state.step)
        ema = jax.tree.map(lambda a, p: (d * a + (1 - d) * p).astype(a.dtype), state.ema, params)
    metrics = {"loss": value, "grad_norm": jnp.sqrt(vdot(grads, grads))}
    return TrainState(params, rest, opt_state, state.step + 1, ema, memory), metrics


def accuracy(apply: Callable[..., Any]) -> Callable[..., dict[str, Array]]:
    """A ``measure`` for `make_step`: clean accuracy of the batch, at the price of one forward pass in inference mode.

    >>> measure = accuracy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> float(measure(jnp.eye(2), None, jnp.eye(2), jnp.array([0, 0]))["accuracy"])
    0.5
    """

    def measure(params: PyTree, rest: PyTree, x: Any, y: Any) -> dict[str, Array]:
        logits, _ = apply(params, rest, x, train=False)
        return {"accuracy": jnp.mean(jnp.argmax(logits, -1) == y)}

    return measure
