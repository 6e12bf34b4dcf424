"""What metrics ask of their arrays, and means over the examples that count."""

from typing import Any

import numpy as np

from jrobust._statistics import Average, average
from jrobust.evaluation._checks import warn_if_probabilities
from jrobust.typing import Side


def check_predictions(predictions: Any, n: int | None, name: str, by: str) -> np.ndarray:
    """Classes [N], integers."""
    p = np.asarray(predictions)
    if p.dtype.kind not in "iu" or p.ndim != 1 or len(p) == 0 or (n is not None and len(p) != n):
        wanted = "[N], at least one" if n is None else f"[{n}]"
        raise ValueError(f"{by}: {name} must be integer classes {wanted}, got {p.dtype} of shape {p.shape}")
    return p


def check_logits(logits: Any, name: str, by: str, depth: int = 3) -> np.ndarray:
    """Finite logits [N, K], in float64; a warning, ``depth`` calls up, where they are probabilities."""
    z = np.asarray(logits)
    if z.ndim != 2 or z.shape[0] == 0 or z.shape[1] < 2 or not np.issubdtype(z.dtype, np.floating):
        raise ValueError(
            f"{by}: {name} must be float logits [N, K], N >= 1 and K >= 2, got {z.dtype} of shape {z.shape}"
        )
    bad = np.argwhere(~np.isfinite(z))
    if len(bad):
        raise ValueError(
            f"{by}: {name}[{bad[0][0]}, {bad[0][1]}] is {z[tuple(bad[0])]}; probabilities need finite logits"
        )
    again = f"{by}: {name} are probabilities, of which the softmax is taken again: give logits, or logarithms of probabilities"
    warn_if_probabilities(z, again, depth)
    return z.astype(np.float64)


def check_moved(x: Any, witness: Any, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Examples and their witnesses, arrays of one shape [N, ...], in float64."""
    a, b = np.asarray(x), np.asarray(witness)
    if a.dtype == object or a.ndim < 2 or a.shape != b.shape or len(a) == 0:
        raise ValueError(f"{by}: x and witness must be arrays of one shape [N, ...], got {a.shape} and {b.shape}")
    for name, z in (("x", a), ("witness", b)):
        if not np.issubdtype(z.dtype, np.floating):
            raise ValueError(f"{by}: {name} must be floating, in [0, 1], got {z.dtype}: divide bytes by 255")
        if not np.isfinite(z).all():
            raise ValueError(f"{by}: {name} holds NaN or infinite values")
    return a.astype(np.float64), b.astype(np.float64)


def check_success(success: Any, n: int, by: str) -> np.ndarray:
    """Which examples count, bool [n]."""
    s = np.asarray(success)
    if s.dtype != bool or s.shape != (n,):
        raise ValueError(f"{by}: success must be bool [{n}], got {s.dtype} of shape {s.shape}")
    return s


def flat_norms(a: np.ndarray, p: Any) -> np.ndarray:
    """The p-norm of each row of [N, ...]."""
    return np.linalg.norm(a.reshape(len(a), -1), ord=p, axis=1)


def softmax(z: np.ndarray) -> np.ndarray:
    """Probabilities [N, K] in float64."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def mean_over(
    values: np.ndarray,
    chosen: np.ndarray,
    *,
    side: Side = "estimate",
    level: float = 0.95,
    least: float = 0.0,
    most: float = np.inf,
) -> Average:
    """The mean of the values chosen, none of which can lie outside ``[least, most]``; NaN with n = 0 where there are none."""
    if not chosen.any():
        return Average(np.nan, np.nan, np.nan, 0, level, side, 1.0)
    return average(values[chosen], side=side, level=level, least=least, most=most)
