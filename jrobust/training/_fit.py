"""The training loop: data on the device, many steps in one compiled call, checkpoints from which it resumes exactly."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_batch, check_inside, check_key, check_labels
from jrobust.data import unit
from jrobust.training import _checkpoint
from jrobust.training._progress import deferred_interrupt, progress, say
from jrobust.training._run import BEST, CHECKPOINTS, METRICS
from jrobust.training._single_step import Stop
from jrobust.training._step import TrainState
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
    y: Any,
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
    best: str | None = None,
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
      x: examples [N, ...], floats inside ``box``, or uint8 images in 0..255 (which stay uint8 on the device).
      y: integer labels [N] in [0, K).
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
      hook: ``hook(epoch, state)`` after each epoch (from 1); numbers that it returns go to metrics.jsonl. It may raise `Stop`.
      best: name of a number of the hook's: the state at its highest value is kept too (`load` with ``best=True``).
      save_seconds: least time between two checkpoints; one more is written at the end. 0 writes one a chunk.
      show: a progress bar on stderr, where rich is installed.

    Returns:
      The last state; where a hook stopped the training, the state it named (in ``run`` kept as the best).

    Guarantee: killed at any moment and resumed, the run ends in the same bits as one never interrupted, on one device with the
      same software.

    Raises:
      TypeError: a key that is no typed key; labels that are not integers.
      ValueError: data outside ``box``, labels out of range (where the loss can tell), sizes that do not fit; a run that is there
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
    x, y, n = _checked(x, y, box)
    if epochs < 0:
        raise ValueError(f"epochs is >= 0, got {epochs}")
    more = None if extra is None else _more(extra, x, share, box)
    drawn = 0 if more is None else round(share * batch_size)
    own = batch_size - drawn
    length, chunks = _chunking(n, own, chunk)
    per_epoch = length * chunks
    total = epochs * per_epoch
    # What must be equal for a resumed run to see the same data in the same order.
    position = {
        "examples": n,
        "batch_size": batch_size,
        "chunk": length,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }

    if more is not None:
        position |= {"extra": len(more[1]), "drawn": drawn}

    _rehearse(step, state, x, y if more is None else np.concatenate([y, more[1]]), key, augment, batch_size)
    state = jax.tree.map(jnp.copy, state)  # the chunks below donate it
    best_value = -math.inf
    if run is not None:
        run = Path(run)
        state, best_value = _resume(run, state, position, best) if resume else (_fresh(run, state), -math.inf)
    done = int(state.step)
    if done % length:
        raise ValueError(f"the state stands at step {done}, which is not a multiple of the chunk of {length} steps")

    def steps(state: TrainState, x: Array, y: Array, more: Any, key: Any) -> tuple[TrainState, dict[str, Array]]:
        order, stream = jax.random.split(key)
        permutation = jax.random.permutation(jax.random.fold_in(order, state.step // per_epoch), n)

        def body(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
            index = jax.lax.dynamic_slice(permutation, (state.step % per_epoch * own,), (own,))
            now = jax.random.fold_in(stream, state.step)
            for_augment, for_step = jax.random.split(now)
            batch, labels = unit(x[index]), y[index]
            if more is not None:
                others = jax.random.randint(jax.random.fold_in(now, drawn), (drawn,), 0, more[1].shape[0])
                batch, labels = (
                    jnp.concatenate([batch, unit(more[0][others])]),
                    jnp.concatenate([labels, more[1][others]]),
                )
                index = jnp.concatenate([index, n + others])
            batch = batch if augment is None else augment(for_augment, batch)
            return step(state, (batch, labels, index), key=for_step)

        state, metrics = _loops.scan(body, state, None, length=length)
        return state, jax.tree.map(jnp.mean, metrics)

    compiled = jax.jit(steps, donate_argnums=0)
    x, y, more = jax.tree.map(jnp.asarray, (x, y, more))
    saved_at = time.monotonic()
    with deferred_interrupt() as asked, progress(total, done, epochs, shown=show) as bar:
        while done < total:
            began = time.perf_counter()
            state, metrics = compiled(state, x, y, more, key)
            line: dict[str, float] = {name: float(value) for name, value in metrics.items()}
            seconds = time.perf_counter() - began
            done += length
            for name, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
                if not math.isfinite(line.get(name, 0.0)):
                    raise FloatingPointError(
                        f"the {what} is {line[name]} around step {done}; lower the learning rate, or ramp eps more slowly"
                    )
            line = {"step": done, "epoch": done / per_epoch, **line, "seconds": seconds}
            line["images_per_second"] = length * batch_size / seconds
            if hook is not None and done % per_epoch == 0:
                try:
                    line |= {name: float(value) for name, value in (hook(done // per_epoch, state) or {}).items()}
                except Stop as stop:
                    return _stopped(stop, run, position, per_epoch)
            bar.show(done, done / per_epoch, line)
            if run is None:
                if asked.is_set():
                    raise KeyboardInterrupt
                continue
            with (run / METRICS).open("a") as file:
                file.write(json.dumps(line) + "\n")
            meta = {"position": {**position, "epoch": done // per_epoch, "batch": done % per_epoch}}
            if best is not None and done % per_epoch == 0:
                best_value = _keep_best(run, state, done, meta, line, best, best_value)
            if done == total or asked.is_set() or time.monotonic() - saved_at >= save_seconds:
                _checkpoint.save(run / CHECKPOINTS, state, step=done, meta=meta)
                saved_at = time.monotonic()
            if asked.is_set():
                raise KeyboardInterrupt
    return state


def _stopped(stop: Stop, run: Any, position: dict[str, Any], per_epoch: int) -> TrainState:
    step = int(stop.state.step)
    if run is not None:
        meta = {"position": {**position, "epoch": step // per_epoch, "batch": step % per_epoch}, "stopped": str(stop)}
        _checkpoint.save(run / BEST, stop.state, step=step, meta=meta)
    say(f"training stopped at step {step}: {stop}")
    return stop.state


def _checked(x: Any, y: Any, box: tuple[Any, Any] | None) -> tuple[Any, np.ndarray, int]:
    """The data as `evaluate` would take it (bytes too): examples, labels and how many."""
    x = x if hasattr(x, "shape") and hasattr(x, "dtype") else np.asarray(x)
    if x.dtype == np.uint8 and x.ndim:
        n = len(x)
    else:
        n = check_batch(x)
        for start in range(0, n, 1024):
            check_inside(np.asarray(x[start : start + 1024]), start, *(box or ()))
    y = check_labels(y, n)
    if y.min(initial=0) < 0:
        raise ValueError(f"y[{y.argmin()}] = {y.min()} is out of range: labels are 0..K-1")
    return x, y, n


def _more(extra: Any, x: Any, share: Any, box: Any) -> tuple[Any, np.ndarray]:
    """Further data, of the shape and kind of the first."""
    if not 0 <= share < 1:
        raise ValueError(f"share lies in [0, 1), got {share}")
    if not (isinstance(extra, tuple) and len(extra) == 2):
        raise ValueError("extra is a pair (x, y) of further examples and their labels")
    images, labels, _ = _checked(*extra, box)
    if images.shape[1:] != x.shape[1:]:
        raise ValueError(f"extra holds examples of shape {images.shape[1:]}, x of shape {x.shape[1:]}")
    return images, labels


def _rehearse(step: Any, state: Any, x: Any, y: np.ndarray, key: Any, augment: Any, batch_size: int) -> None:
    """The step on shapes alone, with the largest label known: a loss that checks its labels speaks up before any work."""
    labels = jnp.full(batch_size, int(y.max()), jnp.int32)

    def once(state: Any, x: Any, key: Any) -> Any:
        batch = unit(x)
        return step(state, (batch if augment is None else augment(key, batch), labels, jnp.zeros_like(labels)), key=key)

    jax.eval_shape(once, state, jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), jnp.result_type(x)), key)


def _fresh(run: Path, state: TrainState) -> TrainState:
    if _checkpoint.latest(run / CHECKPOINTS) is not None or (run / METRICS).exists():
        raise ValueError(
            f"{run} already holds a training; resume it (resume=True, --resume) or choose another directory"
        )
    run.mkdir(parents=True, exist_ok=True)
    return state


def _resume(run: Path, state: TrainState, position: dict[str, Any], best: str | None) -> tuple[TrainState, float]:
    step = _checkpoint.latest(run / CHECKPOINTS)
    if step is None:
        say(f"{run}: no complete checkpoint to resume, starting from step 0")
        run.mkdir(parents=True, exist_ok=True)
    else:
        state, meta = _checkpoint.restore(run / CHECKPOINTS, state)
        there = meta.get("position", {})
        differ = [
            f"{name} was {there.get(name)} and is now {now}" for name, now in position.items() if there.get(name) != now
        ]
        if differ:
            raise ValueError(f"{run} cannot be resumed exactly: {'; '.join(differ)}")
        say(f"{run}: resuming at step {step}")
    _forget_after(run / METRICS, step or 0)
    best_value = -math.inf
    if best is not None and _checkpoint.latest(run / BEST) is not None:
        best_value = float(_checkpoint.read_meta(run / BEST).get(best, -math.inf))
    return state, best_value


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that will be done again, and half a line at the end."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line["step"] > step:
            break
        kept.append(text + "\n")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(kept))
    os.replace(unfinished, path)


def _keep_best(
    run: Path, state: TrainState, step: int, meta: dict[str, Any], line: Mapping[str, Any], name: str, value: float
) -> float:
    if name not in line:
        raise ValueError(f"best={name!r} is not among the metrics: {', '.join(line)}")
    if line[name] > value:
        _checkpoint.save(run / BEST, state, step=step, meta={**meta, name: line[name]})
    return max(value, line[name])
