"""Seconds to write a report of 10,000 examples, from what lies on disk to the page.

Command:  python -m experiments.bench.report [N]
Expected: below 1 s a file; with the start of a process and the import of JAX below 5 s.

Synthetic results of two models: three oracles (an attack, two proofs) at four radii, certified radii by smoothing, a gallery, corruptions;
saved, then read and written here, and once more by `jrobust report` in a process of its own.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import jrobust as jr
from jrobust.evaluation import (
    Curve,
    Evaluation,
    Gallery,
    Result,
    Section,
    corruption_rows,
    costs_of,
    outcomes_of,
    protocol_of,
    read_sections,
    report,
    rows_of,
)

RADII = (0.02, 0.05, 0.1, 0.2)
ORACLES = {"pgd": jr.attacks.pgd(steps=20), "ibp": jr.bounds.ibp(), "crown": jr.bounds.crown()}


def made(title: str, n: int, rng: np.random.Generator) -> Section:
    """A model that is broken from a random radius on, and proven up to a random share of it."""
    y = rng.integers(0, 10, n)
    correct = rng.random(n) < 0.95
    breaks = np.where(correct, rng.exponential(0.15, n), 0.0)
    shares = {"pgd": 1.0, "crown": rng.random(n), "ibp": 0.5 * rng.random(n)}
    sides = {"pgd": "lower", "crown": "upper", "ibp": "upper"}

    def at(eps: float) -> Evaluation:
        results = {"clean": Result("clean", "exact", correct, np.zeros(n), None, {}, 1.0, correct, "prediction")}
        for name, share in shares.items():
            info = {"forwards": np.full(n, 21), "backwards": np.full(n, 20)} if name == "pgd" else {}
            results[name] = Result(name, sides[name], breaks * share > eps, np.zeros(n), None, info, 1.0, correct, name)
        return Evaluation(results, f"linf {eps}", 60.0)

    curve = Curve(np.array(RADII), tuple(at(eps) for eps in RADII))
    x = rng.random((n, 28, 28, 1), np.float32)
    few = x[:8]
    return Section(
        title,
        rows_of(curve, model=title, seed=0),
        radii=tuple(np.where(correct, rng.exponential(0.4, n), 0.0).tolist()),
        noise="gaussian 0.25",
        gallery=Gallery(few, np.clip(few + 0.1, 0, 1), y[:8], y[:8], y[:8], "pgd at linf 0.1"),
        outcomes=outcomes_of(curve, y),
        protocol=protocol_of(x, y, threat=jr.sets.linf(0.0, clip=(0, 1)), eps=RADII, oracles=ORACLES, seed=0),
        costs=costs_of(curve),
        corruptions=corruption_rows(
            {"corruption": c, "severity": s, "n": n, "errors": int(rng.integers(n))}
            for c in jr.corruptions.imagenet_c
            for s in range(1, 6)
        ),
        losses=tuple({"step": i, "loss": 2.0 / (i + 1)} for i in range(3000)),
    )


def main(n: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for title in ("first", "second"):
            made(title, n, rng).save(root / title)
        for ending in ("html", "md", "json"):
            start = time.perf_counter()
            page = report(read_sections(root), root / f"report.{ending}")
            print(
                f"{ending}: {time.perf_counter() - start:.2f} s, {page.stat().st_size / 1e3:.0f} kB ({n} examples, 2 models)"
            )
        start = time.perf_counter()
        command = "import sys; from jrobust.cli import main; sys.exit(main(sys.argv[1:]))"
        subprocess.run([sys.executable, "-c", command, "report", folder, "--out", str(root / "whole.html")], check=True)
        wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"jrobust report, a process of its own: {wall:.2f} s ({used.ru_utime + used.ru_stime:.2f} s of CPU)")
        subprocess.run([sys.executable, "-c", "import jax"], check=True)
        both = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"of which importing JAX: {both.ru_utime + both.ru_stime - used.ru_utime - used.ru_stime:.2f} s of CPU")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
