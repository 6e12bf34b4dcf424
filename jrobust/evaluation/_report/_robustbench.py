"""A report as data: entries in RobustBench's format of a model, each with our own sides and intervals beside it."""

import json
from collections.abc import Sequence
from typing import Any

from jrobust._statistics import reads
from jrobust.evaluation._ranks import RULE
from jrobust.evaluation._report._boards import Board, boards
from jrobust.evaluation._report._models import Model
from jrobust.evaluation._report._outcomes import SCALED
from jrobust.evaluation._report._rows import accuracy_of, sides_of
from jrobust.evaluation._report._sections import Section
from jrobust.evaluation._report._words import reading_of

_FOOTNOTE = "Written by jrobust; percentages as RobustBench writes them, null is not measured or not known."


def robustbench(models: Sequence[Model], title: str, level: float = 0.95) -> str:
    """JSON text: ``entries``, one for each model, threat and radius.

    The keys ``name``, ``authors``, ``venue``, ``link``, ``dataset``, ``architecture``, ``eps``, ``additional_data``,
    ``number_forward_passes``, ``clean_acc``, ``reported``, ``autoattack_acc``, ``external``, ``unreliable``, ``footnote`` are those of the
    files in RobustBench's folder model_info, accuracies as strings in percent. ``autoattack_acc`` is there only where an oracle called
    autoattack was asked, ``external`` where all attacks together, example by example, left less, or it was not; ``unreliable`` is true
    where an attack contradicts a certificate. Under ``jrobust`` stand the threat, both sides as shares with n, interval and confidence,
    the rank among the models that were asked the same (its places, and who it is tied with), and the protocol. ``side`` is that of the
    worst case that was bounded (an attack bounds the worst loss from below), ``reads`` how the number itself reads: at most, at least.

    Deviations:
      RobustBench has a file a model and one eps a folder; here a list, and ``eps`` is null where parts
      or examples have different radii. Who wrote the model is not known and null.

    References:
      Croce et al. RobustBench: a standardized adversarial robustness benchmark. NeurIPS 2021 (Datasets and Benchmarks).
    """
    found = boards([s for m in models for s in m.sections], level)
    entries = [entry for m in models for entry in _entries(m, level, found)]
    document = {
        "format": "jrobust-report-1", "title": title, "ranks": RULE, "entries": entries, "models": [_model(m) for m in models],
    }  # fmt: skip
    return json.dumps(document, indent=1, default=str, allow_nan=False) + "\n"


def _entries(m: Model, level: float, found: Sequence[Board]) -> list[dict[str, Any]]:
    return [
        _entry(m, s, subject, threat, *sides, _rank(found, s, subject, (threat, sides[0])))
        for s in m.sections
        for subject in ("model", "smoothed")
        for threat, known in sides_of(s, subject, level).items()
        for sides in known
    ]


def _rank(found: Sequence[Board], s: Section, kind: str, where: tuple[str, float]) -> dict[str, Any] | None:
    """Its place among the models that were asked the same at this radius."""
    board = next(b for b in found if b.kind == kind and any(s is other for other in b.sections))
    here = board.standings[where]
    mine = next(e for e in here if board.sections[e.section] is s)
    if mine.rank is None:
        return None
    return {
        "first": mine.rank.first,
        "last": mine.rank.last,
        "of": len({e.title for e in here}),
        "tied_with": list(mine.ties),
    }


def _entry(
    m: Model, s: Section, subject: str, threat: str, eps: float, floor: Any, ceiling: Any, rank: Any
) -> dict[str, Any]:
    model = subject == "model"
    protocol = dict(s.protocol if model else s.smoothing)
    clean = next((accuracy_of(r) for r in s.rows if model and r.threat == "none" and r.quantity == "accuracy"), None)
    here = [r for r in s.rows if (r.threat, r.eps, r.subject, r.quantity) == (threat, eps, subject, "accuracy")]
    auto = next((r.value for r in here if r.name == "autoattack" and r.side in ("lower", "exact")), None)
    measured = {} if auto is None else {"autoattack_acc": _percent(auto)}
    if ceiling is not None and (auto is None or ceiling.value < auto):
        measured["external"] = _percent(ceiling.value)
    return {
        "link": None, "name": m.name, "authors": None, "venue": None, "additional_data": None,
        "number_forward_passes": 1 if model else protocol.get("draws"),
        "dataset": protocol.get("dataset") or m.card.get("data set"), "architecture": m.card.get("architecture"),
        "eps": None if threat.endswith(SCALED) else f"{eps:g}",
        "clean_acc": None if clean is None else _percent(clean.value), "reported": None, **measured, "footnote": _FOOTNOTE,
        "unreliable": bool(m.alarms),
        "jrobust": {
            "threat": threat, "eps": eps, "subject": subject, "at_least": _accuracy(floor), "at_most": _accuracy(ceiling),
            "clean": _accuracy(clean), "rank": rank, "protocol": protocol or None,
        },
    }  # fmt: skip


def _model(m: Model) -> dict[str, Any]:
    return {
        "name": m.name, "card": m.card, "rows": [_finite(r._asdict() | {"reads": reading_of(r)}) for s in m.sections for r in s.rows],
        "costs": [c._asdict() for s in m.sections for c in s.costs],
        "corruptions": [c._asdict() for s in m.sections for c in s.corruptions], "contradictions": [str(a) for a in m.alarms],
        "pairs_checked": m.checked, "notes": m.notes, "commands": [s.command for s in m.sections if s.command],
        "versions": [dict(s.versions) for s in m.sections if s.versions],
    }  # fmt: skip


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: an open end of an interval is null."""
    return {k: None if isinstance(v, float) and abs(v) == float("inf") else v for k, v in row.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _accuracy(a: Any) -> dict[str, Any] | None:
    if a is None:
        return None
    return {
        "value": a.value,
        "low": a.low,
        "high": a.high,
        "level": a.level,
        "n": a.n,
        "side": a.side,
        "reads": reads(a.side),
        "confidence": a.confidence,
    }
