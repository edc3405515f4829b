"""What callers pass: item ids, and moments of a request and of the last event before it."""

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import cast

import numpy as np
import polars as pl

from ssd4rec._csr import IntArray
from ssd4rec.data.timestamps import Clock, moment
from ssd4rec.errors import DataError, ShapeError

Ids = Sequence[object]
Moment = datetime | str | int | float
SECONDS = Clock("seconds")
LARGEST = 1e11  # seconds; later moments are in another unit


def to_seconds(name: str, moments: Moment | Sequence[Moment], count: int) -> IntArray:
    """Return moments as seconds since 1970, int64 [count].

    Args:
        name: of the argument, for messages.
        moments: one for all, or `count` of them: a `datetime` (UTC where it has no zone), ISO text, or seconds.
        count: how many are needed.

    Raises:
        DataError: a moment cannot be read.
        ShapeError: another number of moments.
    """
    if isinstance(moments, Moment):
        return np.full(count, _seconds(name, moments), dtype=np.int64)
    if len(moments) != count:
        raise ShapeError(f"`{name}` must be one moment or one for each of the {count} histories, found {len(moments)}")
    return np.array([_seconds(name, each) for each in moments], dtype=np.int64)


def _seconds(name: str, value: Moment) -> int:
    text = value.isoformat() if isinstance(value, datetime) else value
    if isinstance(text, str):
        seconds = moment(SECONDS, text)
    elif isinstance(text, bool) or not np.isfinite(text):
        raise DataError(f"`{name}` is {value!r}; expected a datetime, ISO text such as 2024-01-31T18:00, or seconds since 1970")
    else:
        seconds = int(text)
    if abs(seconds) > LARGEST:
        raise DataError(f"`{name}` is {value!r}, which is not a number of seconds since 1970; convert it to seconds")
    return seconds


def as_batch(histories: Ids | Sequence[Ids]) -> tuple[list[list[object]], bool]:
    """Return the histories as lists, and whether the argument was a single history."""
    if isinstance(histories, str):
        raise DataError(f"expected a list of item ids, found the string {histories!r}; use [{histories!r}]")
    entries = _as_list(histories)
    nested = [isinstance(entry, list | tuple | np.ndarray | pl.Series) for entry in entries]
    if entries and all(nested):
        return [as_ids(cast("Ids", entry)) for entry in entries], False
    if any(nested):
        raise DataError("expected item ids or lists of item ids, found a mixture; pass one history or a list of histories")
    return [as_ids(entries)], True


def as_ids(ids: Ids) -> list[object]:
    """Return a history as a list of hashable ids.

    Raises:
        DataError: the argument is a single string, is unordered, or contains something that cannot be an id.
    """
    if isinstance(ids, str):
        raise DataError(f"expected a list of item ids, found the string {ids!r}; use [{ids!r}]")
    values = [entry.item() if isinstance(entry, np.generic) else entry for entry in _as_list(ids)]
    for value in values:
        if not _is_hashable(value):
            shown = " ".join(repr(value).split())[:200]  # a Series has several lines
            raise DataError(f"item ids must be strings or numbers, found {shown}; pass the ids only, oldest first")
    return values


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _as_list(values: object) -> list[object]:
    # Sets have no order, and mappings and data frames are not lists of ids. Iterating over a 0-d array fails.
    is_scalar_array = isinstance(values, np.ndarray) and values.ndim == 0
    if (
        isinstance(values, bytes | Mapping | Set | pl.DataFrame)
        or not isinstance(values, Iterable)
        or is_scalar_array
        or type(values).__name__ == "DataFrame"
    ):
        raise DataError(
            f"expected a list of item ids, oldest first, or a list of such lists; found {type(values).__name__}: "
            f"pass a list, a tuple, an array or a polars Series"
        )
    return list(values)


def unknown_ids(ids: Sequence[object], indices: IntArray) -> tuple[object, ...]:
    """Return the ids whose item index is 0."""
    return tuple(ids[position] for position in np.flatnonzero(indices == 0).tolist())
