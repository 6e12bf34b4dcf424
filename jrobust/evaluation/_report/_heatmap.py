"""Errors under corruptions as a table whose ground is as dark as the error."""

import numpy as np

from jrobust.evaluation._report._blocks import Block, Fold, Shade, Table, Text
from jrobust.evaluation._report._sections import Section
from jrobust.evaluation._report._words import severities_of


def corruptions(s: Section) -> list[Block]:
    """A table a suite: what is random, which severities, every error with its interval."""
    return [block for suite in dict.fromkeys(c.suite for c in s.corruptions) for block in _suite(s, suite)]


def _suite(s: Section, suite: str) -> list[Block]:
    """The errors under the corruptions of one suite."""
    mine = [c for c in s.corruptions if c.suite == suite]
    names = dict.fromkeys(c.corruption for c in mine)
    at = {(c.corruption, c.severity): c for c in mine}
    by_name = {name: [c.severity for c in mine if c.corruption == name] for name in names}
    drawn = {name: next(c.drawn for c in mine if c.corruption == name) for name in names}
    said = {True: "one draw", False: "the same for every seed", None: "not recorded"}
    shade = lambda error: Shade(f"{error:.3f}", error)  # noqa: E731
    severities = sorted({c.severity for c in mine})
    if len(severities) > 1 and all(len(asked) == 1 for asked in by_name.values()):  # as MNIST-C was released
        columns: tuple[str, ...] = ("corruption", "images", "severity", "error")
        rows = [(c.corruption, said[c.drawn], f"{c.severity}", shade(c.error)) for c in mine]
    else:
        columns = ("corruption", "images", *(f"severity {k}" for k in severities), "mean")
        rows = []
        for name in names:
            here = [at.get((name, k)) for k in severities]
            known = [c.error for c in here if c is not None]
            mean = shade(float(np.mean(known))) if len(known) == len(severities) else "incomplete"
            cells = (shade(c.error) if c is not None else "not measured" for c in here)
            rows.append((name, said[drawn[name]], *cells, mean))
    counts = sorted({c.n for c in mine})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    numbers = [
        (c.corruption, f"{c.severity}", f"{c.error:.4f}", f"{c.level:.0%} [{c.low:.4f}, {c.high:.4f}]", f"{c.n}")
        for c in mine
    ]
    draws = "" if set(drawn.values()) == {False} else (
        " Of a random corruption the images are one draw of its noise: another seed gives another error; intervals are about the choice "
        "of the images and their draws."
    )  # fmt: skip
    about = (
        f"{suite or 'The suite was not recorded'}, {severities_of(by_name)}. Error, counted; n = {many} images a cell.{draws} "
        "Corruptions are no adversary: this bounds nothing."
    )
    return [
        Table(columns, tuple(rows), frozenset(range(2, len(columns)))),
        Text(about, "small"),
        Fold(
            f"errors with their intervals{', ' * bool(suite)}{suite}",
            (Table(("corruption", "severity", "error", "interval", "n"), tuple(numbers), frozenset({1, 2, 3, 4})),),
        ),
    ]
