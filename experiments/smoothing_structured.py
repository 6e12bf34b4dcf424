"""Structured smoothing, one experiment a method, each at toy scale: what is claimed of the method, looked at once.

Command:  python -m experiments.smoothing_structured [--only NAME ...] [--seed 0]; --table prints the tables of the records.
          Nothing but the wheel's digits is read, and MNIST where an experiment says so ($TFDS_DATA_DIR).
Hardware: 2 CPU cores, shared with others. Wall time: one to ten minutes an experiment (``seconds`` in the records), half an hour in all.
Expected: the tables of experiments/README.md, and what is said below each.

One line a setting is written to records/smoothing_structured.jsonl; an experiment's old lines of the same seed are replaced.
"""

import dataclasses
import importlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import tyro

import jrobust as jr

RECORDS = Path(__file__).parent / "records" / "smoothing_structured.jsonl"
NAMES = ("segment", "bands", "dual", "hierarchical", "points", "costs", "localized", "parameters", "paths", "fusion")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      only: these experiments alone.
      seed: of data, training and noise.
      table: print the tables of the records that are there, and run nothing.
    """

    only: tuple[str, ...] = ()
    seed: int = 0
    table: bool = False


def study(name: str) -> Any:
    """The module of an experiment: ``run(seed) -> records`` and ``COLUMNS`` of its table."""
    return importlib.import_module(f"experiments.structured.{name}")


def read() -> list[dict[str, Any]]:
    """The records that are there."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def cell(value: Any) -> str:
    """A number as it is printed: four figures, no more."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(name: str, records: list[dict[str, Any]]) -> str:
    """The table of one experiment."""
    columns = study(name).COLUMNS
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    for r in records:
        if r["experiment"] == name:
            lines.append("| " + " | ".join(cell(r.get(c, "")) for c in columns) + " |")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Run, record, and print the tables."""
    records = read()
    for name in () if config.table else config.only or NAMES:
        begin = time.monotonic()
        new = study(name).run(config.seed)
        stamp = {"seconds": round(time.monotonic() - begin), "version": jr.__version__, "jax": jax.__version__}
        records = [r for r in read() if (r["experiment"], r["seed"]) != (name, config.seed)]
        records += [{"experiment": name, "seed": config.seed} | r | stamp for r in new]
        records.sort(key=lambda r: (NAMES.index(r["experiment"]), r["seed"]))
        RECORDS.write_text("".join(json.dumps(r) + "\n" for r in records))
    for name in config.only or NAMES:
        print(f"\n{name}\n\n{table(name, records)}")


if __name__ == "__main__":
    main(tyro.cli(Config))
