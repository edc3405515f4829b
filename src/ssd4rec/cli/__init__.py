"""The command line: results on standard output, progress and notes on standard error.

Exit code 0 on success, 2 on the user's mistake with one clear line, 1 on ours, 130 when interrupted.
torch takes seconds to import, so each command imports what it needs when it runs.
"""

import io
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.text import Text

from ssd4rec.cli.data import describe_data, fetch_data, list_data
from ssd4rec.cli.doctor import doctor
from ssd4rec.cli.evaluate import evaluate
from ssd4rec.cli.recommend import recommend
from ssd4rec.cli.reproduce import reproduce
from ssd4rec.cli.shared import err_console
from ssd4rec.cli.train import demo, train
from ssd4rec.cli.tune import tune
from ssd4rec.errors import SSD4RecError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="List, fetch and inspect data sets.", no_args_is_help=True)
data_app.command("list")(list_data)
data_app.command("fetch")(fetch_data)
data_app.command("describe")(describe_data)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        typer.echo(metadata.version("ssd4rec"))
        raise typer.Exit


@app.callback()
def _about(
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Sequential recommendation with SSD4Rec: train on a log of who met what when, measure, recommend."""
    del version  # shown by then


app.command()(train)
app.command()(demo)
app.command()(evaluate)
app.command()(recommend)
app.add_typer(data_app, name="data")
app.command()(tune)
app.command()(reproduce)
app.command()(doctor)


def main() -> None:
    """Entry point: errors that a user can mend are one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a title that the terminal has no letters for is shown as ????
    try:
        app(standalone_mode=True)
    except SSD4RecError as error:
        err_console.print(Text.assemble(("error:", "bold red"), f" {error}"))
        sys.exit(2)
    except KeyboardInterrupt:
        err_console.print("interrupted")
        sys.exit(130)
