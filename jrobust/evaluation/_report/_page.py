"""What a report says, in order: alarms, how the models compare, then each model with all that its numbers need to be read."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jrobust.evaluation._report import _plots
from jrobust.evaluation._report._blocks import (
    Block,
    Chip,
    Code,
    Columns,
    Figures,
    Fold,
    Heading,
    Links,
    Table,
    Text,
)
from jrobust.evaluation._report._comparison import comparison
from jrobust.evaluation._report._heatmap import corruptions
from jrobust.evaluation._report._models import Model
from jrobust.evaluation._report._outcomes import between, threats_of
from jrobust.evaluation._report._pictures import gallery
from jrobust.evaluation._report._sections import NO_PICTURES, Section
from jrobust.evaluation._report._words import (
    cells,
    interval_of,
    n_of,
    reading_of,
    said_of,
    share_of,
    threat_of,
)

_LEAD = (
    "Robust accuracy is never measured, only bounded. An attack found that much of the worst case, so the true robust accuracy is at most "
    "its number; a proof shows that it is at least its number; what is exact was counted. Intervals are about the choice of the n "
    "examples; confidence is that of each single statement (1: certain, up to rounding)."
)
_WORDS = {
    "dataset": "data set", "examples": "hash of the examples", "n0": "selection draws", "draws": "draws an example", "seed": "key (seed)",
}  # fmt: skip
_CARD = ("data set", "architecture", "parameters", "training", "trained at eps", "epochs", "seed")


def page(models: Sequence[Model], title: str, level: float = 0.95) -> tuple[Block, ...]:
    """The blocks of a report."""
    out: list[Block] = [Heading(1, title), Text(_LEAD, "small")]
    for m in models:
        out += [Text(f"Contradiction, {m.name}: {alarm}", "alarm") for alarm in m.alarms]
    if not any(m.alarms for m in models):
        pairs = sum(m.checked for m in models)
        if pairs:
            said = f"No contradiction: no attack broke what a certificate proves ({pairs} pairs compared, example by example)."
            out.append(Text(said, "calm"))
    if len(models) > 1:
        out.append(Links(tuple((m.name, f"model-{i}") for i, m in enumerate(models))))
        out += comparison(models, level)
    for i, m in enumerate(models):
        out += [Heading(2, m.name, f"model-{i}"), *_model(m, level)]
    return tuple(out)


# one model


def _model(m: Model, level: float) -> list[Block]:
    out: list[Block] = [Text(note, "alarm" if note.startswith("CONTRADICTION") else "note") for note in m.notes]
    parts: tuple[tuple[str, Callable[[Section], list[Block]], str], ...] = (
        (
            "Between attack and proof",
            lambda s: _sandwich(s, level),
            "Not measured: no attack and no proof at two radii.",
        ),
        ("Class by class", lambda s: _classes(s, m.classes, level), "Not measured: no answers example by example."),
        (
            "Certified radii of the smoothed classifier",
            lambda s: _radii(s, level),
            "Not measured: the model was not smoothed.",
        ),
        ("Witnesses", lambda s: _witnesses(s, m.classes), _no_witnesses(m)),
        ("Corruptions", corruptions, "Not measured."),
        ("Cost", _cost, "Not measured."),
        ("All numbers", _numbers, "None."),
        ("Training", _losses, "No record of the training."),
    )
    out += _asked(m)
    for name, make, missing in parts:
        made = [block for s in m.sections for block in make(s)]
        if name == "Cost":
            out += _contradictions(m)
        out += [Heading(3, name), *(_joined(made) or [Text(missing, "missing")])]
    out.append(Heading(3, "To get this again"))
    commands = [s.command for s in m.sections if s.command]
    out += (
        [Code("\n".join(dict.fromkeys(commands)))] if commands else [Text("The command was not recorded.", "missing")]
    )
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in s.versions.items()) for s in m.sections if s.versions)
    out += [Text(v, "small") for v in versions] or [Text("Versions were not recorded.", "missing")]
    configs = tuple(Code(json.dumps(s.config, indent=1, default=str)) for s in m.sections if s.config)
    return [*out, *([Fold("configuration", configs)] if configs else [])]


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Drawings of several results in one row, tables with the same columns as one, no sentence twice."""
    figures = tuple(f for b in blocks if isinstance(b, Figures) for f in b.figures)
    out: list[Block] = [Figures(figures)] if figures else []
    for b in blocks:
        same = next((i for i, o in enumerate(out) if _alike(o, b)), None)
        if same is not None and isinstance(b, Table):
            before = out[same]
            assert isinstance(before, Table)
            out[same] = Table(b.columns, before.rows + b.rows, b.numeric, before.lines | {len(before.rows)})
        elif not isinstance(b, Figures) and not (isinstance(b, Text) and b in out):
            out.append(b)
    return out


def _alike(a: Block, b: Block) -> bool:
    """Two tables of methods (others, such as of corruptions, belong to their result)."""
    return isinstance(a, Table) and isinstance(b, Table) and a.columns == b.columns and a.columns[0] == "method"


def _asked(m: Model) -> list[Block]:
    """The card of the model, and beside it what was asked about it."""
    card = {**dict.fromkeys(_CARD, "not recorded"), **m.card}
    tables = [("model", Table(("", ""), tuple((k, said_of(v)) for k, v in card.items())))]
    for s in m.sections:
        for name, asked in (("attacks and proofs", s.protocol), ("smoothing", s.smoothing)):
            if asked:
                tables.append((name, _questions(asked)))
    out: list[Block] = [Heading(3, "Model card and protocol"), Columns(tuple(tables))]
    if len(tables) == 1:
        out.append(Text("Protocol: which examples and attacks were asked was not recorded.", "missing"))
    return out


def _questions(asked: Mapping[str, Any]) -> Table:
    hidden = ("oracles", "attacks", "set", "noise_digest")
    rows = [
        (_WORDS.get(k, k.replace("_", " ")), said_of(v)) for k, v in asked.items() if k not in hidden and v is not None
    ]
    for name, o in asked.get("oracles", {}).items():
        kind = {"lower": "attack", "upper": "proof", "exact": "exact"}.get(str(o.get("side")), "estimate")
        rows.append((f"{kind} {name}", f"{o.get('oracle')}, confidence {o.get('confidence', 1.0):g}"))
    return Table(("", ""), tuple(rows))


def _sandwich(s: Section, level: float) -> list[Block]:
    figures = _plots.sandwich(s, level)
    return [Figures(figures)] if figures else []


def _classes(s: Section, names: Sequence[str], level: float) -> list[Block]:
    """At the radius nearest to the one trained at, or the middle one."""
    if s.outcomes is None:
        return []
    figures, folds = [], []
    for subject in ("model", "smoothed"):
        for threat in threats_of(s.outcomes, subject):
            found = [b for b in between(s.outcomes, threat, subject) if b.eps > 0]
            if not found:
                continue
            trained = s.card.get("trained at eps")
            b = found[len(found) // 2]
            if isinstance(trained, int | float) and subject == "model":
                b = found[int(np.argmin([abs(b.eps - trained) for b in found]))]
            figure, numbers = _plots.classes(s.title, s.outcomes.label, b, threat, names, level=level)
            figures.append(figure)
            rows = [
                (
                    name,
                    n_of(low or high),
                    share_of(low),
                    interval_of(low),
                    share_of(high),
                    interval_of(high),
                )
                for name, low, high in numbers
            ]
            columns = ("class", "n", "at least", f"{level:.0%} interval", "at most", f"{level:.0%} interval")
            folds.append(
                Fold(f"numbers by class, {threat} {b.eps:g}", (Table(columns, tuple(rows), frozenset(range(1, 6))),))
            )
    return [Figures(tuple(figures)), *folds] if figures else []


def _radii(s: Section, level: float) -> list[Block]:
    figure = _plots.radius_curves([s], level)
    return [Figures((figure,))] if figure else []


def _witnesses(s: Section, names: Sequence[str]) -> list[Block]:
    if s.gallery is None or not len(s.gallery.clean):
        return []
    said = f"{s.gallery.caption}: clean, witness and their difference; above each what the model says (red where it is wrong)."
    return [gallery(s.gallery, names), Text(said, "small")]


def _no_witnesses(m: Model) -> str:
    """Why there are none."""
    damaged = any(note.startswith(NO_PICTURES) for note in m.notes)
    return "Not shown: their file is damaged." if damaged else "None kept: no attack on images."


def _contradictions(m: Model) -> list[Block]:
    out: list[Block] = [Heading(3, "Contradictions")]
    if m.alarms:
        return [*out, *(Text(str(alarm), "alarm") for alarm in m.alarms)]
    if m.checked:
        return [
            *out,
            Text(
                f"None: {m.checked} pairs of an attack and a certificate compared on every example, across radii.",
                "calm",
            ),
        ]
    return [*out, Text("Not checked: there is no attack and certificate about the same examples.", "missing")]


def _cost(s: Section) -> list[Block]:
    rows = []
    for name, threat in dict.fromkeys((c.name, c.threat) for c in s.costs):
        here = [c for c in s.costs if (c.name, c.threat) == (name, threat)]
        n = sum(c.n for c in here)
        cells = []
        for field in ("forwards", "backwards"):
            counts = [getattr(c, field) for c in here]
            if None in counts:
                cells.append("-" if name == "all together" else "not counted")
            else:
                cells.append(f"{sum(counts):,} ({sum(counts) / max(n, 1):,.1f} each)")
        seconds = [c.seconds for c in here]
        together = any(c.name == "all together" for c in s.costs) and name != "all together"
        known = [t for t in seconds if t is not None]
        whole = len(known) == len(seconds)
        cells.append(f"{sum(known):.1f}" if whole else "not apart" if together else "not measured")
        where = (
            f"{threat}, {len(here)} radii"
            if len(here) > 1
            else threat
            if here[0].eps == 0
            else f"{threat} {here[0].eps:g}"
        )
        rows.append((name, where, f"{n:,}", *cells))
    if not rows:
        return []
    columns = ("method", "threat", "examples asked", "forward passes", "backward passes", "seconds")
    return [
        Table(columns, tuple(rows), frozenset({2, 3, 4, 5})),
        Text("Seconds are wall time on the machine of the run, compilation included; all radii together.", "small"),
    ]


def _numbers(s: Section) -> list[Block]:
    if not s.rows:
        return []
    columns = ("method", "threat", "true value", "value", "interval", "n", "confidence", "seed")
    rows = []
    for r in s.rows:
        proof = r.quantity == "radius" and r.side == "lower"  # coloured as what it is: a radius is proven from below
        chip = Chip(reading_of(r), "upper" if proof else r.side)
        rows.append((r.name, threat_of(r), chip, *cells(r), f"{r.n}", f"{r.confidence:g}", f"{r.seed}"))
    return [Table(columns, tuple(rows), frozenset(range(3, 8)))]


def _losses(s: Section) -> list[Block]:
    figure = _plots.loss_curves(s)
    return [Figures((figure,))] if figure else []
