"""``jrobust report``: results in one file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from jrobust.cli import _common
from jrobust.evaluation import Section, read_sections
from jrobust.evaluation import report as write


def report(dirs: Positional[tuple[str, ...]], *, out: str = "report.html", title: str = "Robustness report") -> Path:
    """Write the honest report on one model or several, from the results in some directories.

    It holds a card of each model, the protocol, certified floor and attack ceiling, both sides class by class, certified radii, witnesses,
    corruptions, contradictions (in red, at the top), the cost, and the commands that make it again. Models are ranked together only where
    they were asked the same; what was not measured is said.

    Args:
      dirs: results of evaluate and certify, training runs (with the results in them), or folders of results.
      out: the file; its ending says what it is: .html (needs no other file, no network), .md, or .json (RobustBench's keys and ours).
      title: of the page.
    """
    if not dirs:
        raise ValueError("give at least one directory of results")
    sections = [section for folder in dirs for section in _sections(folder)]
    page = write([_with_command(s) for s in sections], out, title=title)
    print(f"wrote {page}")
    return page


def _sections(folder: str) -> tuple[Section, ...]:
    try:
        return read_sections(folder)
    except ValueError:
        top = Path(folder)
        places = [top, *(place for place in top.iterdir() if place.is_dir())]
        results = any((place / name).is_file() for place in places for name in ("summary.json", "metrics.jsonl"))
        if results or not any(top.glob("**/*-shard-*-of-*.json")):
            raise
        raise ValueError(
            f"{folder} holds only shards; run the same command without --shard to join them, then report"
        ) from None


def _with_command(section: Section) -> Section:
    """A training run says what it was asked in its config alone."""
    if section.command or section.config.get("command") != "train":
        return section
    return dataclasses.replace(section, command=_training({**section.config, "out": section.origin}))


def _training(config: Mapping[str, Any]) -> str:
    """The command that trained a run."""
    from jrobust.cli._train import Train

    model = config.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    said = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return _common.command_of("train", {**said, "model": name}, Train)
