"""Python values of one column as a polars column: no rounding, and different values stay different."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import accumulate
from numbers import Integral, Real
from typing import Any

import polars as pl
import pyarrow as pa

from ssd4rec.errors import DataError

INT64, UINT64 = range(-(2**63), 2**63), range(2**64)


def exact_series(values: Sequence[Any], where: str) -> pl.Series:
    """Turn values of Python types into a column.

    Integers become Int64 or UInt64, text becomes String; a mixture of numbers and text becomes text unless two different
    values would become equal, such as 1 and "1". Dates among date-times are midnight.

    Args:
        values: None is missing.
        where: the column, for messages.

    Raises:
        DataError: values that would become equal, lone surrogates, mixtures of times with and without zone, or other types.
    """
    present = [value for value in values if value is not None]
    kinds = {_kind(value) for value in present}
    if other := kinds - {"integer", "number", "text", "time", "list"}:
        raise DataError(f"{where} holds values of type {other.pop()}; expected text, numbers or times")
    if len(kinds) > 1 and kinds & {"list", "time"}:
        raise DataError(f"{where} mixes {' and '.join(sorted(kinds))} values; give them one type")
    if kinds == {"list"}:
        return _lists(values, where)
    if kinds == {"time"}:
        return _times(values, where)
    if kinds <= {"integer"}:
        return _integers(values)
    if kinds == {"integer", "number"} and all(float(value).is_integer() and abs(value) < 2**53 for value in present):
        return _integers([None if value is None else int(value) for value in values])
    if kinds == {"number"}:
        return pl.Series([None if value is None else float(value) for value in values], dtype=pl.Float64)
    return _texts(values, where)


KINDS: Sequence[tuple[type | tuple[type, ...], str]] = (
    (str, "text"),
    (bool, "bool"),
    (Integral, "integer"),
    ((Real, Decimal), "number"),
    (date, "time"),  # a date-time is one too
    (time, "time of day"),
    ((list, tuple), "list"),
)


def _kind(value: object) -> str:
    return next((name for kind, name in KINDS if isinstance(value, kind)), type(value).__name__)


def _integers(values: Sequence[Any]) -> pl.Series:
    numbers = [None if value is None else int(value) for value in values]
    present = [number for number in numbers if number is not None]
    for dtype, allowed in ((pl.Int64, INT64), (pl.UInt64, UINT64)):
        if all(number in allowed for number in present):
            return pl.Series(numbers, dtype=dtype)
    return pl.Series([None if number is None else str(number) for number in numbers], dtype=pl.String)


def _texts(values: Sequence[Any], where: str) -> pl.Series:
    texts = [None if value is None else str(value) for value in values]
    originals: dict[str, object] = {}
    for row, (text, value) in enumerate(zip(texts, values, strict=True), start=1):
        if text is None:
            continue
        if type(originals.setdefault(text, value)) is not type(value):
            raise DataError(f"{where} holds both the text and the number {text}; give all values one type, text or number")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: the value {text!r} in row {row} has a lone surrogate, which is not text; replace these characters"
            ) from error
    return pl.Series(texts, dtype=pl.String)


def _times(values: Sequence[Any], where: str) -> pl.Series:
    moments = [
        value if value is None or isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        for value in values
    ]
    zoned = {moment.tzinfo is not None for moment in moments if moment is not None}
    if len(zoned) > 1:
        raise DataError(f"{where} mixes times with and without a time zone; convert all of them to UTC")
    if zoned == {True}:
        moments = [moment and moment.astimezone(UTC).replace(tzinfo=None) for moment in moments]
    return pl.Series(moments, dtype=pl.Datetime("us"))


def _lists(values: Sequence[Any], where: str) -> pl.Series:
    """Return lists whose values are exact; None is an empty list."""
    flat = exact_series([each for value in values for each in value or ()], where)
    offsets = pa.array([0, *accumulate(len(value or ()) for value in values)], pa.int64())
    return pl.Series(pa.LargeListArray.from_arrays(offsets, flat.to_arrow(compat_level=pl.CompatLevel.oldest())))
