"""Which sections are about one model, and what is true of them together."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from jrobust.evaluation._report._outcomes import Alarm, Outcomes, alarms, checked
from jrobust.evaluation._report._sections import Section


class Model(NamedTuple):
    """A model with everything that is known about it.

    Attributes:
      name: unlike that of any other model on the page.
      sections: results about it, their titles made equal to the name.
      card: what it is, from all sections.
      classes: names of its classes.
      alarms: contradictions, across results about the same examples too.
      checked: pairs of an attack and a certificate that were compared.
      notes: what else a reader must know.
    """

    name: str
    sections: tuple[Section, ...]
    card: dict[str, Any]
    classes: tuple[str, ...]
    alarms: tuple[Alarm, ...]
    checked: int
    notes: tuple[str, ...]


def models_of(sections: Sequence[Section]) -> tuple[Model, ...]:
    """Sections grouped by title and origin; two models of one title are told apart by their origins."""
    groups: dict[tuple[str, str], list[Section]] = {}
    for s in sections:
        groups.setdefault((s.title, s.origin), []).append(s)
    titles = [title for title, _ in groups]
    names: list[str] = []
    for k, (title, origin) in enumerate(groups):
        name = title
        if titles.count(title) > 1:
            parent = PurePath(origin).parent.name if origin else ""
            name = f"{parent}/{title}" if parent else f"{title} ({k + 1})"
        names.append(name if name not in names else f"{name} ({k + 1})")
    return tuple(_model(name, group) for name, group in zip(names, groups.values(), strict=True))


def _model(name: str, group: Sequence[Section]) -> Model:
    group = sorted(group, key=lambda s: bool(s.smoothing) and not s.protocol)  # attacks and proofs first
    same: list[tuple[str | None, Outcomes]] = []  # joined where they are about the same examples
    for s in group:
        if s.outcomes is None:
            continue
        examples = (s.protocol or s.smoothing).get("examples")
        said = s.outcomes.around(str(s.protocol.get("set") or ""))
        for i, (known, outcomes) in enumerate(same):
            if examples is not None and known == examples and outcomes.n == said.n:
                same[i] = (known, outcomes.joined(said))
                break
        else:
            same.append((examples, said))
    told = {str(c) for _, outcomes in same for c in alarms(outcomes)}
    notes = dict.fromkeys(
        note for s in group for note in s.notes if s.outcomes is None or not note.startswith("CONTRADICTION")
    )
    card: dict[str, Any] = {}
    for s in group:
        card = {**s.card, **card}
    return Model(
        name,
        tuple(dataclasses.replace(s, title=name, card=card) for s in group),
        card,
        next((s.classes for s in group if s.classes), ()),
        tuple(c for _, outcomes in same for c in alarms(outcomes)) if told else (),
        sum(checked(outcomes) for _, outcomes in same),
        tuple(notes),
    )
