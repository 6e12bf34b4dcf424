"""Conjunctions over inputs and outputs, their products, and how they become cases."""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jrobust.io._specification import Case

Row = tuple[tuple[tuple[int, float], ...], float]  # sum of a_j y_j <= b


class Term(NamedTuple):
    """A conjunction: bounds of inputs, and rows over outputs (a dictionary for its order and its uniqueness)."""

    bounds: dict[int, tuple[float, float]]
    rows: dict[Row, None]


def multiplied(parts: list[list[Term]]) -> tuple[Term, list[Term]]:
    """A conjunction of disjunctions as one conjunction (of the single ones) and a disjunction (the others multiplied out)."""
    base, result = Term({}, {}), [Term({}, {})]
    for terms in parts:
        if len(terms) == 1:
            _gather(base, terms[0])
        else:
            result = [joined(a, b) for a in result for b in terms]
    return base, result


def _gather(base: Term, term: Term) -> None:
    """``base`` and ``term``, into base."""
    for i, (low, high) in term.bounds.items():
        was = base.bounds.get(i)
        base.bounds[i] = (low, high) if was is None else (max(low, was[0]), min(high, was[1]))
    base.rows.update(term.rows)


def joined(a: Term, b: Term) -> Term:
    new = Term(dict(a.bounds), dict(a.rows))
    _gather(new, b)
    return new


def _matrix(rows: tuple[Row, ...], m: int) -> tuple[np.ndarray, np.ndarray]:
    A = np.zeros((len(rows), m))
    for r, (row, _) in enumerate(rows):
        for j, a in row:
            A[r, j] = a
    return A, np.array([b for _, b in rows], np.float64)


def cases(base: Term, terms: list[Term], n: int, m: int, blame: Callable[[int, str], NoReturn]) -> list[Case]:
    """The cases of ``base and (a term or another)``; ``blame(i, what)`` raises about input i."""
    together: dict[Any, list[tuple[Row, ...]]] = {}
    for term in terms:
        together.setdefault(tuple(sorted(term.bounds.items())), []).append(tuple(base.rows | term.rows))
    found: dict[bytes, Case] = {}
    seen: dict[bytes, set[Any]] = {}
    empty = None
    for bounds, unions in together.items():
        lo, hi = np.full(n, -np.inf), np.full(n, np.inf)
        for i, (low, high) in (*base.bounds.items(), *bounds):
            lo[i], hi[i] = max(lo[i], low), min(hi[i], high)
        if (lo > hi).any():
            i = int(np.argmax(lo > hi))
            empty = empty or (i, f"has an empty range: from {lo[i]:.17g} to {hi[i]:.17g}")
            continue
        for ends, side in ((lo, "lower"), (hi, "upper")):
            if np.isinf(ends).any():
                i = int(np.argmax(np.isinf(ends)))
                blame(i, f"has no {side} bound")
        box = (lo + 0.0).tobytes() + (hi + 0.0).tobytes()  # + 0.0: -0.0 is 0.0
        case = found.setdefault(box, Case(lo, hi, []))
        known = seen.setdefault(box, set())
        for rows in unions:
            if rows not in known:
                known.add(rows)
                case.disjuncts.append(_matrix(rows, m))
    if empty and not found:
        blame(*empty)
    return list(found.values())
