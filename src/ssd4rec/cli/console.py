"""What commands print: the two consoles, progress bars, log messages and JSON.

Text from data, such as titles and ids, passes through `printable`: control characters must not reach the terminal.
"""

import logging
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd4rec._io import as_json

if TYPE_CHECKING:
    from rich import progress

JOINERS = "\u200c\u200d"  # zero-width characters that are part of the spelling in Persian and Indic scripts
MAX_MESSAGE = 4000  # characters

# Titles, ids and paths are printed literally: no markup, no emoji codes. Styled text is passed as rich.text.Text.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def printable(text: object, limit: int = MAX_MESSAGE) -> str:
    """Escape control and formatting characters, and shorten the text to `limit` characters."""
    return "".join(
        character if character in JOINERS or unicodedata.category(character) not in {"Cc", "Cf", "Cs"} else _escape(character)
        for character in shorten(str(text), limit)
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode() if character != "\n" else " "


def shorten(text: str, limit: int = 60) -> str:
    """Cut text to `limit` characters, the last of them an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table; the cells of a column ">name" are on the right."""
    made = Table(title=title or None)
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        made.add_row(*row)
    return made


def progress_bar(*, of_bytes: bool = False) -> "progress.Progress":
    """Return a progress bar, of bytes with their speed; it is not shown unless standard error is a terminal."""
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *([progress.DownloadColumn(), progress.TransferSpeedColumn()] if of_bytes else [progress.MofNCompleteColumn()]),
        progress.TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def reporter(bar: Any, description: str) -> Callable[[int, int | None], None]:
    """Return a progress callback (done, total); the bar appears with the first call, and is hidden when all is done."""
    task = bar.add_task(description, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=done != total)


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
    err.print(printable(line))


def print_json(value: Any) -> None:
    """Print the JSON object of --json on standard output."""
    if not out.quiet:  # of several processes, the first one prints
        sys.stdout.write(f"{as_json(value, ensure_ascii=True)}\n")  # independent of the encoding of the terminal
