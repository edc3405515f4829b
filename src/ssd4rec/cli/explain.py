"""`explain`: why an item is recommended after a history."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.text import Text

from ssd4rec.cli import console, inputs, options
from ssd4rec.cli.recommend import QUOTES, parse_ids
from ssd4rec.errors import DataError

if TYPE_CHECKING:
    from ssd4rec.explain.results import (
        Counterfactual,
        Effects,
        Event,
        Explanation,
        Level,
        Parts,
        Weights,
    )
    from ssd4rec.serving.recommender import Recommendations

UNKNOWN_SHOWN = 5  # of the unknown ids in a note
BAR = 14  # characters of the longest bar
LONGEST_ID, SHORTEST_TITLE = 20, 8  # characters of a cell
EVENT = (">event", "item", "title")  # columns


def explain(  # noqa: PLR0913 - each is an option of the command
    directory: options.Directory,
    *,
    history: Annotated[str, typer.Option("--history", metavar="ID,ID,…", help=f"Item ids, oldest first. {QUOTES}")],
    item: Annotated[
        str | None, typer.Option("--item", metavar="ID,ID,…", help="Items to explain; by default the first recommendation.")
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            "--level",
            metavar="effects|parts|weights|counterfactual",
            help="effects: score and rank without each event. parts: the score as a sum. weights: where the SSD layer looked. "
            "counterfactual: events without which the item is not among the first k.",
        ),
    ] = "effects",
    k: Annotated[int, typer.Option("-k", help="Length of the list that a counterfactual takes the item out of.")] = 10,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Rank items of the history too.")] = False,
    at: options.At = None,
    last_event: options.LastEvent = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Events to show, the strongest; --json has all.")] = 15,
    accelerator: options.Accelerator = "auto",
    as_json: options.Json = False,
) -> None:
    """Explain why an item is recommended after a history."""
    recommender = inputs.load_recommender(directory, accelerator)
    ids = parse_ids(recommender, "--history", history)
    if item is None:
        answer = recommender.recommend(ids, 1, exclude_seen=not keep_seen, at=at, last_event=last_event)
        items = _first(answer)
    else:
        items = parse_ids(recommender, "--item", item)
    if not items:
        raise DataError("--item is empty; write --item ID, or leave it out to explain the first recommendation")
    explanations = recommender.explain(
        ids, items, cast("Level", level), k=k, exclude_seen=not keep_seen, at=at, last_event=last_event
    )
    if as_json:
        console.print_json({"explanations": [each.as_dict() for each in explanations]})
        return
    if unknown := [console.printable(each) for each in explanations[0].unknown_items]:
        more = ", …" if len(unknown) > UNKNOWN_SHOWN else ""
        console.say(f"note: not in the catalog, and not read: {', '.join(unknown[:UNKNOWN_SHOWN])}{more}")
    for explanation in explanations:
        _show(explanation, rows)


def _first(answer: "Recommendations") -> list[object]:
    """Return the first recommendation of the model; for a history without known items there is none to explain."""
    if answer.source == "model" and not answer.items:
        raise DataError("no item is left to recommend after this history; choose one with --item, or add --keep-seen")
    return [each.item for each in answer.items]


def _show(explanation: "Explanation", rows: int) -> None:
    rank = "not a candidate" if explanation.rank is None else f"rank {explanation.rank:,}"
    console.out.print(
        Text.assemble((_name(explanation.item, explanation.title), "bold"), f": score {explanation.score:.4f}, {rank}")
    )
    show = {"parts": _show_parts, "weights": _show_weights, "effects": _show_effects, "counterfactual": _show_counterfactual}
    show[explanation.level](explanation, rows)  # type: ignore[operator]  # each takes the explanation of its level
    console.out.print()


def _show_parts(parts: "Parts", rows: int) -> None:
    del rows  # there are three
    scores = {"model": parts.model, "co-occurrence": parts.co_occurrence, "repeat bias": parts.repeat_bias}
    lines = [(name, f"{score:+.4f}", bar) for (name, score), bar in zip(scores.items(), _bars(scores.values()), strict=True)]
    _print("", ["part", ">score", "bar"], [*lines, ("sum", f"{parts.score:+.4f}", "")])


def _show_effects(effects: "Effects", rows: int) -> None:
    events = sorted(effects.events, key=lambda event: -abs(event.score_change or 0.0))[:rows]
    lines = []
    for event, bar in zip(events, _bars(event.score_change or 0.0 for event in events), strict=True):
        score = "none left" if event.score_change is None else f"{event.score_change:+.4f}"
        lines.append((*_event(event), score, "" if event.rank_change is None else f"{event.rank_change:+,d}", bar))
    _print("Change without the event", [*EVENT, ">score", ">rank", "bar"], lines)
    method = {"one-pass": "all events from one reading", "re-reading": "by re-reading every shortened history"}[effects.method]
    shown = f"{len(events):,} of {len(effects.events) + effects.omitted:,} events"
    omitted = f"; the oldest {effects.omitted:,} were not left out" if effects.omitted else ""
    console.out.print(f"{shown}, strongest first; exact, {method}{omitted}")


def _show_weights(weights: "Weights", rows: int) -> None:
    events = sorted(weights.events, key=lambda event: -max(event.forward_share, event.backward_share))[:rows]
    bars = _bars(event.forward_share for event in events)
    lines = [
        (*_event(event), f"{event.forward_share:.1%}", f"{event.backward_share:.1%}", bar)
        for event, bar in zip(events, bars, strict=True)
    ]
    _print("Where the layer looked", [*EVENT, ">forward", ">backward", "bar"], lines)
    console.out.print(f"{len(events):,} of {len(weights.events):,} events; the same for every item: weights are not reasons")


def _show_counterfactual(counterfactual: "Counterfactual", rows: int) -> None:
    del rows  # all are shown
    if not counterfactual.success:
        console.out.print(f"no counterfactual: {counterfactual.note}")
        return
    _print("Without these events together", EVENT, [_event(event) for event in counterfactual.removed])
    console.out.print(
        f"the score is {counterfactual.score_without:.4f} and the rank {counterfactual.rank_without:,}, verified by re-reading; "
        f"every one of them is needed, but a smaller set may exist"
    )


def _event(event: "Event") -> tuple[str, str, str]:
    return str(event.position + 1), console.printable(event.item), console.printable(event.title or "")


def _print(title: str, columns: Sequence[str], lines: Sequence[Sequence[str | Text]]) -> None:
    """Print a table without a column of empty titles; ">name" is a column on the right.

    Titles and ids are shortened to the width of the screen.
    """
    cells = [[each if isinstance(each, Text) else Text(each) for each in line] for line in lines]
    if "title" in columns and not any(line[columns.index("title")] for line in cells):
        place = columns.index("title")
        columns, cells = [*columns[:place], *columns[place + 1 :]], [[*line[:place], *line[place + 1 :]] for line in cells]
    names = [column.removeprefix(">") for column in columns]
    for name, longest in (("item", LONGEST_ID), ("title", None)):
        if name in names:
            place = names.index(name)
            others = [max([len(names[at]), *(line[at].cell_len for line in cells)]) for at in range(len(names)) if at != place]
            width = longest or max(SHORTEST_TITLE, console.out.width - sum(others) - 3 * len(names) - 1)
            for line in cells:
                line[place].truncate(width, overflow="ellipsis")
    table = console.table(title, ("" if column == "bar" else column for column in columns), cells)
    table.title_justify = "left"
    for column in table.columns:
        column.no_wrap = True
    console.out.print(table)


def _bars(values: Iterable[float]) -> list[Text]:
    """Return a bar for each value, the longest for the largest one; green where positive, red where negative."""
    numbers = list(values)
    longest = max(map(abs, numbers), default=0.0) or 1.0
    block = "█" if console.out.encoding.lower().startswith("utf") else "#"
    return [Text(block * round(BAR * abs(each) / longest), style="green" if each > 0 else "red") for each in numbers]


def _name(item: object, title: str | None) -> str:
    return console.printable(item) if title is None else f"{console.printable(title)} ({console.printable(item)})"
