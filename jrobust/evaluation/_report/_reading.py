"""Sections from directories: results, training runs, and folders of them."""

import dataclasses
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jrobust.evaluation._report._outcomes import Outcomes
from jrobust.evaluation._report._sections import (
    GALLERY,
    LISTS,
    NO_PICTURES,
    OUTCOMES,
    SUMMARY,
    Gallery,
    Section,
    possible,
)

METRICS = "metrics.jsonl"
UNDER_NOISE = ("noisy", "stability", "macer", "consistency", "smooth-mix", "margin-cs")
"""Methods whose config has a radius that they do not train at."""


def read_sections(directory: str | os.PathLike[str]) -> tuple[Section, ...]:
    """The sections in a directory: its own (a result, a training run), then those of its sub-directories and of training runs among them.

    Results inside a training run are about its model.

    Raises:
      ValueError: there are none, or one cannot be read (damaged pictures alone are left out, with a warning and a note in the section).
      FileNotFoundError: no such directory.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no directory {os.fspath(directory)!r}")
    found = [s for f in (folder, *sorted(folder.iterdir())) if _is_result(f) for s in _with_inner(f, folder)]
    if not found:
        raise ValueError(f"{folder} holds no results: neither {SUMMARY} nor metrics.jsonl, nor does a folder inside it")
    return tuple(found)


def _with_inner(place: Path, top: Path) -> list[Section]:
    """A result, and where it is a training run the results inside."""
    found = [_read(place)]
    run = top if (top / METRICS).is_file() else place
    if run == place != top and (run / METRICS).is_file():
        found += [_read(f) for f in sorted(place.iterdir()) if _is_result(f)]
    if (run / METRICS).is_file():
        found = [dataclasses.replace(s, origin=os.fspath(run.resolve())) for s in found]
    return found


def _is_result(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SUMMARY, METRICS))


def _read(folder: Path) -> Section:
    try:
        section = Section(folder.name, origin=os.fspath(folder.resolve()))
        if (folder / SUMMARY).is_file():
            data = json.loads((folder / SUMMARY).read_text())
            rows = {name: tuple(possible(kind(**row)) for row in data.pop(name, ())) for name, kind in LISTS.items()}
            plain = {k: tuple(data.pop(k, ())) for k in ("radii", "losses", "notes", "classes")}
            section = Section(**{**data, **plain, **rows}, origin=_whose(data.get("config") or {}, folder))
        if (folder / "config.json").is_file() and not section.config:
            section = dataclasses.replace(section, config=json.loads((folder / "config.json").read_text()))
        if (folder / METRICS).is_file():
            section = dataclasses.replace(section, losses=read_metrics(folder / METRICS))
            if not section.card:
                section = dataclasses.replace(section, card=card_of(section.config))
        if (folder / OUTCOMES).is_file():
            section = dataclasses.replace(section, outcomes=Outcomes.load(folder / OUTCOMES))
        if (folder / GALLERY).is_file():
            pictures, note = _gallery(folder / GALLERY)
            section = dataclasses.replace(section, gallery=pictures, notes=(*section.notes, *note))
    except (ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder} cannot be read as a result: {error}") from error
    return section


def _gallery(path: Path) -> tuple[Gallery | None, tuple[str, ...]]:
    """The pictures; where their file is damaged none, and a note that says so: the numbers are in other files."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = Gallery(**{**file, "caption": str(file["caption"])})
        shapes = [np.shape(a) for a in found[:-1]]
        images = all(np.issubdtype(a.dtype, np.number) and 2 <= a.ndim <= 4 and a.size for a in found[:2])
        classes = all(np.issubdtype(a.dtype, np.integer) and a.shape == shapes[0][:1] for a in found[2:-1])
        if not (images and classes and shapes[0] == shapes[1]):
            raise ValueError(f"it holds arrays of shapes {', '.join(map(str, shapes))}, of images and their classes")
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        EOFError,
        OSError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        note = f"{NO_PICTURES}: {path.name} of {path.parent.name} cannot be read ({error})."
        warnings.warn(note, stacklevel=2)
        return None, (note,)
    return found, ()


def _whose(config: Mapping[str, Any], folder: Path) -> str:
    """The run that a result is about, the model's name, or the folder itself."""
    run, model = config.get("run"), config.get("model")
    if isinstance(run, str):
        return os.fspath(Path(run).resolve())
    return model if isinstance(model, str) else os.fspath(folder.resolve())


def card_of(config: Mapping[str, Any], *, parameters: int | None = None) -> dict[str, Any]:
    """What a model is, from the config of its training.

    Args:
      config: of `jrobust train` or of the demo; what it does not say is left out.
      parameters: how many numbers its arrays hold.

    >>> card_of({"dataset": "digits", "model": {"name": "mlp", "widths": [16]}, "method": "ibp", "eps": 0.1})
    {'data set': 'digits', 'architecture': 'mlp (widths [16])', 'training': 'ibp', 'trained at eps': 0.1}
    """
    model = config.get("model")
    architecture = model if isinstance(model, str) else None
    if isinstance(model, Mapping):
        known = ("name", "shape", "classes", "seed", "mean", "std")
        options = ", ".join(f"{k} {v}" for k, v in model.items() if k not in known)
        architecture = f"{model.get('name')} ({options})" if options else str(model.get("name"))
    method = config.get("method")
    radius = (
        "none" if method == "natural" or method in UNDER_NOISE else config.get("eps")
    )  # what it says then is for evaluations
    noise = config.get("sigma") if method in (*UNDER_NOISE, "smooth-adv") else None
    card = {
        "data set": config.get("dataset"), "architecture": architecture, "parameters": parameters, "training": method,
        "trained at eps": radius, "trained at sigma": noise, "epochs": config.get("epochs"), "batch size": config.get("batch_size"),
        "training examples": config.get("train_n"), "seed": config.get("seed"), "trained with jrobust": config.get("version"),
    }  # fmt: skip
    return {k: v for k, v in card.items() if v is not None}


def read_metrics(path: str | os.PathLike[str]) -> tuple[dict[str, Any], ...]:
    """The whole lines of a metrics.jsonl (a killed run may have left half a line at the end)."""
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return tuple(lines)
