"""JSON Lines and JSON arrays of objects as a table of chosen columns, without rounding or merging ids.

Arrow reads lines whose chosen values have a single type; anything else is read by Python's json module, value by value.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.json as pa_json

from ssd4rec.data.columns import Choose, Table
from ssd4rec.data.delimited import UTF8_MARK, check_utf8
from ssd4rec.data.values import exact_series
from ssd4rec.errors import DataError, first_line

EXPECTED = "expected objects with user, item and time, one a line (JSON Lines) or in an array"
BLOCK = 1 << 24  # bytes; a longer line is read by Python
MOST_DIGITS = 4300  # of an integer; Python's own limit
SAMPLED = 200  # objects that decide on the columns
TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
REPEATED = object()  # stands for the values of a key that occurs twice in an object


def read_json(source: str, data: bytes, choose: Choose) -> Table:
    """Read the columns that `choose` picks.

    Raises:
        DataError: the text is not UTF-8 or not JSON, a value is not an object, a chosen key occurs twice in one, or
            different values of a column would become equal; the message names the line or row.
    """
    check_utf8(source, data)
    data = data.removeprefix(UTF8_MARK)
    if not data.strip():
        raise DataError(f"{source} is empty; {EXPECTED}")
    in_array = data.lstrip().startswith(b"[")
    objects = _array(source, data) if in_array else _lines(source, data)
    sampled = list(islice(objects, SAMPLED))
    sample = [value for _, value in sampled]
    header = list(dict.fromkeys(key for value in sample for key in value))
    names = {role: header[place] for role, place in choose(header).items()}
    frame = None if in_array else _by_arrow(data, sample, names)
    if frame is None:
        rows = [[_value(source, where, value, name) for name in names.values()] for where, value in chain(sampled, objects)]
        columns = zip(names.items(), zip(*rows, strict=True), strict=True)
        frame = pl.DataFrame({role: exact_series(values, f"{source}: column {name!r}") for (role, name), values in columns})

    def where(row: int) -> str:
        return f"row {row + 1}" if in_array else f"line {next(islice(_numbered(data), row, None))[0]}"

    return Table(frame, source, header, names, where)


def _by_arrow(data: bytes, sample: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> pl.DataFrame | None:
    """Read columns of a single type; None if there are others, or a value that Arrow would not keep exactly."""
    if len(set(names.values())) < len(names) or b"\\ud" in data or b"\\uD" in data:
        return None  # escaped surrogates may be lone
    fields = []
    for role, name in names.items():
        kinds = {type(value.get(name)) for value in sample} - {type(None)}
        if len(kinds) != 1 or next(iter(kinds)) not in TYPES or (kinds == {float} and role != "time"):
            return None  # a later integer could be rounded
        fields.append(pa.field(name, TYPES[kinds.pop()]))
    try:
        table = pa_json.read_json(
            pa.BufferReader(data),
            pa_json.ReadOptions(block_size=BLOCK),
            pa_json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    frame = cast("pl.DataFrame", pl.from_arrow(table))
    return frame.select(pl.col(name).alias(role) for role, name in names.items())


def _numbered(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, each with its number."""
    return ((number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip())


def _lines(source: str, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _numbered(data):
        yield f"line {number}", _object(source, f"line {number}", _parse(source, f"line {number}", line))


def _array(source: str, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    values = _parse(source, "the array", data)
    if not values:
        raise DataError(f"{source} holds an empty array; {EXPECTED}")
    for number, value in enumerate(values, start=1):
        yield f"row {number}", _object(source, f"row {number}", value)


def _parse(source: str, where: str, text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_marked, parse_int=lambda text: text if len(text) > MOST_DIGITS else int(text))
    except RecursionError as error:
        raise DataError(f"{source}: {where} is nested too deeply; {EXPECTED}") from error
    except ValueError as error:
        raise DataError(f"{source}: {where} is not JSON ({first_line(error)}); {EXPECTED}") from error


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object in which keys that occur twice have the value REPEATED."""
    value = dict(pairs)
    if len(value) < len(pairs):
        value.update((name, REPEATED) for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return value


def _object(source: str, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{source}: {where} is a JSON {type(value).__name__}, not an object; {EXPECTED}")
    return value


def _value(source: str, where: str, value: Mapping[str, Any], name: str) -> object:
    if value.get(name) is REPEATED:
        raise DataError(f"{source}: {where} has the key {name!r} twice; keep one of the two values")
    return value.get(name)
