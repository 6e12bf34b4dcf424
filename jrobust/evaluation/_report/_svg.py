"""Drawings as SVG text: axes, lines, bars. Colours are classes, so that a page sets them for light and dark."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

PALETTE = {
    "ink": ("#222222", "#e8e6df"), "soft": ("#5c5c5c", "#a9a69c"), "grid": ("#ddd7c8", "#3b3a36"),
    "attack": ("#c0392b", "#f0776a"), "proof": ("#2e7d4f", "#63bd85"), "open": ("#e9e4d4", "#3a382f"),
    "s0": ("#3366aa", "#7fa8e0"), "s1": ("#cc6633", "#e89a6c"), "s2": ("#2e8b57", "#6cc394"), "s3": ("#884499", "#c48ad4"),
    "s4": ("#997700", "#d3b04a"), "s5": ("#555555", "#b5b5b5"),
}  # fmt: skip
"""Name -> colour on a light and on a dark page."""


def style(variables: bool = True) -> str:
    """Rules for the classes; without ``variables`` with the light colours in them, for a file of its own."""
    colour = {k: f"var(--{k})" if variables else light for k, (light, _) in PALETTE.items()}
    rules = [f".l-{k}{{stroke:{c};fill:none}}.f-{k}{{fill:{c}}}" for k, c in colour.items()]
    return (
        "svg text{font:11px system-ui,sans-serif;fill:" + colour["ink"] + "}"
        ".l-grid{stroke-width:.7}.line{stroke-width:1.8}.thin{stroke-width:1}.bar{stroke-width:2.4}.band{opacity:.18}"
        + "".join(rules)
    )


class Frame(NamedTuple):
    """The part of a drawing that data fill: limits of the data, and margins."""

    x: tuple[Any, Any]
    y: tuple[Any, Any]
    width: int = 360
    height: int = 250
    left: int = 44
    bottom: int = 38
    top: int = 28
    right: int = 12

    def across(self, x: int | float) -> float:
        """Where ``x`` is drawn."""
        lo, hi = self.x
        return self.left + (x - lo) / (hi - lo or 1.0) * (self.width - self.left - self.right)

    def down(self, y: int | float) -> float:
        """Where ``y`` is drawn."""
        lo, hi = self.y
        return self.height - self.bottom - (y - lo) / (hi - lo or 1.0) * (self.height - self.bottom - self.top)

    def points(self, xs: Iterable[Any], ys: Iterable[Any]) -> str:
        """A list of points."""
        return " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in zip(xs, ys, strict=True))


def ticks(lo: int | float, hi: int | float, most: int = 5) -> list[float]:
    """Round numbers from ``lo`` to ``hi``, at most ``most`` steps.

    >>> ticks(0.0, 0.15)
    [0.0, 0.05, 0.1, 0.15]
    """
    span = hi - lo
    if not (math.isfinite(span) and span > 0):
        return [lo]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s for s in (power, 2 * power, 5 * power, 10 * power) if span / s <= most * (1 + 1e-9))
    first = math.ceil(lo / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((hi - first * step) / step + 1e-6) + 1)]


def line(frame: Frame, xs: Sequence[Any], ys: Sequence[Any], colour: str, extra: str = "line") -> str:
    """A polyline."""
    return f'<polyline class="l-{colour} {extra}" points="{frame.points(xs, ys)}"/>'


def area(frame: Frame, xs: Sequence[Any], low: Sequence[Any], high: Sequence[Any], colour: str, extra: str = "") -> str:
    """What lies between two lines."""
    there, back = frame.points(xs, high), frame.points(list(xs)[::-1], list(low)[::-1])
    return f'<polygon class="f-{colour} {extra}" points="{there} {back}"/>'


def whisker(
    frame: Frame, x: int | float, low: int | float, high: int | float, colour: str, shift: int | float = 0.0
) -> str:
    """An interval at ``x``, moved by ``shift`` units of the drawing."""
    at, a, b = frame.across(x) + shift, frame.down(low), frame.down(high)
    return (
        f'<path class="l-{colour} thin" d="M{at:.1f} {a:.1f}V{b:.1f}M{at - 2:.1f} {a:.1f}h4M{at - 2:.1f} {b:.1f}h4"/>'
    )


def dot(frame: Frame, x: int | float, y: int | float, colour: str, up: bool = True) -> str:
    """A triangle: upwards for what is at least so much, downwards for what is at most so much."""
    a, b, d = frame.across(x), frame.down(y), -3.4 if up else 3.4
    return f'<path class="f-{colour}" d="M{a - 3.6:.1f} {b - d:.1f}h7.2L{a:.1f} {b + d:.1f}z"/>'


def box(frame: Frame, x: int | float, half: int | float, low: int | float, high: int | float, colour: str) -> str:
    """A bar around ``x``, ``2 half`` units of the drawing wide."""
    at, top, height = frame.across(x) - half, frame.down(high), frame.down(low) - frame.down(high)
    return f'<rect class="f-{colour}" x="{at:.1f}" y="{top:.1f}" width="{2 * half:.1f}" height="{max(height, 0):.1f}"/>'


def turned(names: Sequence[str]) -> bool:
    """Whether names under an axis are too long to stand side by side, and are turned (which needs a ``bottom`` of 84)."""
    return max((len(text) for text in names), default=0) > max(2, 44 // max(len(names), 1))


def chart(
    frame: Frame, parts: Sequence[str], *, name: str, across: str, down: str, legend: Sequence[tuple[str, str]] = (),
    marks: Sequence[tuple[int | float, str]] | None = None,
) -> str:  # fmt: skip
    """A drawing with axes.

    Args:
      frame: where the data go.
      parts: drawn in this order, over the grid.
      name: what it shows, for those who do not see it.
      across, down: what the axes are.
      legend: colours and their meaning.
      marks: (place, text) on the x axis instead of round numbers.
    """
    out, low, left, right = [], frame.height - frame.bottom, frame.left, frame.width - frame.right
    for t in ticks(*frame.y):
        y = frame.down(t)
        out.append(f'<path class="l-grid" d="M{left} {y:.1f}H{right}"/>')
        out.append(f'<text x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{t:g}</text>')
    long = marks is not None and turned([text for _, text in marks])
    for t, text in [(t, f"{t:g}") for t in ticks(*frame.x)] if marks is None else marks:
        x = frame.across(t)
        out.append(f'<path class="l-soft" d="M{x:.1f} {low}v3.5"/>')
        text = escape(text if len(text) <= 10 else text[:9] + "…")
        how = f' text-anchor="end" transform="rotate(-40 {x:.1f} {low + 12})"' if long else ' text-anchor="middle"'
        out.append(f'<text x="{x:.1f}" y="{low + (12 if long else 15)}"{how}>{text}</text>')
    out.append(f'<path class="l-soft" d="M{left} {frame.top - 4}V{low}H{right}"/>')
    out += parts
    out.append(
        f'<text x="{(left + right) / 2:.1f}" y="{frame.height - 5}" text-anchor="middle">{escape(across)}</text>'
    )
    middle = (frame.top + low) / 2
    out.append(
        f'<text x="11" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 11 {middle:.1f})">{escape(down)}</text>'
    )
    at, y = float(left), 15
    for colour, text in legend:
        text = text if len(text) <= 44 else text[:43] + "…"
        if at > left and at + 14 + 5.8 * len(text) > frame.width:
            at, y = float(left), y + 16
        swatch = f'<rect class="f-{colour}" x="{at:.1f}" y="{y - 8}" width="10" height="8"/>'
        out.append(f'{swatch}<text x="{at + 14:.1f}" y="{y}">{escape(text)}</text>')
        at += 28 + 5.8 * len(text)
    name = escape(name, quote=True)
    return f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{name}">{"".join(out)}</svg>'


def alone(svg: str) -> str:
    """A drawing as a file of its own."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{style(False)}</style>", 1
    )


def grid(values: np.ndarray, most: int = 400) -> np.ndarray:
    """The sorted distinct values above 0, or where these are many so many places among them."""
    distinct = np.unique(values[values > 0])
    return distinct if len(distinct) <= most else np.linspace(0, distinct[-1], most + 1)[1:]
