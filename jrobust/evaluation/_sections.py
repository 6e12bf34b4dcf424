"""What a report is made of: plain data with a place on disk, so that any number of runs go on one page."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jrobust.evaluation._results import Curve, Evaluation

SUMMARY, GALLERY = "summary.json", "gallery.npz"


class Row(NamedTuple):
    """One number with all that it needs to be read.

    Attributes:
      model: whose number it is.
      name: the method.
      threat: the norm of the perturbation ("none" for clean accuracy).
      eps: its radius.
      side: of the worst case ("lower" overstates robust accuracy, "upper" understates it); for a radius, of the radius.
      value: the number.
      low, high: its interval at ``level`` over the choice of the examples.
      n: examples.
      confidence: of each statement behind it.
      seed: of keys.
      quantity: "accuracy", or "radius".
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


@dataclasses.dataclass(frozen=True)
class Section:
    """One model in a report.

    Attributes:
      title: its name.
      rows: its numbers.
      radii: certified radii by smoothing [N], 0 where it abstains or is wrong; ``noise`` says of what.
      noise: name and level of the noise.
      losses: lines of metrics.jsonl.
      gallery: images.
      command, versions, config: how to get it again.
      notes: what a reader must know (contradictions, rejected claims).
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

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write ``summary.json`` (and ``gallery.npz``) into a directory, whole or not at all."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("gallery", "rows")}
        if self.gallery is not None:
            np.savez_compressed(folder / GALLERY, allow_pickle=False, **self.gallery._asdict())
        unfinished = folder / f".{SUMMARY}"
        unfinished.write_text(json.dumps({**fields, "rows": [r._asdict() for r in self.rows]}, indent=1, default=str))
        os.replace(unfinished, folder / SUMMARY)
        return folder / SUMMARY


def rows_of(evaluation: Evaluation | Curve, *, model: str, seed: int, level: float = 0.95) -> tuple[Row, ...]:
    """The numbers of an `Evaluation`, or of every radius of a `Curve` (clean accuracy once); estimates bound nothing and give none.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> ev = jr.evaluate(lambda x: x, jnp.array([[0.2, 0.8]]), jnp.array([1]), threat=jr.sets.linf(0.1), oracles={},
    ...                  key=jax.random.key(0))
    >>> rows_of(ev, model="identity", seed=0)[0].side
    'exact'
    """
    evaluations = evaluation.evaluations if isinstance(evaluation, Curve) else (evaluation,)
    rows = []
    for i, ev in enumerate(evaluations):
        threat, _, eps = ev.threat.partition(" ")
        for r in ev.results.values():
            if r.side == "estimate" or (r.name == "clean" and i):
                continue
            a, clean = r.accuracy(level), r.name == "clean"
            where = ("none", 0.0) if clean else (threat, float(eps.split("..")[-1].split(",")[0]))
            rows.append(
                Row(model, r.name, *where, a.side, a.value, a.low, a.high, a.n, a.confidence, seed, level=level)
            )
    return tuple(rows)


def smoothed_rows(
    certificate: Any, y: Any, *, model: str, seed: int, radii: Sequence[float], level: float = 0.95
) -> tuple[Row, ...]:
    """Certified accuracy at some radii and the median certified radius (with its exact order-statistic interval)."""
    from scipy.stats import binom

    rows = []
    for radius, a in zip(radii, certificate.curve(y, radii, level=level), strict=True):
        name = f"smoothing {certificate.noise}"
        rows.append(
            Row(model, name, certificate.norm, float(radius), a.side, a.value, a.low, a.high, a.n, a.confidence, seed,
                subject="smoothed", level=level)
        )  # fmt: skip
    ordered = np.sort(correct_radii(certificate, y))
    n = len(ordered)
    below = int(binom.ppf((1 - level) / 2, n, 0.5))  # P(X < below) <= tail, X examples below the median
    low = float(ordered[below - 1]) if below >= 1 else 0.0
    high = float(ordered[n - below]) if below >= 1 else float("inf")
    rows.append(
        Row(model, "median certified radius", certificate.norm, 0.0, certificate.side, float(np.median(ordered)), low, high,
            n, certificate.confidence, seed, "radius", "smoothed", level)
    )  # fmt: skip
    return tuple(rows)


def correct_radii(certificate: Any, y: Any) -> np.ndarray:
    """Certified radii [N], 0 where the smoothed classifier abstains or is wrong."""
    return np.where(np.asarray(certificate.prediction) == np.asarray(y), certificate.radius, 0.0)


def notes_of(evaluation: Evaluation | Curve) -> tuple[str, ...]:
    """Contradictions and rejected claims, as the tables print them."""
    return tuple(evaluation.table().notes)


def read_sections(directory: str | os.PathLike[str]) -> tuple[Section, ...]:
    """The sections in a directory: its own (a result, a training run), then those of its sub-directories.

    Raises:
      ValueError: there are none, or one cannot be read.
      FileNotFoundError: no such directory.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no directory {os.fspath(directory)!r}")
    found = [_read(f) for f in (folder, *sorted(folder.iterdir())) if _is_result(f)]
    if not found:
        raise ValueError(f"{folder} holds no results: neither {SUMMARY} nor metrics.jsonl, nor does a folder inside it")
    return tuple(found)


def _is_result(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SUMMARY, "metrics.jsonl"))


def _read(folder: Path) -> Section:
    try:
        section = Section(folder.name)
        if (folder / SUMMARY).is_file():
            data = json.loads((folder / SUMMARY).read_text())
            rows = tuple(Row(**row) for row in data.pop("rows"))
            lists = {k: tuple(data[k]) for k in ("radii", "losses", "notes")}
            section = Section(**{**data, **lists, "rows": rows})
        if (folder / "config.json").is_file() and not section.config:
            section = dataclasses.replace(section, config=json.loads((folder / "config.json").read_text()))
        if (folder / "metrics.jsonl").is_file():
            section = dataclasses.replace(section, losses=read_metrics(folder / "metrics.jsonl"))
        if (folder / GALLERY).is_file():
            with np.load(folder / GALLERY, allow_pickle=False) as file:
                section = dataclasses.replace(section, gallery=Gallery(**{**file, "caption": str(file["caption"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} cannot be read as a result: {error}") from error
    return section


def read_metrics(path: str | os.PathLike[str]) -> tuple[dict[str, Any], ...]:
    """The whole lines of a metrics.jsonl (a killed run may have left half a line at the end)."""
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return tuple(lines)
