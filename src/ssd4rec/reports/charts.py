"""Charts of a report, as SVG whose colors follow the theme of the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 520.0, 62.0, 14.0, 12.0, 40.0
HEIGHT, ROW = 260.0, 40.0
LABEL = 150.0  # width of the names of a dot chart
TICKS = 4


class Line(NamedTuple):
    """A line of a chart; `name` is a class of the page's style: first or second."""

    name: str
    points: Sequence[tuple[float, float]]


class Dot(NamedTuple):
    """A value with its interval, under a name."""

    name: str
    value: float
    low: float
    high: float


def line_chart(lines: Sequence[Line], title: str, x_name: str, *, mark: float | None = None, shares: bool = False) -> Markup:
    """Draw lines over a common x axis.

    Args:
        lines: each with 1 point or more.
        title: for screen readers.
        x_name: name of the x axis.
        mark: x of a vertical line.
        shares: both axes go from 0 to 1 and are labeled in percent, with the diagonal.
    """
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    x_range, y_range = ((0.0, 1.0), (0.0, 1.0)) if shares else (_range(xs), _range([0.0, *ys]))

    def across(value: float) -> float:
        return LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - BOTTOM - TOP)

    parts = []
    for value in _ticks(*y_range):
        text = f"{value:.0%}" if shares else f"{value:.3g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{text}</text>')
    for value in _ticks(*x_range):
        text = f"{value:.0%}" if shares else f"{value:g}"
        parts.append(f'<text x="{across(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    if shares:
        parts.append(f'<line class="mark" x1="{across(0)}" y1="{up(0)}" x2="{across(1)}" y2="{up(1)}"/>')
    if mark is not None:
        parts.append(f'<line class="mark" x1="{across(mark):.1f}" x2="{across(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for line in lines:
        path = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in line.points)
        parts.append(f'<path class="line {line.name}" d="M{path}"/>')
        if len(line.points) == 1:
            x, y = line.points[0]
            parts.append(f'<circle class="{line.name}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4"/>')
    return _svg(HEIGHT, title, parts)


def dot_chart(dots: Sequence[Dot], title: str, x_name: str) -> Markup:
    """Draw values with their intervals, one row each; the first one stands out."""
    low, high = _range([0.0, *(dot.high for dot in dots)])
    height = TOP + ROW * len(dots) + BOTTOM

    def across(value: float) -> float:
        return LABEL + (value - low) / (high - low) * (WIDTH - LABEL - RIGHT)

    parts = []
    for value in _ticks(low, high):
        parts.append(f'<line class="grid" x1="{across(value):.1f}" x2="{across(value):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text x="{across(value):.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{value:.3g}</text>')
    parts.append(f'<text x="{(LABEL + WIDTH) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_name)}</text>')
    for place, dot in enumerate(dots):
        y, name = TOP + ROW * (place + 0.5), "second" if place else "first"
        parts.append(f'<text class="label" x="{LABEL - 12}" y="{y + 4}" text-anchor="end">{escape(dot.name)}</text>')
        parts.append(f'<line class="line {name}" x1="{across(dot.low):.1f}" x2="{across(dot.high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{name}" cx="{across(dot.value):.1f}" cy="{y}" r="5"/>')
    return _svg(height, title, parts)


def bar(share: float, name: str) -> Markup:
    """Draw a bar of a share, 0 to 1."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}"
    rect = f'<rect class="track" width="100" height="10"/><rect class="{name}" width="{width}" height="10"/>'
    svg = f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{rect}</svg>'
    return Markup(svg)  # noqa: S704 - numbers and class names


def _svg(height: float, title: str, parts: Sequence[str]) -> Markup:
    label = escape(title)
    return Markup(  # noqa: S704 - texts are escaped
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Some round numbers of a range."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [each * step for each in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
