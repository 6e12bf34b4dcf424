"""Walks: intervals forward, and rows of coefficients backward."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ._arithmetic import TINY, gamma, interval, max_lines, root, tanh_top
from ._format import BENT, LIMIT, Certificate, Op, need, numbers

ENTRIES = 2**23  # coefficients at a time
_EDGE = Fraction(1, 2**30)


class Pass:
    """Rows on their way to the input: ``<rows, values> + offset + slack`` lies above what the pass started with."""

    def __init__(self, cert: Certificate, env: Sequence[Any], n: int) -> None:
        self.cert, self.env, self.rows = cert, env, {}
        self.offset = self.slack = np.zeros(n, object if cert.exact else float)

    def mag(self, i: int) -> Any:
        return np.maximum(np.abs(self.env[i][0]), np.abs(self.env[i][1]))

    def charge(self, n: int, rows: Any, m: Any) -> None:
        """What rounding n operations on each coefficient may have lost."""
        if not self.cert.exact:
            self.slack = self.slack + gamma(self.cert, n) * np.sum(np.abs(rows) * m, -1) + TINY

    def put(self, i: int, rows: Any) -> None:
        if i in self.rows:
            rows = self.rows[i] + rows
            self.charge(1, rows, self.mag(i))
        self.rows[i] = rows

    def gain(self, rows: Any, t: Any) -> None:
        self.offset = self.offset + np.sum(rows * t, -1)
        self.charge(np.shape(rows)[-1], rows, np.abs(t))

    def pull(self, k: int, slopes: Mapping[int, Any] | None) -> None:
        op, c = self.cert.ops[k], self.rows.pop(k)
        n, sources = len(c), op.sources
        plus, minus = np.maximum(c, 0), np.minimum(c, 0)
        if op.kind == "input" and self.cert.meta.get("ball"):
            self.ball(k, c, plus, minus)
        elif op.kind in ("const", "input") or (op.kind in BENT and slopes is None):  # its interval serves
            self.gain(plus, self.env[k][1])
            self.gain(minus, self.env[k][0])
        elif op.kind == "gather":
            _, total, order, used, starts, most = op.data
            out = np.zeros((n, total), c.dtype)
            if len(used):
                out[:, used] = np.add.reduceat(c[:, order], starts, axis=1)
            self.charge(most, c, self.mag(k))
            for i, part in zip(
                sources, np.split(out, np.cumsum([self.cert.ops[i].size for i in sources])[:-1], axis=1)
            ):
                self.put(i, part)
        elif op.kind == "matmul":
            places, w, *_, size = op.data
            self.charge(w.shape[2], c, (self.mag(sources[0]).reshape(len(w), places, -1) @ size).ravel())
            c = c.reshape(n, len(w), places, -1).transpose(1, 0, 2, 3).reshape(len(w), n * places, -1)
            out = np.matmul(c, w.transpose(0, 2, 1)).reshape(len(w), n, places, -1)
            self.put(sources[0], out.transpose(1, 0, 2, 3).reshape(n, -1))
        elif op.kind in ("scale", "divide"):
            new = c * op.data if op.kind == "scale" else c / op.data
            self.charge(1, new, self.mag(sources[0]))
            self.put(sources[0], new)
        elif op.kind == "add":
            for i in sources:
                self.put(i, c)
        else:
            self.bend(op, c, plus, minus, slopes[k] if slopes is not None else ())

    def ball(self, k: int, c: Any, plus: Any, minus: Any) -> None:
        """The largest value over the box, or over the ball where that is less."""
        norm, exact = self.cert.meta["ball"], self.cert.exact
        centre, radius = (numbers(self.cert.arrays[f"set/{part}"].ravel(), exact) for part in ("centre", "radius"))
        need(norm in (1, 2) and radius.shape == (1,) and radius[0] >= 0 and len(centre) == c.shape[1], "no such ball")
        if norm == 1:
            dual = np.max(np.abs(c), axis=1)
        else:
            dual = np.array([root(v) for v in np.sum(c * c, 1)], object) if exact else np.sqrt(np.sum(c * c, 1))
        in_box = np.sum(plus * self.env[k][1] + minus * self.env[k][0], axis=1)
        self.offset = self.offset + np.minimum(in_box, np.sum(c * centre, axis=1) + radius * dual)
        self.charge(2 * len(centre), c, self.mag(k) + np.abs(centre))
        self.charge(2 * len(centre), dual[:, None], radius)

    def bend(self, op: Op, c: Any, plus: Any, minus: Any, slopes: Any) -> None:
        """Through the lines below (where coefficients are negative) and above."""
        (lo, hi), (bl, bh) = self.env[op.sources[0]], self.env[op.sources[-1]]
        m = self.mag(op.sources[0]) + self.mag(op.sources[-1])
        if op.kind == "max":  # max(a, b) = b + relu(a - b)
            off = 0 if self.cert.exact else gamma(self.cert, 1) * m * np.where(bl == bh, bl != 0, True)
            below, t_below, above, t_above = max_lines(self.cert, (lo - bh - off, hi - bl + off), slopes[0])
            flat = slopes[1] != 0 if len(slopes) > 1 else None
        elif op.kind == "abs":  # |x| = 2 relu(x) - x
            lines, flat = max_lines(self.cert, (lo, hi), slopes[0]), None
            below, above = (2 * line - 1 for line in lines[::2])
            t_below, t_above = (2 * t for t in lines[1::2])
        else:
            (below, above), flat = slopes, None
            t_below, t_above = -tanh_top(below, -hi, -lo), tanh_top(above, lo, hi)
        rest = c
        if flat is not None:  # above: the largest that the maximum can be
            high, plus = np.where(flat, plus, 0), np.where(flat, 0, plus)
            rest = np.where(flat, minus, c)
            self.gain(high, self.top(op))
        first = plus * above + minus * below
        self.gain(plus, t_above)
        self.gain(minus, t_below)
        self.charge(4, c, m * (1 + np.abs(above) + np.abs(below)))
        self.put(op.sources[0], first)
        if op.kind == "max":
            self.put(op.sources[1], rest - first)

    def top(self, op: Op) -> Any:
        """The largest values of a maximum."""
        return np.maximum(*(self.env[i][1] for i in op.sources))


def upper(cert: Certificate, env: Sequence[Any], i: int, rows: Any, slopes: Any, cuts: Mapping[int, Any]) -> Any:
    """Upper bounds of ``<rows, value i>``; ``cuts``: by value, (entry, multiple, p) of ``multiple (x - p) >= 0``."""
    going = Pass(cert, env, len(rows))
    going.put(i, rows)
    for k in range(max([i, *cuts]), -1, -1):
        for entry, multiple, point in cuts.get(k, ()):
            row = np.zeros((1, cert.ops[k].size), rows.dtype)
            row[0, entry] = multiple
            going.put(k, np.repeat(row, len(rows), axis=0))
            going.gain(row[:, entry : entry + 1], -point)
        if k in going.rows:
            going.pull(k, slopes)
    return going.offset + 1.01 * going.slack if not cert.exact else going.offset


def _meet(a: tuple[Any, Any], lo: Any, hi: Any) -> tuple[Any, Any]:
    return np.maximum(a[0], lo), np.minimum(a[1], hi)


def _open(cert: Certificate, i: int, own: tuple[Any, Any]) -> Any:
    """The entries of a value that some operation is not yet linear in."""
    found = np.zeros(cert.ops[i].size, bool)
    if all(op.kind not in BENT for op in cert.ops[:i]):
        return np.ones(len(found), bool)  # what follows gains from entries that are settled, too
    for op in cert.ops[i + 1 :]:
        if i in op.sources and op.kind not in ("matmul", "add"):
            j = next((j for j in op.sources if j != i), i)
            if op.kind != "max" or cert.ops[j].kind != "const":
                return np.ones(len(found), bool)
            # beyond all rounding, so that float64 and fractions choose alike
            found |= (own[0] < cert.ops[j].data + _EDGE) & (own[1] > cert.ops[j].data - _EDGE)
    return found


def walk(
    cert: Certificate, box: Mapping[int, Any], given: Any, cuts: Mapping[int, Any], refine: Sequence[int], slopes: Any
) -> list[Any] | None:
    """Intervals of every value over a part of the set, tightened by passes at ``refine``; None: the part is empty."""
    first = min(cuts, default=len(cert.ops)) if given is not None and not refine and not box else 0
    env: list[Any] = list(given[:first]) if given is not None else []
    for k in range(first, len(cert.ops)):
        op = cert.ops[k]
        own = interval(cert, op, [env[i] for i in op.sources])
        if k in box:
            own = _meet(own, *box[k])
        if given is not None:
            own = _meet(own, *given[k])
        if k in cuts:
            own = _meet(own, *cuts[k])
        if k in refine:
            env.append(own)
            lo, hi = (end.copy() for end in own)
            at = np.flatnonzero(_open(cert, k, own))
            chunk = max(1, ENTRIES // max(o.size for o in cert.ops))
            for part in np.split(at, range(chunk, len(at), chunk)) if len(at) else []:
                rows = np.zeros((len(part), op.size), object if cert.exact else float)
                rows[np.arange(len(part)), part] = Fraction(1) if cert.exact else 1.0
                lo[part] = np.maximum(lo[part], finite(cert, -upper(cert, env, k, -rows, slopes, {}), -np.inf))
                hi[part] = np.minimum(hi[part], finite(cert, upper(cert, env, k, rows, slopes, {}), np.inf))
            own = lo, hi
            env.pop()
        if np.any(own[0] > own[1]):
            return None
        need(cert.exact or np.all(np.abs(own) < LIMIT), f"value {k} is not finite, or beyond {LIMIT:g}")
        env.append(own)
    return env


def finite(cert: Certificate, bound: Any, default: float) -> Any:
    return bound if cert.exact else np.where(np.isfinite(bound), bound, default)
