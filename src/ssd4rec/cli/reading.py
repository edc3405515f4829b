"""The options of the command line that say how DATA is read, shared by all commands that read a file."""

import inspect
import json
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

# For each option the setting of the `data` group, and its type with the help text.
OPTIONS: dict[str, Any] = {
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
READING = frozenset({"user", "item", "time", *OPTIONS})


def with_reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which receives them as settings in its argument `reading`."""
    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "reading"]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "drop_missing" else None, annotation=annotation
        )
        for name, annotation in OPTIONS.items()
    ]

    @wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> None:
        values = {name: kwargs.pop(name, None) for name in OPTIONS}
        command(*args, reading=_as_settings(values), **kwargs)

    last = [own.pop()] if own and own[-1].name == "as_json" else []
    with_options.__signature__ = signature.replace(parameters=[*own, *added, *last])  # type: ignore[attr-defined]
    with_options.__annotations__ = {
        **{name: kind for name, kind in command.__annotations__.items() if name != "reading"},
        **OPTIONS,
    }
    return with_options


def _as_settings(values: dict[str, Any]) -> list[str]:
    if values.get("columns") is not None:
        values["columns"] = [name.strip() for name in values["columns"].split(",")]
    return [f"data.{name}={json.dumps(value)}" for name, value in values.items() if value not in (None, False)]
