"""Errors under corruptions: every corruption and severity over one data set, example by example, on disk and resumable."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_classes, check_count, check_inside, check_key
from jrobust._digest import digest
from jrobust._model import functional, warn_if_random
from jrobust._progress import progress_bar
from jrobust._records import open_records
from jrobust._statistics import Accuracy, Average, average, proportion
from jrobust.corruptions import Corruption
from jrobust.corruptions._base import rendered
from jrobust.corruptions._linear import level as cut
from jrobust.data import Corrupted
from jrobust.evaluation._checks import Data, check_data
from jrobust.evaluation._execute import draws_of, judged
from jrobust.evaluation._results import Table
from jrobust.evaluation._stream import batches, header
from jrobust.typing import Side

SUMMARY = "corruption_errors.json"


@dataclasses.dataclass(frozen=True)
class CorruptionErrors:
    """Where a model errs under corruptions. Shares over given images: they bound nothing, and are exact only where nothing was drawn.

    Attributes:
      clean: bool [N]; wrong on the image itself.
      wrong: by name, bool [S, N]; wrong on the image at each severity.
      severities: by name, which S they are.
      drawn: names of the random ones, of whose images this is one draw (another key, another error); the others are the same for every key.
      draws: of a random model, over how many an example's decision is the mean; every number is then an estimate. None: it is not random.
    """

    clean: np.ndarray
    wrong: Mapping[str, np.ndarray]
    severities: Mapping[str, tuple[int, ...]]
    drawn: frozenset[str] = frozenset()
    draws: int | None = None

    def _side(self, name: str | None) -> Side:
        return "exact" if self.draws is None and name not in self.drawn else "estimate"

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.clean)

    def errors(self) -> dict[str, list[float]]:
        """Error rates by name, one a severity: what `jr.metrics.mce` and its like take."""
        return {name: wrong.mean(1).tolist() for name, wrong in self.wrong.items()}

    def error(self, name: str | None = None, severity: int | None = None, *, level: float = 0.95) -> Accuracy:
        """The share of errors at one severity of a corruption (no name: of the clean images), with its Clopper-Pearson interval."""
        if name is not None and severity not in self.severities[name]:
            raise ValueError(f"{name} was asked at severities {self.severities[name]}, not at {severity!r}")
        wrong = self.clean if name is None else self.wrong[name][self.severities[name].index(severity)]
        return proportion(int(wrong.sum()), self.n, side=self._side(name), level=level)

    def mean(self, *, level: float = 0.95) -> Average:
        """The mean error, unnormalised, over severities and then over corruptions; its interval is that of the mean over images."""
        each = np.mean([wrong.mean(0) for wrong in self.wrong.values()], 0)
        exact = self.draws is None and not self.drawn
        return average(each, side="exact" if exact else "estimate", level=level, least=0.0, most=1.0)

    def table(self, *, level: float = 0.95) -> Table:
        """A row a corruption: errors with their intervals at each severity, and their mean."""
        columns = sorted({s for severities in self.severities.values() for s in severities})
        rows = []
        for name, severities in self.severities.items():
            cells = {f"severity {s}": str(self.error(name, s, level=level)) if s in severities else "" for s in columns}
            rows.append({"corruption": name, **cells, "mean": float(self.wrong[name].mean())})
        notes = (
            f"clean error {self.error(level=level)}, mean error {self.mean(level=level)} over {len(self.wrong)} corruptions; "
            f"n={self.n}, intervals at {level:.0%}",
            *([f"one draw of the noise: {', '.join(n for n in self.wrong if n in self.drawn)}"] if self.drawn else []),
            *(
                [f"a random model: the mean of {self.draws} draws an example, another key has others"]
                if self.draws
                else []
            ),
        )
        return Table(("corruption", *(f"severity {s}" for s in columns), "mean"), tuple(rows), notes)

    def summary(self, *, level: float = 0.95, **more: Any) -> dict[str, Any]:
        """All numbers as JSON values; ``more`` is put beside them."""

        def share(a: Accuracy | Average) -> dict[str, Any]:
            return {"error": a.value, "low": a.low, "high": a.high}

        cells = [
            {
                "corruption": name,
                "severity": s,
                "drawn": self._side(name) == "estimate",
                **share(self.error(name, s, level=level)),
            }
            for name, severities in self.severities.items()
            for s in severities
        ]
        whole = {"clean": share(self.error(level=level)), "mean": share(self.mean(level=level)), "cells": cells}
        more |= {} if self.draws is None else {"draws": self.draws}
        return {"format": 1, **more, "n": self.n, "level": level, **whole}

    def save(self, directory: str | os.PathLike[str], *, level: float = 0.95, **more: Any) -> Path:
        """Write the summary as ``corruption_errors.json`` into a directory, whole or not at all."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{SUMMARY}"
        unfinished.write_text(json.dumps(self.summary(level=level, **more), indent=1, default=str))
        os.replace(unfinished, folder / SUMMARY)
        return folder / SUMMARY


@partial(jax.jit, static_argnames=("apply", "rounded"))
def _wrong(leaves: Any, key: Any, index: Any, x: Any, y: Any, *, apply: Any, rounded: bool) -> Any:
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    x = cut(x, jnp.floor) if rounded else x
    if draws_of(apply) is not None:
        logits = jax.vmap(lambda i, z, label: judged(apply, leaves, label, key, i).outputs(z))(index, x, y)
    else:
        logits = apply(leaves, x)
    own = jnp.arange(logits.shape[1]) == y[:, None]
    # ties and NaN are errors, as everywhere
    return ~jnp.all(own | (logits < jnp.take_along_axis(logits, y[:, None], 1)), axis=1) | jnp.isnan(logits).any(1)


def corruption_errors(
    model: Any,
    x: Any,
    y: Any,
    *,
    corruptions: Mapping[str, Corruption | Corrupted],
    severities: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    key: Any,
    batch_size: int = 256,
    out: Any = None,
    progress: bool = False,
) -> CorruptionErrors:
    """How often a model errs under each corruption at each severity.

    Corrupted images are cut off to whole levels of a byte, as the released arrays are; example i is corrupted with the key
    ``fold_in(key, i)``, as by `jr.corruptions.corrupted`.

    Args:
      model: a batched callable ``model(x[B, H, W, C]) -> logits[B, K]``, or a random one, ``jr.objectives.stochastic(model, n)``: example i
        is then judged by the mean of n draws of its own (from ``key`` and i), the same at every corruption.
      x: images [N, H, W, C] in [0, 1].
      y: integer labels [N].
      corruptions: by name; a suite, a part of one, your own, or released arrays (`jr.data.corruptions`), of which the first N count.
      severities: each in 1..5, for all corruptions or by name; None: all. A corruption that has only one is evaluated at that one.
      key: typed.
      batch_size: images at a time.
      out: directory of the records, one line an example; the same call goes on where it was interrupted.
      progress: show a bar on stderr.

    Raises:
      ValueError, TypeError: bad input, before any work; a corruption that does not take these images.
      OSError: the disk is full (what was written is kept).

    >>> from jrobust.corruptions import cifar_c
    >>> x = jnp.full((4, 8, 8, 1), 0.5)
    >>> found = corruption_errors(lambda x: jnp.stack([x.mean((1, 2, 3)), 0.62 + 0 * x[:, 0, 0, 0]], 1), x, jnp.ones(4, int),
    ...                           corruptions={"brightness": cifar_c["brightness"]}, key=jax.random.key(0))
    >>> found.errors(), float(found.mean())
    ({'brightness': [0.0, 0.0, 1.0, 1.0, 1.0]}, 0.6)

    References:
      Hendrycks & Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019.
    """
    check_key(key)
    check_count(batch_size, "batch_size", "corruption_errors")
    data = check_data(x, y)
    which = planned(corruptions, severities, data)
    first = data.rows(np.arange(min(4, data.n)))
    hashed = [digest(data.y)]
    for batch in batches(np.arange(data.n), 1024):
        rows = data.rows(batch)
        check_inside(rows, int(batch[0]), 0.0, 1.0)
        hashed += [digest(rows)] if out is not None else []
    f = functional(model, first)
    check_classes(data.y, jax.eval_shape(f.apply, f.leaves, first).shape[1])
    warn_if_random(model, first, f)
    records = (
        None
        if out is None
        else open_records(out, _header(f, corruptions, which, key, hashed, data), name="corruptions")
    )
    try:
        found = {} if records is None else dict(records.rows)
        todo = np.array([i for i in range(data.n) if i not in found], int)
        size = min(batch_size, data.n)
        with progress_bar(progress, data.n, "corruptions", len(found)) as advance:
            for index in batches(todo, size):
                lines = _batch(f, data, index, size, corruptions, which, key)
                if records is not None:
                    records.append(lines)
                found |= {line["i"]: line for line in lines}
                advance(len(index))
    finally:
        if records is not None:
            records.close()
    try:
        ordered = [found[i] for i in range(data.n)]
        wrong = {name: np.array([line[name] for line in ordered], bool).T for name in which}
        clean = np.array([line["clean"] for line in ordered], bool)
        shapes = {name: w.shape == (len(which[name]), data.n) for name, w in wrong.items()}
    except (KeyError, TypeError, ValueError):
        shapes = {}
    if not shapes or not all(shapes.values()):
        raise ValueError(f"{out}/corruptions.jsonl holds lines that are not of this run; the file was damaged")
    shape = tuple(data.x.shape[1:])
    random = {
        n for n, c in corruptions.items() if isinstance(c, Corruption) and any(c.draws(shape, s) for s in which[n])
    }
    return CorruptionErrors(clean, wrong, which, frozenset(random), draws_of(f.apply))


def planned(corruptions: Any, severities: Any, data: Data) -> dict[str, tuple[int, ...]]:
    """Which severities of which corruption, all of them possible."""
    if not isinstance(corruptions, Mapping) or not corruptions:
        raise TypeError(f'corruptions is a mapping {{"fog": cifar_c["fog"]}} of at least one, got {corruptions!r}')
    shape = tuple(data.x.shape[1:]) if hasattr(data.x, "shape") else ()
    if len(shape) != 3:
        raise ValueError(f"corruption_errors takes images [N, H, W, C], got examples of shape {shape}")
    if isinstance(severities, Mapping) and (odd := [str(name) for name in severities if name not in corruptions]):
        raise ValueError(
            f"severities name {', '.join(odd)}, which is not among the corruptions {', '.join(corruptions)}"
        )
    which = {}
    for name, c in corruptions.items():
        if not isinstance(name, str) or name in ("clean", "i"):  # columns of the records
            raise ValueError(f"a corruption's name is a string other than 'clean' and 'i', got {name!r}")
        if not isinstance(c, Corruption | Corrupted):
            raise TypeError(f"corruptions[{name!r}] is no Corruption or released array but {type(c).__name__}")
        most = len(c.settings) if isinstance(c, Corruption) else len(c.x)
        asked = severities.get(name, ()) if isinstance(severities, Mapping) else severities
        which[name] = (
            tuple(range(1, most + 1))
            if asked is None or most == 1
            else tuple(dict.fromkeys(int(s) if isinstance(s, np.integer) else s for s in asked))
        )
        if not which[name]:
            raise ValueError(f"severities: give {name} at least one of 1..{most}, or None for all")
        for s in which[name]:
            if isinstance(c, Corruption):
                c.check(shape, s)
            else:
                c.at(s)
        if isinstance(c, Corrupted) and (c.x.shape[2:] != shape or not np.array_equal(c.y[: data.n], data.y)):
            raise ValueError(
                f"{name}: the released images {c.x.shape[1:]} or their labels are not those of x {data.x.shape}"
            )
    return which


def _batch(
    f: Any, data: Data, index: np.ndarray, size: int, corruptions: Any, which: Any, key: Any
) -> list[dict[str, Any]]:
    """One line an example."""
    full = np.concatenate([index, np.repeat(index[-1:], size - len(index))])
    x, y = jnp.asarray(data.rows(full)), jnp.asarray(data.y[full])
    columns: dict[str, Any] = {"clean": _wrong(f.leaves, key, full, x, y, apply=f.apply, rounded=False)}
    for name, severities in which.items():
        c, found = corruptions[name], []
        for s in severities:
            drawn = isinstance(c, Corruption)
            images = rendered(c, key, x, full, severity=s) if drawn else jnp.asarray(np.asarray(c.at(s)[full]))
            found.append(_wrong(f.leaves, key, full, images, y, apply=f.apply, rounded=drawn))
        columns[name] = np.stack(found, 1)
    columns = {name: np.asarray(column).astype(int)[: len(index)].tolist() for name, column in columns.items()}
    return [{"i": int(i), **{name: column[k] for name, column in columns.items()}} for k, i in enumerate(index)]


def _header(f: Any, corruptions: Any, which: Any, key: Any, hashed: list[str], data: Data) -> dict[str, Any]:
    return header("corruptions", f, key, hashed, data) | {
        "severities": {name: list(s) for name, s in which.items()},
        "corruptions": {name: digest(c) for name, c in corruptions.items()},
    }
