"""Operations on numbers and on intervals, and the lines around those that bend; each either exact or rounded outward."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ._format import Certificate, Op, fractions

TINY, TANH = 1e-250, 1e-14  # what underflow may cost; ten times tanh's error


def gamma(cert: Certificate, n: int) -> float:
    """Twice what n operations in a row may lose, relative to the sum of magnitudes: the rest pays for rounding this itself."""
    return 0 if cert.exact else 1.01 * (n + 8 + 4 * len(cert.ops)) * 2.0**-52


def forward(op: Op, values: Sequence[Any]) -> Any:
    """An operation on numbers."""
    if op.kind == "gather":
        return np.concatenate([*values, np.zeros(1, values[0].dtype)])[op.data[0]]
    if op.kind == "matmul":
        places, w, *_ = op.data
        return np.matmul(values[0].reshape(len(w), places, -1), w).ravel()
    one = {"scale": np.multiply, "divide": np.divide}
    if op.kind in one:
        return one[op.kind](values[0], op.data)
    alone = {"tanh": np.tanh, "abs": np.abs}
    if op.kind in alone:
        return alone[op.kind](values[0])
    return sum(values) if op.kind == "add" else np.maximum(*values)


def interval(cert: Certificate, op: Op, boxes: Sequence[Any]) -> tuple[Any, Any]:
    """Interval arithmetic, rounded outward."""
    if op.kind in ("const", "input"):
        return (op.data, op.data) if op.kind == "const" else op.data
    lows, highs = zip(*boxes, strict=True)
    if op.kind in ("gather", "max"):
        return forward(op, lows), forward(op, highs)
    if op.kind == "abs":
        return np.maximum(np.maximum(lows[0], -highs[0]), 0), np.maximum(-lows[0], highs[0])
    if op.kind == "tanh":
        return np.tanh(lows[0]) - TANH, np.tanh(highs[0]) + TANH
    mags = [np.maximum(np.abs(lo), np.abs(hi)) for lo, hi in boxes]
    if op.kind == "matmul":
        places, w, plus, minus, size = op.data
        lo, hi, m = (v.reshape(len(w), places, -1) for v in (lows[0], highs[0], mags[0]))
        lo, hi = (a @ plus + b @ minus for a, b in ((lo, hi), (hi, lo)))
        lo, hi, m, n = lo.ravel(), hi.ravel(), (m @ size).ravel(), 2 * w.shape[1]
    elif op.kind == "add":
        lo, hi, m, n = sum(lows), sum(highs), sum(mags), len(mags)
    else:
        lo, hi = forward(op, lows), forward(op, highs)
        lo, hi, n = np.minimum(lo, hi), np.maximum(lo, hi), 1
        m = np.maximum(np.abs(lo), np.abs(hi))
    off = 0 if cert.exact else gamma(cert, n) * m + TINY
    return lo - off, hi + off


def max_lines(cert: Certificate, d: tuple[Any, Any], slope: Any) -> tuple[Any, Any, Any, Any]:
    """Slopes and intercepts below (of the given slope) and above (the chord) ``relu`` on the interval ``d``."""
    lo, hi = d
    crosses, one = (lo < 0) & (hi > 0), np.where(lo >= 0, 1, 0)
    chord = np.where(crosses, hi / np.where(crosses, hi - lo, 1), one)
    chord = fractions(chord.astype(np.float64)) if cert.exact else chord  # any slope will do: a short fraction
    slope = np.where(crosses, slope, one)
    margin = 0 if cert.exact else gamma(cert, 3) * (np.abs(lo) + np.abs(hi)) * (1 + np.abs(slope)) + TINY
    above = np.maximum(-chord * lo, hi - chord * hi) + margin
    below = np.minimum(np.minimum(-slope * lo, hi - slope * hi), 0) - margin
    return slope, np.where(crosses, below, 0), chord, np.where(crosses, above, 0)


def tanh_top(k: Any, lo: Any, hi: Any) -> Any:
    """Above ``tanh(x) - k x`` on [lo, hi]: its ends where tanh is convex, a tangent (at any point at all) where it is concave."""
    p, q = np.maximum(lo, 0), np.maximum(hi, 0)
    t = np.arctanh(np.sqrt(np.clip(1 - k, 0, 1 - 1e-15)))
    t = np.clip(np.where(k <= 0, q, t), p, q)
    y = np.tanh(t)
    tangent = [y + (1 - y * y) * (x - t) - k * x for x in (p, q)]
    ends = [np.tanh(x) - k * x for x in (lo, np.minimum(hi, 0))]
    best = np.where(hi > 0, np.maximum(*tangent), -np.inf)
    best = np.maximum(best, np.where(lo < 0, np.maximum(*ends), -np.inf))
    return best + TANH * (1 + (1 + np.abs(k)) * (np.abs(lo) + np.abs(hi)))


def root(v: Any) -> Fraction:
    """A fraction not below the square root."""
    scale = 2**200
    return Fraction(math.isqrt(int(v * scale * scale) + 1) + 1, scale)
