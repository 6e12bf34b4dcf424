"""The plots of a report."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jrobust._statistics import Accuracy, proportion
from jrobust.evaluation._report import _svg
from jrobust.evaluation._report._blocks import Figure
from jrobust.evaluation._report._outcomes import Between
from jrobust.evaluation._report._rows import accuracy_of, sides_of
from jrobust.evaluation._report._sections import Section


def sandwich(section: Section, level: float = 0.95) -> tuple[Figure, ...]:
    """Accuracy over the radius: certified floor, attack ceiling, and between them what nobody knows. One plot a norm."""
    clean = next((accuracy_of(r) for r in section.rows if r.threat == "none" and r.quantity == "accuracy"), None)
    plots = []
    for threat, sides in sides_of(section, "model", level).items():
        below = [(eps, a) for eps, a, _ in sides if a is not None]
        above = [(eps, a) for eps, _, a in sides if a is not None]
        if clean is not None and all(eps > 0 for eps, *_ in sides):  # both start where nothing may change
            below, above = ([(0.0, clean), *points] if points else [] for points in (below, above))
        if max(len(below), len(above)) > 1:  # one radius is no curve
            plots.append(_sandwich(section.title, threat, below, above, level))
    return tuple(plots)


def _sandwich(
    title: str, threat: str, below: Sequence[tuple[float, Accuracy]], above: Sequence[tuple[float, Accuracy]], level: float
) -> Figure:  # fmt: skip
    most = max(eps for eps, _ in (*below, *above))
    frame = _svg.Frame((0.0, most), (0.0, 1.0))
    parts, legend = [], []
    if below and above:
        parts.append(_svg.area(frame, *_band(below, above), "open"))
        legend.append(("open", "unknown"))
    for side, colour, label in ((above, "attack", "attack (at most)"), (below, "proof", "proof (at least)")):
        if side:
            parts.append(_svg.line(frame, *_staircase(side, late=colour == "attack"), colour))
            shift = 1.5 if colour == "proof" else -1.5
            parts += [_svg.whisker(frame, e, a.low, a.high, colour, shift) for e, a in side]
            parts += [_svg.dot(frame, e, a.value, colour, colour == "proof") for e, a in side]
            legend.append((colour, label))
    n = (below or above)[0][1].n
    missing = ""
    if not (below and above):
        missing = (
            " No proof was asked: the floor is not measured."
            if above
            else " No attack was asked: the ceiling is not measured."
        )
    svg = _svg.chart(
        frame, parts, name=f"{title}: robust accuracy over the {threat} radius", across=f"{threat} radius",
        down="robust accuracy", legend=legend,
    )  # fmt: skip
    between = "Between the radii that were asked nothing follows but the steps."
    return Figure(svg, f"Robust accuracy over the {threat} radius; n = {n}, {level:.0%} intervals. {between}{missing}")


def _staircase(side: Sequence[tuple[float, Accuracy]], *, late: bool) -> tuple[list[float], list[float]]:
    """What follows between radii: a ceiling holds until the next radius, a floor since the last one."""
    xs, ys = [side[0][0]], [side[0][1].value]
    for (left, before), (right, after) in itertools.pairwise(side):
        xs += [right, right] if late else [left, right]
        ys += [before.value, after.value] if late else [after.value, after.value]
    return xs, ys


def _band(
    below: Sequence[tuple[float, Accuracy]], above: Sequence[tuple[float, Accuracy]]
) -> tuple[list[float], list[float], list[float]]:
    """Places, floors and ceilings between, wherever both are known."""
    xs, low, high = [], [], []
    for left, right in itertools.pairwise(sorted({eps for eps, _ in (*below, *above)})):
        floor = next((a.value for eps, a in below if eps >= right), None)
        ceiling = next((a.value for eps, a in reversed(above) if eps <= left), None)
        if floor is not None and ceiling is not None:
            xs, low, high = [*xs, left, right], [*low, floor, floor], [*high, ceiling, ceiling]
    return xs, low, high


def classes(
    title: str, label: np.ndarray, b: Between, threat: str, names: Sequence[str] = (), most: int = 12, level: float = 0.95
) -> tuple[Figure, tuple[tuple[str, Accuracy | None, Accuracy | None], ...]]:  # fmt: skip
    """Both sides class by class at one radius, and the numbers; of many classes the worst are drawn."""
    sides = []
    for k in np.unique(label):
        name = names[k] if 0 <= k < len(names) else f"{k}"
        sides.append((str(name), b.floor(level, label == k), b.ceiling(level, label == k)))
    order = range(len(sides))
    if len(sides) > most:
        by = 2 if sides[0][2] is not None else 1
        order = sorted(sorted(order, key=lambda i: float(sides[i][by]))[:most])
    shown = [sides[i] for i in order]
    frame = _svg.Frame((-0.5, len(shown) - 0.5), (0.0, 1.0), bottom=84 if _svg.turned([s[0] for s in shown]) else 38)
    half = 0.36 * (frame.across(1) - frame.across(0)) if len(shown) > 1 else 30.0
    parts = []
    for i, (_, low, high) in enumerate(shown):
        if low is not None and high is not None:
            parts.append(_svg.box(frame, i, half, low.value, max(low.value, high.value), "open"))
        if low is not None:
            parts += [
                _svg.box(frame, i, half, 0.0, low.value, "proof"),
                _svg.whisker(frame, i, low.low, low.high, "ink", -half / 3),
            ]
        if high is not None:
            at, y = frame.across(i), frame.down(high.value)
            parts.append(f'<path class="l-attack bar" d="M{at - half:.1f} {y:.1f}h{2 * half:.1f}"/>')
            parts.append(_svg.whisker(frame, i, high.low, high.high, "attack", half / 3))
    legend = [("proof", "proven (at least)")] * (b.proven is not None)
    legend += [("attack", "unbroken (at most)")] * (b.unbroken is not None)
    svg = _svg.chart(
        frame, parts, name=f"{title}: robust accuracy by class at {threat} {b.eps:g}", across="class", down="robust accuracy",
        legend=legend, marks=[(i, s[0]) for i, s in enumerate(shown)],
    )  # fmt: skip
    few = [s[1] or s[2] for s in sides]
    count = [a.n for a in few if a is not None]
    some = f" The {most} worst of {len(sides)} classes." if len(sides) > most else ""
    caption = f"By class at {threat} {b.eps:g}; n = {min(count)} to {max(count)} a class, {level:.0%} intervals.{some}"
    return Figure(svg, caption), tuple(sides)


def radius_curves(sections: Sequence[Section], level: float = 0.95) -> Figure | None:
    """Certified accuracy of smoothed classifiers over the radius, at most six."""
    shown = [s for s in sections if s.radii][:6]
    if not shown:
        return None
    most = max(max(s.radii) for s in shown) or 1.0
    frame = _svg.Frame((0.0, most), (0.0, 1.0), top=12 + 16 * len(shown))
    parts: list[str] = []
    legend = []
    for i, s in enumerate(shown):
        radii = np.asarray(s.radii, np.float64)
        n, x = len(radii), _svg.grid(radii)
        held = n - np.searchsorted(np.sort(radii), x, side="left")  # radius >= x
        shares = [proportion(int(h), n, side="upper", level=level) for h in [int((radii > 0).sum()), *held]]
        xs, low, high, value = _steps(x, shares)
        parts += [_svg.area(frame, xs, low, high, f"s{i}", "band"), _svg.line(frame, xs, value, f"s{i}")]
        legend.append((f"s{i}", s.noise if len(shown) == 1 else f"{s.title} ({s.noise})"))
    norms = dict.fromkeys(r.threat for s in shown for r in s.rows if r.subject == "smoothed")
    norm = " or ".join(norms) or "input"
    svg = _svg.chart(
        frame, parts, name=f"certified accuracy over the {norm} radius", across=f"certified {norm} radius",
        down="certified accuracy (at least)", legend=legend,
    )  # fmt: skip
    counts = " and ".join(dict.fromkeys(f"{len(s.radii)}" for s in shown))
    return Figure(
        svg,
        f"Certified accuracy of the smoothed classifier over the radius; n = {counts}, pointwise {level:.0%} intervals.",
    )


def _steps(x: np.ndarray, shares: Sequence[Accuracy]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Corners of a falling step function: up to x[k] it is at least ``shares[k + 1]``; ``shares[0]`` holds at 0."""
    xs, rows = [0.0], [shares[0]]
    left = 0.0
    for at, a in zip(x.tolist(), shares[1:], strict=True):
        xs += [left, at]
        rows += [a, a]
        left = at
    return xs, [a.low for a in rows], [a.high for a in rows], [a.value for a in rows]


def write_radius_curve(section: Section, path: Path) -> None:
    """The curve of one smoothed classifier, as an SVG file."""
    figure = radius_curves([section])
    if figure is not None:
        path.write_text(_svg.alone(figure.svg), encoding="utf-8")


def loss_curves(section: Section) -> Figure | None:
    """The training loss over the steps."""
    points = [(float(p["step"]), float(p["loss"])) for p in section.losses if "loss" in p and "step" in p]
    points = [p for p in points if np.isfinite(p).all()]
    if len(points) < 2:
        return None
    points = points[:: -(-len(points) // 400)]
    top = max(loss for _, loss in points) or 1.0
    frame = _svg.Frame((0.0, max(step for step, _ in points)), (0.0, top))
    parts = [_svg.line(frame, [step for step, _ in points], [max(loss, 0.0) for _, loss in points], "s0")]
    svg = _svg.chart(frame, parts, name=f"{section.title}: training loss", across="step", down="training loss")
    return Figure(svg, "The loss that was minimised; each model has its own, so heights do not compare.")
