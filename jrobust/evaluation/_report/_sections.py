"""What a report is made of: plain data with a place on disk, so that any number of runs go on one page."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jrobust.evaluation._report._outcomes import Outcomes

SUMMARY, GALLERY, OUTCOMES = "summary.json", "gallery.npz", "outcomes.npz"
NO_PICTURES = "The pictures of witnesses are left out"
"""How the note begins that says so."""


class Row(NamedTuple):
    """One number with all that it needs to be read.

    Attributes:
      model: whose number it is.
      name: the method.
      threat: the norm of the perturbation ("none" for clean accuracy); of corruptions their suite and severities.
      eps: its radius.
      side: of the worst case ("lower" overstates robust accuracy, "upper" understates it); for a radius, of the radius; "estimate" where
        images are one draw of a corruption's noise.
      value: the number.
      low, high: its interval at ``level`` over the choice of the examples.
      n: examples.
      confidence: of each statement behind it.
      seed: of keys.
      quantity: "accuracy", "radius", or over several corruptions "mean accuracy" or "error" (its mean).
      subject: "model", or "smoothed" where the statement is about the smoothed classifier.
      level: of the interval.
    """

    model: str
    name: str
    threat: str
    eps: float
    side: str
    value: float
    low: float
    high: float
    n: int
    confidence: float
    seed: int
    quantity: str = "accuracy"
    subject: str = "model"
    level: float = 0.95


class Gallery(NamedTuple):
    """A few examples and what an attack made of them; float arrays [M, H, W, C] in [0, 1].

    Attributes:
      clean, witness: the images.
      label, before, after: int [M]; the truth and the predictions on both.
      caption: which attack, at which radius.
    """

    clean: np.ndarray
    witness: np.ndarray
    label: np.ndarray
    before: np.ndarray
    after: np.ndarray
    caption: str


class Cost(NamedTuple):
    """What one method cost at one radius.

    Attributes:
      name: the method; "all together" where only the whole was timed.
      threat, eps: the set.
      n: examples that it was asked about (an attack is not asked about those already wrong).
      forwards, backwards: passes through the model, one example each; None where they are not counted.
      seconds: wall time, compilation included; None where it was not measured.
    """

    name: str
    threat: str
    eps: float
    n: int
    forwards: int | None = None
    backwards: int | None = None
    seconds: float | None = None


class CorruptionRow(NamedTuple):
    """The error under one corruption at one severity; counted, about these images: it bounds nothing.

    Attributes:
      corruption: its name.
      severity: 1 to 5; 0 is the clean image.
      error: share of images classified wrong.
      low, high: its interval at ``level``.
      n: images.
      level: of the interval.
      suite: whose settings these are, such as cifar-c; empty where it was not recorded.
      drawn: whether the images are one draw of the corruption's noise; None where it was not recorded.
    """

    corruption: str
    severity: int
    error: float
    low: float
    high: float
    n: int
    level: float = 0.95
    suite: str = ""
    drawn: bool | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """One model in a report, or one result about it: sections of the same ``title`` and ``origin`` are about one model.

    Attributes:
      title: its name.
      rows: its numbers.
      radii: certified radii by smoothing [N], 0 where it abstains or is wrong; ``noise`` says of what.
      noise: name and level of the noise.
      losses: lines of metrics.jsonl.
      gallery: images.
      command, versions, config: how to get it again.
      notes: what a reader must know (contradictions, rejected claims).
      card: what the model is: dataset, architecture, method, eps, epochs, seed, parameters.
      protocol, smoothing: what was asked, by `protocol_of` and `smoothing_protocol`.
      outcomes: every answer about every example.
      costs: passes and seconds.
      corruptions: errors by corruption and severity, by `corruption_rows`.
      classes: names of the classes.
      origin: whose results these are, where two models have one title.
    """

    title: str
    rows: tuple[Row, ...] = ()
    radii: tuple[float, ...] = ()
    noise: str = ""
    losses: tuple[Mapping[str, Any], ...] = ()
    gallery: Gallery | None = None
    command: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    smoothing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outcomes: Outcomes | None = None
    costs: tuple[Cost, ...] = ()
    corruptions: tuple[CorruptionRow, ...] = ()
    classes: tuple[str, ...] = ()
    origin: str = ""

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write ``summary.json`` (with ``gallery.npz`` and ``outcomes.npz``) into a directory, whole or not at all."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        apart = ("gallery", "outcomes", "origin", *LISTS)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in apart}
        if self.outcomes is not None:
            self.outcomes.save(folder / OUTCOMES)
        if self.gallery is not None:
            np.savez_compressed(folder / GALLERY, allow_pickle=False, **self.gallery._asdict())
        unfinished = folder / f".{SUMMARY}"
        lists = {name: [r._asdict() for r in getattr(self, name)] for name in LISTS}
        unfinished.write_text(json.dumps({**fields, **lists}, indent=1, default=str))
        os.replace(unfinished, folder / SUMMARY)
        return folder / SUMMARY


LISTS: dict[str, Any] = {"rows": Row, "costs": Cost, "corruptions": CorruptionRow}


def possible(row: Any) -> Any:
    """The row, unless its number lies outside of its own interval: then a file was edited or damaged."""
    value = row.error if isinstance(row, CorruptionRow) else getattr(row, "value", None)
    if value is not None and (value < row.low - 1e-9 or value > row.high + 1e-9):
        raise ValueError(f"{value} lies outside of its interval [{row.low}, {row.high}]")
    return row
