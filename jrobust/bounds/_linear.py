"""Mixed-integer linear programs, written in affine functions of their columns; solved by HiGHS through SciPy, on the host.

SciPy is loaded on first use: it takes longer to import than the rest of the wing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# HiGHS calls a point feasible, and a reduced cost optimal, up to 1e-6 and 1e-7: its bound is moved outward by this, relatively
_MARGIN = 1e-6


def _sparse() -> Any:
    from scipy import sparse

    return sparse


class Affine(NamedTuple):
    """``matrix @ columns + const``, a vector [n]; ``matrix`` is sparse and has the columns that there were when it was made."""

    matrix: Any
    const: np.ndarray

    @property
    def size(self) -> int:
        return len(self.const)


def constant(values: Any) -> Affine:
    """An affine function without columns."""
    values = np.asarray(values, np.float64).ravel()
    return Affine(_sparse().csr_array((len(values), 0)), values)


def _wide(matrix: Any, columns: int) -> Any:
    sparse = _sparse()
    if matrix.shape[1] == columns:
        return matrix
    return sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))


def total(*terms: Affine) -> Affine:
    """The sum of functions of one size."""
    columns = max(a.matrix.shape[1] for a in terms)
    matrix, const = _wide(terms[0].matrix, columns), terms[0].const
    for a in terms[1:]:
        matrix, const = matrix + _wide(a.matrix, columns), const + a.const
    return Affine(matrix, const)


def apply(linear: Any, a: Affine) -> Affine:
    """A linear map of it, a sparse matrix."""
    return Affine(_sparse().csr_array(linear @ a.matrix), linear @ a.const)


def scaled(by: Any, a: Affine) -> Affine:
    """Every entry times a number."""
    by = np.broadcast_to(np.asarray(by, np.float64), (a.size,))
    return apply(_sparse().diags_array(by, format="csr"), a)


def shifted(by: Any, a: Affine) -> Affine:
    """Every entry plus a number."""
    return Affine(a.matrix, a.const + by)


def take(a: Affine, at: np.ndarray) -> Affine:
    """The entries ``at``."""
    return Affine(a.matrix[at], a.const[at])


def placed(a: Affine, at: np.ndarray, n: int) -> Affine:
    """A vector [n] with ``a`` at ``at``, 0 elsewhere."""
    put = _sparse().csr_array((np.ones(len(at)), (at, np.arange(len(at)))), shape=(n, len(at)))
    return apply(put, a)


def stacked(parts: Sequence[Affine]) -> Affine:
    """One after the other."""
    columns = max((a.matrix.shape[1] for a in parts), default=0)
    return Affine(
        _sparse().vstack([_wide(a.matrix, columns) for a in parts], format="csr"),
        np.concatenate([a.const for a in parts]),
    )


class Solution(NamedTuple):
    """An upper bound of a maximum (``inf``: none was found), the best point found, if any, and whether the solver finished."""

    bound: float
    point: np.ndarray | None
    optimal: bool


@dataclasses.dataclass
class Model:
    """Columns with bounds, and rows: affine functions that are at most 0, or 0. It grows as a network is written into it.

    Attributes:
      integers: whether choices are binary; if not, a column that would be one is any number between 0 and 1.
    """

    integers: bool
    columns: int = 0
    lo: list[np.ndarray] = dataclasses.field(default_factory=list)
    hi: list[np.ndarray] = dataclasses.field(default_factory=list)
    integer: list[np.ndarray] = dataclasses.field(default_factory=list)
    less: list[Affine] = dataclasses.field(default_factory=list)
    equal: list[Affine] = dataclasses.field(default_factory=list)

    def new(self, lo: Any, hi: Any, *, choice: bool = False) -> Affine:
        """Fresh columns between ``lo`` and ``hi``; NaN is no bound. A ``choice`` is 0 or 1."""
        lo, hi = (np.asarray(end, np.float64).ravel() for end in (lo, hi))
        n, start = len(lo), self.columns
        self.columns += n
        self.lo.append(np.where(np.isnan(lo), -np.inf, lo))
        self.hi.append(np.where(np.isnan(hi), np.inf, hi))
        self.integer.append(np.full(n, choice and self.integers))
        at = (np.arange(n), np.arange(start, start + n))
        return Affine(_sparse().csr_array((np.ones(n), at), shape=(n, self.columns)), np.zeros(n))

    def at_most_zero(self, *terms: Affine) -> None:
        """Ask that the sum of ``terms`` be at most 0."""
        self.less.append(total(*terms))

    def zero(self, *terms: Affine) -> None:
        """Ask that the sum of ``terms`` be 0."""
        self.equal.append(total(*terms))

    def named(self, a: Affine, lo: np.ndarray, hi: np.ndarray) -> Affine:
        """``a`` with a column of its own for each entry that is a sum: so that long rows are written once."""
        long = np.flatnonzero(np.diff(a.matrix.indptr) > 1)
        if not len(long):
            return a
        y = self.new(lo[long], hi[long])
        self.zero(y, scaled(-1, take(a, long)))
        short = np.ones(a.size)
        short[long] = 0.0
        return total(scaled(short, a), placed(y, long, a.size))

    def frozen(self) -> "Frozen":
        """The whole, for solvers."""
        empty = constant(np.zeros(0))
        less, equal = stacked(self.less or [empty]), stacked(self.equal or [empty])
        less, equal = (Affine(_wide(a.matrix, self.columns), a.const) for a in (less, equal))
        lo, hi, integer = (np.concatenate(v) if v else np.zeros(0) for v in (self.lo, self.hi, self.integer))
        return Frozen(less, equal, lo, hi, integer.astype(bool))


class Frozen(NamedTuple):
    """``less <= 0``, ``equal = 0``, ``lo <= columns <= hi``."""

    less: Affine
    equal: Affine
    lo: np.ndarray
    hi: np.ndarray
    integer: np.ndarray


def maximise(model: Frozen, objective: Affine, seconds: float) -> Solution:
    """Bound the maximum of one affine function, [1]."""
    c, offset = _wide(objective.matrix, len(model.lo)).toarray()[0], float(objective.const[0])
    if not np.any(c):
        return Solution(offset, None, True)
    if not (np.all(np.isfinite(c)) and np.isfinite(offset)):
        return Solution(np.inf, None, False)
    found = _branched(model, c, seconds) if np.any(model.integer) else _linear(model, c)
    bound = found.bound + offset
    return found._replace(bound=float(bound) if bound == bound else np.inf)


def _linear(model: Frozen, c: np.ndarray) -> Solution:
    """By weak duality: whatever multipliers the solver gives, they bound the maximum, so its tolerances do not matter."""
    from scipy.optimize import linprog

    less, equal, lo, hi = model.less, model.equal, model.lo, model.hi
    found = linprog(
        -c,
        less.matrix if less.size else None,
        -less.const if less.size else None,
        equal.matrix if equal.size else None,
        -equal.const if equal.size else None,
        np.stack([lo, hi], axis=1),
        method="highs",
    )
    if found.status != 0 or found.x is None:
        return Solution(np.inf, None, False)
    up = np.maximum(-found.ineqlin.marginals, 0.0) if less.size else np.zeros(0)
    free = -found.eqlin.marginals if equal.size else np.zeros(0)
    rest = c - less.matrix.T @ up - equal.matrix.T @ free
    ends = np.where(rest == 0, 0.0, rest * np.where(rest > 0, hi, np.where(rest == 0, 0.0, lo)))
    terms = [ends, -less.const * up, -equal.const * free]
    rounding = 1e-12 * sum(float(np.sum(np.abs(t))) for t in terms)
    return Solution(sum(float(np.sum(t)) for t in terms) + rounding, found.x, True)


_TINY = 1e-9  # HiGHS drops entries below it


def _without_tiny(matrix: Any, lo: np.ndarray, hi: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """A matrix without the entries that the solver would drop, and the least and the most that these can add to each row."""
    entries = matrix.tocoo()
    small = np.abs(entries.data) <= _TINY
    row, column, data = entries.row[small], entries.col[small], entries.data[small]
    ends = np.sort(np.stack([data * lo[column], data * hi[column]]), axis=0)
    least, most = (np.bincount(row, weights=end, minlength=matrix.shape[0]) for end in ends)
    kept = matrix.copy()
    kept.data[np.abs(kept.data) <= _TINY] = 0.0
    kept.eliminate_zeros()
    return kept, least, most


def _branched(model: Frozen, c: np.ndarray, seconds: float) -> Solution:
    """The solver's dual bound, which holds wherever the search stops."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    box: Any = (model.lo, model.hi)
    rows: list[Any] = []
    for a, low in ((model.less, -np.inf), (model.equal, -model.equal.const)):
        if a.size:
            kept, least, most = _without_tiny(a.matrix, *box)
            sides: Any = (low - most, -a.const - least)
            rows.append(LinearConstraint(kept, *sides))
    found = milp(
        -c,
        integrality=model.integer.astype(int),
        bounds=Bounds(*box),
        constraints=rows,
        options={"mip_rel_gap": 0.0} | ({"time_limit": max(seconds, 0.0)} if np.isfinite(seconds) else {}),
    )
    # 0: solved, 1: out of time; the rest (infeasible, unbounded, ...) cannot be, and says nothing
    dual = getattr(found, "mip_dual_bound", None)
    if found.status not in (0, 1) or dual is None or not np.isfinite(dual):
        return Solution(np.inf, found.x, False)
    return Solution(-dual + _MARGIN * (1 + abs(dual)), found.x, found.status == 0)
