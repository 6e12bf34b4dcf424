"""Plots of a report as data URIs. Figures are made directly (no pyplot): no global state is touched."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jrobust.evaluation._sections import Gallery, Row, Section

_COLOURS = ("#3366aa", "#cc6633", "#2e8b57", "#884499", "#997700", "#555555")
_ATTACK, _PROOF, _OPEN = "#c0392b", "#2e7d4f", "#e9e4d4"
_GREY = "#8a8a8a"


def _figure(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a report's plots need matplotlib: pip install 'jrobust[cli]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors="#333333", labelsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)


def _uri(figure: Any, kind: str = "svg") -> str:
    buffer = io.BytesIO()
    if kind == "svg":
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
        return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
    figure.savefig(buffer, format="png", dpi=140, transparent=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _envelope(rows: Iterable[Row], side: str, pick: Any) -> tuple[list[float], list[Row]]:
    """The best row of one side at every radius."""
    at: dict[float, list[Row]] = {}
    for r in rows:
        if r.side in (side, "exact"):
            at.setdefault(r.eps, []).append(r)
    return sorted(at), [pick(at[eps], key=lambda r: r.value) for eps in sorted(at)]


def sandwich(sections: Sequence[Section]) -> list[str]:
    """Accuracy over the radius: certified floor, attack ceiling, and between them what nobody knows. One plot a model and norm."""
    plots = []
    for section in sections:
        rows = [r for r in section.rows if r.quantity == "accuracy" and r.subject == "model"]
        for threat in dict.fromkeys(r.threat for r in rows if r.threat != "none"):
            shown = [r for r in rows if r.threat in (threat, "none")]
            if len({r.eps for r in shown}) > 1:  # one radius is no curve
                plots.append(_panel(section.title, threat, shown))
    return plots


def _panel(title: str, threat: str, rows: Sequence[Row]) -> str:
    figure, grid = _figure(3.9, 3.3)
    axes = grid[0, 0]
    above, ceiling = _envelope(rows, "lower", min)
    below, floor = _envelope(rows, "upper", max)
    top, bottom = np.array([r.value for r in ceiling]), np.array([r.value for r in floor])
    if len(above) > 1 and len(below) > 1:
        both = sorted({*above, *below})
        axes.fill_between(
            both, np.interp(both, below, bottom), np.interp(both, above, top), color=_OPEN, label="unknown"
        )
    for eps, values, side, colour, label, mark in (
        (above, top, ceiling, _ATTACK, "attack (at most)", "v"),
        (below, bottom, floor, _PROOF, "proof (at least)", "^"),
    ):
        if len(eps) > 1:  # more than the clean accuracy, from which both start
            error = [values - [r.low for r in side], [r.high for r in side] - values]
            style = {"ms": 4, "lw": 1.6, "elinewidth": 0.8, "capsize": 2}
            axes.errorbar(eps, values, yerr=error, color=colour, marker=mark, label=label, **style)
    axes.set(xlabel=f"{threat} radius", ylabel="robust accuracy", ylim=(-0.03, 1.03))
    axes.set_title(title, fontsize=11, loc="left")
    axes.locator_params(axis="x", nbins=5)
    _tidy(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    return _uri(figure)


def radius_curve(sections: Sequence[Section]) -> str | None:
    """Certified accuracy of the smoothed classifiers over the radius."""
    figure = _radii(sections)
    return None if figure is None else _uri(figure)


def write_radius_curve(section: Section, path: Path) -> None:
    """The curve of one smoothed classifier, as an SVG file."""
    figure = _radii([section])
    if figure is not None:
        figure.savefig(path, format="svg", metadata={"Date": None})


def _radii(sections: Sequence[Section]) -> Any:
    shown = [s for s in sections if s.radii]
    if not shown:
        return None
    figure, grid = _figure(5.6, 3.4)
    axes = grid[0, 0]
    for colour, s in zip(_cycle(len(shown)), shown, strict=True):
        radii = np.sort(np.asarray(s.radii))
        right = radii[radii > 0]
        x = np.concatenate([[0.0], right, right[-1:]])
        y = np.concatenate([[len(right)], np.arange(len(right), 0, -1), [0] * min(1, len(right))]) / len(radii)
        axes.step(x, y, where="pre", color=colour, lw=1.6, label=f"{s.title} ({s.noise})")
    norms = dict.fromkeys(r.threat for s in shown for r in s.rows if r.subject == "smoothed")
    axes.set(xlabel=f"certified {' or '.join(norms) or 'l2'} radius", ylabel="certified accuracy", ylim=(0, 1.03))
    axes.set_xlim(left=0)
    _tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def loss_curves(sections: Sequence[Section]) -> str | None:
    """Training losses over the steps."""
    shown = [s for s in sections if any("loss" in line for line in s.losses)]
    if not shown:
        return None
    figure, grid = _figure(5.6, 3.4)
    axes = grid[0, 0]
    for colour, s in zip(_cycle(len(shown)), shown, strict=True):
        lines = [line for line in s.losses if "loss" in line]
        axes.plot(
            [line["step"] for line in lines], [line["loss"] for line in lines], color=colour, lw=1.6, label=s.title
        )
    axes.set(xlabel="step", ylabel="training loss (each model's own)")
    axes.set_ylim(bottom=0)
    _tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    return _uri(figure)


def gallery(g: Gallery, most: int = 8) -> str:
    """Rows: clean, witness, their difference (amplified so that its largest entry is visible)."""
    m = min(most, len(g.clean))
    difference = np.asarray(g.witness[:m], float) - g.clean[:m]
    largest = float(np.abs(difference).max())
    gain = 0.5 / largest if largest > 0 else 1.0
    figure, grid = _figure(0.95 * most + 0.7, 3.5, most, 3)
    for axes in grid[:, m:].flat:  # one scale for all galleries of a page
        axes.set_visible(False)
    images = (g.clean[:m], g.witness[:m], 0.5 + gain * difference)
    for i, (kind, batch) in enumerate(zip(("clean", "witness", f"difference x{gain:.1f}"), images, strict=True)):
        for j in range(m):
            axes, image = grid[i, j], np.clip(batch[j], 0, 1)
            if image.ndim == 1:
                image = image[None, :, None]
            grey = image.shape[-1] == 1
            how = {"cmap": "gray" if i < 2 else "coolwarm"} if grey else {}
            axes.imshow(image[..., 0] if grey else image[..., :3], vmin=0, vmax=1, interpolation="nearest", **how)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            said = (g.before, g.after)[i][j] if i < 2 else None
            if said is not None:
                axes.set_title(f"{said}", fontsize=9, pad=2, color="#333333" if said == g.label[j] else _ATTACK)
            if j == 0:
                axes.set_ylabel(kind, fontsize=9)
    return _uri(figure, "png")


def _cycle(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]
