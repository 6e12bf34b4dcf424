"""A run directory: config.json, metrics.jsonl, checkpoints; and the model that came out of it."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jrobust.training import _checkpoint
from jrobust.training._step import TrainState

CONFIG, METRICS, CHECKPOINTS, BEST = "config.json", "metrics.jsonl", "checkpoints", "best"


def start_run(
    directory: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    resume: bool = False,
    ignore: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Path:
    """Make a run directory and write its config, or check that an existing one is the same run.

    Args:
      directory: where everything of the run will lie.
      config: what JSON can hold. For `load`, ``config["model"]`` holds the arguments of `jr.models.create`: ``name``, ``shape``,
        ``classes`` and the options; ``config["part"]`` which net of a dictionary of nets is the model.
      resume: whether an existing run may be continued.
      ignore: keys of the config that may differ on resume.
      defaults: what a key stands at that the run has not, since it was begun before there was one.

    Raises:
      ValueError: a run is there and ``resume`` is False; it has another config; or the directory holds something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = start_run(Path(folder) / "run", {"seed": 0})
    ...     read_config(run)
    {'seed': 0}
    """
    run = Path(directory)
    config = json.loads(json.dumps(config))  # as it will be read back
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file; a run needs a directory")
    # looked at before the config is: a process that starts beside this one writes its config before anything else
    others = [p for p in run.iterdir() if not p.name.startswith(f".{CONFIG}")] if run.exists() else []
    if not (run / CONFIG).exists():
        if others:
            raise ValueError(f"{run} is not empty and is no run (it has no {CONFIG}); choose another directory")
        run.mkdir(parents=True, exist_ok=True)
        # renamed when whole: a run never has half a config; processes that start at once write the same one
        unfinished = run / f".{CONFIG}.{secrets.token_hex(4)}"
        unfinished.write_text(json.dumps(config, indent=1))
        os.replace(unfinished, run / CONFIG)
        return run
    if not resume:
        raise ValueError(f"{run} already holds a run; resume it (--resume) or choose another directory")
    known = {key: value for key, value in (defaults or {}).items() if key in config}
    there = json.loads(json.dumps(known)) | read_config(run)
    differ = [
        f"{key} was {there.get(key)!r} and is now {config.get(key)!r}"
        for key in {**there, **config}
        if key not in ignore and there.get(key) != config.get(key)
    ]
    if differ:
        raise ValueError(f"{run} holds another run: {'; '.join(differ)}")
    return run


def read_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The config of a run directory."""
    path = Path(run) / CONFIG
    if not path.is_file():
        raise ValueError(f"{os.fspath(run)} is no run directory: it has no {CONFIG}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}, expected an object")
    return config


def restore(run: str | os.PathLike[str], state: TrainState, *, best: bool = False) -> TrainState:
    """The state of a run of `fit`, read back into the structure of ``state``.

    Args:
      run: the directory that `fit` was given as ``run``.
      state: from `init`, with the same parameters, optimiser, ``ema`` and ``memory`` as in that run; its numbers do not matter.
      best: the best checkpoint that `fit` kept by its ``best`` metric instead of the newest.

    Returns:
      A `TrainState`. ``jr.nnx.merge(module, state.averaged, state.rest)`` is the model again.

    Raises:
      ValueError: no complete checkpoint, a corrupt one, or one of another model or optimiser.
    """
    return _checkpoint.restore(_folder(Path(run), best), state)[0]


def _folder(run: Path, best: bool) -> Path:
    folder = run / (BEST if best else CHECKPOINTS)
    if _checkpoint.latest(folder) is None:
        raise ValueError(
            f"{run} has no complete {'best ' if best else ''}checkpoint: train it first (--resume continues)"
        )
    return folder


def load(run: str | os.PathLike[str], *, best: bool = False) -> Any:
    """The trained model of a run directory, in inference mode: a batched callable, and an ``nnx.Module``.

    Args:
      run: what ``jrobust train --out`` wrote; a run of `fit` alone has no architecture in it, see `restore`.
      best: the best checkpoint that `fit` kept by its ``best`` metric instead of the newest.

    Returns:
      The module with the newest parameters: their moving average where the run kept one, with the live BatchNorm statistics.

    Raises:
      ValueError: no run, no complete checkpoint, a corrupt one, or one of another architecture.
    """
    from jrobust import models, nnx

    run = Path(run)
    if (run / CHECKPOINTS).is_dir() and not (run / CONFIG).exists():
        raise ValueError(
            f"{run} was written by fit, which does not know the architecture (there is no {CONFIG}): "
            "jr.training.restore(run, state) reads it; load is for runs of jrobust train"
        )
    config = read_config(run)
    if not isinstance(config.get("model"), dict):
        raise ValueError(
            f"{run / CONFIG} does not describe a model; it was not written by jrobust train (jr.training.restore reads any run)"
        )
    folder = _folder(run, best)
    try:
        model = models.create(**config["model"])
    except TypeError as error:
        raise ValueError(f"{run / CONFIG} describes no model of this version: {error}") from error
    _, params, rest = nnx.functional(model)
    averaged = any(name.startswith("ema.") for name in _checkpoint.read_meta(folder)["arrays"])
    kept = "ema" if averaged else "params"
    part = config.get("part")
    template = {name: tree if part is None else {part: tree} for name, tree in ((kept, params), ("rest", rest))}
    under = "" if part is None else f"{part}."
    state, _ = _checkpoint.restore(folder, template, prefix=(f"{kept}.{under}", f"rest.{under}"))
    return nnx.merge(model, *(state[name] if part is None else state[name][part] for name in (kept, "rest")))
