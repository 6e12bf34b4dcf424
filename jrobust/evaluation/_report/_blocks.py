"""What a report says, before it is said in HTML or Markdown: text is plain here, and escaped where it is rendered."""

from typing import Any, Literal, NamedTuple


class Heading(NamedTuple):
    """A heading of level 1 to 3; ``name`` is what links point to."""

    level: int
    text: str
    name: str = ""


class Text(NamedTuple):
    """A paragraph: plain, small, missing (something was not measured), alarm, note (to be known), or calm (looked for and not found)."""

    text: str
    kind: Literal["plain", "small", "missing", "alarm", "note", "calm"] = "plain"


class Chip(NamedTuple):
    """How a number reads: a word with the colour of its side."""

    text: str
    side: str


class Shade(NamedTuple):
    """A number on a ground as dark as ``share``, in [0, 1]."""

    text: str
    share: float


class Picture(NamedTuple):
    """A small image (a data URI) in a table, what is said above it, and whether that is wrong."""

    uri: str
    text: str = ""
    wrong: bool = False


Cell = str | Chip | Shade | Picture


class Table(NamedTuple):
    """Cells under column names; ``numeric`` columns are set to the right; ``lines``: rows that begin a group."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    lines: frozenset[int] = frozenset()


class Figure(NamedTuple):
    """A drawing (SVG of our own making, its text escaped already) with a caption."""

    svg: str
    caption: str


class Figures(NamedTuple):
    """Drawings side by side, where there is room."""

    figures: tuple[Figure, ...]


class Columns(NamedTuple):
    """Tables side by side, where there is room, each under a few words."""

    items: tuple[tuple[str, Table], ...]


class Code(NamedTuple):
    """What can be typed or read by a machine."""

    text: str


class Links(NamedTuple):
    """Names of headings and where they are."""

    items: tuple[tuple[str, str], ...]


class Fold(NamedTuple):
    """Blocks that are shown when asked for."""

    title: str
    blocks: tuple[Any, ...]


Block = Heading | Text | Table | Figure | Figures | Columns | Code | Links | Fold
