"""Moments that a caller names: of a request, and of the last event before it."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from ssd4rec._csr import IntArray
from ssd4rec.data.timestamps import Clock, moment
from ssd4rec.errors import DataError, ShapeError

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
