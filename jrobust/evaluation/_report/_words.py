"""Numbers as a report writes them."""

from typing import Any

from jrobust._statistics import Accuracy
from jrobust.evaluation._report._sections import Row


def share_of(a: Accuracy | None) -> str:
    """A share as text."""
    return "not measured" if a is None else f"{a.value:.3f}"


def interval_of(a: Accuracy | None) -> str:
    """Its interval."""
    return "" if a is None else f"[{a.low:.3f}, {a.high:.3f}]"


def n_of(a: Accuracy | None) -> str:
    """Its number of examples."""
    return "" if a is None else f"{a.n}"


def said_of(value: Any) -> str:
    """A value of a config as text."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else f"{value}"
    if isinstance(value, list | tuple):
        return ", ".join(said_of(v) for v in value)
    return str(value)


def cells(r: Row) -> tuple[str, str]:
    """A row's value and interval as text."""
    return f"{r.value:.3f}", f"{r.level:.0%} [{r.low:.3f}, {r.high:.3f}]"


def threat_of(r: Row) -> str:
    """A row's threat as text."""
    if r.threat == "none":
        return "none"
    return r.threat if r.quantity == "radius" else f"{r.threat} {r.eps:.4g}"
