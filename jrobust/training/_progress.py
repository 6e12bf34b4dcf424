"""What a long training shows, and how it stops: a progress bar, and Ctrl-C that waits for the running chunk."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


class _Silent:
    def show(self, done: int, epoch: float, metrics: Mapping[str, Any]) -> None:
        """Nothing."""


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task

    def show(self, done: int, epoch: float, metrics: Mapping[str, Any]) -> None:
        """Move the bar to ``done`` steps."""
        hidden = ("step", "epoch", "seconds", "grad_norm", "images_per_second")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name not in hidden)
        self.bar.update(
            self.task, completed=done, epoch=f"{epoch:.1f}", shown=shown, rate=f"{metrics['images_per_second']:,.0f}"
        )


@contextlib.contextmanager
def progress(steps: int, done: int, epochs: int, *, shown: bool) -> Iterator[_Bar | _Silent]:
    """A bar with epoch, metrics, images a second and time left; silent where it is not wanted or rich is not installed."""
    try:
        import rich.progress as rp
        from rich.console import Console
    except ImportError:
        shown = False
    if not shown:
        yield _Silent()
        return
    columns = (
        rp.TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
        rp.BarColumn(bar_width=24),
        rp.TextColumn("{task.fields[shown]}"),
        rp.TextColumn("{task.fields[rate]} images/s"),
        rp.TimeRemainingColumn(),
        rp.TextColumn("left"),
    )
    with rp.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=steps, completed=done, epoch="0", shown="compiling", rate="-")
        yield _Bar(bar, task)


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Within it Ctrl-C sets the event, for the caller to stop at the next safe place; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        del number, frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("stopping after this chunk of steps (Ctrl-C again: at once)")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
