"""Arguments and options that several commands have."""

import inspect
import json
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from ssd4rec.configs import DEFAULT_PRESET, DENSE_PRESET

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A file (CSV, TSV, JSON Lines, Parquet, .inter, also compressed), a named data set, or the address of a store.",
    ),
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a trained model.")]
Titles = Annotated[Path | None, typer.Option("--titles", help="A file with item ids and titles.")]
Items = Annotated[
    Path | None,
    typer.Option("--items", help="A file of item ids with categories or vectors; it may add items without interactions."),
]
CONFIG_HELP = (
    "A preset or a TOML file: `quick` takes the fewest seconds an epoch; `wide` is more accurate where items have hundreds of "
    "interactions; `ensemble`, four networks side by side, is the most accurate on sparse data."
)
Config = Annotated[str, typer.Option("--config", help=CONFIG_HELP)]
ConfigByData = Annotated[
    str | None, typer.Option("--config", help=CONFIG_HELP, show_default=f"{DEFAULT_PRESET}, or {DENSE_PRESET} by the data")
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="GROUP.KEY=VALUE", help="Change a setting; repeatable.")]
Accelerator = Annotated[
    str, typer.Option("--accelerator", metavar="auto|cpu|gpu", help="Device of the model; auto uses a GPU if there is one.")
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="When the next items are wanted, for a model with backbone.request_time."),
]
LastEvent = Annotated[
    str | None, typer.Option("--last-event", metavar="TIME", help="With --history and --at: when its last event was.")
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]
Store = Annotated[
    str,
    typer.Option("--store", metavar="URL", envvar="SSD4REC_STORE", help="sqlite:///events.db or postgresql://user@host/database"),
]

# The options that say how DATA is read, of all commands that read a file: the setting of the group `data` of each, and its type.
READING: dict[str, Any] = {
    "user": Annotated[str | None, typer.Option("--user", help="Name of the user column, if it is not one of the usual names.")],
    "item": Annotated[str | None, typer.Option("--item", help="Name of the item column.")],
    "time": Annotated[str | None, typer.Option("--time", help="Name of the time column.")],
    "columns": Annotated[
        str | None,
        typer.Option("--columns", metavar="NAME,…", help="Names of the columns of a file without a header; _ skips a column."),
    ],
    "separator": Annotated[
        str | None, typer.Option("--separator", metavar="CHAR", help="Separator of a text file, tab or space; default: detected.")
    ],
    "layout": Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="auto|interactions|sequences",
            help="sequences: one user a line, followed by the items in order of time.",
        ),
    ],
    "where": Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Use only rows that meet an SQL condition, such as \"event = 'purchase'\"."),
    ],
    "min_rating": Annotated[float | None, typer.Option("--min-rating", help="Use only the rows with this rating or more.")],
    "time_format": Annotated[
        str | None, typer.Option("--time-format", metavar="FORMAT", help='Format of text times, such as "%d/%m/%Y %H:%M".')
    ],
    "constant_user": Annotated[
        str | None, typer.Option("--constant-user", metavar="ID", help="User id for a file of one person without a user column.")
    ],
    "drop_missing": Annotated[
        bool, typer.Option("--drop-missing", help="Drop rows whose user or item is missing or a placeholder such as NA.")
    ],
}
COLUMNS = ("user", "item", "time")


def with_reading_options(command: Callable[..., None], names: Collection[str] = READING) -> Callable[..., None]:
    """Add the named options to a command, which receives them as settings in its argument `reading`."""
    options = {name: READING[name] for name in names}
    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "reading"]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "drop_missing" else None, annotation=annotation
        )
        for name, annotation in options.items()
    ]

    @wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> None:
        values = {name: kwargs.pop(name, None) for name in options}
        command(*args, reading=_as_settings(values), **kwargs)

    last = [own.pop()] if own and own[-1].name == "as_json" else []
    with_options.__signature__ = signature.replace(parameters=[*own, *added, *last])  # type: ignore[attr-defined]
    with_options.__annotations__ = {
        **{name: kind for name, kind in command.__annotations__.items() if name != "reading"},
        **options,
    }
    return with_options


def with_column_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add only the options that name columns."""
    return with_reading_options(command, COLUMNS)


def _as_settings(values: dict[str, Any]) -> list[str]:
    if values.get("columns") is not None:
        values["columns"] = [name.strip() for name in values["columns"].split(",")]
    return [f"data.{name}={json.dumps(value)}" for name, value in values.items() if value not in (None, False)]
