"""Blocks as Markdown (the dialect of GitHub): all tables and sentences; drawings are in the HTML form alone."""

import re
from collections.abc import Sequence

from jrobust.evaluation._report._blocks import (
    Block,
    Cell,
    Chip,
    Code,
    Columns,
    Figure,
    Figures,
    Fold,
    Heading,
    Links,
    Picture,
    Shade,
    Table,
    Text,
)


def markdown(blocks: Sequence[Block]) -> str:
    """The page."""
    return "\n\n".join(part for part in (_block(b) for b in blocks) if part) + "\n"


def _block(b: Block) -> str:
    match b:
        case Heading(level, text, _):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, kind):
            said = _plain(text)
            return {"alarm": f"> **{said}**", "calm": f"> {said}", "note": f"> {said}", "missing": f"*{said}*"}.get(
                kind, said
            )
        case Links(_):
            return ""
        case Table(columns, rows, numeric):
            if any(isinstance(cell, Picture) for row in rows for cell in row):
                rows = tuple(row for row in rows if any(isinstance(c, Picture) and c.text for c in row))
            rule = "|".join("---:" if i in numeric else "---" for i in range(len(columns)))
            lines = [f"| {' | '.join(map(_plain, columns))} |", f"|{rule}|"]
            return "\n".join([*lines, *(f"| {' | '.join(map(_cell, row))} |" for row in rows)])
        case Figures(figures):
            return "\n\n".join(map(_block, figures))
        case Figure(_, caption):
            return f"*(drawn in the HTML form)* {_plain(caption)}"
        case Columns(items):
            return "\n\n".join(f"{_plain(name)}:\n\n{_block(t)}" for name, t in items)
        case Code(text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case Fold(title, inside):
            return "\n\n".join([f"**{_plain(title)}**", *map(_block, inside)])


def _cell(c: Cell) -> str:
    match c:
        case Chip(text, _) | Shade(text, _):
            return _plain(text)
        case Picture(_, text, wrong):
            return _plain(text) + (" (wrong)" if wrong else "")
        case _:
            return _plain(c)


def _plain(text: str) -> str:
    """Text that Markdown and the HTML inside it take for nothing else; on one line.

    >>> print(_plain("<b>|*x*"))
    &lt;b&gt;\\|\\*x\\*
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~$!])", r"\\\1", text)
