"""Which of several models were asked the same, and how they rank there."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jrobust._statistics import Accuracy
from jrobust.evaluation._ranks import Rank, ranks, tied
from jrobust.evaluation._report._rows import accuracy_of, sides_of
from jrobust.evaluation._report._sections import Section

_SHARED = ("dataset", "split", "n", "examples")
_ASKED = (*_SHARED, "threat", "set", "attacks", "nested")
_SMOOTHED = (*_SHARED, "noise", "noise_digest", "n0", "draws", "alpha", "runner_up", "target")
_WORDS = {
    "dataset": "data set", "set": "set around an example", "n": "number of examples (n)", "noise_digest": "noise",
    "n0": "selection draws", "runner_up": "bound on the second class", "threat": "norm or transform",
}  # fmt: skip


class Standing(NamedTuple):
    """A model at one radius.

    Attributes:
      title: of its section.
      floor, ceiling: proven, and left by the attacks; None where not asked.
      above: titles of models that it certainly beats on these examples: its floor exceeds their ceiling.
      rank: its places by `ranks` among the models, 1 is best; None where nothing ranks it.
      ties: titles of the other models that it is tied with.
      section: which of `Board.sections` it is from.
    """

    title: str
    floor: Accuracy | None
    ceiling: Accuracy | None
    above: tuple[str, ...] = ()
    rank: Rank | None = None
    ties: tuple[str, ...] = ()
    section: int = 0


class Board(NamedTuple):
    """Models that were asked the same, at every radius.

    Attributes:
      kind: "model", or "smoothed".
      asked: what they share of what `protocol_of` or `smoothing_protocol` recorded; None where nothing was (then there is one model).
      titles: the models.
      standings: (threat, radius) -> its models, best first.
      clean: title -> clean accuracy, where it was measured.
      sections: what is ranked here.
    """

    kind: str
    asked: Mapping[str, Any] | None
    titles: tuple[str, ...]
    standings: Mapping[tuple[str, float], tuple[Standing, ...]]
    clean: Mapping[str, Accuracy]
    sections: tuple[Section, ...]


def boards(sections: Sequence[Section], level: float = 0.95) -> tuple[Board, ...]:
    """Models grouped by protocol: none is ranked against one that was asked something else, or of which it is not known what was asked.

    A model that was asked the same twice, such as with two seeds, has two standings of one title: each is ranked against the other
    models only.

    Within a radius models are ordered by what the (same) attacks left, or where nothing attacked by what is proven; `ranks` says which of
    them are tied.
    """
    out = []
    for kind, fields, of in (
        ("model", _ASKED, lambda s: s.protocol),
        ("smoothed", _SMOOTHED, lambda s: s.smoothing),
    ):
        groups: dict[Any, list[Section]] = {}
        for i, s in enumerate(sections):
            if sides_of(s, kind, level):
                key = tuple(str(of(s).get(f)) for f in fields) if of(s) else i
                groups.setdefault(key, []).append(s)
        for group in groups.values():
            asked = {f: of(group[0]).get(f) for f in fields} if of(group[0]) else None
            out.append(_board(kind, asked, group, level))
    return tuple(out)


def _board(kind: str, asked: Mapping[str, Any] | None, group: Sequence[Section], level: float) -> Board:
    at: dict[tuple[str, float], list[Standing]] = {}
    right = {}
    for k, s in enumerate(group):
        for threat, sides in sides_of(s, kind, level).items():
            for eps, floor, ceiling in sides:
                at.setdefault((threat, eps), []).append(Standing(s.title, floor, ceiling, section=k))
        for r in s.rows:
            if r.threat == "none" and r.quantity == "accuracy":
                right[s.title] = accuracy_of(r)
    standings = {where: _ranked(at[where]) for where in sorted(at)}
    return Board(kind, asked, tuple(dict.fromkeys(s.title for s in group)), standings, right, tuple(group))


def _ranked(entries: Sequence[Standing]) -> tuple[Standing, ...]:
    """Ordered by the ceiling where all have one, else by the floor where all have one, else as they came."""
    by = next((side for side in ("ceiling", "floor") if all(getattr(e, side) is not None for e in entries)), None)
    if by is None or len({e.title for e in entries}) < 2:
        return tuple(entries)
    ordered = sorted(entries, key=lambda e: -float(getattr(e, by)))
    spans = {e.title: _Span(*_ends([getattr(o, by) for o in ordered if o.title == e.title])) for e in ordered}
    out = []
    for e in ordered:
        mine, others = getattr(e, by), {title: span for title, span in spans.items() if title != e.title}
        rank, *_ = ranks([mine, *others.values()])
        ties = tuple(title for title, span in others.items() if tied(mine, span))
        beaten = dict.fromkeys(o.title for o in ordered if o.title != e.title and _beats(e.floor, o.ceiling))
        out.append(e._replace(rank=rank, ties=ties, above=tuple(beaten)))
    return tuple(out)


class _Span(NamedTuple):
    """The intervals of all standings of a model: it is better or worse than another where all of them are."""

    low: float
    high: float


def _ends(numbers: Sequence[Accuracy]) -> tuple[float, float]:
    return min(a.low for a in numbers), max(a.high for a in numbers)


def _beats(floor: Accuracy | None, ceiling: Accuracy | None) -> bool:
    """For certain: proofs that hold with a probability do not count."""
    return floor is not None and ceiling is not None and floor.confidence == 1 and float(floor) > float(ceiling)


def difference(a: Board, b: Board) -> str:
    """Why the models of two boards are not ranked together, in words."""
    if a.kind != b.kind:
        return "the one is about the model, the other about the smoothed classifier"
    if a.asked is None or b.asked is None:
        return "of one it was not recorded which examples and attacks were asked"
    fields = [f for f in a.asked if str(a.asked[f]) != str(b.asked.get(f))]
    if "noise" in fields and "noise_digest" in fields:
        fields.remove("noise_digest")
    if "threat" in fields and "set" in fields:
        fields.remove("set")
    said = []
    for f in fields:
        there = "" if f in ("examples", "set", "attacks", "noise_digest") else f" ({a.asked[f]} and {b.asked[f]})"
        said.append(_WORDS.get(f, f) + there)
    return "they differ in " + ", ".join(said) if said else "they were not asked at a common radius"
