"""Charts of a report: their data and scales. The template charts.html draws them as SVG in the colors of the page."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

TICKS = 4


class Axis(NamedTuple):
    """A linear scale from values to places in the picture."""

    low: float
    high: float
    start: float  # place of the lowest value
    stop: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, stop: float) -> Self:
        """Make an axis from the smallest to the largest of some values."""
        values = list(values)
        low, high = min(values), max(values)
        return cls(low, high if high > low else low + 1.0, start, stop)

    def at(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    @property
    def ticks(self) -> list[float]:
        """Some round numbers of the range."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [each * step for each in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


class Line(NamedTuple):
    """A line of a chart; `name` is a class of the page's style: first or second."""

    name: str
    points: Sequence[tuple[float, float]]  # 1 or more


class LineChart(NamedTuple):
    """Lines over a common x axis."""

    lines: Sequence[Line]
    title: str  # for screen readers
    x_name: str
    mark: float | None = None  # x of a vertical line
    shares: bool = False  # both axes go from 0 to 1 and are labeled in percent, with the diagonal

    @property
    def x(self) -> Axis:
        """The horizontal axis."""
        return Axis.over((0.0, 1.0) if self.shares else (x for line in self.lines for x, _ in line.points), 62.0, 506.0)

    @property
    def y(self) -> Axis:
        """The vertical axis, from 0."""
        return Axis.over((0.0, 1.0) if self.shares else (0.0, *(y for line in self.lines for _, y in line.points)), 220.0, 12.0)


class Dot(NamedTuple):
    """A value with its interval, under a name."""

    name: str
    value: float
    low: float
    high: float


class DotChart(NamedTuple):
    """Values with their intervals, one row each; the first one stands out."""

    dots: Sequence[Dot]
    title: str  # for screen readers
    x_name: str

    @property
    def x(self) -> Axis:
        """The horizontal axis, from 0."""
        return Axis.over((0.0, *(dot.high for dot in self.dots)), 150.0, 506.0)
