"""What the commands share: consoles, options, and opening the data that a person names."""

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ssd4rec._io import as_json
from ssd4rec.cli import _render
from ssd4rec.errors import ConfigError, DataError

if TYPE_CHECKING:
    import polars as pl

    from ssd4rec.config import Config
    from ssd4rec.data.interactions import Columns, Interactions
    from ssd4rec.pipeline import Prepared


# What is printed is mostly not ours: titles, ids, paths. "[red]" and ":heart:" are letters there; a style is a rich Text.
out_console = Console(highlight=False, markup=False, emoji=False)
err_console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A file (CSV, TSV, JSON Lines, Parquet, .inter, each also .gz), a named data set, or the address of a store.",
    ),
]
DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished model.")]
UserOption = Annotated[str | None, typer.Option("--user", help="Name of the user column, if it is not one of the usual names.")]
ItemOption = Annotated[str | None, typer.Option("--item", help="Name of the item column.")]
TimeOption = Annotated[str | None, typer.Option("--time", help="Name of the time column.")]
TitlesOption = Annotated[Path | None, typer.Option("--titles", help="A file with item ids and titles.")]
CONFIG_HELP = "A preset or a TOML file; `quick` trains in minutes on a laptop."
ConfigOption = Annotated[str, typer.Option("--config", help=CONFIG_HELP)]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="GROUP.KEY=VALUE", help="Change a setting; repeatable.")]
AcceleratorOption = Annotated[
    str, typer.Option("--accelerator", metavar="auto|cpu|gpu", help="Where the model runs; auto: on a GPU if there is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]


def prepare(data: str, config: "Config", titles: Path | None) -> "Prepared":
    """Read what a person named, as histories and a split; show what is in it."""
    prepared = open_prepared(data, config, titles)
    _render.show_data(err_console, prepared.description)
    return prepared


def open_prepared(data: str, config: "Config", titles: Path | None) -> "Prepared":
    """Read a file, a named data set or a folder of `data build` as sequences and a split."""
    if (Path(data) / "read.json").is_file():
        from ssd4rec.data.interactions import read_titles
        from ssd4rec.pipeline import prepare_folder

        return prepare_folder(data, None if titles is None else read_titles(titles), config)
    interactions, item_titles = open_data(data, config, titles)  # before torch is imported: a mistake is answered at once

    from ssd4rec import pipeline

    return pipeline.prepare(interactions, item_titles, config)


def open_data(data: str, config: "Config", titles: Path | None) -> "tuple[Interactions, pl.DataFrame | None]":
    """A named data set with its titles, or a file with those beside it; titles that are given take their place."""
    from ssd4rec.data.interactions import read_interactions, read_titles
    from ssd4rec.data.store_source import is_store, read_store
    from ssd4rec.datasets.archives import titles_beside
    from ssd4rec.datasets.registry import is_known, open_known

    if is_store(data):
        interactions, stored_titles = read_store(data)
        return interactions, stored_titles if titles is None else read_titles(titles)
    if is_known(data):
        opened = open_known(data, cache())
        return opened.interactions, opened.titles if titles is None else read_titles(titles)
    refuse_neither(data)
    interactions = read_interactions(data, columns(config.data.user, config.data.item, config.data.time))
    if titles is None and (titles := titles_beside(Path(data))) is not None:
        say(f"titles: {titles}")
    return interactions, None if titles is None else read_titles(titles)


def refuse_neither(data: str) -> None:
    """A word that is no file was meant as the name of a data set.

    Raises:
        DataError: it is no known one.
    """
    from ssd4rec.datasets.registry import KNOWN, is_known

    if not (is_known(data) or Path(data).suffix or _may_be_there(Path(data))):
        raise DataError(f"{data!r} is neither a file nor a named data set; named are {', '.join(KNOWN)}")


def _may_be_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the system does not say; whoever reads it says why
        return True


def columns(user: str | None, item: str | None, time: str | None) -> "Columns":
    """The columns that a person named."""
    from ssd4rec.data.interactions import Columns

    return Columns(user=user, item=item, time=time)


def columns_as_settings(user: str | None, item: str | None, time: str | None) -> list[str]:
    """Named columns as settings, for `load_config`."""
    names = {"user": user, "item": item, "time": time}
    return [f"data.{role}={json.dumps(name)}" for role, name in names.items() if name is not None]


def refuse_columns(data: str, overrides: Sequence[str]) -> None:
    """A person names no columns of a named data set; a TOML file or a RecBole YAML may, it serves files too.

    Raises:
        ConfigError: `overrides` name one.
    """
    from ssd4rec.datasets.registry import is_known

    for override in overrides if is_known(data) else ():
        group, _, role = override.partition("=")[0].strip().partition(".")
        if group == "data" and role in {"user", "item", "time"}:
            raise ConfigError(
                f"{data} is a named data set, its columns are known, but {override} names one; leave out --{role} (or --set "
                f"data.{role}), it is for files"
            )


def cache() -> Path:
    """Where data may be cached."""
    from ssd4rec.datasets.registry import cache_folder

    return cache_folder(os.environ)


def reporter(bar: Any, description: str) -> Callable[[int, int | None], None]:
    """What long work calls with (done, total): a bar that appears with the first call."""
    task = bar.add_task(description, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=True)


class _ConsoleHandler(logging.Handler):
    """Prints log messages as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        err_console.print(f"{prefix}{record.getMessage()}")


def show_log_messages() -> None:
    """Print the package's log messages of level info and above."""
    logger = logging.getLogger("ssd4rec")
    if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(_ConsoleHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def say(line: str) -> None:
    """One line for people, on standard error."""
    err_console.print(line)


def print_json(value: Any) -> None:
    """The one JSON object of --json, on standard output."""
    sys.stdout.write(f"{as_json(value, ensure_ascii=True)}\n")  # whatever the terminal can show
