"""The command line: results on standard output, progress and notes on standard error.

Exit code 0 on success, 2 on the user's mistake with one clear line, 1 on ours, 130 when interrupted.
torch takes seconds to import, so each command imports what it needs when it runs.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ssd4rec import screen
from ssd4rec.errors import ConfigError, DataError, SSD4RecError

if TYPE_CHECKING:
    import polars as pl

    from ssd4rec.config import Config
    from ssd4rec.data.interactions import Columns, Interactions
    from ssd4rec.experiment import Prepared
    from ssd4rec.serving.recommender import Recommendations, Recommender, UnknownItems

DEMO = "movielens-latest-small"
DEMO_USERS = 3
HISTORY_SHOWN = 10

app = typer.Typer(
    help="Sequential recommendation with SSD4Rec: train on a log of who met what when, measure, recommend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at data sets before training.", no_args_is_help=True)
app.add_typer(data_app, name="data")

out_console = Console(highlight=False)
err_console = Console(stderr=True, highlight=False, soft_wrap=True)

DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="A file (CSV, TSV, Parquet, .inter, each also .gz) or a named data set.")
]
DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished model.")]
UserOption = Annotated[str | None, typer.Option("--user", help="Name of the user column, if it is not a usual one.")]
ItemOption = Annotated[str | None, typer.Option("--item", help="Name of the item column.")]
TimeOption = Annotated[str | None, typer.Option("--time", help="Name of the time column.")]
TitlesOption = Annotated[Path | None, typer.Option("--titles", help="A file of item ids and titles.")]
ConfigOption = Annotated[str, typer.Option("--config", help="A preset or a TOML file; `quick` trains in minutes on a laptop.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="GROUP.KEY=VALUE", help="Change a setting; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]


@app.command()
def train(  # noqa: PLR0913 - each is an option of the command
    data: DataArgument,
    *,
    config: ConfigOption = "quick",
    settings: SetOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the finished model.")] = Path("artefacts/model"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training of the same --out.")] = False,
    user: UserOption = None,
    item: ItemOption = None,
    time: TimeOption = None,
    titles: TitlesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train on DATA, measure on each user's last event beside popularity, keep the model in --out."""
    from ssd4rec.config import load_config

    chosen = load_config(config, [*(settings or []), *_columns_as_settings(user, item, time)])
    prepared = _prepare(data, chosen, titles)
    report = _train(prepared, chosen, out, resume=resume)
    if as_json:
        _print_json(report)
        return
    screen.show_figures(out_console, report)
    _say(f"the model lies in {out}; try: ssd4rec recommend {out} --history ID,ID,…")


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", help="Folder of the finished model.")] = Path("artefacts/demo")) -> None:
    """Train on the built-in MovieLens data and show what three users are recommended."""
    from ssd4rec.config import load_config
    from ssd4rec.data.known import find_known
    from ssd4rec.serving.recommender import Recommender

    chosen = load_config("quick")
    _say(f"data: {find_known(DEMO).licence}")
    prepared = _prepare(DEMO, chosen, None)
    report = _train(prepared, chosen, out, resume=False)
    screen.show_figures(out_console, report)
    _show_examples(prepared, Recommender.load(out))
    out_console.print(f"The model lies in {out}. Yours: ssd4rec train FILE --out DIR; ssd4rec recommend DIR --history ID,ID,…")


@app.command()
def evaluate(
    directory: DirArgument,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Data to measure on; none: what training found.")] = None,
    *,
    settings: SetOption = None,
    user: UserOption = None,
    item: ItemOption = None,
    time: TimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how good a finished model is, or measure it again on DATA; --set evaluation.seen=filtered and the like apply."""
    from ssd4rec import experiment
    from ssd4rec.artefact import load_artefact
    from ssd4rec.config import dump_config, parse_config

    artefact = load_artefact(directory)
    if data is None:
        if settings:
            raise ConfigError("--set changes how DATA is measured; give the data too: ssd4rec evaluate DIR DATA --set …")
        report: dict[str, Any] = dict(artefact.report)
    else:
        overrides = [*(settings or []), *_columns_as_settings(user, item, time)]
        chosen = parse_config(dump_config(artefact.config), overrides, source=str(directory))
        interactions, _ = _open(data, chosen, None)
        with screen.progress_bar(err_console) as bar:
            report = experiment.measure_again(artefact, interactions, chosen, progress=_reporter(bar, "ranking"))
        report["artefact"] = str(directory)
        for note in report["notes"]:
            _say(f"note: {note}")
    if as_json:
        _print_json(report)
    else:
        screen.show_figures(out_console, report)


@app.command()
def recommend(  # noqa: PLR0913 - each is an option of the command
    directory: DirArgument,
    *,
    history: Annotated[str | None, typer.Option("--history", metavar="ID,ID,…", help="Item ids, oldest first.")] = None,
    users: Annotated[str | None, typer.Option("--users", metavar="DATA", help="Recommend to every user of a file.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="With --users: the Parquet file to write.")] = None,
    k: Annotated[int | None, typer.Option("-k", help="How many items: 10, with --users 100.")] = None,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Items of the history may come again.")] = False,
    allow: Annotated[str | None, typer.Option("--allow", metavar="ID,ID,…", help="Only these items.")] = None,
    deny: Annotated[str | None, typer.Option("--deny", metavar="ID,ID,…", help="Not these items.")] = None,
    unknown: Annotated[str, typer.Option("--unknown", help="Items the model does not know: skip, raise or popular.")] = "skip",
    user: UserOption = None,
    item: ItemOption = None,
    time: TimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend what comes next after a history, or to every user of a file."""
    if (history is None) == (users is None):
        raise ConfigError("give either --history ID,ID,… or --users DATA --out FILE")
    if users is not None and out is None:
        raise ConfigError("--users writes a file: add --out recommendations.parquet")

    from ssd4rec.serving.recommender import Recommender

    recommender = Recommender.load(directory)
    if users is not None and out is not None:
        if allow is not None or deny is not None:
            raise ConfigError("--allow and --deny go with --history; filter the file that --users writes")
        _recommend_users(recommender, users, out, k or 100, _columns(user, item, time), keep_seen=keep_seen, as_json=as_json)
        return
    ids = _ids(recommender, history or "")
    found = recommender.recommend(
        ids,
        10 if k is None else k,
        exclude_seen=not keep_seen,
        allow=None if allow is None else _ids(recommender, allow),
        deny=None if deny is None else _ids(recommender, deny),
        unknown_items=cast("UnknownItems", unknown),  # recommend says which three there are
    )
    rows = _rows(found)
    if as_json:
        unknown_items = [str(each) for each in found.unknown_items]
        answer = {"recommendations": rows, "unknown_items": unknown_items, "source": found.source, "notes": list(found.notes)}
        _print_json(answer)
        return
    for note in found.notes:
        _say(f"note: {note}")
    screen.show_recommendations(out_console, rows)


@data_app.command("list")
def list_data(*, as_json: JsonOption = False) -> None:
    """Show the data sets that ssd4rec knows by name."""
    from dataclasses import asdict

    from ssd4rec.data.known import KNOWN

    if as_json:
        _print_json({name: asdict(known) for name, known in KNOWN.items()})
        return
    table = Table(title="Named data sets, after the 5-core")
    for column in ("name", "users", "items", "interactions"):
        table.add_column(column, justify="left" if column == "name" else "right", no_wrap=True)
    for name, known in KNOWN.items():
        table.add_row(name, f"{known.kept.users:,}", f"{known.kept.items:,}", f"{known.kept.interactions:,}")
    out_console.print(table)
    for name, known in KNOWN.items():
        out_console.print(
            f"[bold]{name}[/]: {escape(known.title)}. From {escape(known.download)}. Terms: {escape(known.licence)}."
        )


@data_app.command("describe")
def describe_data(
    data: DataArgument,
    *,
    config: ConfigOption = "quick",
    settings: SetOption = None,
    user: UserOption = None,
    item: ItemOption = None,
    time: TimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read DATA and say what is in it, what the k-core drops, and what a pass of training costs."""
    from ssd4rec.config import load_config

    chosen = load_config(config, [*(settings or []), *_columns_as_settings(user, item, time)])
    interactions, titles = _open(data, chosen, None)

    from ssd4rec import experiment

    prepared = experiment.prepare(interactions, titles, chosen)
    description = {**prepared.description, "pass": experiment.describe_pass(prepared, chosen)}
    if as_json:
        _print_json(description)
        return
    screen.show_data(out_console, description)
    cost = description["pass"]
    out_console.print(
        f"a pass has {cost['targets']:,} targets: {cost['one_pass_tokens']:,} tokens with objective one-pass, "
        f"{cost['prefix_tokens']:,} with prefix ({cost['prefix_tokens'] / max(cost['one_pass_tokens'], 1):.0f}x)"
    )
    out_console.print(f"batches of {chosen.training.token_budget:,} tokens are {cost['fill']:.1%} full")


@app.command()
def doctor(*, as_json: JsonOption = False) -> None:
    """Say which versions, devices and kernels are in use, and why."""
    from ssd4rec import experiment

    findings = experiment.diagnose()
    findings["cache"] = str(_cache())
    if as_json:
        _print_json(findings)
        return
    table = Table(show_header=False)
    for name, value in findings.items():
        table.add_row(name, str(value))
    out_console.print(table)


def main() -> None:
    """Entry point: errors that a user can mend are one line and exit code 2."""
    try:
        app(standalone_mode=True)
    except SSD4RecError as error:
        err_console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        err_console.print("interrupted")
        sys.exit(130)


def _prepare(data: str, config: "Config", titles: Path | None) -> "Prepared":
    interactions, item_titles = _open(data, config, titles)  # before torch is imported: a mistake is answered at once

    from ssd4rec import experiment

    prepared = experiment.prepare(interactions, item_titles, config)
    screen.show_data(err_console, prepared.description)
    return prepared


def _train(prepared: "Prepared", config: "Config", out: Path, *, resume: bool) -> dict[str, Any]:
    from ssd4rec import experiment
    from ssd4rec.training.progress import TrainingProgress

    try:
        with screen.progress_bar(err_console) as bar:
            return experiment.train(
                prepared,
                config,
                out,
                resume=resume,
                say=_say,
                callbacks=[TrainingProgress(err_console)],
                progress=_reporter(bar, "ranking"),
            )
    except KeyboardInterrupt:
        _say("interrupted; the same command with --resume goes on from the last checkpoint (one an epoch, one a minute)")
        raise


def _open(data: str, config: "Config", titles: Path | None) -> "tuple[Interactions, pl.DataFrame | None]":
    """A named data set, or a file with the titles beside it."""
    from ssd4rec.data.interactions import read_interactions, read_titles
    from ssd4rec.data.known import KNOWN, open_known

    if data in KNOWN:
        opened = open_known(data, _cache())
        return opened.interactions, opened.titles
    if not Path(data).exists() and not Path(data).suffix:
        raise DataError(f"{data!r} is neither a file nor a named data set; named are {', '.join(KNOWN)}")
    interactions = read_interactions(data, _columns(config.data.user, config.data.item, config.data.time))
    if titles is None and (titles := _titles_beside(Path(data))) is not None:
        _say(f"titles: {titles}")
    return interactions, None if titles is None else read_titles(titles)


def _titles_beside(path: Path) -> Path | None:
    # RecBole keeps NAME.item beside NAME.inter
    stem = path.name.removesuffix(".gz").removesuffix(".inter")
    candidates = [path.with_name(f"{stem}.item"), path.with_name(f"{stem}.item.gz")]
    return next((each for each in candidates if path.name.startswith(f"{stem}.inter") and each.is_file()), None)


def _columns(user: str | None, item: str | None, time: str | None) -> "Columns":
    from ssd4rec.data.interactions import Columns

    return Columns(user=user, item=item, time=time)


def _columns_as_settings(user: str | None, item: str | None, time: str | None) -> list[str]:
    names = {"user": user, "item": item, "time": time}
    return [f"data.{role}={json.dumps(name)}" for role, name in names.items() if name is not None]


def _cache() -> Path:
    from ssd4rec.data.known import cache_folder

    return cache_folder(os.environ)


def _ids(recommender: "Recommender", texts: str) -> list[object]:
    """Ids of the command line in the catalogue's own type; a text that is none of that type stays as it is, and unknown."""
    given = [text for text in texts.split(",") if text]
    parsed = recommender.artefact.catalogue.parse(given)
    return [text if each is None else each for text, each in zip(given, parsed, strict=True)]


def _recommend_users(
    recommender: "Recommender", users: str, out: Path, k: int, columns: "Columns", *, keep_seen: bool, as_json: bool
) -> None:
    from ssd4rec.serving.users import recommend_users

    with screen.progress_bar(err_console) as bar:
        counts = recommend_users(
            recommender, users, out, k=k, columns=columns, exclude_seen=not keep_seen, progress=_reporter(bar, "users")
        )
    if as_json:
        _print_json({**counts, "out": str(out)})
        return
    out_console.print(f"{counts['rows']:,} recommendations to {counts['users']:,} users in {out}")
    if counts["unknown_interactions"]:
        _say(f"note: {counts['unknown_interactions']:,} interactions with items that the model does not know were skipped")
    if counts["popular_users"]:
        _say(f"note: {counts['popular_users']:,} users had no known item and were given the popular ones")


def _show_examples(prepared: "Prepared", recommender: "Recommender") -> None:
    histories, catalogue = prepared.histories, prepared.catalogue
    users = len(histories.users)
    for user in range(0, users, max(users // DEMO_USERS, 1))[:DEMO_USERS]:
        numbers = histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist()
        ids, titles = catalogue.ids_of(numbers).to_list(), catalogue.titles_of(numbers)
        names = [str(title or each) for each, title in zip(ids, titles if titles is not None else ids, strict=True)]
        rows = _rows(recommender.recommend(ids, 10))
        title = f"User {histories.users[user]}, {len(ids)} events"
        screen.show_recommendations(out_console, rows, names[-HISTORY_SHOWN:], title)


def _rows(found: "Recommendations") -> list[dict[str, Any]]:
    return [{"item": each.item, "title": each.title, "score": each.score, "rank": each.rank} for each in found.items]


def _reporter(bar: Any, description: str) -> Callable[[int, int], None]:
    task = bar.add_task(description, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def _say(line: str) -> None:
    err_console.print(escape(line))


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
