"""`data list|fetch|describe|build`: data sets before training."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ssd4rec.cli import _render, console, inputs, options
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ssd4rec.config import Config
    from ssd4rec.data.interactions import Interactions
    from ssd4rec.data.out_of_core.build import BuildReport
    from ssd4rec.pipeline import Prepared

FIRST_ROWS = 5
STAGES = {"reading": "1 of 4", "counting": "2 of 4", "partitioning": "3 of 4", "sorting": "4 of 4"}


def list_data(*, as_json: options.Json = False) -> None:
    """Show the data sets that ssd4rec knows by name, and which of them are on this machine."""
    from ssd4rec.datasets.packages import PACKAGES
    from ssd4rec.datasets.registry import DATASETS, folder_of, where
    from ssd4rec.datasets.store import is_stored, is_whole

    folders = {name: folder_of(dataset, inputs.cache()) for name, dataset in DATASETS.items()}
    fetched = {name: is_whole(folder) for name, folder in folders.items()}
    if as_json:
        console.print_json({name: {**asdict(dataset), "fetched": fetched[name]} for name, dataset in DATASETS.items()})
        return
    damaged = [name for name in DATASETS if is_stored(folders[name]) and not fetched[name]]
    rows = []
    for name, dataset in DATASETS.items():
        here = "yes" if fetched[name] else "in a package" if name in PACKAGES else "damaged" if name in damaged else "no"
        rows.append((name, f"{dataset.kept.users:,}", f"{dataset.kept.items:,}", f"{dataset.kept.interactions:,}", here))
    table = console.table("Named data sets, after the 5-core", ("name", ">users", ">items", ">interactions", "here"), rows)
    for column in table.columns:
        column.no_wrap = True
    console.out.print(table)
    for name, dataset in DATASETS.items():
        line = Text.assemble((name, "bold"), f": {dataset.title}. From {where(dataset)}. Terms: {dataset.license}.")
        console.out.print(line, soft_wrap=True)
    for name in damaged:
        console.out.print(f"{name} in {folders[name]} is damaged; next: ssd4rec data fetch {name}", soft_wrap=True)


def fetch_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A named data set; `ssd4rec data list` shows them.")],
    *,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="A local file, or another URL of it, instead of the publisher's download."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Fetch a named data set from its publisher or from a local file, and check that it is the right one."""
    from ssd4rec.datasets.fetch import fetch
    from ssd4rec.datasets.registry import find_dataset

    dataset = find_dataset(name)
    console.say(f"terms of {dataset.name}: {dataset.license}")
    with console.progress_bar(of_bytes=True) as bar:
        fetched = fetch(dataset, inputs.cache(), source, lambda file: console.reporter(bar, file))
    if as_json:
        console.print_json(asdict(fetched))
        return
    for note in fetched.notes:
        console.say(f"warning: {note}")
    if fetched.was_there:
        console.say(f"already on this machine; remove {fetched.folder} to fetch it again, or give a file with --from")
    raw, core = fetched.raw, fetched.kept
    console.out.print(
        f"{dataset.name}: {raw.users:,} users, {raw.items:,} items, {raw.interactions:,} interactions; after the 5-core "
        f"{core.users:,}, {core.items:,}, {core.interactions:,}, as published; {fetched.titles:,} titles",
        soft_wrap=True,
    )
    console.out.print(f"from {fetched.source}; checked: {fetched.checked}; in {fetched.folder}", soft_wrap=True)
    console.out.print(f"next: ssd4rec train {dataset.name}")


@options.with_reading_options
def describe_data(
    data: options.Data,
    *,
    config: options.Config = DEFAULT_PRESET,
    settings: options.Settings = None,
    reading: list[str],
    as_json: options.Json = False,
) -> None:
    """Show how DATA is read: columns, times, duplicates, dropped rows, and the cost of one pass of training."""
    from ssd4rec.config import load_config
    from ssd4rec.data.sequences import build_sequences
    from ssd4rec.data.split import make_split
    from ssd4rec.data.summary import describe, describe_split
    from ssd4rec.datasets.sources import open_source

    overrides = [*(settings or []), *reading]
    run_config = load_config(config, overrides)
    inputs.check_columns(data, overrides)
    if inputs.is_sequence_folder(Path(data)):
        prepared = inputs.open_prepared(data, run_config, None)
        if not as_json:
            _render.show_data(console.out, {**prepared.description, "split": {}})
        _show_costs(prepared, dict(prepared.description), run_config, as_json=as_json)
        return
    interactions, _ = open_source(data, run_config.data)
    first_rows = _first_rows(interactions)
    if not as_json:
        _render.show_reading(console.out, asdict(interactions.read) | {"time": interactions.read.time}, first_rows)
        for note in interactions.read.notes:
            console.out.print(f"note: {note}")
    sequences, catalog = build_sequences(interactions, run_config.data.min_interactions, tie_order=run_config.data.tie_order)
    description: dict[str, Any] = {
        **describe(interactions.read, sequences),
        "first_rows": first_rows,
        "duplicates": sequences.duplicates,
        "repeated": sequences.repeated,
    }
    if not as_json:
        _render.show_data(console.out, _without(description, interactions.read.notes))
    try:
        split = make_split(sequences, run_config.data)
    except DataError as error:
        if as_json:
            console.print_json({**description, "split": {"error": str(error)}})
        raise
    description["split"] = describe_split(sequences, split, len(catalog))

    from ssd4rec.pipeline import Prepared

    _show_costs(Prepared(sequences, catalog, split, description), description, run_config, as_json=as_json)


def _show_costs(prepared: "Prepared", description: dict[str, Any], run_config: "Config", *, as_json: bool) -> None:
    """Show the notes on the split, and the cost of one pass of training."""
    from ssd4rec import pipeline

    description["pass"] = pipeline.describe_pass(prepared, run_config)
    if as_json:
        console.print_json(description)
        return
    for note in description["split"]["notes"]:
        console.out.print(f"note: {note}")
    cost = description["pass"]
    console.out.print(
        f"a pass has {cost['targets']:,} targets: {cost['all_positions_tokens']:,} tokens with the objective all-positions, "
        f"{cost['per_prefix_tokens']:,} with per-prefix ({cost['per_prefix_tokens'] / max(cost['all_positions_tokens'], 1):.0f}x)"
    )
    console.out.print(f"batches of {run_config.training.token_budget:,} tokens are {cost['fill']:.1%} full")


def _first_rows(interactions: "Interactions") -> list[dict[str, str]]:
    from ssd4rec.data.timestamps import FILE_ORDER, show_moment

    clock = interactions.read.clock
    return [
        {
            "user": str(row["user"]),
            "item": str(row["item"]),
            "time": f"row {row['time'] + 1}" if clock.kind == FILE_ORDER else show_moment(clock, row["time"]),
        }
        for row in interactions.table.head(FIRST_ROWS).iter_rows(named=True)
    ]


def _without(description: dict[str, Any], shown: tuple[str, ...]) -> dict[str, Any]:
    """Leave out the notes that were shown before."""
    source = description["read"]
    notes = [note for note in source["notes"] if note not in shown]
    return {**description, "read": {**source, "notes": notes, "filters": []}}


@options.with_column_options
def build_data(
    files: Annotated[list[str], typer.Argument(metavar="FILES…", help="Parquet or CSV files, folders of them, or URLs.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to make; `ssd4rec train` reads it.")],
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory limit, e.g. 500MB or 2GB.")] = "2GB",
    config: options.Config = DEFAULT_PRESET,
    settings: options.Settings = None,
    reading: list[str],
    as_json: options.Json = False,
) -> None:
    """Build sequences from FILES within a memory limit; a killed build resumes when the same command is run again."""
    from ssd4rec.data.out_of_core.memory import check_address_limit, parse_size, reserve_little

    limit = parse_size(memory)
    reserve_little()
    from ssd4rec.config import load_data_config

    run_config = load_data_config(config, [*(settings or []), *reading])

    from ssd4rec.data.columns import ReadOptions, columns_of, options_of
    from ssd4rec.data.out_of_core.build import build_folder

    check_address_limit()
    if options_of(run_config) != ReadOptions():
        raise ConfigError(
            "data build reads whole CSV and Parquet files with a header; leave out data.where and the other reading settings, or "
            "filter the files first"
        )
    try:
        with console.progress_bar() as bar:
            tasks = {stage: bar.add_task(f"{stage} ({place})", total=None, visible=False) for stage, place in STAGES.items()}
            report = build_folder(
                files,
                out,
                memory=limit,
                columns=columns_of(run_config),
                min_interactions=run_config.min_interactions,
                tie_order=run_config.tie_order,
                progress=lambda stage, done, total: bar.update(tasks[stage], completed=done, total=total, visible=True),
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes the build") from None
    if as_json:
        console.print_json({**asdict(report), "out": str(out)})
        return
    _show_build(report, out)


def _show_build(report: "BuildReport", out: Path) -> None:
    for note in report.read.notes:
        console.say(f"warning: {note}")
    if report.resumed:
        console.say("resumed a build that was interrupted")
    source, retained = report.read, report.kept
    console.out.print(
        f"read {source.rows:,} interactions of {source.users:,} users and {source.items:,} items from {source.source}"
    )
    console.out.print(
        f"kept {retained.interactions:,} interactions of {retained.users:,} users and {retained.items:,} items "
        f"({report.filtering.k}-core, {report.filtering.rounds} rounds)"
    )
    seconds = ", ".join(f"{stage} {each:.1f} s" for stage, each in report.seconds.items())
    console.out.print(f"{seconds}; {report.partitions} partitions; peak memory {report.peak_bytes / 10**6:,.0f} MB")
    console.out.print(f"next: ssd4rec train {out}")
