"""Several models on one page: ranked where they were asked the same, and told why not where they were not."""

from collections.abc import Sequence

from jrobust.evaluation._ranks import RULE
from jrobust.evaluation._report._blocks import Block, Heading, Table, Text
from jrobust.evaluation._report._boards import Board, Standing, boards, difference
from jrobust.evaluation._report._models import Model
from jrobust.evaluation._report._words import interval_of, n_of, share_of


def comparison(models: Sequence[Model], level: float) -> list[Block]:
    """How the models compare: a table a protocol, and why protocols are kept apart."""
    found = boards([s for m in models for s in m.sections], level)
    out: list[Block] = [Heading(2, "Comparison", "comparison")]
    alarmed = frozenset(m.name for m in models if m.alarms)
    if not found:
        return [*out, Text("Nothing to compare: no model was attacked, proven or smoothed.", "missing")]
    out.append(
        Text(
            "Models are ranked only where they were asked the same: the same examples, set, radius and attacks (proofs may differ: any of "
            "them is true). Rows are in the order of the attacks' numbers. "
            f"{RULE} A rank speaks of the images that the examples were drawn from; on these examples alone a model certainly beats "
            "another where it is proven on more of them than the other was left with."
        )
    )
    for k, b in enumerate(found, 1):
        about = "the models" if b.kind == "model" else "the smoothed classifiers"
        out += [
            Heading(3, f"Protocol {k}: {', '.join(b.titles)}"),
            Text(f"About {about}; {_shared(b)}.", "small"),
            _standings(b, alarmed, level),
        ]
    apart = [
        f"Protocols {i + 1} and {j + 1} are not ranked together: {difference(found[i], found[j])}."
        for i in range(len(found))
        for j in range(i)
        if found[i].kind == found[j].kind
    ]
    return [*out, *(Text(line) for line in apart[::-1])]


def _shared(b: Board) -> str:
    if not b.asked:
        return "the protocol was not recorded, so this is ranked against nothing"
    p = b.asked
    said = [
        f"{p['n']} examples",
        f"of {p['dataset']}" if p.get("dataset") else "",
        f"({p['split']})" if p.get("split") else "",
    ]
    if b.kind == "smoothed":
        said.append(f"noise {p['noise']}, {p['draws']} draws, alpha {p['alpha']:g}")
    return " ".join(s for s in said if s) + f", hash {p['examples']}"


def _named(b: Board, e: Standing) -> str:
    """Its title; where the model was asked the same more than once, which time it is."""
    here = next(found for found in b.standings.values() if any(e is o for o in found))
    mine = sorted(o.section for o in here if o.title == e.title)
    if len(mine) == 1:
        return e.title
    seeds = [(s.protocol if b.kind == "model" else s.smoothing).get("seed") for s in (b.sections[k] for k in mine)]
    k = mine.index(e.section)
    return f"{e.title} (seed {seeds[k]})" if len(set(seeds)) == len(mine) else f"{e.title} (result {k + 1})"


def _standings(b: Board, alarmed: frozenset[str], level: float) -> Table:
    """A row a model; what no model of the board has is no column."""
    entries = [
        (where, k, len({e.title for e in here}), e) for where, here in b.standings.items() for k, e in enumerate(here)
    ]
    interval = f"{level:.0%} interval"
    columns: list[tuple[str, list[str], bool]] = [
        ("threat", [f"{threat} {eps:.4g}" if k == 0 else "" for (threat, eps), k, *_ in entries], False),
        ("rank", [f"{e.rank}" if e.rank is not None else "alone" if n == 1 else "-" for *_, n, e in entries], True),
        ("model", [_named(b, e) + " (contradicted)" * (e.title in alarmed) for *_, e in entries], False),
    ]
    if b.kind == "model":
        columns.append(("clean", [share_of(b.clean.get(e.title)) for *_, e in entries], True))
    for name, side in (("at least", "floor"), ("at most", "ceiling")):
        found = [getattr(e, side) for *_, e in entries]
        if any(a is not None for a in found):
            columns += [(name, [share_of(a) for a in found], True), (interval, [interval_of(a) for a in found], True)]
    columns.append(("n", [n_of(e.floor or e.ceiling) for *_, e in entries], True))
    above = [() if e.title in alarmed else e.above for *_, e in entries]  # what is contradicted beats nothing
    if any(above):
        columns.append(("certainly beats", [", ".join(titles) or "-" for titles in above], False))
    rows = tuple(zip(*(cells for _, cells, _ in columns), strict=True))
    numeric = frozenset(i for i, (*_, right) in enumerate(columns) if right)
    first = frozenset(i for i, (_, k, *_) in enumerate(entries) if k == 0)
    return Table(tuple(name for name, *_ in columns), rows, numeric, first)
