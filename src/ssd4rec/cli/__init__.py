"""The command line: results on standard output, progress and warnings on standard error.

Exit codes: 0 success, 1 internal error, 2 invalid input (one clear line), 130 interrupted, 143 terminated.
Importing torch takes seconds, so each command imports what it needs when it runs.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text
from typer.core import TyperGroup

from ssd4rec.cli import console
from ssd4rec.cli.data import build_data, describe_data, fetch_data, list_data
from ssd4rec.cli.doctor import doctor
from ssd4rec.cli.evaluate import evaluate
from ssd4rec.cli.explain import explain
from ssd4rec.cli.export import add_items, export
from ssd4rec.cli.recommend import recommend
from ssd4rec.cli.reproduce import reproduce
from ssd4rec.cli.service import activate_model, create_key, import_events, list_keys, list_models, revoke_key, serve
from ssd4rec.cli.train import demo, train
from ssd4rec.cli.tune import tune
from ssd4rec.errors import SSD4RecError


class _InterruptionError(Exception):
    """Ctrl-C, with the message of the command."""


class _Commands(TyperGroup):
    """Pass Ctrl-C on to `main`; Typer would end the command without a message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptionError(*error.args) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(requested: bool) -> None:  # noqa: FBT001 - a callback of Typer
    if requested:
        from importlib import metadata

        typer.echo(metadata.version("ssd4rec"))
        raise typer.Exit


@app.callback()
def _about(
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Sequential recommendation from user-item interaction logs: train, evaluate, recommend, serve."""
    del version  # handled by the callback
    console.show_log_messages()


def _add_group(name: str, about: str, commands: dict[str, Callable[..., None]]) -> None:
    group = typer.Typer(help=about, no_args_is_help=True)
    for each, command in commands.items():
        group.command(each)(command)
    app.add_typer(group, name=name)


for _command in (train, demo, evaluate, recommend, export, explain, add_items, tune, reproduce, serve, doctor):
    app.command()(_command)
_add_group(
    "data",
    "List, fetch and inspect data sets.",
    {"list": list_data, "fetch": fetch_data, "describe": describe_data, "build": build_data},
)
_add_group("events", "Events of the service's store.", {"import": import_events})
_add_group("keys", "API keys of the service.", {"create": create_key, "list": list_keys, "revoke": revoke_key})
_add_group("models", "Versions of the model that the service answers with.", {"list": list_models, "activate": activate_model})


def main() -> None:
    """Run the command line; an error of the library is printed as one line with exit code 2."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that the terminal cannot show become ?
    try:
        try:
            app(standalone_mode=True)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except SSD4RecError as error:
        _end(str(error))
    except OSError as error:  # for example a full disk behind standard output
        with suppress(OSError, AttributeError):  # otherwise Python writes again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # the reader, such as `head`, has exited
            sys.exit(1)
        _end(str(error))
    except (_InterruptionError, KeyboardInterrupt) as error:
        console.err.print("; ".join(["interrupted", *map(str, error.args)]))
        sys.exit(130)


def _terminate(*_: object) -> NoReturn:
    """Exit like a shell reports SIGTERM; open files are closed and temporary files removed on the way."""
    sys.exit(128 + signal.SIGTERM)


def _end(error: str) -> NoReturn:
    console.err.quiet = False  # each process of a group says why it ends
    console.err.print(Text.assemble(("error:", "bold red"), f" {console.printable(error)}"))
    sys.exit(2)
