"""What a training leaves in its run directory: a line of metrics a chunk, checkpoints, the best state; and how it goes on from them."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jrobust.training import _checkpoint
from jrobust.training._progress import say
from jrobust.training._run import BEST, CHECKPOINTS, METRICS
from jrobust.training._step import TrainState
from jrobust.training._watch import Stop


class Journal:
    """Of one call of `fit`; use it as a context: leaving waits for the writing of checkpoints.

    Without a directory nothing is written; a process that is not the writer reads only.
    """

    def __init__(
        self,
        run: str | os.PathLike[str] | None,
        position: Mapping[str, Any],
        per_epoch: int,
        *,
        best: str | None,
        save_seconds: int | float,
        writes: bool,
    ) -> None:
        self.run = None if run is None else Path(run)
        self.position, self.per_epoch, self.best, self.save_seconds = position, per_epoch, best, save_seconds
        self.best_value, self.saved_at, self.writes = -math.inf, time.monotonic(), writes and run is not None
        self.writer = _checkpoint.Writer()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def start(self, state: TrainState, *, resume: bool) -> TrainState:
        """The state to begin with: as given, or the newest in the directory."""
        if self.run is None:
            return state
        step = _checkpoint.latest(self.run / CHECKPOINTS)
        if not resume:
            if step is not None or (self.run / METRICS).exists():
                raise ValueError(
                    f"{self.run} already holds a training; resume it (resume=True, --resume) or choose another directory"
                )
        elif step is None:
            say(f"{self.run}: no complete checkpoint to resume, starting from step 0")
        else:
            state, meta = _checkpoint.restore(self.run / CHECKPOINTS, state)
            there = meta.get("position", {})
            differ = [
                f"{k} was {there.get(k)} and is now {self.position.get(k)}"
                for k in {**self.position, **there}
                if k not in ("epoch", "batch") and there.get(k) != self.position.get(k)
            ]
            if differ:
                raise ValueError(f"{self.run} cannot be resumed exactly: {'; '.join(differ)}")
            say(f"{self.run}: resuming at step {step}")
        if self.best is not None and resume and _checkpoint.latest(self.run / BEST) is not None:
            meta = _checkpoint.read_meta(self.run / BEST)
            if all(meta.get("position", {}).get(k) == now for k, now in self.position.items()):  # of this training
                self.best_value = float(meta.get(self.best, -math.inf))
        if self.writes:
            self.run.mkdir(parents=True, exist_ok=True)
            if resume:
                _forget_after(self.run / METRICS, step or 0)
        return state

    def line(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics."""
        if self.run is not None and self.writes:
            with (self.run / METRICS).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def keep(self, state: TrainState, line: Mapping[str, Any], *, epoch_ended: bool, now: bool) -> None:
        """Keep the state where it is the best at the end of an epoch, and where a checkpoint is due, or wanted ``now``."""
        if self.run is None:
            return
        if self.best is not None and epoch_ended:
            if self.best not in line:
                raise ValueError(f"best={self.best!r} is not among the metrics: {', '.join(line)}")
            if line[self.best] > self.best_value:
                self.best_value = line[self.best]
                self._save(BEST, state, int(line["step"]), {self.best: self.best_value})
        if now or time.monotonic() - self.saved_at >= self.save_seconds:
            self._save(CHECKPOINTS, state, int(line["step"]), {})
            self.saved_at = time.monotonic()

    def stopped(self, stop: Stop, line: Mapping[str, Any]) -> TrainState:
        """A hook ended the training: the state that it named is the last one, and the best unless a metric tells that."""
        step = int(stop.state.step)
        self.line(line)
        if self.run is not None:
            self.writer.wait()
            if _checkpoint.latest(self.run / CHECKPOINTS) != step:
                self._save(CHECKPOINTS, stop.state, step, {"stopped": str(stop)})
            if self.best is None:
                self._save(BEST, stop.state, step, {"stopped": str(stop)})
        say(f"training stopped at step {step}: {stop}")
        return stop.state

    def _save(self, folder: str, state: TrainState, step: int, more: Mapping[str, Any]) -> None:
        assert self.run is not None
        if self.writes:
            position = {**self.position, "epoch": step // self.per_epoch, "batch": step % self.per_epoch}
            self.writer.save(self.run / folder, state, step=step, meta={"position": position, **more})


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
