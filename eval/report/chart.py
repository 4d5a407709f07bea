"""Line charts as inline SVG that fill any width: lines stretch with the page, the numbers beside them do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.report.html import Html, tag

POINTS = 500  # drawn at most; more are joined by their mean
LOG_FROM = 20.0  # a range of more than this ratio is drawn on a logarithmic scale


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        kind: ``before``, ``after`` or ``mark``: its colour.
        points: (x, y), x ascending.
    """

    kind: str
    points: Sequence[tuple[float, float]]


def chart(lines: Sequence[Line], *, title: str, height: str, logarithmic: bool | None = None) -> Html:
    """Draw lines over common axes.

    Args:
        lines: at least one with a point.
        title: what is to be seen, for those who cannot see it.
        height: CSS length.
        logarithmic: scale of y; None decides by the range of the last line.
    """
    drawn = [Line(line.kind, thin(line.points)) for line in lines]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    if logarithmic is None:
        inner = [y for _, y in drawn[-1].points]
        logarithmic = min(ys) > 0 and max(inner) / min(inner) > LOG_FROM
    ticks = log_ticks(min(ys), max(ys)) if logarithmic else even_ticks(min(0.0, *ys), max(ys))
    low, high = min(ticks[0], *ys), max(ticks[-1], *ys)

    def across(x: float) -> float:
        return 1000 * (x - min(xs)) / ((max(xs) - min(xs)) or 1)

    def down(y: float) -> float:
        if logarithmic:
            return 1000 * math.log(high / y) / math.log(high / low)
        return 1000 * (high - y) / ((high - low) or 1)

    grid = "".join(f"M0 {down(y):.1f}H1000" for y in ticks)
    paths = [tag("path", d=grid, cls="grid")]
    for line in drawn:
        steps = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in line.points)
        paths.append(tag("path", d=f"M{steps}", cls=line.kind))
    picture = tag("svg", tag("title", title), *paths, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img")
    labels = [tag("span", f"{y:.4g}", cls="y", style=f"top:{down(y) / 10:.2f}%") for y in ticks]
    labels += [_x_label(x, across(x) / 10) for x in even_ticks(min(xs), max(xs), 4) if min(xs) <= x <= max(xs)]
    return tag("div", picture, *labels, cls="chart", style=f"height:{height}")


def _x_label(x: float, place: float) -> Html:
    """Write a number under its place in percent; at the right end it stays inside, or the page would grow wider."""
    shift = ";transform:translateX(-100%)" if place > 95 else ""
    return tag("span", f"{x:,.0f}", cls="x", style=f"left:{place:.2f}%{shift}")


def thin(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Join points into at most ``most`` by their mean; the first and the last stay."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    size = math.ceil(len(inner) / (most - 2))
    joined = []
    for start in range(0, len(inner), size):
        group = inner[start : start + size]
        joined.append((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)))
    return [points[0], *joined, points[-1]]


def running_mean(points: Sequence[tuple[float, float]], keep: float = 0.95) -> list[tuple[float, float]]:
    """Smooth y exponentially, each value keeping this share of the mean so far; as ``loss.png`` does."""
    smooth: list[tuple[float, float]] = []
    for x, y in points:
        smooth.append((x, y if not smooth else keep * smooth[-1][1] + (1 - keep) * y))
    return smooth


def even_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers, evenly spaced, that hold ``low`` to ``high`` between the first and the last."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step * about >= (high - low) * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten that hold ``low`` to ``high``, or the powers alone where they are many."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for factors in ((1, 2, 5), (1,)):
        marks = [round(factor * 10.0**power, 12 - power) for power in powers for factor in factors]
        below = max(i for i, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
        above = min(i for i, mark in enumerate(marks) if mark >= high * (1 - 1e-9))
        if above - below < 8:
            break
    return marks[below : max(above, below + 1) + 1]
