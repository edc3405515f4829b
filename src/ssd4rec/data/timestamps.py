"""Times as exact integers: what a column of times means, and the moments that a person names."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from ssd4rec.errors import DataError

FILE_ORDER = "file order"
NUMBER = "number"

# Ticks of each kind in a second. A number below 1e8 (March 1973 in seconds) is not taken for a moment.
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
EXPECTED = "whole or decimal numbers, ISO dates (2016-01-31) or ISO date-times (2016-01-31T18:05:00Z)"
EXPECTED_WHERE_FINE = "at most 7 decimals of a second in the whole column, or times between 1678 and 2261 (64 bits hold no more)"

# 2016-01-31 | 2016-01-31 18:05 | 2016-01-31T18:05:00.25+02:00 | 2016-01-31 18:05:00+02 | 2016-01-31 18:05:00 UTC; else: UTC
ISO = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s?(Z|UTC|[+-]\d{2}(?::?(\d{2}))?)?)?$"
DECIMAL = r"^([+-]?)0*(\d+)(?:\.(\d*?)0*)?$"  # sign, whole and fraction, without the zeros that say nothing
TOO_FINE = "times lie closer together than 64-bit integers can keep apart; give them in a coarser unit"


@dataclass(frozen=True)
class Clock:
    """What the integers of a `time` column stand for.

    Seconds such as 1650882384.975 are kept as 1650882384975: kind "seconds", 1,000 ticks each.
    """

    kind: str  # "seconds", "milliseconds", "microseconds", "nanoseconds", "date", "datetime", "number" or "file order"
    ticks: int = 1  # ticks in one unit of the kind; in a second, if the kind is "date" or "datetime"

    @property
    def ticks_per_second(self) -> int | None:
        """None when the times are no moments of a calendar."""
        return PER_SECOND[self.kind] * self.ticks if self.kind in PER_SECOND else None


class UnreadableTimeError(DataError):
    """A value that is no time; `row` is its 0-based place in the column, `expected` what would be one."""

    def __init__(self, row: int, value: object, expected: str = EXPECTED) -> None:
        super().__init__(f"{value!r} is not a time")
        self.row, self.value, self.expected = row, value, expected


def exact_times(column: pl.Series) -> tuple[pl.Series, Clock]:
    """Times as integers that keep order and ties exactly.

    Args:
        column: integers, floats, dates, date-times, or text that holds any of them.

    Returns:
        The times as Int64 and what they stand for.

    Raises:
        UnreadableTimeError: a value is missing or not a time.
        DataError: a column of a type that holds no times, or decimals too fine to be kept apart.
    """
    dtype = column.dtype
    if column.null_count():
        raise UnreadableTimeError(int(column.is_null().arg_max() or 0), None)
    if dtype.is_integer():
        return _integers(column)
    if dtype.is_float():
        return _floats(column.cast(pl.Float64))
    if dtype == pl.Date:
        return column.cast(pl.Int32).cast(pl.Int64) * 86_400, Clock("date")
    if isinstance(dtype, pl.Datetime):
        ticks = {"ms": 10**3, "us": 10**6, "ns": 10**9}[dtype.time_unit]
        return column.cast(pl.Int64), Clock("datetime", ticks)
    if dtype.is_decimal() or isinstance(dtype, pl.Categorical | pl.Enum):
        return _texts(column.cast(pl.String))
    if dtype == pl.String:
        return _texts(column)
    raise DataError(f"a column of type {dtype} holds no times; expected {EXPECTED}")


def moment(clock: Clock, text: str) -> int:
    """The moment that a person names, in the ticks of a clock.

    Args:
        clock: what the ticks stand for.
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
        named = datetime.fromisoformat(stripped)
    except ValueError as error:
        raise DataError(f"cannot read the moment {text!r}: expected an ISO date such as 2016-01-31, or a number") from error
    if clock.ticks_per_second is None:
        raise DataError(f"the moment {text!r} is a date, but the times of this data set are plain numbers; name a number instead")
    since = (named if named.tzinfo else named.replace(tzinfo=UTC)) - EPOCH
    microseconds: int = since // timedelta(microseconds=1)
    ticks: int = -(-microseconds * clock.ticks_per_second // 10**6)
    return ticks


def show_moment(clock: Clock, ticks: int) -> str:
    """Ticks as a person reads them: an ISO date-time where the kind allows it, else the number of the file."""
    per_second = clock.ticks_per_second
    if per_second is None:
        return str(ticks if clock.ticks == 1 else ticks / clock.ticks)
    try:
        named = EPOCH + timedelta(seconds=ticks // per_second, microseconds=ticks % per_second * 10**6 // per_second)
    except OverflowError:
        return str(ticks)
    return named.isoformat().replace("T00:00:00+00:00", "").replace("+00:00", "Z")


def _integers(column: pl.Series) -> tuple[pl.Series, Clock]:
    exact = column.cast(pl.Int64, strict=False)
    if exact.null_count():
        row = int(exact.is_null().arg_max() or 0)
        raise UnreadableTimeError(row, column[row])
    return exact, Clock(_kind_of_numbers(exact))


def _floats(column: pl.Series) -> tuple[pl.Series, Clock]:
    readable = column.is_finite() & (column.abs() < LARGEST)
    if not readable.all():
        row = int((~readable).arg_max() or 0)
        raise UnreadableTimeError(row, column[row])
    kind = _kind_of_numbers(column)
    if (column == column.floor()).all():
        return column.cast(pl.Int64), Clock(kind)
    values, largest = column.to_numpy(), _largest(column)  # numpy: polars divides by multiplying, which rounds twice
    scaled, ticks = np.floor(values).astype(np.int64), 1
    for candidate in (10**3, 10**6, 10**9):
        if largest * candidate >= LARGEST:
            break
        scaled, ticks = np.rint(values * candidate).astype(np.int64), candidate
        if np.array_equal(scaled / ticks, values):
            return pl.Series(scaled), Clock(kind, ticks)
    # Binary fractions such as 0.1 + 0.2: not decimal, yet apart.
    if pl.Series(scaled).n_unique() < column.n_unique():
        raise DataError(TOO_FINE)
    return pl.Series(scaled), Clock(kind, ticks)


def _decimals(text: pl.Series) -> tuple[pl.Series, Clock] | None:
    """Decimal text digit by digit, for a float keeps 16 of them; None: not all are, or they need more than 64 bits."""
    sign, whole, fraction = (text.str.extract(DECIMAL, group) for group in (1, 2, 3))
    before, fraction = whole.cast(pl.Int64, strict=False), fraction.fill_null("")
    if before.null_count():
        return None
    digits = int(fraction.str.len_bytes().to_numpy().max(initial=0))
    largest = int(before.to_numpy().max(initial=0))
    for places in (0, 3, 6, 9):
        if digits <= places and largest < LARGEST // 10**places:
            scaled = before * 10**places + fraction.str.pad_end(places, "0").cast(pl.Int64, strict=False).fill_null(0)
            exact = pl.select(pl.when(sign == "-").then(-scaled).otherwise(scaled)).to_series()
            return exact, Clock(_kind_of_numbers(before), 10**places)
    return None


def _texts(column: pl.Series) -> tuple[pl.Series, Clock]:
    stripped = column.str.strip_chars()
    integers = stripped.cast(pl.Int64, strict=False)
    if not integers.null_count():
        return _integers(integers)
    if (exact := _decimals(stripped)) is not None:
        return exact
    floats = stripped.cast(pl.Float64, strict=False)
    if not floats.null_count():
        try:
            nearly, clock = _floats(floats)
        except UnreadableTimeError as error:
            raise UnreadableTimeError(error.row, column[error.row]) from error
        if nearly.n_unique() < _different(stripped):
            raise DataError(TOO_FINE)
        return nearly, clock
    dates = _iso_dates(stripped)
    if not dates["seconds"].null_count():
        return _ticks_of_dates(dates, column)
    # The majority tells what the column holds, and so which value is the odd one.
    readings = (integers.is_null() & floats.is_null(), dates["seconds"].is_null())
    unread = min(readings, key=lambda unreadable: int(unreadable.sum()))
    row = int(unread.arg_max() or 0)
    raise UnreadableTimeError(row, column[row])


def _different(text: pl.Series) -> int:
    """How many different numbers there are; those with an exponent do not count."""
    parts = [text.str.extract(DECIMAL, group) for group in (1, 2, 3)]
    plain = pl.DataFrame({"sign": parts[0] == "-", "whole": parts[1], "fraction": parts[2].fill_null("")})
    return plain.drop_nulls("whole").n_unique()


def _iso_dates(column: pl.Series) -> pl.DataFrame:
    """Columns seconds (null: not a date), fraction (nanoseconds), timed (whether it had a time of day)."""
    date, hour, minute, second, fraction, zone, zone_minute = (column.str.extract(ISO, group) for group in range(1, 8))
    clock_time = [text.cast(pl.Int64, strict=False).fill_null(0) for text in (hour, minute, second)]
    zone_hour = zone.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0)  # of "Z" and "UTC" no number
    offset = zone_hour * 3600 + zone_minute.cast(pl.Int64, strict=False).fill_null(0) * 60
    frame = pl.DataFrame(
        {
            "days": date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Int64),
            "hour": clock_time[0],
            "minute": clock_time[1],
            "second": clock_time[2],
            "fraction": fraction.str.pad_end(9, "0").cast(pl.Int64, strict=False).fill_null(0),
            "offset": offset,
            "zone": zone,
            "timed": hour.is_not_null(),
        }
    )
    sign = pl.when(pl.col("zone").str.starts_with("-")).then(-1).otherwise(1)
    within = (pl.col("hour") < 24) & (pl.col("minute") < 60) & (pl.col("second") < 60)
    seconds = pl.col("days") * 86_400 + pl.col("hour") * 3600 + pl.col("minute") * 60 + pl.col("second")
    return frame.select(pl.when(within).then(seconds - sign * pl.col("offset")).alias("seconds"), "fraction", "timed")


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


def _kind_of_numbers(column: pl.Series) -> str:
    largest = _largest(column)
    return next((kind for kind, smallest in SMALLEST.items() if largest >= smallest), NUMBER)


def _largest(column: pl.Series) -> float:
    ends = [column.min(), column.max()]
    return max((abs(end) for end in ends if isinstance(end, int | float)), default=0)
