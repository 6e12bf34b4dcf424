"""Numbers as a report writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from jrobust._statistics import Accuracy, reads
from jrobust.evaluation._report._sections import Row

_CORRUPTED = ("error", "mean accuracy")


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
    plain = r.threat == "none" or r.quantity in ("radius", *_CORRUPTED)
    return r.threat if plain else f"{r.threat} {r.eps:.4g}"


def reading_of(r: Row) -> str:
    """How its number reads: at most, at least, exact; of random corruptions it is one draw."""
    return "one draw" if r.side == "estimate" and r.quantity in _CORRUPTED else reads(r.side, r.quantity)


def severities_of(by_name: Mapping[str, Sequence[int]]) -> str:
    """Which severities of the corruptions were asked.

    >>> severities_of({"fog": (1, 2, 3), "snow": (1, 2, 3)}), severities_of({"fog": (5,), "rotate": (2,)})
    ('severities 1 to 3', 'one severity each')
    """
    asked = {tuple(sorted(s)) for s in by_name.values()}
    if len(asked) > 1:
        return "one severity each" if all(len(s) == 1 for s in asked) else "severities as below"
    (only,) = asked
    if len(only) == 1:
        return f"severity {only[0]}"
    whole = only == tuple(range(only[0], only[-1] + 1))
    return f"severities {only[0]} to {only[-1]}" if whole else f"severities {', '.join(map(str, only))}"
