"""The report of a trained model: metrics next to baselines, training history, groups, popularity bias, example users."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd4rec._io import write_atomically
from ssd4rec.config import Config, dump_config
from ssd4rec.reports.charts import Dot, DotChart, Line, LineChart
from ssd4rec.reports.examples import Examined
from ssd4rec.reports.rendering import Table, render_template

HEADLINE = ("ndcg@10", "hr@10")
PARTS = {
    "model": "model",
    "model_alone": "model without fusion",
    "fusion_alone": "fusion without model",
    "popularity": "most popular",
}


def write_model_report(path: Path, report: Mapping[str, Any], config: Config, examined: Examined | None) -> None:
    """Write the page of `render_model_report`.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, render_model_report(report, config, examined))


def render_model_report(report: Mapping[str, Any], config: Config, examined: Examined | None) -> str:
    """Return the page of a report of `ssd4rec train` or `ssd4rec evaluate`, without recommendations if none were examined."""
    metrics = _metrics(report)
    headline = next((name for name in HEADLINE if name in report["test"]), next(iter(report["test"])))
    return render_template(
        "model.html",
        title=f"Model report: {_source(report)}",
        scope=_scope(report),
        notes=_notes(report),
        metrics=_metrics_table(metrics, report.get("intervals", {})),
        lists=_lists_table(report),
        metrics_chart=_metrics_chart(metrics, report.get("intervals", {}), headline),
        history=report.get("training"),
        history_charts=_history_charts(report.get("training")),
        groups=[_group_table(name, rows, report) for name, rows in report.get("test_groups", {}).items() if rows],
        examined=examined,
        lorenz=None if examined is None else _lorenz(examined),
        facts=_facts(report),
        settings=dump_config(config),
    )


def _source(report: Mapping[str, Any]) -> str:
    return Path(str(report["data"]["read"]["source"])).name if "read" in report.get("data", {}) else "saved model"


def _scope(report: Mapping[str, Any]) -> str:
    data, protocol = report.get("data", {}).get("kept", {}), report["protocol"]
    parts = [f"{data[name]:,} {name}" for name in ("users", "items", "interactions") if name in data]
    seen = "excluded" if protocol["exclude_seen"] else "kept"
    parts += [f"{protocol['split']}, {protocol['targets']:,} targets", str(protocol["candidates"]), f"seen items {seen}"]
    return " · ".join(parts)


def _notes(report: Mapping[str, Any]) -> list[str]:
    data = report.get("data", {})
    final_fit = [report["final_fit"]["note"]] if "final_fit" in report else []
    return [*data.get("read", {}).get("notes", []), *data.get("split", {}).get("notes", []), *final_fit, *report.get("notes", [])]


def _metrics(report: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The metrics of the model and of what it is compared with, the model first."""
    fusion = report.get("fusion") or {}
    parts = {name: fusion[name] for name in ("model_alone", "fusion_alone") if name in fusion}
    baselines = {**report.get("baselines", {}), **({"popularity": report["popularity"]} if "popularity" in report else {})}
    return {"model": report["test"], **parts, **{name: each.get("test", each) for name, each in baselines.items()}}


def _metrics_table(metrics: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Any]) -> Table:
    names = list(metrics["model"])
    rows = []
    for part, values in metrics.items():
        cells = []
        for name in names:
            value, interval = values.get(name), intervals.get(part, {}).get(name)
            text = "-" if value is None else f"{value:.4f}"
            cells.append(text if interval is None else f"{text} ± {(interval[1] - interval[0]) / 2:.4f}")
        rows.append((PARTS.get(part, part), *cells))
    return Table("Metrics", ("", *(name.upper() for name in names)), tuple(rows))


def _lists_table(report: Mapping[str, Any]) -> Table | None:
    """The properties of the recommended lists of the model and of the baselines, if they were measured."""
    others = {"popularity": report.get("popularity", {}), **report.get("baselines", {})}
    parts = {name: part["lists"] for name, part in {"model": report, **others}.items() if "lists" in part}
    if "model" not in parts:
        return None
    names = [name for name in parts["model"] if name != "length"]
    rows = [
        (PARTS.get(part, part), *("-" if values[name] is None else f"{values[name]:.3f}" for name in names))
        for part, values in parts.items()
    ]
    columns = ("", *(name.replace("_", " ") for name in names))
    return Table(f"First {parts['model']['length']} items of every list", columns, tuple(rows))


def _metrics_chart(metrics: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Any], name: str) -> DotChart:
    dots = []
    for part, values in metrics.items():
        if name in values:
            low, high = intervals.get(part, {}).get(name, (values[name], values[name]))
            dots.append(Dot(PARTS.get(part, part), values[name], low, high))
    title = f"{name.upper()}: " + ", ".join(f"{dot.name} {dot.value:.4f}" for dot in dots)
    return DotChart(dots, title, f"{name.upper()}, 95 % intervals over targets")


def _history_charts(training: Mapping[str, Any] | None) -> list[LineChart]:
    epochs = (training or {}).get("history") or []
    if training is None or not epochs:
        return []
    ndcg = [(float(each["epoch"]), float(each["ndcg"])) for each in epochs]
    loss = [(float(each["epoch"]), float(each["loss"])) for each in epochs]
    best = float(training["best_epoch"])
    return [
        LineChart([Line("first", ndcg)], f"Validation NDCG@10 by epoch, best {max(y for _, y in ndcg):.4f}", "epoch", mark=best),
        LineChart(
            [Line("second", loss)], f"Training loss by epoch, from {loss[0][1]:.3f} to {loss[-1][1]:.3f}", "epoch", mark=best
        ),
    ]


def _group_table(name: str, rows: list[Mapping[str, Any]], report: Mapping[str, Any]) -> tuple[Table, list[float]]:
    """The table of some groups, and the NDCG of each as a share of the largest."""
    cutoff = next(iter(report["test"])).partition("@")[2]
    title = {"by_length": "By length of the history", "by_popularity": "By popularity of the target"}.get(name, name)
    cells = [(row["name"], f"{row['targets']:,}", f"{row['hit_rate']:.4f}", f"{row['ndcg']:.4f}") for row in rows]
    largest = max((row["ndcg"] for row in rows), default=0.0)
    columns = ("", "targets", f"HR@{cutoff}", f"NDCG@{cutoff}")
    return Table(title, columns, tuple(cells)), [row["ndcg"] / largest if largest else 0.0 for row in rows]


def _lorenz(examined: Examined) -> LineChart | None:
    curves = (("second", examined.consumed.lorenz), ("first", examined.recommended.lorenz))
    lines = [Line(name, points) for name, points in curves if points]
    if not lines:
        return None
    gini = f"Gini index: training {examined.consumed.gini:.3f}, recommended {examined.recommended.gini:.3f}"
    return LineChart(lines, f"Lorenz curves. {gini}", "share of the items, rarest first", shares=True)


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, seconds = report.get("model", {}), report.get("seconds", {})
    facts = [("network", str(model.get("backbone", {}).get("name", "")))] if model else []
    if "parameters" in model:
        facts.append(("parameters", f"{model['parameters']:,}"))
    facts += [(f"seconds, {name}", f"{value:,.1f}") for name, value in seconds.items()]
    return facts + [(name, str(value)) for name, value in report.get("versions", {}).items()]
