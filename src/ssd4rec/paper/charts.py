"""Charts of the report, as SVG in the page."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ssd4rec.evaluation.metrics import MONITORED_METRIC
from ssd4rec.paper.published import highest_published
from ssd4rec.paper.results import Row, Section, Variant
from ssd4rec.paper.studies import STUDIES

CURVES = ("ndcg@10", "mrr@10", "hr@10")
COSTS = (
    ("seconds_per_epoch", "seconds per epoch", 1),
    ("inference_seconds", "seconds of inference", 1),
    ("peak_memory", "peak MiB", 1 << 20),
)
LINE_COSTS = (("seconds_to_best", "seconds of training to the best epoch"), ("seconds_per_epoch", "seconds per epoch"))
WHOLE = 2.0  # a point of whole sequences is drawn at this multiple of the longest length
BLUE, ORANGE, GREEN = COLORS = ("#2b6cb0", "#dd6b20", "#2f855a")
LINE_COLORS = (*COLORS, "#805ad5", "#b83280", "#744210", "#0987a0", "#c53030", "#4a5568")
MARKERS, DASHES = "os^Dv*XP<", ("-", "--", ":", "-.")  # lines differ without color too


def draw_chart(section: Section) -> Markup | None:
    """Return the chart of a section as SVG; None if nothing is finished."""
    from matplotlib import rc_context  # noqa: PLC0415 - takes a second to import
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = [row for row in section.rows if MONITORED_METRIC in row.test]
    if not rows:
        return None
    axis = STUDIES[section.study].axis
    with rc_context({"svg.hashsalt": "ssd4rec", "svg.fonttype": "none", "font.size": 10}):  # equal charts are equal files
        lines = lines_of(section, rows)
        figure = Figure(figsize=(11, 7.5 if lines else 3 if axis else 1.2 + 0.36 * len(rows)), layout="constrained")
        FigureCanvasSVG(figure)
        if lines:
            _draw_lines(figure, lines, axis or "")
        elif axis:
            _draw_curves(figure, rows, axis)
        elif section.study == "efficiency":
            _draw_costs(figure, rows)
        elif section.study == "ablation":
            _draw_differences(figure.subplots(), rows)
        else:
            _draw_models(figure.subplots(), rows, section)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 - matplotlib escapes the labels


def _draw_models(axes: Any, rows: Sequence[Row], section: Section) -> None:
    """One line a model: NDCG@10 alone, with seen items excluded, and with score fusion."""
    kinds: tuple[tuple[str, Variant, str], ...] = (
        ("alone, seen items excluded" if section.excludes_seen else "alone, seen items kept", "model", "o"),
        ("alone, seen items excluded", "model_exclude_seen", "s"),
        ("with score fusion", "fusion", "^"),
    )
    for index, (label, variant, marker) in enumerate(kinds):
        metrics = enumerate(row.summary(variant) for row in rows)
        points = [(place + 0.18 * (index - 1), each[MONITORED_METRIC]) for place, each in metrics if each]
        if points:
            means, deviations = [spread.mean for _, spread in points], [spread.sd or 0.0 for _, spread in points]
            axes.errorbar(means, [y for y, _ in points], xerr=deviations, fmt=marker, color=COLORS[index], capsize=3, label=label)
    for exclude_seen, color in ((False, BLUE), (True, ORANGE)):
        if best := highest_published(section.comparable_data, exclude_seen=exclude_seen):
            label = f"highest published,\nseen items {'excluded' if exclude_seen else 'kept'}: {best.model}"
            axes.axvline(best.metrics[MONITORED_METRIC], color=color, linestyle=":", label=label)
    _label_rows(axes, [row.label for row in rows], "NDCG@10 (bars: one standard deviation over seeds)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def _draw_differences(axes: Any, rows: Sequence[Row]) -> None:
    """NDCG@10 minus that of the full model, with the interval of the paired test."""
    tested = [(row.label, test) for row in rows for test in row.tests if test.variant == "model"]
    errors = [[test.difference - test.low for _, test in tested], [test.high - test.difference for _, test in tested]]
    axes.errorbar([test.difference for _, test in tested], range(len(tested)), xerr=errors, fmt="o", color=BLUE, capsize=3)
    axes.axvline(0.0, color="#888888", linewidth=1)
    _label_rows(axes, [label for label, _ in tested], "NDCG@10 minus that of the full model (bars: 95 % over users)")


def _label_rows(axes: Any, labels: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(title)
    axes.grid(axis="x", alpha=0.3)


def _draw_costs(figure: Any, rows: Sequence[Row]) -> None:
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for panel, (name, title, scale) in zip(panels, COSTS, strict=True):
        bars = panel.barh([row.label for row in rows], [(row.cost(name) or 0) / scale for row in rows], color=BLUE)
        panel.bar_label(bars, fmt="%.4g", padding=3, fontsize=9)
        panel.margins(x=0.25)
        panel.set_title(title, fontsize=10)
    panels[0].invert_yaxis()


def lines_of(section: Section, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each model where a section has the curves of several; else nothing."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.model, []).append(row)
    return lines if STUDIES[section.study].axis and len(lines) > 1 else {}


def tick(x: float | None) -> str:
    """Return the name of a point on the axis."""
    return "whole" if x is None else f"{x:g}"


def _draw_lines(figure: Any, lines: Mapping[str, Sequence[Row]], axis: str) -> None:
    """One line a model: NDCG@10 against the axis and against seconds, and seconds against the axis."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 - takes a second to import

    (quality, trade), costs = figure.subplots(2, 2)
    rows = [row for line in lines.values() for row in line]
    for index, (model, line) in enumerate(lines.items()):
        style = {"color": LINE_COLORS[index], "marker": MARKERS[index], "linestyle": DASHES[index % 4], "label": model}
        means, places = [row.test[MONITORED_METRIC].mean for row in line], _places(line, rows)
        deviations = [row.test[MONITORED_METRIC].sd or 0.0 for row in line]
        quality.errorbar(places, means, yerr=deviations, capsize=3, **style)
        seconds = {name: [math.nan if (cost := row.cost(name)) is None else cost for row in line] for name, _ in LINE_COSTS}
        trade.plot(seconds["seconds_to_best"], means, **style)
        for row, x, y in zip(line, seconds["seconds_to_best"], means, strict=True):
            trade.annotate(tick(row.x), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=style["color"])
        for panel, (name, _) in zip(costs, LINE_COSTS, strict=True):
            panel.plot(places, seconds[name], **style)
    for panel, title in zip(
        (quality, *costs), ("NDCG@10 (bars: one standard deviation over seeds)", *(title for _, title in LINE_COSTS)), strict=True
    ):
        panel.set_title(title, fontsize=10)
        _label_axis(panel, rows, axis)
    trade.set_title(f"NDCG@10 against seconds (numbers: {axis})", fontsize=10)
    trade.set_xlabel(LINE_COSTS[0][1])
    trade.grid(alpha=0.3)
    if all(any(row.cost(name) for row in rows) for name, _ in LINE_COSTS):  # a scale without values cannot be logarithmic
        trade.set_xscale("log")
        for panel in costs:
            panel.set_yscale("log")
        for scale in (trade.xaxis, *(panel.yaxis for panel in costs)):
            scale.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter("")
    figure.legend(*quality.get_legend_handles_labels(), loc="outside upper center", ncols=len(lines), frameon=False)


def _places(rows: Sequence[Row], among: Sequence[Row]) -> list[float]:
    longest = max((row.x for row in among if row.x is not None), default=1.0)
    return [longest * WHOLE if row.x is None else row.x for row in rows]


def _label_axis(panel: Any, rows: Sequence[Row], axis: str) -> None:
    panel.set_xlabel(axis)
    panel.grid(alpha=0.3)
    places = dict(zip(_places(rows, rows), [tick(row.x) for row in rows], strict=True))
    if max(places) > 1 and min(places) > 0:
        panel.set_xscale("log")
        panel.set_xticks(list(places), list(places.values()))
        panel.minorticks_off()


def _draw_curves(figure: Any, rows: Sequence[Row], axis: str) -> None:
    places = _places(rows, rows)
    for panel, name, color in zip(figure.subplots(1, len(CURVES)), CURVES, COLORS, strict=True):
        spreads = [row.test[name] for row in rows if name in row.test]
        if len(spreads) == len(rows):  # else the cut-offs were changed
            deviations = [spread.sd or 0.0 for spread in spreads]
            panel.errorbar(places, [spread.mean for spread in spreads], yerr=deviations, marker="o", capsize=3, color=color)
        panel.set_title(name.upper(), fontsize=10)
        _label_axis(panel, rows, axis)
