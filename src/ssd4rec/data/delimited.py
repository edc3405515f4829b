"""Delimited text (CSV, TSV, RecBole's) as a table of chosen columns; what is wrong in it is named by its line."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from ssd4rec.data.columns import Choose, Table
from ssd4rec.errors import DataError

SEPARATORS = ("\t", ",", ";")
UTF8_MARK, UTF16_MARKS = codecs.BOM_UTF8, (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CHECKED_AT_ONCE = 1 << 24  # bytes
LONGEST_LINE = 1 << 24  # bytes
EXPECTED = "expected a line of column names and rows of user, item and time"


def read_delimited(source: str, data: bytes, choose: Choose) -> Table:
    """Read the columns that `choose` picks, as text exactly as written.

    Args:
        source: what messages call it.
        data: the whole file.
        choose: picks columns by the header; raises DataError when it cannot.

    Raises:
        DataError: empty, without rows, not UTF-8, ragged, or a quote that is not closed; it names the line.
    """
    check_utf8(source, data)
    if not data:
        raise DataError(f"{source} is empty; {EXPECTED}")
    header_line, header_end = _first_full_line(source, data)
    separator, header = _split_header(header_line)
    chosen = choose(header)
    if not re.compile(rb"\S").search(data, header_end):  # no copy of a large file
        raise DataError(f"{source} has a header and no rows: {', '.join(header)}")
    quoted = _quotes_are_marks(data, separator)
    frame = _parse(source, data, header_end, header, chosen, separator=separator, quoted=quoted)
    if quoted and frame.height != data.count(b"\n", header_end) + (not data.endswith(b"\n")):
        _check_quotes(source, data, separator)  # some field runs over several lines: on purpose, or for want of a quote

    def where(row: int) -> str:
        return f"line {_line_of_row(data, separator, row, quoted=quoted)}"

    return Table(frame, source, header, {role: header[place] for role, place in chosen.items()}, where)


def check_utf8(source: str, data: bytes) -> None:
    """Raise DataError, naming line and byte, unless the bytes are UTF-8 text."""
    if data.startswith(UTF16_MARKS):
        raise DataError(f"{source} is UTF-16 text; expected UTF-8: save it as UTF-8")
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), CHECKED_AT_ONCE):
        chunk = data[start : start + CHECKED_AT_ONCE]
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=start + CHECKED_AT_ONCE >= len(data))
        except UnicodeDecodeError as error:
            done = start - pending + error.start
            line = data.count(b"\n", 0, done) + 1
            raise DataError(
                f"{source}: line {line} is not UTF-8 text (byte {data[done]:#04x} at offset {done:,}); "
                f"save the file as UTF-8, e.g. iconv -f latin1 -t utf8"
            ) from error


def _first_full_line(source: str, data: bytes) -> tuple[str, int]:
    start = len(UTF8_MARK) if data.startswith(UTF8_MARK) else 0
    while start < len(data):
        end = data.find(b"\n", start)
        stop = len(data) if end < 0 else end + 1
        line = data[start:stop].strip(b"\r\n")
        if b"\r" in line:
            raise DataError(f"{source} ends its lines with a carriage return alone; save it with Unix or Windows line ends")
        if line.strip():
            return line.decode(), stop
        start = stop
    raise DataError(f"{source} holds blank lines only; {EXPECTED}")


def _split_header(line: str) -> tuple[str, list[str]]:
    """The separator that gives the most columns; a tab where none does."""
    splits = {separator: next(csv.reader([line], delimiter=separator)) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(splits[each]))
    return separator, splits[separator]


def _quotes_are_marks(data: bytes, separator: str) -> bool:
    r"""Whether `"` encloses fields: some field begins with one. Between tabs that may be a letter, too: 7\t"Great" film."""
    begins = (b'"', UTF8_MARK + b'"')
    if not (data.startswith(begins) or any(edge + b'"' in data for edge in (separator.encode(), b"\n", b"\r"))):
        return False
    if separator != "\t":
        return True
    try:
        return not any("\n" in field for _, fields in _rows(data, separator, quoted=True) for field in fields)
    except csv.Error:
        return False


def _parse(
    source: str, data: bytes, start: int, header: Sequence[str], chosen: Mapping[str, int], *, separator: str, quoted: bool
) -> pl.DataFrame:
    names = [str(place) for place in range(len(header))]  # a header may hold one name twice
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(pa.py_buffer(data).slice(start)),
            pa_csv.ReadOptions(column_names=names, block_size=LONGEST_LINE),
            pa_csv.ParseOptions(delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted),
            pa_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.large_string()),
                strings_can_be_null=False,
                include_columns=[str(place) for place in chosen.values()],
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(_what_is_ragged(source, data, header, separator, quoted=quoted) or f"{source}: {error}") from error
    frame = cast("pl.DataFrame", pl.from_arrow(table))
    return frame.select(pl.col(str(place)).alias(role) for role, place in chosen.items())


def _what_is_ragged(source: str, data: bytes, header: Sequence[str], separator: str, *, quoted: bool) -> str | None:
    try:
        for line, fields in _rows(data, separator, quoted=quoted):
            if len(fields) != len(header):
                found = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
                broken = any("\n" in field for field in fields)
                return (
                    f"{source}: line {line} has {found}, expected {len(header)} as in the header ({', '.join(header)}); "
                    f"{'close the quote that is opened there' if broken else 'correct or remove the line'}"
                )
    except csv.Error as error:
        return f"{source}: a quoted field is not closed ({error}); quotes inside a quoted field are written twice"
    return None


def _check_quotes(source: str, data: bytes, separator: str) -> None:
    """Raise DataError, naming the line, unless every quoted field is closed where a field ends."""
    last = 0
    try:
        for last, _ in _rows(data, separator, quoted=True, strict=True):  # noqa: B007 - needed when the next row fails
            pass
    except csv.Error as error:
        raise DataError(
            f"{source}: a quoted field that begins after line {last} is not closed where it should be ({error}); close it, and "
            "write a quote inside a quoted field twice"
        ) from error


def _line_of_row(data: bytes, separator: str, row: int, *, quoted: bool) -> int:
    rows = iter(_rows(data, separator, quoted=quoted))
    next(rows)  # the header
    return next(line for place, (line, _) in enumerate(rows) if place == row)


def _rows(data: bytes, separator: str, *, quoted: bool, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """1-based number of the first line and the fields of each row, the header first.

    A microsecond a row, many times what Arrow takes: for messages, and for files in which some field begins with a quote.
    """
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=strict)
    line = 1
    for fields in reader:
        if fields:
            yield line, fields
        line = reader.line_num + 1
