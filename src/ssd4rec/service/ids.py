"""Ids and timestamps as the API and the store write them."""

import math
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

MAX_ID = 256  # characters
MICROSECONDS = 1_000_000
MAX_SECONDS = 9_000_000_000  # year 2255; microseconds of it fit a float exactly
MAX_DEPTH = 8  # of free JSON
MAX_NODES = 1000


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def check_id(value: str) -> str:
    """Return an id that both databases can hold.

    Raises:
        ValueError: it is empty, too long, or contains what UTF-8 or PostgreSQL cannot hold.
    """
    if not 1 <= len(value) <= MAX_ID:
        raise ValueError(f"an id has 1 to {MAX_ID} characters, not {len(value)}")
    return check_text(value)


def check_text(value: str) -> str:
    """Return a text that both databases can hold.

    Raises:
        ValueError: it contains what UTF-8 or PostgreSQL cannot hold.
    """
    if "\x00" in value:
        raise ValueError("it must not contain the character U+0000")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it must be valid Unicode, and contains half of a surrogate pair") from error
    return value


Id = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(check_id),
    WithJsonSchema({"type": ["string", "integer"], "minLength": 1, "maxLength": MAX_ID, "examples": ["u7"]}),
]
OutputId = Annotated[str, Field(examples=["m318"])]


def parse_timestamp(value: object) -> int:
    """Return microseconds since 1970 of a number of seconds or an ISO 8601 date-time.

    Raises:
        ValueError: it is neither, or seems to be of another unit.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError("a timestamp is seconds since 1970 or an ISO 8601 date-time such as 2026-01-31T18:05:00Z") from error
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        return round(since.total_seconds() * MICROSECONDS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a timestamp is seconds since 1970 or an ISO 8601 date-time such as 2026-01-31T18:05:00Z")
    if abs(value) > MAX_SECONDS:
        raise ValueError("timestamps are seconds since 1970; this number seems to be milliseconds or microseconds, divide it")
    return value * MICROSECONDS if isinstance(value, int) else round(value * MICROSECONDS)


def parse_query_timestamp(value: object) -> int:
    """Do `parse_timestamp` for the text of a query, where a number is text too."""
    try:
        number: object = float(value) if isinstance(value, str) else value
    except ValueError:
        number = value
    return parse_timestamp(number)


_TIMESTAMP_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "number", "minimum": -MAX_SECONDS, "maximum": MAX_SECONDS},
            {"type": "string", "format": "date-time"},
        ],
        "description": "seconds since 1970, or ISO 8601",
        "examples": [1767200000],
    }
)
Timestamp = Annotated[int, BeforeValidator(parse_timestamp), _TIMESTAMP_SCHEMA]
QueryTimestamp = Annotated[int, BeforeValidator(parse_query_timestamp), _TIMESTAMP_SCHEMA]


def seconds(microseconds: int) -> int | float:
    """Return microseconds as seconds: an integer where they are whole."""
    whole, rest = divmod(microseconds, MICROSECONDS)
    return whole if not rest else microseconds / MICROSECONDS


def now() -> int:
    """Return the current time in microseconds since 1970: for what is dated, never for a duration."""
    return round(time.time() * MICROSECONDS)


def check_free_json(value: dict[str, Any]) -> dict[str, Any]:
    """Return free JSON of bounded depth and size.

    Raises:
        ValueError: it is too deep, too large, or contains a number that is not finite.
    """
    waiting: list[tuple[object, int]] = [(value, 1)]
    nodes = 0
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"free JSON may be nested {MAX_DEPTH} levels deep")
        if nodes > MAX_NODES:
            raise ValueError(f"free JSON may have {MAX_NODES} values")
        if isinstance(node, dict):
            waiting += [(each, depth + 1) for each in (*node, *node.values())]
        elif isinstance(node, list):
            waiting += [(each, depth + 1) for each in node]
        elif isinstance(node, str):
            check_text(node)
        elif isinstance(node, float) and not math.isfinite(node):
            raise ValueError("numbers must be finite")
    return value


FreeJson = Annotated[dict[str, Any], AfterValidator(check_free_json)]
