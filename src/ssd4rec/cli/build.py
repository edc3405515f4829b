"""`data build`: a folder of sequences from more interactions than memory holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd4rec.cli import console, options
from ssd4rec.cli.reading import with_column_options
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.errors import ConfigError

if TYPE_CHECKING:
    from ssd4rec.data.out_of_core.build import BuildReport

STAGES = {"reading": "1 of 4", "counting": "2 of 4", "partitioning": "3 of 4", "sorting": "4 of 4"}


@with_column_options
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
    from dataclasses import asdict

    from ssd4rec.data.out_of_core.memory import check_address_limit, parse_size, reserve_little

    limit = parse_size(memory)
    reserve_little()
    from ssd4rec.config import load_data_config

    run_config = load_data_config(config, [*(settings or []), *reading])

    from ssd4rec.data.options import ReadOptions, columns_of, options_of
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
    _show(report, out)


def _show(report: "BuildReport", out: Path) -> None:
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
