"""The verification competition's question, network and specification in and a verdict out, by attacks, then bounds, then search."""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import attacks, bounds
from jrobust._checks import check_key
from jrobust._model import Functional, functional
from jrobust._tree import bind
from jrobust.io import _stages
from jrobust.io._network import Network
from jrobust.io._onnx import load_onnx
from jrobust.io._replay import counterexample, replayer
from jrobust.io._specification import Case, Specification
from jrobust.io._vnnlib import load_vnnlib

Search = Callable[[Any, Any, Any, float], tuple[str, Any]]
_CASES = 64  # bounded at once
_FEW = 20  # inputs: `bounds.branch` cuts those
_RUNS = 4096  # attacks at once
_ENTRIES = 2**16  # of inputs that the restarts of one case hold


class Outcome(NamedTuple):
    """What `verify_files` found.

    Attributes:
      verdict: "sat" (the unsafe set is reached: a counterexample), "unsat" (proven that it is not), "unknown", or "timeout".
      x, y: the counterexample, float64 [n] and the outputs [m] of the run that confirmed it; None without one.
      confirmed: who re-executed it: "onnxruntime", or "jax float32, jax float64".
      stages: a dictionary a stage: ``stage`` (name), ``seconds`` (compilation included), ``open`` (cases left after it).
      seconds: all in all.
    """

    verdict: str
    x: np.ndarray | None
    y: np.ndarray | None
    confirmed: str | None
    stages: list[dict[str, Any]]
    seconds: float

    @property
    def decided_by(self) -> str | None:
        """The stage that gave the verdict; None where none did."""
        return self.stages[-1]["stage"] if self.verdict in ("sat", "unsat") and self.stages else None

    def text(self) -> str:
        """The competition's result file: the verdict, and below "sat" the counterexample."""
        return f"{self.verdict}\n" if self.x is None else f"{self.verdict}\n{counterexample(self.x, self.y)}\n"


def verify_files(
    model: Any,
    spec: Any,
    *,
    timeout: int | float = 60.0,
    key: Any = None,
    search: Search | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Outcome:
    """Can the network reach the unsafe set that a VNN-LIB file describes?

    A quick attack on all cases comes first, then the bounds `ibp` (of many cases), `crown_ibp`, `crown`, a strong attack (of more than
    20 inputs), then ``search``. Each stage takes only the cases that are still open.

    Args:
      model: an ONNX file (.onnx, .onnx.gz), or a loaded network: ``net(x[B, *net.shape]) -> [B, ...]``.
      spec: a VNN-LIB file, or a loaded `Specification`.
      timeout: seconds, > 0; looked at between compiled steps (a step that runs, or compiles, is not interrupted).
      key: of the attacks; None: ``jax.random.key(0)``.
      search: ``search(f, s, key, deadline) -> (verdict, witness or None)`` on one case: its objective, its set (the float32 box
        around the true one), and the ``time.monotonic()`` at which to come back. None: `jrobust.bounds.branch`. Attacks go on where
        it gives up.
      progress: called with each stage's name and the number of open cases before it starts.

    Returns:
      An `Outcome`.

    Raises:
      ValueError: a file that cannot be read, or a specification of another number of inputs or outputs than the network's.

    Guarantee: "sat" only with a counterexample that lies in the box of the file (its float64 numbers, without tolerance) and whose
      outputs, of a run of the network in onnxruntime (in JAX, float32 and float64, where that is not installed), meet the unsafe set
      without tolerance. "unsat" is as good as the bounds: exact arithmetic over a float32 box that contains the file's, the rounding
      inside the network not directed outward. A network that gives NaN is never verified.

    >>> import numpy as np
    >>> class Net:  # y = x_0 - x_1
    ...     shape = (2,)
    ...     __call__ = staticmethod(lambda x: x[:, :1] - x[:, 1:])
    >>> above = lambda c: Specification([Case(np.zeros(2), np.ones(2), [(-np.ones((1, 1)), np.array([-c]))])], 2, 1, "y >= c")
    >>> verify_files(Net(), above(1.5)).verdict, verify_files(Net(), above(0.5)).verdict
    ('unsat', 'sat')
    """
    started = time.monotonic()
    if not timeout > 0:
        raise ValueError(f"verify_files: timeout is > 0 seconds, got {timeout}")
    key = jax.random.key(0) if key is None else key
    check_key(key)
    spec = spec if isinstance(spec, Specification) else load_vnnlib(spec)
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    run = _Run(load_onnx(path) if path is not None else model, path, spec, started + timeout, progress)
    stages = _stages_of(run, key, search)
    verdict = "unknown"
    for name, stage in stages:
        if not run.open or run.found:
            break
        if run.late():
            break
        begin = time.monotonic()
        if progress is not None:
            progress(name, len(run.open))
        stage()
        run.record.append({"stage": name, "seconds": time.monotonic() - begin, "open": len(run.open)})
    if run.found:
        verdict = "sat"
    elif not run.open:
        verdict = "unsat"
    elif run.late():
        verdict = "timeout"
    x, y, by = run.found or (None, None, None)
    return Outcome(verdict, x, y, by, run.record, time.monotonic() - started)


class _Run:
    """One question while it is worked on: the network taken apart, the open cases, and the counterexample once there is one."""

    def __init__(self, net: Any, path: Any, spec: Specification, deadline: float, progress: Any) -> None:
        self.shape: tuple[int, ...] = tuple(net.shape)
        self.cases, self.deadline, self.progress = spec.cases, deadline, progress
        x = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        flat = isinstance(net, Network)  # any other may answer in another shape
        self.net: Functional = functional(net if flat else lambda x: jnp.reshape(net(x), (x.shape[0], -1)), x)
        m = jax.eval_shape(self.net.apply, self.net.leaves, x).shape[1]
        n = int(np.prod(self.shape))
        if (n, m) != (spec.inputs, spec.outputs):
            raise ValueError(
                f"{spec.name} speaks of {spec.inputs} inputs and {spec.outputs} outputs; the network has {n} (shape {self.shape}) and {m}"
            )
        self.open = list(range(len(spec.cases)))
        self.found: tuple[np.ndarray, np.ndarray, str] | None = None
        self.doubted: set[int] = set()  # a witness here that did not re-execute: no bound may say the opposite
        self.record: list[dict[str, Any]] = []
        self.replay = None
        self.again = lambda: replayer(path, net, self.shape)

    def late(self) -> bool:
        return time.monotonic() >= self.deadline

    def chunks(self, size: int, cases: list[Case]) -> Iterator[tuple[list[int], list[Case]]]:
        """The open ones among ``cases`` in pieces of one length (the last is filled up), while there is time and no counterexample."""
        todo = list(self.open)
        size = min(size, 1 << (len(todo) - 1).bit_length()) if todo else 1
        for i in range(0, len(todo), size):
            if self.late() or self.found:
                return
            some = todo[i : i + size]
            yield some, [cases[j] for j in some + some[-1:] * (size - len(some))]

    def attack(self, oracle: Any, key: Any, restarts: int) -> None:
        for some, cases in self.chunks(max(1, _RUNS // restarts), self.cases):
            problems = _stages.pack(cases, self.cases, self.shape, inside=True)
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.resize(np.array(some), len(cases)))
            run = _stages.compiled(_stages.attacked)
            values, points = run(oracle, keys, self.net.leaves, problems, apply=self.net.apply, restarts=restarts)
            for i, value, point in zip(some, np.asarray(values), np.asarray(points), strict=False):
                if value >= 0 and not self.found:
                    self.believe(i, point)

    def bound(self, oracle: Any) -> None:
        for some, cases in self.chunks(_CASES, self.provable):
            problems = _stages.pack(cases, self.cases, self.shape, inside=False)
            run = _stages.compiled(_stages.proven)
            holds = np.asarray(run(oracle, self.net.leaves, problems, apply=self.net.apply))
            self.close(i for i, proof in zip(some, holds, strict=False) if proof)

    def search(self, search: Search, key: Any) -> None:
        fn = bind(_stages.outputs, self.net.leaves, apply=self.net.apply)
        for i in list(self.open):
            if self.late() or self.found:
                return
            case = self.cases[i]
            s = case.threat_set(self.shape)
            verdict, witness = search(self.provable[i].objective(fn), s, jax.random.fold_in(key, i), self.deadline)
            if verdict == "unsat":
                self.close([i])
            elif verdict == "sat" and witness is not None:
                self.believe(i, witness)

    @functools.cached_property
    def provable(self) -> list[Case]:
        """The cases in float32 coefficients, widened by what their rounding can move an output's row by."""
        fn = bind(_stages.outputs, self.net.leaves, apply=self.net.apply)
        ends = jax.jit(lambda s: bounds.output_bounds(fn, s, method=bounds.crown_ibp()))

        def widened(case: Case) -> Case:
            near = [A.astype(np.float32).astype(np.float64) for A, _ in case.disjuncts]
            if all(np.array_equal(a, A) for a, (A, _) in zip(near, case.disjuncts, strict=True)):
                return case
            lo, hi = ends(case.threat_set(self.shape))
            size = 1.01 * np.maximum(np.abs(lo), np.abs(hi)).astype(np.float64).ravel()
            pairs = zip(near, case.disjuncts, strict=True)
            return case._replace(
                disjuncts=[(a, b + np.where(a == A, 0.0, np.abs(a - A) * size).sum(1)) for a, (A, b) in pairs]
            )

        return list(map(widened, self.cases))

    def close(self, proven: Any) -> None:
        gone = set(proven) - self.doubted
        self.open = [i for i in self.open if i not in gone]

    def believe(self, i: int, point: Any) -> None:
        """Take a counterexample, if it re-executes."""
        self.replay = self.replay or self.again()
        x = self.cases[i].point(point)
        runs = self.replay(x)
        if all(self.cases[i].unsafe(x, y) for _, y in runs):
            self.found = x, runs[0][1], ", ".join(by for by, _ in runs)
        else:
            self.doubted.add(i)


def _branched(f: Any, s: Any, key: Any, deadline: float) -> tuple[str, Any]:
    """Branch and bound until the deadline."""
    found = bounds.branch(f, s, seconds=max(deadline - time.monotonic(), 1e-3))
    verdict = "sat" if found.lower >= 0 else "unsat" if found.upper < 0 else "unknown"
    return verdict, found.witness


def _stages_of(run: _Run, key: Any, search: Search | None) -> Iterator[tuple[str, Callable[[], None]]]:
    """The stages, by name; where the search gives up, strong attacks come again and again."""
    n = int(np.prod(run.shape))
    restarts = int(np.clip(_ENTRIES // n, 16, 1024))
    keys = (jax.random.fold_in(key, i) for i in range(2**31 - 1))
    quick = attacks.pgd(steps=20)
    yield "attack", lambda: run.attack(quick, next(keys), restarts)
    if len(run.open) > _CASES:  # of a few boxes the compilation costs more than it saves: CROWN-IBP is never above it
        yield "ibp", lambda: run.bound(bounds.ibp())
    ladder = search is not None or len(run.open) > 1  # `bounds.branch` begins with these by itself
    if ladder or n > _FEW:
        yield "crown-ibp", lambda: run.bound(bounds.crown_ibp())
    if ladder:
        yield "crown", lambda: run.bound(bounds.crown())
    strong = attacks.apgd(steps=100)
    if n > _FEW:  # of fewer inputs the search finds what there is
        yield "strong attack", lambda: run.attack(strong, next(keys), restarts)
    yield "search", lambda: run.search(search or _branched, next(keys))
    for oracle in itertools.cycle((strong, attacks.pgd(steps=100))):  # the second does not stop at the boundary
        yield "strong attack", lambda oracle=oracle: run.attack(oracle, next(keys), restarts)
