"""Tables of user, item and time: read, filtered and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import polars as pl

from ssd4rec.data import ids
from ssd4rec.data.catalog import plain_ids
from ssd4rec.data.columns import (
    TIME_ROLES,
    Columns,
    ReadOptions,
    Table,
    bare_name,
    choose_all_columns,
    choose_title_columns,
    find_rating,
    is_list_column,
)
from ssd4rec.data.filters import PREFIX, apply_filters, columns_in
from ssd4rec.data.io import Source, read_table
from ssd4rec.data.k_core import Counts
from ssd4rec.data.lists import explode_lists
from ssd4rec.data.time_columns import times_of
from ssd4rec.data.timestamps import FILE_ORDER, NUMBER, Clock, Times, implausible, show_moment
from ssd4rec.errors import DataError

__all__ = ["Columns", "Interactions", "ReadOptions", "ReadReport", "read_interactions", "read_titles"]


@dataclass(frozen=True)
class ReadReport:
    """The columns, times and warnings of a table that was read."""

    source: str  # a path, or the kind of frame
    rows: int
    users: int
    items: int
    columns: dict[str, str]  # {"user": "user_id", "item": "movie_id", "time": "timestamp"}; no "time" if there is none
    clock: Clock  # the unit of the integers of the time column
    notes: tuple[str, ...] = ()  # warnings: readings that the user should check
    span: tuple[str, str] | None = None  # first and last time, as a person reads them
    filters: tuple[str, ...] = ()  # conditions on rows, with their counts

    @property
    def time(self) -> str:
        """The kind of the times: "seconds", "milliseconds", "date", "number", "file order" and so on."""
        return self.clock.kind

    @property
    def counts(self) -> Counts:
        """The numbers of users, items and rows."""
        return Counts(self.users, self.items, self.rows)


@dataclass(frozen=True)
class Interactions:
    """User-item interactions.

    user    item    time
    "u7"    "m3"    978300760
    """

    table: pl.DataFrame  # user, item: as in the source; time: Int64; rows in the order of the source
    read: ReadReport


def read_interactions(
    source: Source,
    columns: Columns = Columns(),  # noqa: B008 - a frozen value
    options: ReadOptions = ReadOptions(),  # noqa: B008 - a frozen value
) -> Interactions:
    """Read a table of interactions.

    Args:
        source: a path (CSV, TSV, JSON Lines, JSON arrays, Parquet, RecBole `.inter`, one user a line; each also compressed; a
            folder with the parts of one table) or a polars or pandas frame.
        columns: names of the columns that do not have usual names (`user_id`, `movieId`, `timestamp`, …).
        options: layout, filters, time format and so on.

    Returns:
        Users and items as in the source (text files: text, so that "007" is not "7"), times as exact integers. Without a time
        column the order of the rows is the time.

    Raises:
        DataError: the file cannot be read, a column is missing or ambiguous, an id is missing, a time is not readable; the
            message names file, line and value.
    """
    name = name_of(source)
    _check_options(columns, options)
    table = read_table(source, lambda header: _choose(header, columns, options, name), options)
    mask, filters = apply_filters(table, options.where, options.min_rating)
    table = _keep(table, mask)
    if options.constant_user is not None:
        user = pl.lit(options.constant_user).alias("user")
        table = replace(table, frame=table.frame.with_columns(user), names={**table.names, "user": "(constant)"})
    table = explode_lists(table, sequences=options.layout == "sequences")
    table, distinct, dropped = _check_ids(table, drop=options.drop_missing)
    times = times_of(table, options.time_format)
    frame = table.frame.select("user", "item").with_columns(times.ticks.alias("time"))
    if options.duplicates == "drop":
        frame = _without_duplicates(frame, times.clock)
        filters = (*filters, f"duplicates dropped: {table.frame.height - frame.height:,} rows")
    report = ReadReport(
        source=table.source,
        rows=frame.height,
        users=len(distinct["user"]),
        items=len(distinct["item"]),
        columns={role: bare_name(each) for role, each in table.names.items() if role in {"user", "item", *TIME_ROLES}},
        clock=times.clock,
        notes=(*table.notes, *times.notes, *_notes(table, frame, times, distinct)),
        span=_span(frame["time"], times.clock),
        filters=(*filters, *dropped),
    )
    return Interactions(frame, report)


def read_titles(source: Source) -> pl.DataFrame:
    """Read item titles.

    Args:
        source: a path (RecBole `.item`, CSV, TSV, JSON Lines, Parquet, each also compressed) or a polars or pandas frame.

    Returns:
        Columns id (as in the source) and title (text, null if there is none).

    Raises:
        DataError: the file cannot be read, has no column of item ids or of titles, or an id is missing.
    """
    options = ReadOptions(layout="interactions")
    table = read_table(source, lambda header: choose_title_columns(header, name_of(source)), options)
    ids.refuse_missing(table, "id", ids.check_type(table, "id").unique())
    titles = table.frame["title"]
    if not (titles.dtype == pl.String or titles.dtype.is_numeric() or isinstance(titles.dtype, pl.Categorical | pl.Enum)):
        raise DataError(f"{table.source}: column {table.names['title']!r} holds {titles.dtype}; titles must be text")
    title = pl.col("title").cast(pl.String)
    return table.frame.select(plain_ids(table.frame["id"]), pl.when(title != "").then(title).alias("title"))


def name_of(source: Source) -> str:
    """Return how messages name a source: the path of a file, or the kind of a frame."""
    return str(source) if hasattr(source, "__fspath__") or isinstance(source, str) else f"{type(source).__module__} frame"


def _check_options(columns: Columns, options: ReadOptions) -> None:
    if not isinstance(columns, Columns) or not isinstance(options, ReadOptions):
        raise DataError(
            f"expected Columns and ReadOptions, found {type(columns).__name__} and {type(options).__name__}; write "
            'Columns(user="…", item="…", time="…")'
        )
    for role, name in columns.__dict__.items():
        if name is not None and not isinstance(name, str):
            raise DataError(f"the {role} column must be named by text, found {name!r}")


def _choose(header: Sequence[str], columns: Columns, options: ReadOptions, source: str) -> dict[str, int]:
    """Return the position of each column that is needed, by role."""
    places = choose_all_columns(header, columns, source, constant_user=options.constant_user is not None)
    item = bare_name(header[places["item"]])
    prefixes = [place for place, name in enumerate(header) if is_list_column(name) and bare_name(name) == f"{item}_list"]
    if prefixes:
        places["item_list"] = prefixes[0]
    if options.min_rating is not None:
        places["rating"] = find_rating(header, source)
    for place in columns_in(options.where, header) if options.where is not None else ():
        places[f"{PREFIX}{header[place]}"] = place
    return places


def _keep(table: Table, mask: pl.Series | None) -> Table:
    """Drop the rows that a mask leaves out, and the columns of filters."""
    columns = [name for name in table.frame.columns if name != "rating" and not name.startswith(PREFIX)]
    frame = table.frame.select(columns)
    if mask is None or mask.all():
        return replace(table, frame=frame)
    rows = mask.arg_true()
    return replace(table, frame=frame.filter(mask), where=lambda row: table.where(int(rows[row])))


def _check_ids(table: Table, *, drop: bool) -> tuple[Table, dict[str, pl.Series], tuple[str, ...]]:
    """Refuse missing ids, or drop their rows; return the distinct ids too: few values that stand for many rows."""
    checked = {role: ids.check_type(table, role) for role in ("user", "item")}
    table = replace(table, frame=table.frame.with_columns(values.alias(role) for role, values in checked.items()))
    distinct = {role: values.unique(maintain_order=False) for role, values in checked.items()}
    if not drop:
        for role, values in distinct.items():
            advice = "remove these rows or fill in the ids, or drop them with --drop-missing"
            ids.refuse_missing(table, role, values, advice=advice)
        return table, distinct, ()
    dropped = []
    for role in ("user", "item"):
        values = table.frame[role]
        missing = ids.missing_ids(values, values.unique())
        if stand_ins := ids.placeholders(values, values.unique()):
            stands_in = values.is_in(stand_ins).fill_null(value=False)
            missing = stands_in if missing is None else missing | stands_in
        if missing is None:
            continue
        if missing.all():
            raise DataError(f"{table.source}: all {role} ids are missing; choose another column with --{role}")
        dropped.append(f"rows without {role} dropped: {int(missing.sum()):,} of {len(missing):,}")
        table = _keep(table, ~missing)
    return table, {role: table.frame[role].unique() for role in ("user", "item")}, tuple(dropped)


def _without_duplicates(frame: pl.DataFrame, clock: Clock) -> pl.DataFrame:
    if clock.kind != FILE_ORDER:
        return frame.unique(["user", "item", "time"], keep="first", maintain_order=True)
    return frame.head(frame.height // 2) if _second_half_repeats(frame) else frame


def _second_half_repeats(frame: pl.DataFrame) -> bool:
    """Whether a table without times was appended to itself."""
    half, odd = divmod(frame.height, 2)
    pairs = frame.select("user", "item")
    if odd or half < 2 or pairs.row(0) != pairs.row(half):  # comparing all rows takes a while
        return False
    return pairs.head(half).equals(pairs.tail(half))


def _span(times: pl.Series, clock: Clock) -> tuple[str, str] | None:
    if clock.kind == FILE_ORDER or not len(times):
        return None
    return show_moment(clock, cast("int", times.min())), show_moment(clock, cast("int", times.max()))


def _notes(table: Table, frame: pl.DataFrame, times: Times, distinct: Mapping[str, pl.Series]) -> tuple[str, ...]:
    notes = []
    clock = times.clock
    if clock.kind == FILE_ORDER:
        notes.append(f"no time column: the order of the rows is used (columns {', '.join(table.header)[:300]}; --time names one)")
        if _second_half_repeats(frame):
            notes.append(
                f"the second half of the rows repeats the first: the table seems to be appended to itself, {frame.height // 2:,} "
                "duplicates; drop them with --set data.duplicates=drop"
            )
    first, last = _span(frame["time"], clock) or ("", "")
    if clock.kind == NUMBER:
        notes.append(f"times from {first} to {last} are read as plain numbers, not as moments of a calendar")
    early, late = implausible(frame["time"], clock)
    if early or late:
        counts = " and ".join(
            f"{count:,} times are {what}" for count, what in ((early, "before 2 January 1970"), (late, "after tomorrow")) if count
        )
        notes.append(f"{counts}; the times were read as {clock.kind}, from {first} to {last}: check the time column")
    if bare_name(table.names["item"]) == "parent_asin" and "asin" in map(bare_name, table.header):
        notes.append("the item column is parent_asin, which stands for all variants of a product (--item asin: single variants)")
    for role in ("user", "item"):
        notes += ids.warnings_about(table, role, frame[role], distinct[role])
    return tuple(notes)
