"""Figures of landscapes by matplotlib, made directly (no pyplot): no global state is touched."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jrobust.evaluation._landscape import Landscape, WeightLandscape

_MARKS = ("o", "v", "^")
_ATTACK = "#c0392b"


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots of landscapes need matplotlib: pip install 'jrobust[cli]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)


def plot_inputs(found: "Landscape", kind: str, most: int) -> Any:
    """One panel an example: contours of the loss or the margin, or the regions of the classes."""
    m = min(most, len(found.label))
    figure, grid = _figure(3.4 * m + (0.0 if kind == "decision" else 0.4), 3.3, m)
    for k, axes in enumerate(grid[0]):
        if kind == "decision":
            _regions(axes, found, k)
        else:
            values = getattr(found, kind)[k]
            shade = axes.contourf(found.a, found.b, _shown(values).T, levels=24, cmap="viridis")
            figure.colorbar(shade, ax=axes, shrink=0.85)
            if kind == "margin" and values.min() < 0 < values.max():
                axes.contour(found.a, found.b, values.T, levels=[0.0], colors=_ATTACK, linewidths=1.6)
        for (a, b), mark in zip(found.marks[k], _MARKS, strict=False):
            axes.plot(a, b, mark, color="white", markeredgecolor="black", ms=6, clip_on=False)
        _frame(axes, found, f"label {found.label[k]}")
    return figure


def plot_weights(found: "WeightLandscape", kind: str) -> Any:
    """Contours over the plane of weights; a loss that spans more than two decades is shown by its logarithm."""
    figure, grid = _figure(4.4, 3.6)
    axes, values = grid[0, 0], _shown(getattr(found, kind))
    log = kind == "loss" and values.max() > 100 * max(values.min(), 1e-6)
    shade = axes.contourf(
        found.a, found.b, (np.log10(np.maximum(values, 1e-6)) if log else values).T, levels=24, cmap="viridis"
    )
    bar = figure.colorbar(shade, ax=axes, shrink=0.9)
    bar.set_label(f"log10 of the mean {kind}" if log else f"mean {kind}" if kind == "loss" else kind, fontsize=9)
    axes.plot(0, 0, "o", color="white", markeredgecolor="black", ms=6)
    _frame(axes, found, f"n={found.n}")
    return figure


def _regions(axes: Any, found: "Landscape", k: int) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    classes = np.unique(found.prediction)  # the same colour for a class in all panels
    colours = colormaps["tab20"].resampled(max(len(classes), 2))
    place = np.searchsorted(classes, found.prediction[k])
    norm = BoundaryNorm(np.arange(max(len(classes), 2) + 1) - 0.5, max(len(classes), 2))
    axes.pcolormesh(found.a, found.b, place.T, cmap=colours, norm=norm, shading="nearest")
    for c in np.unique(place):
        i, j = np.argwhere(place == c).mean(0).astype(int)
        inside = np.argwhere(place == c)
        i, j = inside[np.abs(inside - (i, j)).sum(1).argmin()]  # a point of the region, near its middle
        axes.text(found.a[i], found.b[j], str(classes[c]), ha="center", va="center", fontsize=10)


def _shown(values: np.ndarray) -> np.ndarray:
    """What is not finite takes the end of the scale."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros_like(values)
    filled = np.nan_to_num(values, nan=finite.max(), posinf=finite.max(), neginf=finite.min())
    return filled if filled.max() > filled.min() else filled + np.linspace(0, 1e-6, filled.size).reshape(filled.shape)


def _frame(axes: Any, found: Any, title: str) -> None:
    axes.set(xlabel="along u", ylabel="along v", xlim=(found.a[0], found.a[-1]), ylim=(found.b[0], found.b[-1]))
    axes.set_title(title, fontsize=11, loc="left")
    axes.locator_params(nbins=5)
    _tidy(axes)
    axes.grid(False)
