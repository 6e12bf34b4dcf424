"""A substitute for a model that only answers with labels: trained on its answers, near where they change."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jrobust import _loops
from jrobust._checks import check_batch, check_count, check_inside, check_key, check_labels
from jrobust._tree import bind
from jrobust.objectives import cross_entropy
from jrobust.training._step import TrainState, init, make_step
from jrobust.typing import Array, Float, Int, PyTree


class Substitute(NamedTuple):
    """What `substitute` learned.

    Attributes:
      model: the substitute, ``model(x[B, ...]) -> logits[B, K]``, as `jr.attacks.transfer` takes it.
      x: every input that was asked about [Q, ...], the seeds first.
      y: what the model in question answered [Q].
      queries: Q, one a label.
    """

    model: Callable[[Any], Any]
    x: np.ndarray
    y: Int[np.ndarray, " Q"]
    queries: int


def _served(params: PyTree, rest: PyTree, x: Any, *, apply: Callable[..., Any]) -> Any:
    return apply(params, rest, x, train=False)[0]


def _trained(
    state: TrainState, x: Any, y: Any, count: Any, key: Any, *, step: Callable[..., Any], epochs: int, batch_size: int
) -> TrainState:
    """So many passes over the first ``count`` rows; the last batch of a pass goes back over some rows of the one before."""
    rows = jnp.arange(len(x))

    def one_pass(epoch: Any, state: TrainState) -> TrainState:
        mixed = jax.random.uniform(jax.random.fold_in(key, epoch), rows.shape)
        order = jnp.argsort(jnp.where(rows < count, mixed, 2.0))

        def one_batch(i: Any, state: TrainState) -> TrainState:
            start = jnp.minimum(i * batch_size, count - batch_size)
            at = jax.lax.dynamic_slice(order, (start,), (batch_size,))
            return step(state, (x[at], y[at]), key=jax.random.fold_in(key, state.step))[0]

        return _loops.fori_loop(0, -(-count // batch_size), one_batch, state)

    return _loops.fori_loop(0, epochs, one_pass, state)


def _moved(
    params: PyTree, rest: PyTree, x: Any, y: Any, *, apply: Callable[..., Any], step: float
) -> Float[Array, "B ..."]:
    """A step along the sign of the gradient of the answered class's probability."""

    def likelihood(z: Any, label: Any) -> Float[Array, ""]:
        return jax.nn.log_softmax(_served(params, rest, z[None], apply=apply)[0])[label]

    return x + step * jnp.sign(jax.vmap(jax.grad(likelihood))(x, y))


def substitute(
    label: Callable[[Any], Any],
    apply: Callable[..., Any],
    params: PyTree,
    rest: PyTree,
    x: Any,
    *,
    key: Any,
    rounds: int = 6,
    step: float = 0.1,
    period: int | None = None,
    most: int | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    tx: optax.GradientTransformation | None = None,
    box: tuple[Any, Any] | None = (0.0, 1.0),
) -> Substitute:
    """Train a model of one's own on the labels of another, which are all that is seen of that one.

    A round asks for the labels of the new inputs, trains on all so far, and makes new inputs: each one moved by ``step`` along the sign
    of the gradient of its class (Jacobian augmentation), which finds where the answers change. Attacks on the substitute are then carried
    over: ``jr.attacks.transfer(attack, substitute(...).model)``.

    Args:
      label: ``label(x[B, ...]) -> int [B]``, the model in question, in batches of at most 1024; it may run on the host.
      apply, params, rest: the substitute before training, ``apply(params, rest, x, *, train) -> (logits[B, K], rest')``, from
        `jr.nnx.functional`. K covers the labels.
      x: seeds [N, ...], floats in ``box``: a few of each class, not from the other model's training data.
      key: typed key.
      rounds: >= 1; without ``most`` there are ``N * 2^(rounds - 1)`` queries.
      step: of the augmentation, in input units.
      period: so many rounds of ``+step`` are followed by as many of ``-step``; None: ``+step`` always.
      most: new inputs of one round, at most; a uniform choice among those that could be made. None: all, the inputs double.
      epochs: passes over the inputs of each round, on from the last round's parameters.
      batch_size: examples in a step; at most all seeds.
      tx: optax transformation; None is Adam at 0.001.
      box: the values that inputs may take; new ones are clipped to it. None: no limits.

    Returns:
      A `Substitute`.

    Raises:
      ValueError, TypeError: bad input, before a query; labels that are no classes of the substitute.

    >>> asked = lambda x: jnp.argmax(x @ jnp.array([[1.0, -1.0], [0.5, -0.5]]), -1)  # not seen, but for its answers
    >>> own, seeds = jnp.zeros((2, 2)), jax.random.normal(jax.random.key(1), (16, 2))
    >>> found = substitute(asked, lambda p, rest, x, *, train: (x @ p, rest), own, None, seeds, key=jax.random.key(0), rounds=3,
    ...                    tx=optax.adam(0.1), box=None)
    >>> print(found.queries, found.model(jnp.array([[1.0, -1.0], [-2.0, 1.0]])).argmax(-1))
    64 [0 1]

    References:
      Papernot et al., Practical black-box attacks against machine learning, ASIACCS 2017.
      Papernot, McDaniel & Goodfellow, Transferability in machine learning, 2016 (``period``, ``most``).
    Deviations:
      New inputs are clipped to the box. ``most`` is a uniform choice, which is what reservoir sampling draws.
    """
    check_key(key)
    for count, name in ((rounds, "rounds"), (epochs, "epochs"), (batch_size, "batch_size")):
        check_count(count, name, "substitute")
    for count, name in ((period, "period"), (most, "most")):
        if count is not None:
            check_count(count, name, "substitute")
    n = check_batch(x)
    x = np.asarray(x)
    check_inside(x, 0, *(box or ()))
    batch_size = min(batch_size, n)
    classes = jax.eval_shape(partial(_served, apply=apply), params, rest, x[:1]).shape[-1]
    sizes = [n]
    for _ in range(rounds - 1):
        sizes.append(sizes[-1] + min(sizes[-1], most or sizes[-1]))

    # room for all inputs from the start: one program serves every round
    inputs, answers = np.zeros((sizes[-1], *x.shape[1:]), x.dtype), np.zeros(sizes[-1], np.int32)
    inputs[:n] = x
    tx = optax.adam(1e-3) if tx is None else tx
    stepping = make_step(cross_entropy(apply), tx)
    train = jax.jit(partial(_trained, step=stepping, epochs=epochs, batch_size=batch_size))
    move = jax.jit(partial(_moved, apply=apply), static_argnames="step")
    state, done = init(params, rest, tx), 0
    for turn, size in enumerate(sizes):
        answers[done:size] = _asked(label, inputs[done:size], classes)
        training, choosing = jax.random.split(jax.random.fold_in(key, turn))
        state = train(state, inputs, answers, size, training)
        done = size
        if turn + 1 < rounds:
            new = sizes[turn + 1] - size
            chosen = np.asarray(jax.random.permutation(choosing, size)[:new]) if new < size else np.arange(size)
            sign = -1 if period is not None and turn // period % 2 else 1
            for start in range(0, new, 1024):
                at = chosen[start : start + 1024]
                moved = np.asarray(move(state.params, state.rest, inputs[at], answers[at], step=sign * step))
                inputs[size + start : size + start + len(at)] = moved if box is None else np.clip(moved, *box)
    return Substitute(bind(_served, state.params, state.rest, apply=apply), inputs, answers, done)


def _asked(label: Callable[[Any], Any], x: np.ndarray, classes: int) -> np.ndarray:
    said = np.concatenate([check_labels(label(part), len(part)) for part in np.split(x, range(1024, len(x), 1024))])
    if said.min() < 0 or said.max() >= classes:
        raise ValueError(f"substitute has {classes} classes, but was told of labels {said.min()}..{said.max()}")
    return said
