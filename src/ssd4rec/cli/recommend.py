"""`recommend`: the next items for one history, or for every user of a file."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ssd4rec.cli import _render, console, inputs, options
from ssd4rec.errors import ConfigError

if TYPE_CHECKING:
    from ssd4rec.config import Config
    from ssd4rec.serving.parts import Coverage, Job
    from ssd4rec.serving.recommender import Recommender, UnknownItems

MISSING_SHOWN = 5
QUOTES = "Put an id that contains a comma in quotes: '7,\"a, b\"'."


@options.with_reading_options
def recommend(  # noqa: PLR0912, PLR0913 - each is an option of the command
    directory: options.Directory,
    *,
    history: Annotated[str | None, typer.Option("--history", metavar="ID,ID,…", help=f"Item ids, oldest first. {QUOTES}")] = None,
    users: Annotated[
        str | None, typer.Option("--users", metavar="DATA", help="Recommend to every user of a file or named data set.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --users: a file (.parquet, .csv or .tsv), or a folder for parts.")
    ] = None,
    shard: Annotated[str | None, typer.Option("--shard", metavar="i/n", help="Write part i of n of a folder, e.g. 2/8.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", metavar="ray", help="Write the folder on a Ray cluster.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="With --engine: how many; one for each CPU by default.")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="Number of items; 10 by default, 100 with --users.")] = None,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Allow items already in the history.")] = False,
    allow: Annotated[str | None, typer.Option("--allow", metavar="ID,ID,…", help=f"Recommend only these items. {QUOTES}")] = None,
    deny: Annotated[str | None, typer.Option("--deny", metavar="ID,ID,…", help=f"Do not recommend these items. {QUOTES}")] = None,
    unknown: Annotated[
        str,
        typer.Option(
            "--unknown",
            metavar="skip|raise|popular",
            help="Skip items the model does not know, raise an error, or recommend popular items instead.",
        ),
    ] = "skip",
    approximate: Annotated[
        bool, typer.Option("--approximate", help="With --users and a folder: find items with an index (faiss), not all scores.")
    ] = False,
    at: options.At = None,
    last_event: options.LastEvent = None,
    accelerator: options.Accelerator = "auto",
    reading: list[str],
    as_json: options.Json = False,
) -> None:
    """Recommend the next items for one history, or for every user of a file."""
    if (history is None) == (users is None):
        raise ConfigError("pass either --history ID,ID,… or --users DATA --out FILE")
    if users is not None and out is None:
        raise ConfigError("--users needs a file to write; add --out recommendations.parquet")
    if users is not None and (allow is not None or deny is not None):
        raise ConfigError("--allow and --deny work with --history only; with --users, filter the written file")
    if history is not None and out is not None:
        raise ConfigError(f"--out {out} works with --users only; --history prints its result: remove --out")
    if history is not None and reading:
        raise ConfigError("--user, --item, --time and other reading options are for --users; remove them with --history")
    if users is not None and last_event is not None:
        raise ConfigError("--last-event works with --history only; with --users the data have the times of the last events")
    if users is not None:
        from ssd4rec.datasets.sources import check_name

        check_name(users)
        inputs.check_columns(users, reading)
    elif (shard, engine, workers) != (None, None, None):
        raise ConfigError("--shard, --engine and --workers need --users DATA --out FOLDER")

    from ssd4rec.config import dump_config, parse_config

    if users is not None and out is not None and (shard is not None or engine is not None or not out.suffix):
        from ssd4rec.data.columns import ReadOptions, columns_of, options_of
        from ssd4rec.diagnostics import resolve_device
        from ssd4rec.serving.arrow import BatchOptions, Retrieval
        from ssd4rec.serving.parts import make_job

        columns_only = parse_config("", reading).data
        if options_of(columns_only) != ReadOptions():
            raise ConfigError("only --user, --item and --time apply to a folder of parts; leave out the other reading options")
        retrieval: Retrieval = "approximate" if approximate else "exact"
        options = BatchOptions(100 if k is None else k, not keep_seen, cast("UnknownItems", unknown), retrieval, at)
        device, columns = resolve_device(accelerator), columns_of(columns_only)
        job = make_job(directory, _as_path(users), out, options, columns=columns, device=device)
        _recommend_in_parts(job, shard=shard, engine=engine, workers=workers, as_json=as_json)
        return

    if approximate:
        raise ConfigError("--approximate needs --users DATA and --out FOLDER (from Python: Recommender.approximate)")

    recommender = inputs.load_recommender(directory, accelerator)
    unknown_items = cast("UnknownItems", unknown)  # validated by the recommender
    if users is not None and out is not None:
        config = parse_config(dump_config(recommender.artifact.config), reading, source=str(directory))
        number = 100 if k is None else k
        choices = {"k": number, "exclude_seen": not keep_seen, "unknown_items": unknown_items, "at": at}
        _recommend_users(recommender, users, out, config, choices, as_json=as_json)
        return
    ids = parse_ids(recommender, "--history", history or "")
    results = recommender.recommend(
        ids,
        10 if k is None else k,
        exclude_seen=not keep_seen,
        allow=None if allow is None else parse_ids(recommender, "--allow", allow),
        deny=None if deny is None else parse_ids(recommender, "--deny", deny),
        unknown_items=unknown_items,
        at=at,
        last_event=last_event,
    )
    rows = [asdict(each) for each in results.items]
    if as_json:
        not_known = [str(each) for each in results.unknown_items]
        console.print_json(
            {"recommendations": rows, "unknown_items": not_known, "source": results.source, "warnings": list(results.warnings)}
        )
        return
    for note in results.warnings:
        console.say(f"warning: {note}")
    _render.show_recommendations(console.out, rows)


def _recommend_in_parts(job: "Job", *, shard: str | None, engine: str | None, workers: int | None, as_json: bool) -> None:
    """Run a batch job, or a shard of it; parts that are complete are skipped."""
    from ssd4rec.serving.parts import Shard

    if engine not in (None, "ray"):
        raise ConfigError(f"--engine is ray; found {engine!r} (for Spark see the guide on batch recommendations)")
    if engine is not None and shard is not None:
        raise ConfigError("--engine splits the job by itself; leave out --shard")
    if engine is None and workers is not None:
        raise ConfigError("--workers needs --engine; without an engine run several processes with --shard i/n")
    own = Shard() if shard is None else Shard.parse(shard)
    if engine == "ray":
        from ssd4rec.serving.ray_engine import recommend_on_ray

        coverage = recommend_on_ray(job, workers)
    else:
        with console.progress_bar() as bar:
            coverage = job.open().run(own, console.reporter(bar, "parts"))
    _show_coverage(coverage, job.out, as_json=as_json)


def _show_coverage(coverage: "Coverage", out: str, *, as_json: bool) -> None:
    complete = coverage.parts - len(coverage.missing)
    if as_json:
        console.print_json({"out": out, **asdict(coverage)})
        return
    console.out.print(
        f"{complete} of {coverage.parts} parts complete: {coverage.rows:,} recommendations to {coverage.users:,} users"
    )
    if coverage.missing:
        shown = ", ".join(map(str, coverage.missing[:MISSING_SHOWN])) + (
            ", …" if complete + MISSING_SHOWN < coverage.parts else ""
        )
        console.say(f"missing parts: {shown}; run the shards that write them, or the command without --shard")
    if coverage.unknown_interactions:
        console.say(
            f"warning: {coverage.unknown_interactions:,} interactions with items that the model does not know were skipped"
        )
    if coverage.popular_users:
        console.say(f"warning: {coverage.popular_users:,} users had no known item and got popular items")


def _as_path(users: str) -> str:
    """Return the file of interactions; that of a named data set is in the cache."""
    from ssd4rec.datasets.registry import find_dataset, folder_of, is_named_dataset, open_dataset
    from ssd4rec.datasets.store import INTERACTIONS

    if not is_named_dataset(users):
        return users
    open_dataset(users, inputs.cache())
    return str(folder_of(find_dataset(users), inputs.cache()) / INTERACTIONS)


def parse_ids(recommender: "Recommender", option: str, texts: str) -> list[object]:
    """Convert ids to the type of the catalog; text that cannot be converted stays text, and is therefore unknown."""
    try:
        # 7, "a, b",8 -> 7 and a, b and 8
        entries = [text for text in next(csv.reader([texts], skipinitialspace=True, strict=True)) if text]
    except csv.Error as error:
        raise ConfigError(
            f"{option} {texts!r} is not a list of ids ({error}); write ID,ID,… and quote an id that contains a comma or starts "
            f'with a quote, with its own quotes doubled: 7,"a, b"'
        ) from error
    parsed = recommender.artifact.catalog.parse(entries)
    return [text if each is None else each for text, each in zip(entries, parsed, strict=True)]


def _recommend_users(
    recommender: "Recommender", users: str, out: Path, config: "Config", choices: dict[str, Any], *, as_json: bool
) -> None:
    from ssd4rec.data.columns import columns_of, options_of
    from ssd4rec.datasets.registry import is_named_dataset, open_dataset
    from ssd4rec.serving.batch import recommend_users

    source = open_dataset(users, inputs.cache()).interactions if is_named_dataset(users) else users
    with console.progress_bar() as bar:
        counts = recommend_users(
            recommender,
            source,
            out,
            columns=columns_of(config.data),
            options=options_of(config.data),
            progress=console.reporter(bar, "users"),
            **choices,
        )
    if as_json:
        console.print_json({**counts, "out": str(out)})
        return
    console.out.print(f"{counts['rows']:,} recommendations to {counts['users']:,} users in {out}")
    if counts["unknown_interactions"]:
        console.say(f"warning: interactions with items that the model does not know, skipped: {counts['unknown_interactions']:,}")
    if counts["popular_users"]:
        why = "an unknown item or none at all" if choices["unknown_items"] == "popular" else "no known item"
        who = "1 user" if counts["popular_users"] == 1 else f"{counts['popular_users']:,} users"
        console.say(f"warning: {who} had {why} and got popular items")
