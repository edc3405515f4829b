"""A table of (user, item, time): read, its columns found, its ids and times checked."""

from dataclasses import dataclass

import polars as pl

from ssd4rec.data.catalog import plain_ids
from ssd4rec.data.columns import Columns, Table, bare_name, choose_columns, choose_title_columns
from ssd4rec.data.io import Source, read_table
from ssd4rec.data.timestamps import FILE_ORDER, NUMBER, Clock, UnreadableTimeError, exact_times, show_moment
from ssd4rec.errors import DataError

__all__ = ["Columns", "Interactions", "ReadReport", "read_interactions", "read_titles"]

INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
ID_TYPES = frozenset({*INTEGERS, pl.Float32, pl.Float64, pl.String, pl.Null})  # Null: all are missing


@dataclass(frozen=True)
class ReadReport:
    """What was read, and how it was understood."""

    source: str  # a path, or the kind of frame
    rows: int
    users: int
    items: int
    columns: dict[str, str]  # {"user": "user_id", "item": "movie_id", "time": "timestamp"}; no "time" if there is none
    clock: Clock  # what the integers of the time column stand for
    notes: tuple[str, ...] = ()  # what is right but may surprise

    @property
    def time(self) -> str:
        """The kind of the times: "seconds", "milliseconds", "date", "number", "file order" and so on."""
        return self.clock.kind


@dataclass(frozen=True)
class Interactions:
    """Who met what, when.

    user    item    time
    "u7"    "m3"    978300760
    """

    table: pl.DataFrame  # user, item: as they came; time: Int64; rows in the order of the file
    read: ReadReport


def read_interactions(source: Source, columns: Columns = Columns()) -> Interactions:  # noqa: B008 - a frozen value
    """Read a table of interactions.

    Args:
        source: a path (CSV, TSV, JSON Lines, Parquet, RecBole `.inter`, each also gzip) or a polars or pandas frame.
        columns: names of the columns that are not found by their usual names (`user_id`, `movieId`, `timestamp`, …).

    Returns:
        Users and items as they came (text files: text, so that "007" is not "7"), times as exact integers.
        Without a time column the rows' own order is the time.

    Raises:
        DataError: the file cannot be read, a column is missing or ambiguous, an id is missing, a time is not readable;
            the message names file, line and value.
    """
    table = read_table(source, lambda header: choose_columns(header, columns, _name_of(source)))
    for role in ("user", "item"):
        _check_ids(table, role)
    times, clock = _times(table)
    users, items = plain_ids(table.frame["user"]), plain_ids(table.frame["item"])
    report = ReadReport(
        source=table.source,
        rows=table.frame.height,
        users=users.n_unique(),
        items=items.n_unique(),
        columns={role: bare_name(name) for role, name in table.names.items()},
        clock=clock,
        notes=_notes(table, clock, times),
    )
    return Interactions(pl.DataFrame({"user": users, "item": items, "time": times}), report)


def read_titles(source: Source) -> pl.DataFrame:
    """Read item titles.

    Args:
        source: a path (RecBole `.item`, CSV, TSV, JSON Lines, Parquet, each also gzip) or a polars or pandas frame.

    Returns:
        Columns id (as they came) and title (text, null where there is none).

    Raises:
        DataError: the file cannot be read, has no column of item ids or of titles, or an id is missing.
    """
    table = read_table(source, lambda header: choose_title_columns(header, _name_of(source)))
    _check_ids(table, "id")
    title = pl.col("title").cast(pl.String)
    return table.frame.select(plain_ids(table.frame["id"]), pl.when(title != "").then(title).alias("title"))


def _name_of(source: Source) -> str:
    return str(source) if hasattr(source, "__fspath__") or isinstance(source, str) else f"{type(source).__module__} frame"


def _check_ids(table: Table, role: str) -> None:
    ids = plain_ids(table.frame[role])
    if ids.dtype not in ID_TYPES:
        raise DataError(f"{table.source}: column {table.names[role]!r} holds {ids.dtype}; ids must be text or numbers, cast it")
    missing = ids.is_null()
    if ids.dtype == pl.String:
        missing = missing | (ids == "")
    if ids.dtype.is_float():
        missing = missing | ids.is_nan()
    if missing.any():
        whose, first = "item" if role == "id" else role, table.where(int(missing.arg_max() or 0))
        raise DataError(
            f"{table.source}: {int(missing.sum()):,} of {len(ids):,} {whose} ids (column {table.names[role]!r}) are missing, "
            f"the first in {first}; remove these rows or fill in the ids"
        )


def _times(table: Table) -> tuple[pl.Series, Clock]:
    if "time" not in table.frame.columns:
        return pl.int_range(table.frame.height, dtype=pl.Int64, eager=True), Clock(FILE_ORDER)
    name = table.names["time"]
    try:
        return exact_times(table.frame["time"])
    except UnreadableTimeError as error:
        found = "is missing" if error.value in {None, ""} else f"is {error.value!r}"
        raise DataError(
            f"{table.source}: the time in {table.where(error.row)} (column {name!r}) {found}; expected {error.expected}"
        ) from error
    except DataError as error:
        raise DataError(f"{table.source}: column {name!r}: {error}") from error


def _notes(table: Table, clock: Clock, times: pl.Series) -> tuple[str, ...]:
    notes = []
    if clock.kind == FILE_ORDER:
        notes.append(f"no time column: the rows' own order is taken (columns {', '.join(table.header)}; --time names one)")
    if clock.kind == NUMBER:
        ends = f"{show_moment(clock, int(times.to_numpy().min()))} to {show_moment(clock, int(times.to_numpy().max()))}"
        notes.append(f"times from {ends} are taken as plain numbers, not as moments of a calendar")
    notes += [
        f"{role} ids are decimal numbers such as {table.frame[role][0]!r} and are kept so; cast them if they stand for integers"
        for role in ("user", "item")
        if table.frame[role].dtype.is_float()
    ]
    for role in ("user", "item"):
        if blanks := _with_blanks(table.frame[role]):
            notes.append(
                f"{role} ids begin or end with a blank, such as {blanks!r}, and are kept so: {role}s are asked for with it"
            )
    return tuple(notes)


def _with_blanks(ids: pl.Series) -> str | None:
    """One of the ids that begin or end with a blank."""
    if ids.dtype != pl.String:
        return None
    found = ids.filter(ids != ids.str.strip_chars())
    return str(found[0]) if len(found) else None
