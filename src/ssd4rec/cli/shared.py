"""Shared parts of the commands: consoles, options, and reading the input data."""

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
from ssd4rec.cli.reading import OPTIONS
from ssd4rec.errors import ConfigError

if TYPE_CHECKING:
    from ssd4rec.config import Config
    from ssd4rec.data.catalog import Catalog
    from ssd4rec.pipeline import Prepared


# Titles, ids and paths are printed literally: no markup, no emoji codes. Styled text is passed as rich.text.Text.
out_console = Console(highlight=False, markup=False, emoji=False)
err_console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A file (CSV, TSV, JSON Lines, Parquet, .inter, also compressed), a named data set, or the address of a store.",
    ),
]
DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a trained model.")]
TitlesOption = Annotated[Path | None, typer.Option("--titles", help="A file with item ids and titles.")]
ItemsOption = Annotated[
    Path | None,
    typer.Option("--items", help="A file of item ids with categories or vectors; it may add items without interactions."),
]
CONFIG_HELP = "A preset or a TOML file; `quick` takes the fewest seconds an epoch."
ConfigOption = Annotated[str, typer.Option("--config", help=CONFIG_HELP)]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="GROUP.KEY=VALUE", help="Change a setting; repeatable.")]
AcceleratorOption = Annotated[
    str, typer.Option("--accelerator", metavar="auto|cpu|gpu", help="Device of the model; auto uses a GPU if there is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]


def prepare(data: str, config: "Config", titles: Path | None, base: "Catalog | None" = None) -> "Prepared":
    """Read the input as sequences and a split, and print a summary."""
    prepared = open_prepared(data, config, titles, base)
    _render.show_data(err_console, prepared.description)
    return prepared


def add_features(prepared: "Prepared", items: Path, config: "Config") -> "Prepared":
    """Add item features from a file to prepared data, and print a summary."""
    from ssd4rec import pipeline

    prepared = pipeline.add_features(prepared, items, config)
    about = prepared.description["features"]
    columns = ", ".join(f"{name} ({kind})" for name, kind in about["columns"].items())
    say(f"item features: {columns}; {about['categories']:,} categories, {about['new_items']:,} new items")
    return prepared


def open_prepared(data: str, config: "Config", titles: Path | None, base: "Catalog | None" = None) -> "Prepared":
    """Read a file, a named data set or a folder of `data build` as sequences and a split; `base` as in `pipeline.prepare`."""
    if is_sequence_folder(Path(data)):
        if base is not None:
            raise ConfigError(f"--from needs interactions, but {data} contains sequences with indices of its own; pass the files")
        from ssd4rec.data.interactions import read_titles
        from ssd4rec.pipeline import prepare_folder

        return prepare_folder(data, None if titles is None else read_titles(titles), config)
    from ssd4rec.datasets.sources import open_source

    interactions, item_titles = open_source(data, config.data, titles)  # before torch is imported, so that errors appear at once

    from ssd4rec import pipeline

    return pipeline.prepare(interactions, item_titles, config, base)


def is_sequence_folder(path: Path) -> bool:
    """Whether a path is a folder that `data build` wrote."""
    try:
        return (path / "read.json").is_file()
    except (OSError, ValueError):  # not a valid path; reading it will give the reason
        return False


def check_columns(data: str, overrides: Sequence[str]) -> None:
    """Reject reading options for a named data set, whose format is known; a TOML or RecBole file may contain them.

    Raises:
        ConfigError: an override is a reading option.
    """
    from ssd4rec.datasets.registry import is_named_dataset

    for override in overrides if is_named_dataset(data) else ():
        group, _, role = override.partition("=")[0].strip().partition(".")
        if group == "data" and role in OPTIONS:
            raise ConfigError(
                f"{override} is for files, but {data} is a named data set, whose format is known; remove "
                f"--{role.replace('_', '-')} (or --set data.{role})"
            )


def cache() -> Path:
    """Return the folder in which data sets are cached."""
    from ssd4rec.datasets.registry import cache_folder

    return cache_folder(os.environ)


def reporter(bar: Any, description: str) -> Callable[[int, int | None], None]:
    """Return a progress callback (done, total); the bar appears with the first call."""
    task = bar.add_task(description, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=True)


class _ConsoleHandler(logging.Handler):
    """Print log messages as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        say(f"{prefix}{record.getMessage()}")


def show_log_messages() -> None:
    """Print the package's log messages of level info and above."""
    logger = logging.getLogger("ssd4rec")
    if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(_ConsoleHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def say(line: str) -> None:
    """Print one line on standard error."""
    err_console.print(_render.printable(line))


def print_json(value: Any) -> None:
    """Print the JSON object of --json on standard output."""
    if not out_console.quiet:  # of several processes, the first one prints
        sys.stdout.write(f"{as_json(value, ensure_ascii=True)}\n")  # independent of the encoding of the terminal
