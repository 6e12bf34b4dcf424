"""Families of the verification competition (VNN-COMP) against their consensus verdicts.

    python experiments/vnncomp.py --root /path/to/vnncomp rl_benchmarks acasxu mnist_fc verivital sri_resnet_a [--timeout S] [--in-process]
    python experiments/vnncomp.py --table        # from the records alone

One JSON line an instance is appended to experiments/records/vnncomp_FAMILY.jsonl; a line that is there is not run again (--timeout and
--in-process are part of the line and must agree). A subprocess an instance measures what the competition does (imports and compilation
count, --cache DIR keeps compiled programs between them); --in-process compiles each shape of network once, and the limit is then only
looked at between compiled steps. --agreed leaves out the instances without a consensus.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECORDS = Path(__file__).parent / "records"
COMMAND = "import sys; from jrobust.cli import main; sys.exit(main())"
AGREED = ("sat", "unsat", "unsat-single")
SETTINGS = ("limit", "in_process", "cached", "seed")
FAMILIES = ("rl_benchmarks", "acasxu", "mnist_fc", "verivital", "sri_resnet_a")


def as_command(net: Path, spec: Path, timeout: float, seed: int) -> dict:
    """One run of ``jrobust verify``, killed where it outlives its limit."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        words = ["verify", net, spec, "--timeout", timeout, "--seed", seed, "--results", result, "--quiet"]
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", COMMAND, *map(str, words)], capture_output=True, text=True, timeout=timeout + 15
            )
        except subprocess.TimeoutExpired:
            return {"verdict": "overrun", "seconds": time.monotonic() - began}
        seconds = time.monotonic() - began
        if done.returncode != 0:
            return {"verdict": "error", "seconds": seconds, "said": done.stderr[-300:]}
        said = done.stdout.strip()
        verdict, *witness = result.read_text().splitlines()
        confirmed = said.rpartition("confirmed by ")[2] if witness else None
        return {"verdict": verdict, "seconds": seconds, "said": said, "confirmed": confirmed}


def in_process(net: Path, spec: Path, timeout: float, seed: int) -> dict:
    import jax

    from jrobust.io import verify_files

    began = time.monotonic()
    try:
        out = verify_files(net, spec, timeout=timeout, key=jax.random.key(seed))
    except Exception as error:
        return {
            "verdict": "error",
            "seconds": time.monotonic() - began,
            "said": f"{type(error).__name__}: {error}"[:300],
        }
    stages = [{**r, "seconds": round(r["seconds"], 3)} for r in out.stages[:6]]
    return {
        "verdict": out.verdict,
        "seconds": out.seconds,
        "confirmed": out.confirmed,
        "decided_by": out.decided_by,
        "stages": stages,
    }


def run(family: str, args: argparse.Namespace) -> None:
    folder, path = Path(args.root) / family, RECORDS / f"vnncomp_{family}.jsonl"
    settings = dict(zip(SETTINGS, (args.timeout, args.in_process, args.cache is not None, args.seed), strict=True))
    known = {(r["onnx"], r["vnnlib"], *(r[k] for k in settings)) for r in read(family)}
    with open(folder / "instances.csv", newline="") as lines:
        instances = list(csv.DictReader(lines))[: args.n]
    if args.agreed:
        instances = [row for row in instances if row["consensus"] in AGREED]
    RECORDS.mkdir(exist_ok=True)
    for i, row in enumerate(instances):
        if (row["onnx"], row["vnnlib"], *settings.values()) in known:
            continue
        net, spec = (folder / f"{row[k]}.gz" for k in ("onnx", "vnnlib"))
        limit = args.timeout or float(row["timeout_s"])
        out = (in_process if args.in_process else as_command)(net, spec, limit, args.seed)
        line = {**row, **settings, **out, "seconds": round(out["seconds"], 2)}
        with open(path, "a") as records:
            records.write(json.dumps(line) + "\n")
        name = f"{row['onnx']} {row['vnnlib']}"
        print(
            f"{family} {i + 1}/{len(instances)} {name}: {out['verdict']} ({row['consensus']}) {out['seconds']:.1f} s",
            flush=True,
        )


def read(family: str) -> list[dict]:
    path = RECORDS / f"vnncomp_{family}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table() -> str:
    """A line for each family (of few nets: each net) and setting: decided where the tools agree, wrong, and how long it took."""
    head = (
        "family",
        "limit",
        "run",
        "n",
        "decided of agreed",
        "sat",
        "unsat",
        "wrong",
        "sat confirmed",
        "errors",
        "mean s",
        "max s",
        "winner decided",
        "winner mean s",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for path in sorted(RECORDS.glob("vnncomp_*.jsonl")):
        family = path.stem.removeprefix("vnncomp_")
        groups: dict[tuple, list[dict]] = {}
        records = read(family)
        few = len({r["onnx"] for r in records}) <= 5
        for r in records:
            net = f"{family}, {r['onnx'].removesuffix('.onnx')}" if few else family
            groups.setdefault((net, *(r[k] for k in SETTINGS)), []).append(r)
        for (name, limit, inside, cached, _), rows in groups.items():
            agreed = [r for r in rows if r["consensus"] in AGREED]
            decided = [
                r for r in rows if r["verdict"] in ("sat", "unsat") and r["seconds"] <= (limit or float(r["timeout_s"]))
            ]
            wrong = sum(r["verdict"] == ("sat", "unsat")[r["consensus"] == "sat"] for r in agreed)
            sats = [r for r in rows if r["verdict"] == "sat"]
            winner = [r for r in agreed if r["winner_verdict"] in ("sat", "unsat")]
            cells = (
                name, limit or "official", ("in process" if inside else "command") + ", cached" * cached, len(rows),
                f"{sum(r in decided for r in agreed)}/{len(agreed)}", len(sats), sum(r["verdict"] == "unsat" for r in rows), wrong,
                f"{sum(r.get('confirmed') == 'onnxruntime' for r in sats)}/{len(sats)}",
                sum(r["verdict"] in ("error", "overrun") for r in rows),
                f"{statistics.mean(r['seconds'] for r in decided):.1f}" if decided else "-",
                f"{max(r['seconds'] for r in decided):.1f}" if decided else "-",
                f"{len(winner)}/{len(agreed)}",
                f"{statistics.mean(float(r['winner_seconds']) for r in winner):.1f}" if winner else "-",
            )  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"folders below the root, such as {', '.join(FAMILIES)}")
    parser.add_argument("--root", default=os.environ.get("VNNCOMP_DIR"), help="default: $VNNCOMP_DIR")
    parser.add_argument("--timeout", type=float, help="seconds an instance; default: the competition's own")
    parser.add_argument("--n", type=int, help="only the first instances")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--agreed", action="store_true", help="only instances on which the competition's tools agree")
    parser.add_argument("--cache", help="a folder for compiled programs (JAX's persistent compilation cache)")
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    if not args.table:
        if args.root is None or not args.families:
            parser.error("give families and --root (or $VNNCOMP_DIR), or --table")
        if args.cache:
            os.environ |= {
                "JAX_COMPILATION_CACHE_DIR": str(Path(args.cache).absolute()),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            }
        for family in args.families:
            run(family, args)
    print(table())


if __name__ == "__main__":
    main()
