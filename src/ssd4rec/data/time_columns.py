"""The time of each row from one column, from a date and a time of day, or from year, month, day and so on."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import time

import polars as pl

from ssd4rec.data.columns import PARTS, AmbiguousColumnsError, Table, bare_name
from ssd4rec.data.timestamps import FILE_ORDER, Clock, Times, UnreadableTimeError, read_times
from ssd4rec.errors import DataError

CLOCK_TIME = r"^\d{1,2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?[AaPp][Mm])?$"
GROUPED_DIGITS = re.compile(r"\d{1,3}([,._' ]\d{3})+")  # 1,555,917,522
LATEST = 2359  # HHMM
OF_DAY = ("hour", "minute", "second")


def times_of(table: Table, time_format: str | None) -> Times:
    """Read the time of each row; the order of the rows is the time without a time column.

    Args:
        table: with the roles that `choose_all_columns` found.
        time_format: see `read_times`.

    Raises:
        DataError: a value is not a time, times are in several units, or date and time do not fit each other.
    """
    frame, names = table.frame, table.names
    roles = [role for role in ("time", "date", "clock", *PARTS) if role in frame.columns]
    if not roles:
        return Times(pl.int_range(frame.height, dtype=pl.Int64, eager=True), Clock(FILE_ORDER))
    shown = " + ".join(names[role] for role in roles)
    try:
        if roles == ["time"]:
            return read_times(frame["time"], time_format)
        if "year" in roles:
            return read_times(_from_parts(frame))
        if "hour" in roles:
            return _from_date_and_hour(table, time_format)
        return _from_date_and_time(table, time_format)
    except UnreadableTimeError as error:
        is_missing = str(error.value).strip().lower() in {"none", "nan", ""}
        state = "is missing" if is_missing else f"is {str(error.value)[:200]!r}"
        condition = " AND ".join(f"{bare_name(names[role])} IS NOT NULL" for role in roles)
        if is_missing:
            advice = f'leave such rows out with --where "{condition}"'
        elif GROUPED_DIGITS.fullmatch(str(error.value).strip()):
            advice = "write the numbers without separators between the digits"
        else:
            advice = "name another format with --time-format"
        where = f"{table.source}: the time in {table.where(error.row)} (column {shown!r})"
        raise DataError(f"{where} {state}; expected {error.expected}; {advice}") from error
    except AmbiguousColumnsError:
        raise
    except DataError as error:
        row = getattr(error, "row", None)
        where = f"{table.where(row)}, " if row is not None else ""
        raise DataError(f"{table.source}: {where}column {shown!r}: {error}") from error


def _from_date_and_time(table: Table, time_format: str | None) -> Times:
    frame, names = table.frame, table.names
    role = "time" if "time" in frame.columns else "clock"
    clock = _clock_times(frame[role])
    if clock is None and role == "time":
        times = read_times(frame["time"], time_format)
        if times.clock.ticks_per_second is not None:
            return times  # a whole time next to a date
        raise AmbiguousColumnsError(
            f"{table.source}: column {names['time']!r} is not a time of day, and column {names['date']!r} is a date",
            f"choose one with --time {names['time']} or --time {names['date']}",
        )
    clock = frame[role].cast(pl.String) if clock is None else clock
    return _combined(_dates(frame["date"]), clock, [names["date"], names[role]], time_format)


def _from_date_and_hour(table: Table, time_format: str | None) -> Times:
    """Combine a date with columns of hours, minutes and seconds; a date that has a time of day is whole."""
    frame, names = table.frame, table.names
    dates = _dates(frame["date"])
    if dates.str.contains(r":|^\s*\d{9,}").any():
        return read_times(frame["date"], time_format)
    clock = _clock_times(frame["hour"]) if frame["hour"].cast(pl.String).str.contains(":").any() else None
    clock = _joined(frame, OF_DAY, ":") if clock is None else clock
    return _combined(dates, clock, [names[role] for role in ("date", *OF_DAY) if role in frame.columns], time_format)


def _combined(dates: pl.Series, clock: pl.Series, names: list[str], time_format: str | None) -> Times:
    times = read_times(dates + " " + clock, time_format)
    return replace(times, notes=(f"the time is {' and '.join(names)} combined", *times.notes))


def _clock_times(column: pl.Series) -> pl.Series | None:
    """Return times of day as text HH:MM or HH:MM:SS, also from numbers HHMM; None: other values."""
    if column.dtype == pl.Time:
        return column.dt.to_string("%H:%M:%S%.f")
    text = column.cast(pl.String, strict=False).str.strip_chars()
    if text.str.contains(CLOCK_TIME).all():
        return pl.select(pl.when(text.str.contains(r"^\d:")).then("0" + text).otherwise(text)).to_series()
    numbers = text.cast(pl.Int64, strict=False)
    if numbers.null_count() or not (numbers.is_between(0, LATEST) & (numbers % 100 < 60)).all():
        return None
    digits = numbers.cast(pl.String).str.zfill(4)
    return digits.str.slice(0, 2) + ":" + digits.str.slice(2)


def _dates(column: pl.Series) -> pl.Series:
    """Return dates as text, compact ones and midnights as ISO dates."""
    if isinstance(column.dtype, pl.Datetime) and (column.dt.time() == time(0)).all():
        return column.dt.date().cast(pl.String)
    text = column.cast(pl.String).str.strip_chars()
    if text.str.contains(r"^\d{8}$").all():
        return text.str.slice(0, 4) + "-" + text.str.slice(4, 2) + "-" + text.str.slice(6)
    return text.str.strip_suffix(" 00:00:00")


def _from_parts(frame: pl.DataFrame) -> pl.Series:
    """Return ISO date-times from columns year, month, day and, if there are any, hour, minute, second."""
    dates = _joined(frame, ("year", "month", "day"), "-")
    return dates + " " + _joined(frame, OF_DAY, ":") if set(OF_DAY) & set(frame.columns) else dates


def _joined(frame: pl.DataFrame, roles: Sequence[str], separator: str) -> pl.Series:
    """Join parts of a time as text with leading zeros; a part without a column is zero."""
    parts = [
        pl.col(role).cast(pl.String).str.strip_chars().str.strip_suffix(".0").str.zfill(4 if role == "year" else 2)
        if role in frame.columns
        else pl.lit("00")
        for role in roles
    ]
    return frame.select(pl.concat_str(parts, separator=separator)).to_series()
