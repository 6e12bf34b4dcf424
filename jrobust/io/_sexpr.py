"""Parenthesised text as nested lists that remember where they began, for errors that name a line."""

import gzip
import re
import zlib
from pathlib import Path
from typing import Any, NoReturn

# the alternatives begin with different characters, so a match never backtracks
_TOKEN = re.compile(r';[^\n]*|[()]|"[^"]*"|\|[^|]*\||[^\s();|"]+|[|"]')
_DEPTH = 200


class Source:
    """A text with the name of its file; `fail` turns a position into "FILE, line N"."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    def line(self, at: int) -> int:
        """The line number, from 1, of a character."""
        return self.text.count("\n", 0, at) + 1

    def fail(self, at: int, what: str) -> NoReturn:
        """Raise ValueError about the text at a character."""
        raise ValueError(f"{self.name}, line {self.line(at)}: {what}")


def read_text(path: Any) -> Source:
    """A file, unpacked where it is gzipped.

    Raises:
      ValueError: it is cut short, or no text.
    """
    data = Path(path).read_bytes()
    try:
        return Source(str(path), (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the gzip file is cut short or damaged ({error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text file (byte {error.start} is not UTF-8)") from None


def forms(source: Source) -> list[list[Any]]:
    """The forms of a text: nested lists whose first entry is the position of their parenthesis, then words (str) and lists.

    Raises:
      ValueError: unbalanced parentheses or an unclosed quotation, by line.
    """
    top: list[Any] = []
    current, outer = top, list[Any]()
    for match in _TOKEN.finditer(source.text):
        word = match.group()
        if word == "(":
            new: list[Any] = [match.start()]
            current.append(new)
            outer.append(current)
            current = new
            if len(outer) > _DEPTH:
                source.fail(new[0], f"more than {_DEPTH} parentheses deep")
        elif word == ")":
            if not outer:
                source.fail(match.start(), "')' without '('")
            current = outer.pop()
        elif word in '|"':
            source.fail(match.start(), f"{word} is never closed; the file is cut short")
        elif word[0] != ";":
            if not outer:
                source.fail(match.start(), f"expected '(', got {word!r}")
            current.append(word)
    if outer:
        source.fail(current[0], "'(' is never closed; the file is cut short")
    return top
