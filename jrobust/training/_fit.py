"""The training loop: data on the device, many steps in one compiled call, checkpoints from which it resumes exactly."""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_key
from jrobust._placement import Placement
from jrobust.data import unit
from jrobust.training._journal import Journal
from jrobust.training._progress import deferred_interrupt, progress
from jrobust.training._source import Position, Resident, Streamed, source
from jrobust.training._step import TrainState
from jrobust.training._watch import Stop
from jrobust.typing import Array


def _chunking(examples: int, batch_size: int, chunk: int) -> tuple[int, int]:
    """``(steps in a chunk, chunks in an epoch)``: equal chunks, so that one program serves them all."""
    if not 1 <= batch_size <= examples:
        raise ValueError(f"batch_size lies between 1 and the number of examples ({examples}), got {batch_size}")
    if chunk < 1:
        raise ValueError(f"chunk is >= 1, got {chunk}")
    steps = examples // batch_size
    if steps <= chunk:
        return steps, 1
    length = min(range(chunk, chunk // 2, -1), key=lambda n: steps % n)
    return length, steps // length


def epoch_steps(examples: int, batch_size: int, *, chunk: int = 50) -> int:
    """Steps of one epoch of `fit`, for schedules; the few examples that fill no batch (or no chunk) wait for the next epoch.

    >>> epoch_steps(60_000, 256), epoch_steps(60_000, 128)
    (234, 468)
    """
    length, chunks = _chunking(examples, batch_size, chunk)
    return length * chunks


def fit(
    step: Callable[..., tuple[TrainState, dict[str, Array]]],
    state: TrainState,
    x: Any,
    y: Any = None,
    *,
    epochs: int,
    batch_size: int,
    key: Any,
    box: tuple[Any, Any] | None = (0.0, 1.0),
    augment: Callable[[Any, Any], Any] | None = None,
    extra: tuple[Any, Any] | None = None,
    share: int | float = 0.7,
    chunk: int = 50,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    hook: Callable[[int, TrainState], Mapping[str, float] | None] | None = None,
    log: Callable[[Mapping[str, Any]], Any] | None = None,
    best: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    save_seconds: int | float = 60,
    show: bool = True,
) -> TrainState:
    """Train for ``epochs`` passes over the data.

    The order of the examples in epoch e is ``permutation(fold_in(order, e))``, the randomness of step t ``fold_in(stream, t)``, with
    ``order, stream = split(key)``: the state's step alone says where in the data the training stands.

    Args:
      step: from `make_step`, or any ``step(state, (x[B, ...], y[B], index[B]), *, key) -> (state, metrics)``; ``index`` says where
        each example lies in ``x``.
      state: from `init`; it is not consumed. Training goes on from ``state.step``.
      x: examples [N, ...], floats inside ``box``, or uint8 images in 0..255 (which stay uint8 on the device). Data too large for the
        device: a ``grain.MapDataset`` of ``(x, y)`` pairs; its threads read ahead, a chunk at a time goes to the device.
      y: integer labels [N] in [0, K); None with a dataset.
      epochs: passes over the data, >= 0.
      batch_size: examples in a step.
      key: typed key.
      box: the values ``x`` may take, ``(lo, hi)``; None where there are no limits.
      augment: ``augment(key, x[B, ...]) -> x``, inside the compiled step, such as `jr.data.random_crop_flip`.
      extra: further examples and labels ``(x, y)``, such as generated ones, from which ``share`` of each batch is drawn at random; an
        epoch is then a pass over ``x`` by the rest of each batch, and ``index`` counts them after those of ``x``.
      share: of ``extra`` in a batch, in [0, 1); published: 0.7 for generated images.
      chunk: steps in one compiled call, at most; the actual number divides an epoch.
      run: run directory for metrics.jsonl (one line a chunk) and checkpoints; None keeps everything in memory.
      resume: go on from the newest complete checkpoint of ``run``; without one, start at step 0 and say so.
      hook: ``hook(epoch, state)`` after each epoch (from 1); numbers that it returns go to metrics.jsonl. It may raise `Stop`. The next
        step uses up the state's arrays: copy what you keep.
      log: called with each line of metrics as it is made, such as `tensorboard` (DIR).
      best: name of a number of the hook's: the state at its highest value is kept too (`load` with ``best=True``).
      mesh: devices to share the work, of one process or of several (`jax.distributed`, every process calls `fit` alike): each holds the
        state and its part of every batch. Batch-level terms and BatchNorm see the whole batch. None: one device.
      save_seconds: least time between two checkpoints; one more is written at the end. 0 writes one a chunk. A thread writes them while
        the training goes on.
      show: a progress bar on stderr, where rich is installed.

    Returns:
      The last state; where a hook stopped the training, the state it named (the last checkpoint of ``run``, and the best where no
      ``best`` is asked for).

    Guarantee: killed at any moment and resumed, the run ends in the same bits as one never interrupted, on one device with the
      same software, where hooks remember nothing: the patience of `held_out` and `overfitting_guard` start anew.

    Raises:
      TypeError: a key that is no typed key; labels that are not integers.
      ValueError: data outside ``box``, labels out of range (where the loss can tell, not with ``accumulate``; of a dataset negative ones
        alone, when their chunk is read), sizes that do not fit; a run that is there
        without ``resume``; a checkpoint that is corrupt, of another model, or of a training with other data sizes or key.
      FloatingPointError: the loss became nan or infinite.
      KeyboardInterrupt: on Ctrl-C, after the running chunk was finished and saved.

    >>> import optax, jrobust as jr
    >>> from jrobust.training import init, make_step
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> x = jnp.eye(4).repeat(8, axis=0)
    >>> y = jnp.arange(4).repeat(8)
    >>> tx = optax.sgd(1.0)
    >>> start = init(jnp.zeros((4, 4)), None, tx)
    >>> state = fit(make_step(loss, tx), start, x, y, epochs=20, batch_size=8, key=jax.random.key(0), show=False)
    >>> int(state.step), bool((jnp.argmax(x @ state.params, -1) == y).all())
    (80, True)
    """
    check_key(key)
    data, place = source(x, y, box, extra, share), Placement(mesh)
    if epochs < 0 or epochs != int(epochs):
        raise ValueError(f"epochs is a whole number >= 0, got {epochs}")
    if run is None and (best is not None or resume):
        raise ValueError("best and resume are about a run directory: give run=DIR")
    if best is not None and hook is None:
        raise ValueError(f"best={best!r} is a number of a hook's: give hook=, such as held_out(...)")
    drawn = data.drawn(batch_size)
    at = Position(data.n, batch_size - drawn, *_chunking(data.n, batch_size - drawn, chunk), drawn)
    place.check(batch_size)
    total = epochs * at.per_epoch
    # What must be equal for a resumed run to see the same data in the same order.
    same = {"examples": at.n, "batch_size": batch_size, "chunk": at.length}
    same["key"] = np.asarray(jax.random.key_data(key)).tolist()
    if drawn:
        same |= {"extra": len(extra[1]), "drawn": drawn}  # pyright: ignore[reportOptionalSubscript]

    _rehearse(step, state, data, key, augment, batch_size)
    state = jax.tree.map(jnp.copy, state)  # the chunks below donate it
    journal = Journal(run, same, at.per_epoch, best=best, save_seconds=save_seconds, writes=place.writes)
    with journal, deferred_interrupt() as asked:
        state = place.everywhere(journal.start(state, resume=resume))
        done = int(state.step)
        if done % at.length:
            raise ValueError(
                f"the state stands at step {done}, which is not a multiple of the chunk of {at.length} steps"
            )

        def steps(state: TrainState, given: Any, key: Any) -> tuple[TrainState, dict[str, Array]]:
            _, stream = jax.random.split(key)
            batch = data.batches(at, given)

            def body(state: TrainState, i: Any) -> tuple[TrainState, dict[str, Array]]:
                now = jax.random.fold_in(stream, state.step)
                for_augment, for_step = jax.random.split(now)
                x, y, index = place.split(batch(state.step, i, now))
                x = x if augment is None else augment(for_augment, x)
                return step(state, (x, y, index), key=for_step)

            state, metrics = _loops.scan(body, state, jnp.arange(at.length))
            return state, jax.tree.map(jnp.mean, metrics)

        compiled = place.compile(steps)
        chunks, key = data.chunks(at, done, key, place), place.everywhere(key)
        given = next(chunks) if done < total else None
        with progress(total, done, epochs, shown=show and place.writes) as bar:
            while done < total:
                began = time.perf_counter()
                state, metrics = compiled(state, given, key)
                done += at.length
                given = next(chunks) if done < total else None  # on its way while the device works
                line = {name: float(value) for name, value in metrics.items()}
                seconds = time.perf_counter() - began
                _check_finite(line, done)
                line = {"step": done, "epoch": done / at.per_epoch, **line, "seconds": seconds}
                line["images_per_second"] = at.length * batch_size / seconds
                ended = done % at.per_epoch == 0
                if hook is not None and ended:
                    try:
                        line |= _numbers(hook(done // at.per_epoch, state) or {}, line)
                    except Stop as stop:
                        return journal.stopped(stop, line)
                bar.show(done, done / at.per_epoch, line)
                journal.line(line)
                if log is not None and place.writes:
                    log(line)
                leave = asked.is_set()  # looked at once: what is left now was kept
                journal.keep(state, line, epoch_ended=ended, now=done == total or leave)
                if leave:
                    raise KeyboardInterrupt
    return state


def _numbers(found: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, float]:
    """What a hook returned, fit for a line of metrics."""
    if twice := found.keys() & line.keys():
        raise ValueError(
            f"a hook's number cannot be named {', '.join(sorted(twice))}: the line of metrics has one of that name"
        )
    return {name: float(value) for name, value in found.items()}


def _check_finite(line: Mapping[str, Any], done: int) -> None:
    for name, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
        if not math.isfinite(line.get(name, 0.0)):
            raise FloatingPointError(
                f"the {what} is {line[name]} around step {done}; lower the learning rate, or ramp eps more slowly"
            )


def _rehearse(step: Any, state: Any, data: Resident | Streamed, key: Any, augment: Any, batch_size: int) -> None:
    """The step on shapes alone, with the largest label and index known: a loss that checks them speaks up before any work."""
    example, label, last = data.first()
    labels, index = jnp.full(batch_size, label, jnp.int32), jnp.full(batch_size, last, jnp.int32)

    def once(state: Any, x: Any, key: Any) -> Any:
        x = unit(x) if augment is None else augment(key, unit(x))
        return step(state, (x, labels, index), key=key)

    jax.eval_shape(once, state, jax.ShapeDtypeStruct((batch_size, *example.shape), example.dtype), key)
