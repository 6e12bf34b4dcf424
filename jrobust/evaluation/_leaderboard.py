"""Leaderboards: a file of one JSON line a model and protocol, and the Markdown that the docs show of it."""

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jrobust._statistics import reads
from jrobust.evaluation._ranks import RULE, ranks
from jrobust.evaluation._report._sections import Row, possible
from jrobust.evaluation._suites import Protocol, suite_of


class Entry(NamedTuple):
    """What one model answered to one protocol.

    Attributes:
      protocol: all that was asked.
      fingerprint: of the protocol.
      model: its name.
      weights: digest of the model's structure and arrays.
      rows: the numbers.
      trained: how the model was made, as far as its run says.
      seconds: wall time of the asking, compilation included; little where answers were on disk already.
      versions: of what computed it.
    """

    protocol: Protocol
    fingerprint: str
    model: str
    weights: str
    rows: tuple[Row, ...]
    trained: Mapping[str, Any]
    seconds: float
    versions: Mapping[str, str]

    @property
    def ranked(self) -> Row:
        """The number that counts."""
        return next(r for r in self.rows if r.name == self.protocol.ranked)


def add_entry(path: Any, entry: Entry) -> bool:
    """Append an entry to a leaderboard file.

    Args:
      path: of the file; it and its directory are made if missing.
      entry: as ``jrobust bench`` makes one.

    Returns:
      False, and nothing is written, where the same weights already have an entry under this protocol.

    A last line that a kill cut short is written over, with a warning.

    Raises:
      ValueError: the file holds this protocol in another version, or something else than entries; it stays as it was.
    """
    path = Path(path)
    before = read_entries(path) if path.exists() else ()
    check_versions((*before, entry), str(path))
    if any(e.fingerprint == entry.fingerprint and e.weights == entry.weights for e in before):
        return False
    fields = entry._asdict() | {
        "protocol": dataclasses.asdict(entry.protocol),
        "rows": [r._asdict() for r in entry.rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(fields, allow_nan=False) + "\n").encode()
    there, lost = _lines(path) if path.exists() else ([], 0)
    ended = not there or there[-1].endswith(b"\n")
    with open(path, "ab") as file:
        file.truncate(file.tell() - lost)
        file.write(line if ended else b"\n" + line)
        file.flush()
        os.fsync(file.fileno())
    return True


def check_board(path: Any, protocol: Protocol) -> None:
    """Raise before the work where an entry under this protocol could not be added: what `add_entry` raises, or no file can be written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a"):
        pass
    check_versions((*read_entries(path), Entry(protocol, protocol.fingerprint, "", "", (), {}, 0.0, {})), str(path))


def read_entries(path: Any) -> tuple[Entry, ...]:
    """The entries of a leaderboard file, in its order; a last line that a kill cut short is left out, with a warning.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a line is no entry, or not the one that it says.
    """
    entries = []
    lines, lost = _lines(path)
    if lost:
        cut = f"{path}: line {len(lines) + 1}, the last, was cut short and is left out; ask that model again"
        warnings.warn(cut, stacklevel=2)
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            protocol = Protocol(**{**fields["protocol"], "asked": _tuples(fields["protocol"]["asked"])})
            entry = Entry(
                **{**fields, "protocol": protocol, "rows": tuple(possible(Row(**row)) for row in fields["rows"])}
            )
            whole = protocol.fingerprint == entry.fingerprint and entry.ranked is not None
        except (ValueError, TypeError, KeyError, StopIteration, AttributeError):
            raise ValueError(f"{path}, line {number} is no entry of a leaderboard") from None
        if not whole:
            raise ValueError(f"{path}, line {number}: the protocol is not the one of its fingerprint")
        entries.append(entry)
    return tuple(entries)


def _lines(path: Any) -> tuple[list[bytes], int]:
    """The lines of a file, and how many bytes of it a line cut short at its end is long.

    Such a line has no end, is no JSON, and begins as all entries do: anything else is somebody's text, and is left to be refused. Where the
    power went, the file system may have left zero bytes for what was not written yet: they are no text.
    """
    with open(path, "rb") as file:
        lines = list(file)
    last = lines[-1] if lines else b""
    text = last.rstrip(b"\0")
    begun = text.startswith(_BEGIN) or _BEGIN.startswith(text)
    if last and not last.endswith(b"\n") and begun and not _is_json(last):
        return lines[:-1], len(last)
    return lines, 0


_BEGIN = b'{"protocol": '


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def check_versions(entries: Sequence[Entry], where: str) -> None:
    """Raise where one protocol is there in two forms: their numbers answer different questions.

    Raises:
      ValueError: naming both.
    """
    known: dict[str, Entry] = {}
    for entry in entries:
        first = known.setdefault(entry.protocol.name, entry)
        if first.fingerprint != entry.fingerprint:
            a, b = (f"{e.protocol.title} ({e.fingerprint})" for e in (first, entry))
            raise ValueError(
                f"{where} would mix {a} and {b}: they ask different things; use another file for the new one"
            )


def leaderboard(entries: Sequence[Entry]) -> str:
    """Markdown: for each protocol what is asked and a table of the models, the best first.

    Args:
      entries: from `read_entries`, of any protocols.

    Returns:
      The rule of the ranks, then tables in the order in which the protocols first appear. Models whose intervals overlap are tied.

    Raises:
      ValueError: no entries, or one protocol in two versions.

    >>> from jrobust.evaluation import PROTOCOLS
    >>> p = PROTOCOLS["linf-digits"]
    >>> row = Row("net", "autoattack", "linf", 0.1, "lower", 0.5, 0.4, 0.6, 355, 1.0, 0)
    >>> print(leaderboard([Entry(p, p.fingerprint, "net", "", (row,), {"method": "pgd"}, 1.0, {})]).splitlines()[-1])
    | 1 | net | method pgd | 0.5000 [0.4000, 0.6000] |
    """
    if not entries:
        raise ValueError("a leaderboard without entries has no table")
    check_versions(entries, "the table")
    parts = [RULE]
    for protocol in dict.fromkeys(e.protocol for e in entries):
        mine = [e for e in entries if e.protocol == protocol]
        mine.sort(key=lambda e: e.ranked.value, reverse=protocol.higher)
        parts.append(_table(protocol, mine))
    return "\n\n".join(parts) + "\n"


def _table(p: Protocol, entries: Sequence[Entry]) -> str:
    names = list(dict.fromkeys(map(_column, (r for e in entries for r in e.rows))))
    names.sort(key=lambda key: key[0] != p.ranked)  # what counts comes first, the rest as it was
    shared = {_column(r): r for r in entries[0].rows}
    heads = [_head(shared[key]) if key in shared else key[0] for key in names]
    asked = ", ".join(f"{k} {_said(v)}" for k, v in p.asked)
    what = f"The first {p.n} test images of {p.dataset}; {asked}; seed {p.seed}; protocol `{p.fingerprint}`."
    if p.kind == "corruptions":
        what += f" Corruptions of {suite_of(p)}; each image is corrupted once, so under random ones the error is that of one draw."
    order = f"Ranked by {p.ranked}, {'more' if p.higher else 'less'} is better."
    lines = [f"### {p.title}", "", f"{what} {order}", "", f"| rank | model | trained | {' | '.join(heads)} |"]
    lines.append("|" + "---|" * (3 + len(heads)))
    for e, rank in zip(entries, ranks([e.ranked for e in entries], higher=p.higher), strict=True):
        cells = {_column(r): f"{r.value:.4f} [{r.low:.4f}, {r.high:.4f}]" for r in e.rows}
        trained = ", ".join(f"{k} {_said(v)}" for k, v in e.trained.items())
        row = [str(rank), _safe(e.model), _safe(trained), *(cells.get(key, "") for key in names)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _column(r: Row) -> tuple[str, float]:
    """What stands in one column; older rows hold a radius to four digits."""
    return r.name, float(f"{r.eps:.4g}")


def _head(r: Row) -> str:
    if r.quantity == "radius":
        return f"{r.name} ({reads(r.side, 'radius')})"
    at = f" at {r.eps:.4g}" if r.eps else ""
    return f"{r.name}{at}" if r.quantity == "error" else f"{r.name}{at} ({reads(r.side)})"


def _said(value: Any) -> str:
    return (
        " ".join(map(_said, value))
        if isinstance(value, tuple | list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _safe(text: str) -> str:
    """Text of others inside a Markdown table."""
    for a, b in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'"), ("\n", " ")):
        text = text.replace(a, b)
    return text
