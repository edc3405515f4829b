"""Tables of the command line; text from data passes through `printable`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Console

from ssd4rec.cli.console import printable, shorten, table

LIST_PROPERTIES = {"coverage": "{:.1%}", "popularity_lift": "{:+.0%}", "diversity": "{:.3f}", "novelty": "{:.1f} bits"}
MOST_WITH_RATIO = 4  # with more columns of metrics, a ratio does not fit into 80 characters


def show_data(console: Console, data: Mapping[str, Any]) -> None:
    """Show the interactions that were read, dropped and kept; `data` is the part "data" of a report."""
    from ssd4rec.data.summary import note_on_ties

    title = f"Data: {printable(data['read']['source'])}"
    source, dropped, retained = data["read"], data["dropped"], data["kept"]
    events = {"read": source["rows"], "dropped": dropped["interactions"], "kept": retained["interactions"]}
    rows = [[name, f"{data[name]['users']:,}", f"{data[name]['items']:,}", f"{count:,}"] for name, count in events.items()]
    rows[-1] += [f"{retained['mean_length']:.1f}", f"{retained['longest']:,}"]
    console.print(table(title, ("", ">users", ">items", ">interactions", ">mean length", ">longest"), rows))
    if dropped["interactions"]:
        console.print(f"dropped: {printable(dropped['why'])}")
    for condition in source.get("filters", ()):
        console.print(f"filter: {printable(condition)}")
    for warning in source["notes"]:
        console.print(f"warning: {printable(warning)}")
    if ties := note_on_ties(data):
        console.print(f"note: {ties}")
    for note in data.get("split", {}).get("notes", ()):
        console.print(f"warning: {printable(note)}")


def show_reading(console: Console, read: Mapping[str, Any], first_rows: Sequence[Mapping[str, Any]]) -> None:
    """Show how a file was read: its columns, the span of its times, its filters and its first rows."""
    columns = printable(", ".join(f"{role} = {name}" for role, name in read["columns"].items()))
    console.print(f"read: {read['rows']:,} interactions of {read['users']:,} users with {read['items']:,} items; {columns}")
    if read["span"]:
        console.print(f"times: {read['time']}, from {read['span'][0]} to {read['span'][1]}")
    else:
        console.print("times: none, the order of the rows")
    for condition in read["filters"]:
        console.print(f"filter: {printable(condition)}")
    names = ("user", "item", "time")
    cells = [[printable(shorten(str(row[name]))) for name in names] for row in first_rows]
    console.print(table("First rows", names, cells))


def show_metrics(console: Console, report: Mapping[str, Any]) -> None:
    """Show the test metrics of the model, its parts and the most popular items, and their protocol."""
    backbone = report.get("model", {}).get("backbone", {}).get("name", "ssd4rec")
    columns = {backbone: report["test"], "popularity": report.get("popularity", {}).get("test", {})}
    if fusion := report.get("fusion"):
        columns = {
            f"{backbone} + fusion": report["test"],
            f"{backbone} alone": fusion["model_alone"],
            **({"fusion alone": fusion["fusion_alone"]} if "fusion_alone" in fusion else {}),
            "popularity": columns["popularity"],
        }
    last = columns.pop("popularity")
    columns |= {name: each["test"] for name, each in _baselines(report).items()} | {"popularity": last}
    with_ratio = len(columns) <= MOST_WITH_RATIO
    title = "Test: one held-out interaction per user" if report["protocol"]["split"] == "leave-last-out" else "Test"
    rows = []
    for name, value in report["test"].items():
        cells = [metrics.get(name) for metrics in columns.values()]
        ratio = f"{value / cells[-1]:.1f}x" if cells[-1] else ""
        rows.append((name, *("" if cell is None else f"{cell:.4f}" for cell in cells), *([ratio] if with_ratio else [])))
    last_header = [">over popularity"] if with_ratio else []
    console.print(table(title, ("metric", *(f">{name}" for name in columns), *last_header), rows))
    _show_protocol(console, report["protocol"])
    if by_request_time := report.get("request_time"):
        name = next(name for name in report["test"] if name.startswith("ndcg"))
        values = ", ".join(f"{times} {metrics[name]:.4f}" for times, metrics in by_request_time.items())
        console.print(f"{name} by the times of the requests: {values}")
    if continued := report.get("continued"):
        _show_continued(console, continued)
    if final_fit := report.get("final_fit"):
        console.print(f"warning: {final_fit['note']}")
    _show_lists(console, columns.keys(), report)
    cutoff = next(iter(report["test"])).partition("@")[2]  # of the groups
    for title, groups in report.get("test_groups", {}).items():
        _show_groups(console, title, groups, cutoff)


def _show_continued(console: Console, continued: Mapping[str, Any]) -> None:
    items, test = continued["items"], continued["test"]
    before = test["before"] or {}
    changes = ", ".join(f"{name} {before[name]:.4f} -> {value:.4f}" for name, value in test["after"].items() if name in before)
    console.print(
        f"continued: {items['before']:,} items and {items['new']:,} new ones; before and after: {changes or 'no metrics'}"
    )
    if count := continued["unknown_targets"]:
        console.print(f"{count:,} test targets could not be ranked before: new items, or only new ones in the history")


def _show_protocol(console: Console, protocol: Mapping[str, Any]) -> None:
    console.print("protocol: " + ", ".join(f"{name} {value}" for name, value in protocol.items() if value is not None))


def _show_lists(console: Console, names: Iterable[str], report: Mapping[str, Any]) -> None:
    """Show the properties of the lists that the model, the baselines and popularity recommend."""
    model, *_ = names
    parts = {model: report, **_baselines(report), "popularity": report.get("popularity", {})}
    columns = {name: part["lists"] for name, part in parts.items() if "lists" in part}
    if not columns:
        return
    length = next(iter(columns.values()))["length"]
    rows = [
        (name.replace("_", " "), *(_shown(values[name], form) for values in columns.values()))
        for name, form in LIST_PROPERTIES.items()
    ]
    title = f"Beyond accuracy: the first {length} items of each list"
    console.print(table(title, ("property", *(f">{name}" for name in columns)), rows))


def _baselines(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the parts of the baselines, with spaces in their names, where a header can be broken."""
    return {name.replace("-", " "): each for name, each in report.get("baselines", {}).items()}


def _shown(value: float | None, form: str) -> str:
    """Return a property as text; one that is not known, such as the diversity of lists of one item, is NaN or None."""
    return "-" if value is None or math.isnan(value) else form.format(value)


def _show_groups(console: Console, title: str, groups: Sequence[Mapping[str, Any]], cutoff: str) -> None:
    shown_title = {"by_length": "By length of the history", "by_popularity": "By popularity of the target"}[title]
    rows = [(each["name"], f"{each['targets']:,}", f"{each['hit_rate']:.4f}", f"{each['ndcg']:.4f}") for each in groups]
    console.print(table(shown_title, ("group", ">targets", f">hr@{cutoff}", f">ndcg@{cutoff}"), rows))


def show_recommendations(
    console: Console, rows: Sequence[Mapping[str, Any]], history: Sequence[str] = (), title: str = ""
) -> None:
    """Show recommendations next to the last items of the history, the most recent one at the end."""
    has_titles = any(row["title"] for row in rows)
    columns = [">rank", "item", *(["title"] if has_titles else []), ">score"]
    cells = [
        [
            str(row["rank"]),
            printable(row["item"]),
            *([printable(row["title"] or "")] if has_titles else []),
            f"{row['score']:.2f}",
        ]
        for row in rows
    ]
    if history:
        columns = ["history ends with", *columns]
        cells = [[printable(before), *row] for before, row in zip_longest(history, cells, fillvalue="")]  # an empty cell or row
    console.print(table(printable(title), columns, cells))


def show_trials(
    console: Console, trials: Sequence[Mapping[str, Any]], importance: Mapping[str, float], protocol: Mapping[str, Any]
) -> None:
    """Show the trials of a search, best first, their protocol, and the importance of each setting."""
    rows = []
    for trial in trials:
        values = (
            f"{name.partition('.')[2]} {value:.3g}" if type(value) is float else f"{name.partition('.')[2]} {value}"
            for name, value in trial["values"].items()
        )
        learned = trial["ndcg"] is not None
        score = f"{trial['ndcg']:.4f}{' pruned' if trial['pruned'] else ''}" if learned else "failed"
        rows.append((str(trial["number"]), score, str(trial["epochs"]), ", ".join(values)))
    shown = table("Trials: validation NDCG@10, best first", (">trial", ">ndcg@10", ">epochs", "settings"), rows)
    for column in shown.columns[:3]:
        column.no_wrap = True
    console.print(shown)
    _show_protocol(console, protocol)
    if importance:
        shares = (f"{name} {share:.0%}" for name, share in sorted(importance.items(), key=lambda entry: -entry[1]))
        console.print(f"importance: {', '.join(shares)}")
