"""``jrobust verify``: a network and a specification in, the competition's verdict out, in time."""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro

_RESERVE = 0.2  # seconds before the limit at which the work stops by itself


def verify(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL.onnx")],
    spec: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC.vnnlib")],
    *,
    timeout: float = 60.0,
    results: str | None = None,
    counterexample: str | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Can a network reach the unsafe outputs that a VNN-LIB specification describes?

    The first word on stdout is the verdict: sat (it can; the counterexample was re-executed, in onnxruntime where that is
    installed), unsat (proven that it cannot), unknown, or timeout. Exit code 0 on all four. A second run of a network of the
    same shape starts faster with JAX_COMPILATION_CACHE_DIR set to a folder (and
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0).

    Args:
      model: the network, .onnx or .onnx.gz.
      spec: the specification, .vnnlib or .vnnlib.gz.
      timeout: seconds from the start of the command, compilation included.
      results: file for the result in the competition's form: the verdict, and below sat the counterexample.
      counterexample: file for the counterexample alone; written on sat only.
      seed: of the attacks.
      quiet: no progress on stderr.
    """
    if not 0 < timeout < math.inf:
        raise ValueError(f"--timeout is > 0 and finite, got {timeout:g}")
    for flag, path in (("--results", results), ("--counterexample", counterexample)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"{flag} {path}: its folder does not exist")
    if not (Path(model).name.endswith((".onnx", ".onnx.gz")) and Path(spec).name.endswith((".vnnlib", ".vnnlib.gz"))):
        raise ValueError(f"expected MODEL.onnx SPEC.vnnlib (each may be gzipped), got {model} {spec}")
    deadline = time.monotonic() - _age() + timeout
    with _watched(deadline, results) as answer:
        import jax

        from jrobust.io import verify_files
        from jrobust.io._replay import counterexample as form

        left = max(deadline - _RESERVE - time.monotonic(), 1e-3)
        with _shown(not quiet) as progress:
            outcome = verify_files(model, spec, timeout=left, key=jax.random.key(seed), progress=progress)
        by = f" by {outcome.decided_by}" if outcome.decided_by else ""
        checked = f", confirmed by {outcome.confirmed}" if outcome.confirmed else ""
        answer()
        print(f"{outcome.verdict}{by} in {outcome.seconds:.1f} s{checked}", flush=True)
        if results is not None:
            Path(results).write_text(outcome.text())
        if counterexample is not None and outcome.x is not None:
            Path(counterexample).write_text(form(outcome.x, outcome.y) + "\n")


@contextlib.contextmanager
def _watched(deadline: float, results: str | None) -> Iterator[Callable[[], None]]:
    """End the process with ``timeout`` at the deadline, even inside a compilation, unless what is yielded was called first."""
    lock, given = threading.Lock(), threading.Event()

    def watch() -> None:
        if given.wait(max(deadline - time.monotonic(), 0.0)):
            return
        with lock:
            if given.is_set():
                return
            os.write(1, b"timeout at the limit\n")  # not print: another thread may hold its buffer
            if results is not None:
                Path(results).write_text("timeout\n")
            os._exit(0)

    def answer() -> None:
        with lock:
            given.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield answer
    finally:
        given.set()


@contextlib.contextmanager
def _shown(show: bool) -> Iterator[Callable[[str, int], None] | None]:
    """The stage at work, on stderr."""
    if not show:
        yield None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("reading") as status:
        yield lambda stage, cases: status.update(f"{stage}, {cases} box{'es' * (cases != 1)} open")


def _age() -> float:
    """Seconds since this process began, where it is this command's own (imports count too) and the system says so; else 0."""
    if sys.argv[1:2] != ["verify"]:
        return 0.0
    try:
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(float(Path("/proc/uptime").read_text().split()[0]) - began, 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
