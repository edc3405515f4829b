"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

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
CONFIG_HELP = "A preset or a TOML file: `quick` takes the fewest seconds an epoch, `ensemble` is best on sparse data."
Config = Annotated[str, typer.Option("--config", help=CONFIG_HELP)]
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
