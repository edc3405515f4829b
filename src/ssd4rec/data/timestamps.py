"""Times as exact integers: the unit and format of a column of times, and moments named by the user."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import polars as pl

from ssd4rec.errors import DataError, first_line

FILE_ORDER = "file order"
NUMBER = "number"

# Ticks of each kind in a second. A number below 1e8 (March 1973 in seconds) is not read as a moment.
PER_SECOND = {
    "seconds": 1,
    "milliseconds": 10**3,
    "microseconds": 10**6,
    "nanoseconds": 10**9,
    "date": 1,
    "datetime": 1,
}
SMALLEST = {"nanoseconds": 10**17, "microseconds": 10**14, "milliseconds": 10**11, "seconds": 10**8}
LARGEST = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEARS_APART = 10  # a value of another unit that is this close to the others is a mixture, not an outlier
COMPACT = {  # dates and times written as one number: bounds and format
    "date": (19000101, 21001231, "%Y%m%d"),
    "minutes": (190001010000, 210012312359, "%Y%m%d%H%M"),
    "seconds": (19000101000000, 21001231235959, "%Y%m%d%H%M%S"),
    "short": (101010000, 9912312359, "%y%m%d%H%M"),
}
CERTAIN = 8  # distinct values that are all valid as YYMMDDHHMM cannot be seconds by chance
DAYS = ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%Y{0}%m{0}%d", "%d{0}%m{0}%y", "%m{0}%d{0}%y", "%d{0}%b{0}%Y", "%d{0}%b{0}%y")
WRITTEN = ("%d %b %Y", "%b %d, %Y", "%m %d, %Y", "%b %d %Y")  # %b reads January too
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S%.f", ", %H:%M", ", %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S")
FORMATS = (
    *(day.format(mark) + clock for mark in "/-." for day in DAYS for clock in CLOCKS),
    *(day + clock for day in WRITTEN for clock in CLOCKS),
    "%a %b %d %H:%M:%S %z %Y",  # Twitter
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",  # e-mail
)
EXPECTED = "whole or decimal numbers, ISO dates (2016-01-31) or ISO date-times (2016-01-31T18:05:00Z)"
EXPECTED_WHERE_FINE = "at most 7 decimals of a second in the whole column, or times between 1678 and 2261 (64 bits hold no more)"

# 2016-01-31 | 2016-01-31 18:05 | 2016-01-31T18:05:00.25+02:00 | 2016-01-31 18:05:00+02 | 2016-01-31 18:05:00 UTC; else: UTC
ISO = (
    r"^(?<date>\d{4}-\d{2}-\d{2})(?:[T ](?<hour>\d{2}):(?<minute>\d{2})(?::(?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?"
    r"\s?(?:Z|UTC|(?<sign>[+-])(?<zone_hour>\d{2})(?::?(?<zone_minute>\d{2}))?)?)?$"
)
DECIMAL = r"^(?<sign>[+-]?)0*(?<whole>\d+)(?:\.(?<fraction>\d*?)0*)?$"  # without the zeros that say nothing
FURTHEST_ZONE = 15  # hours from UTC
TOO_FINE = "times lie closer together than 64-bit integers can keep apart; give them in a coarser unit"


@dataclass(frozen=True)
class Clock:
    """The unit of the integers of a `time` column.

    Seconds such as 1650882384.975 are kept as 1650882384975: kind "seconds", 1,000 ticks each.
    """

    kind: str  # "seconds", "milliseconds", "microseconds", "nanoseconds", "date", "datetime", "number" or "file order"
    ticks: int = 1  # ticks in one unit of the kind; in a second, if the kind is "date" or "datetime"

    @property
    def ticks_per_second(self) -> int | None:
        """None if the times are not moments of a calendar."""
        return PER_SECOND[self.kind] * self.ticks if self.kind in PER_SECOND else None


class UnreadableTimeError(DataError):
    """A value that is not a time: `row` is its 0-based position, `expected` describes valid values."""

    def __init__(self, row: int, value: object, expected: str = EXPECTED) -> None:
        super().__init__(f"{value!r} is not a time")
        self.row, self.value, self.expected = row, value, expected


@dataclass(frozen=True)
class Times:
    """A column of times."""

    ticks: pl.Series  # Int64, in the order and with the ties of the column
    clock: Clock
    notes: tuple[str, ...] = ()  # formats that were detected


class MixedUnitsError(DataError):
    """A value in another unit than most others; `row` is its 0-based position."""

    def __init__(self, row: int, value: object, unit: str, usual: str) -> None:
        super().__init__(f"{value!r} looks like {unit}, but most times are {usual}; convert them to one unit")
        self.row = row


def read_times(column: pl.Series, time_format: str | None = None) -> Times:
    """Read a column of times as integers that keep order and ties exactly.

    Args:
        column: integers, floats, dates, date-times, or text that holds any of them.
        time_format: the strptime format of text; None: numbers, ISO dates and the formats of `FORMATS` are detected.

    Raises:
        UnreadableTimeError: a value is missing or not a time.
        MixedUnitsError: some values are in another unit than the others.
        DataError: a column of another type, text that fits several formats, or decimals that 64 bits cannot keep apart.
    """
    dtype = column.dtype
    _check_readable(column, column)
    if time_format is not None and not dtype.is_nested() and dtype not in (pl.Object, pl.Binary):
        return _formatted(column.cast(pl.String), time_format)
    if dtype.is_numeric() and not dtype.is_decimal():
        return _integers(column) if dtype.is_integer() else _floats(column.cast(pl.Float64), column)
    if dtype == pl.Date:
        return Times(column.cast(pl.Int32).cast(pl.Int64) * 86_400, Clock("date"))
    if isinstance(dtype, pl.Datetime):
        ticks = {"ms": 10**3, "us": 10**6, "ns": 10**9}[dtype.time_unit]
        return Times(column.cast(pl.Int64), Clock("datetime", ticks))
    if dtype == pl.String or dtype.is_decimal() or isinstance(dtype, pl.Categorical | pl.Enum):
        return _texts(column.cast(pl.String))
    raise DataError(f"a column of type {dtype} does not hold times; expected {EXPECTED}")


def _check_readable(reading: pl.Series, column: pl.Series, expected: str = EXPECTED) -> None:
    """Raise UnreadableTimeError for the first value of the column whose reading is null."""
    if reading.null_count():
        row = int(reading.is_null().arg_max() or 0)
        raise UnreadableTimeError(row, column[row], expected)


def implausible(times: pl.Series, clock: Clock) -> tuple[int, int]:
    """Count the times before 2 January 1970 and those after tomorrow; (0, 0) if they are not moments of a calendar."""
    per_second = clock.ticks_per_second
    if per_second is None or not len(times):
        return 0, 0
    first, tomorrow = 86_400 * per_second, int(datetime.now(UTC).timestamp() + 86_400) * per_second
    low, high = _bounds(times)
    if low >= first and high <= tomorrow:
        return 0, 0
    values = times.to_numpy()
    return int(np.count_nonzero(values < first)), int(np.count_nonzero(values > tomorrow))


def moment(clock: Clock, text: str) -> int:
    """Return a moment named by the user in the ticks of a clock.

    Args:
        clock: the unit of the ticks.
        text: an ISO date or date-time (UTC where no zone is given), or a number in the unit of the file (dates: seconds).

    Raises:
        DataError: neither a date nor a number, or a date for times that are plain numbers.
    """
    stripped = text.strip()
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", stripped):
        whole, _, fraction = stripped.partition(".")
        unit: int = 10 ** len(fraction)
        return -(-int(whole + fraction) * clock.ticks // unit)  # up: events before the moment stay before it
    try:
        moment_utc = datetime.fromisoformat(stripped)
    except ValueError as error:
        raise DataError(f"cannot read the moment {text!r}: expected an ISO date such as 2016-01-31, or a number") from error
    if clock.ticks_per_second is None:
        raise DataError(f"the moment {text!r} is a date, but the times of this data set are plain numbers; use a number instead")
    since = (moment_utc if moment_utc.tzinfo else moment_utc.replace(tzinfo=UTC)) - EPOCH
    microseconds: int = since // timedelta(microseconds=1)
    ticks: int = -(-microseconds * clock.ticks_per_second // 10**6)
    return ticks


def show_moment(clock: Clock, ticks: int) -> str:
    """Return ticks as an ISO date-time if the kind allows it, else as the number in the file."""
    per_second = clock.ticks_per_second
    if per_second is None:
        return str(ticks if clock.ticks == 1 else ticks / clock.ticks)
    try:
        moment_utc = EPOCH + timedelta(seconds=ticks // per_second, microseconds=ticks % per_second * 10**6 // per_second)
    except OverflowError:
        return str(ticks)
    return moment_utc.isoformat().replace("T00:00:00+00:00", "").replace("+00:00", "Z")


def _integers(column: pl.Series) -> Times:
    """Read numbers in a unit, or written as dates, such as 20160131 or 20160131180500."""
    exact = column.cast(pl.Int64, strict=False)
    _check_readable(exact, column)
    low, high = _bounds(exact) if len(exact) else (0, 0)
    for kind, (first, last, pattern) in COMPACT.items():
        digits = len(str(last))
        sample = exact.head(1000).cast(pl.String).str.zfill(digits)
        if not (first <= low and high <= last) or _parsed(sample, pattern).null_count():
            continue  # most numbers in this range are not dates
        if kind == "short" and exact.n_unique() < CERTAIN:
            continue
        moments = _parsed(exact.cast(pl.String).str.zfill(digits), pattern)
        if kind == "short" and moments.null_count():
            continue
        _check_readable(moments, exact, f"dates and times such as {exact[0]}")
        seconds = moments.cast(pl.Int64) // 10**6
        clock = Clock("date" if kind == "date" else "datetime")
        return Times(seconds, clock, (f"times such as {exact[0]} are read as {show_moment(clock, int(seconds[0]))}",))
    clock = Clock(_unit_of(exact))
    return Times(exact, clock, _note_on_short_dates(exact, clock))


def _note_on_short_dates(column: pl.Series, clock: Clock) -> tuple[str, ...]:
    """Return a note if a few numbers are seconds, but could be dates such as 1601311805 as well."""
    first, last, pattern = COMPACT["short"]
    few = column.head(CERTAIN + 1)
    if clock.kind != "seconds" or not few.is_between(first, last).all() or _parsed(few.cast(pl.String), pattern).null_count():
        return ()  # few values tell: counting those of a large table takes a pass
    if column.n_unique() >= CERTAIN or _parsed(column.cast(pl.String), pattern).null_count():
        return ()
    moment_ = show_moment(clock, int(column[0]))
    return (f'times such as {column[0]} are read as seconds, {moment_}; if they are dates, add --time-format "{pattern}"',)


def _floats(column: pl.Series, written: pl.Series) -> Times:
    _check_readable(column.set(~column.is_finite() | (column.abs() >= LARGEST), None), written)
    if (column == column.floor()).all():
        return _integers(column.cast(pl.Int64))
    kind = _unit_of(column)
    largest = max(map(abs, _bounds(column)))
    values = column.to_numpy()  # numpy: polars divides by multiplying, which rounds twice
    scaled, ticks = np.floor(values).astype(np.int64), 1
    for candidate in (10**3, 10**6, 10**9):
        if largest * candidate >= LARGEST:
            break
        scaled, ticks = np.rint(values * candidate).astype(np.int64), candidate
        if np.array_equal(scaled / ticks, values):
            return Times(pl.Series(scaled), Clock(kind, ticks))
    # Binary fractions such as 0.1 + 0.2 are not decimal, and still distinct.
    if pl.Series(scaled).n_unique() < column.n_unique():
        raise DataError(TOO_FINE)
    return Times(pl.Series(scaled), Clock(kind, ticks))


def _decimals(text: pl.Series) -> Times | None:
    """Read decimal text digit by digit, as a float keeps 16 of them; None: other text, or more than 64 bits."""
    sign, whole, fraction = text.str.extract_groups(DECIMAL).struct.unnest()
    before, fraction = whole.cast(pl.Int64, strict=False), fraction.fill_null("")
    if before.null_count():
        return None
    digits = int(fraction.str.len_bytes().to_numpy().max(initial=0))
    largest = int(before.to_numpy().max(initial=0))
    for places in (0, 3, 6, 9):
        if digits <= places and largest < LARGEST // 10**places:
            scaled = before * 10**places + fraction.str.pad_end(places, "0").cast(pl.Int64, strict=False).fill_null(0)
            exact = pl.select(pl.when(sign == "-").then(-scaled).otherwise(scaled)).to_series()
            return Times(exact, Clock(_unit_of(before), 10**places))
    return None


def _texts(column: pl.Series) -> Times:
    stripped = column.str.strip_chars()
    integers = stripped.cast(pl.Int64, strict=False)
    if not integers.null_count():
        return _integers(integers)
    if (exact := _decimals(stripped)) is not None:
        return exact
    floats = stripped.cast(pl.Float64, strict=False)
    if not floats.null_count():
        nearly = _floats(floats, column)
        if nearly.ticks.n_unique() < _different(stripped):
            raise DataError(TOO_FINE)
        return nearly
    dates = _iso_dates(stripped)
    if not dates["seconds"].null_count():
        return Times(*_ticks_of_dates(dates, column))
    if (detected := _detect_format(stripped)) is not None:
        return detected
    # The majority decides on what the column holds, and so on the value to name.
    readings = (integers.is_null() & floats.is_null(), dates["seconds"].is_null())
    unread = min(readings, key=lambda unreadable: int(unreadable.sum()))
    row = int(unread.arg_max() or 0)
    raise UnreadableTimeError(row, column[row])


def _detect_format(text: pl.Series) -> Times | None:
    """Read text in the only one of `FORMATS` that fits; None if none does.

    Raises:
        DataError: day and month could be exchanged.
    """
    sample = pl.DataFrame({"text": text.unique().head(200)})  # all formats in one query: 200 of them, one by one, took a second
    misfits = sample.select(_moments(pl.col("text"), pattern).null_count().alias(pattern) for pattern in FORMATS).row(0)
    fitting = [pattern for pattern, count in zip(FORMATS, misfits, strict=True) if not count]
    if len(fitting) > 1:
        distinct = text.unique()
        readings: dict[str, pl.Series] = {}
        for pattern in fitting:
            reading = _parsed(distinct, pattern)
            if not reading.null_count() and not any(reading.equals(other) for other in readings.values()):
                readings[pattern] = reading
        fitting = list(readings)
    if len(fitting) > 1:
        choices = " or ".join(f'--time-format "{pattern}"' for pattern in fitting)
        raise DataError(f"times such as {text[0]!r} fit several formats; choose one with {choices}")
    if not fitting:
        return None
    try:
        return _formatted(text, fitting[0])
    except UnreadableTimeError:
        return None


def _formatted(text: pl.Series, pattern: str) -> Times:
    moments = _parsed(text.str.strip_chars(), pattern)
    _check_readable(moments, text, f"times in the format {pattern}")
    ticks = moments.cast(pl.Int64)
    if (ticks % 10**6 == 0).all():
        ticks, clock = ticks // 10**6, Clock("datetime" if _has_clock(pattern) else "date")
    else:
        clock = Clock("datetime", 10**6)
    return Times(ticks, clock, (f"times such as {text[0]!r} are read as {show_moment(clock, int(ticks[0]))} (format {pattern})",))


def _parsed(text: pl.Series, pattern: str) -> pl.Series:
    """Return microseconds as Datetime in UTC; null where the text does not fit the format, or the year is implausible."""
    try:
        return pl.DataFrame({"text": text}).select(_moments(pl.col("text"), pattern)).to_series()
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the time format {pattern!r} cannot be used ({first_line(error)}); it needs at least year, month and day, such as "
            "%Y-%m-%d %H:%M:%S"
        ) from error


def _moments(text: pl.Expr, pattern: str) -> pl.Expr:
    if _has_clock(pattern):
        moments = text.str.to_datetime(pattern, time_unit="us", strict=False)
        moments = moments.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    else:
        moments = text.str.to_date(pattern, strict=False).cast(pl.Datetime("us"))
    return pl.when(moments.dt.year().is_between(1900, 2100)).then(moments)


def _has_clock(pattern: str) -> bool:
    return any(code in pattern for code in ("%H", "%I", "%T", "%R", "%s", "%c", "%X"))


def _different(text: pl.Series) -> int:
    """Count the distinct decimal numbers, without those that have an exponent."""
    parts = text.str.extract_groups(DECIMAL).struct.unnest().drop_nulls("whole")
    return parts.select(pl.col("sign") == "-", "whole", pl.col("fraction").fill_null("")).n_unique()


def _iso_dates(column: pl.Series) -> pl.DataFrame:
    """Return seconds (null: not a date), fraction (nanoseconds) and timed (whether there is a time of day)."""
    parts = column.str.extract_groups(ISO).struct.unnest()
    numbers = ("hour", "minute", "second", "zone_hour", "zone_minute")
    hour, minute, second, zone_hour, zone_minute = (pl.col(name).cast(pl.Int64, strict=False).fill_null(0) for name in numbers)
    sign = pl.when(pl.col("sign") == "-").then(-1).otherwise(1)
    within = (hour < 24) & (minute < 60) & (second < 60) & (zone_hour <= FURTHEST_ZONE) & (zone_minute < 60)
    days = pl.col("date").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Int64)
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - sign * (zone_hour * 3600 + zone_minute * 60)
    nanoseconds = pl.col("fraction").str.pad_end(9, "0").cast(pl.Int64, strict=False).fill_null(0)
    return parts.select(seconds=pl.when(within).then(seconds), fraction=nanoseconds, timed=pl.col("hour").is_not_null())


def _ticks_of_dates(dates: pl.DataFrame, column: pl.Series) -> tuple[pl.Series, Clock]:
    seconds, fraction = dates["seconds"], dates["fraction"]
    kind = "datetime" if dates["timed"].any() else "date"
    furthest = int(seconds.abs().arg_max() or 0)
    # 64 bits of nanoseconds end in 2262; seven decimals reach over all years: .NET writes 0001-01-01T00:00:00.0000000
    for ticks in (1, 10**3, 10**6, 10**9, 10**7):
        if abs(seconds[furthest]) < LARGEST // ticks and (fraction % (10**9 // ticks) == 0).all():
            exact = seconds * ticks + fraction // (10**9 // ticks)
            return exact.cast(pl.Int64), Clock(kind, ticks)
    raise UnreadableTimeError(furthest, column[furthest], EXPECTED_WHERE_FINE)


def _unit_of(column: pl.Series) -> str:
    """Return the unit of numbers by their size: that of the median, if all values are plausible in it.

    Raises:
        MixedUnitsError: other values have the size of another unit, in which they are close to most of them.
    """
    if not len(column):
        return NUMBER
    sizes = column.abs()
    low, high = _bounds(sizes)
    if _unit(low) == _unit(high):
        return _unit(high)
    values: np.ndarray[Any, Any] = sizes.to_numpy()
    present = values[values > 0]  # zeros stand for missing times
    usual = _unit(float(np.partition(present, len(present) // 2)[len(present) // 2]))
    if usual == NUMBER:
        return NUMBER
    seconds = values[_in_unit(values, usual)] / PER_SECOND[usual]
    early, late = np.quantile(seconds, [0.05, 0.95])
    for unit in SMALLEST:
        others = np.flatnonzero(_in_unit(values, unit)) if unit != usual else np.zeros(0, dtype=np.int64)
        moments = values[others] / PER_SECOND[unit]
        margin = YEARS_APART * 365 * 86_400
        close = others[(moments > early - margin) & (moments < late + margin)]
        if len(close):
            raise MixedUnitsError(int(close[0]), column[int(close[0])], unit, usual)
    return usual


def _unit(value: float) -> str:
    return next((unit for unit, smallest in SMALLEST.items() if value >= smallest), NUMBER)


def _in_unit(values: "np.ndarray[Any, Any]", unit: str) -> "np.ndarray[Any, Any]":
    larger = [smallest for smallest in SMALLEST.values() if smallest > SMALLEST[unit]]
    return (values >= SMALLEST[unit]) & (values < min(larger, default=np.inf))


def _bounds(column: pl.Series) -> tuple[float, float]:
    return cast("float", column.min()), cast("float", column.max())
