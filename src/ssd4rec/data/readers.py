"""Files and frames as tables of chosen columns: CSV, TSV, RecBole's, JSON Lines, Parquet, each also gzip; polars and pandas."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from ssd4rec.errors import DataError, first_line

KINDS = (
    dict.fromkeys((".csv", ".tsv", ".inter", ".item", ".txt", ".dat", ".data"), "text")
    | dict.fromkeys((".jsonl", ".ndjson", ".json"), "json")
    | dict.fromkeys((".parquet", ".pq"), "parquet")
)
SEPARATORS = ("\t", ",", ";")
UTF8_MARK, UTF16_MARKS = codecs.BOM_UTF8, (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
GZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
CHECKED_AT_ONCE = 1 << 24  # bytes
LONGEST_LINE = 1 << 24  # bytes
EXPECTED = "expected a line of column names and rows of user, item and time"

# The header as written -> for each role the place of its column.
Choose = Callable[[Sequence[str]], Mapping[str, int]]
Source = str | Path | pl.DataFrame | pl.LazyFrame | Any  # Any: a pandas frame; pandas is imported by those who have one


@dataclass(frozen=True)
class Table:
    """The chosen columns of a file or frame, renamed to their roles."""

    frame: pl.DataFrame
    source: str  # a path, or the kind of frame
    header: Sequence[str]  # all columns' names as written
    names: Mapping[str, str]  # for each role the column's name as written
    where: Callable[[int], str]  # 0-based row -> "line 7" of a text file, or "row 6" of anything else


def read_table(source: Source, choose: Choose) -> Table:
    """Read the columns that `choose` picks.

    Args:
        source: a path, or a polars or pandas frame.
        choose: picks columns by the header; raises DataError when it cannot.

    Returns:
        The columns. Text files give text exactly as written, anything else the types that it has.

    Raises:
        DataError: the file is missing, a folder, empty, without rows, of an unknown kind, not UTF-8, ragged,
            cut short or otherwise damaged; the object is no frame.
    """
    if isinstance(source, pl.DataFrame):
        return _from_frame(source.lazy(), "polars frame", choose)
    if isinstance(source, pl.LazyFrame):
        try:  # what it reads is read now
            return _from_frame(source, "polars frame", choose)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"the polars frame cannot be read: {first_line(error)}") from error
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        return _from_pandas(source, choose)
    if not isinstance(source, str | Path):
        raise DataError(f"cannot read a value of type {type(source).__name__}; expected a path, a polars frame or a pandas frame")
    path = Path(source)
    try:
        kind = _kind_of_file(path)
        with path.open("rb") as file:
            head = file.read(len(PARQUET_MAGIC))
        if (kind == "parquet" or head == PARQUET_MAGIC) and not head.startswith(GZIP_MAGIC):
            return _from_parquet(path, path, choose)  # left on disk: only the chosen columns are read
        data = _unzipped(path) if head.startswith(GZIP_MAGIC) else path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if kind == "parquet":
        return _from_parquet(path, data, choose)
    return _from_json_lines(str(path), data, choose) if kind == "json" else _from_text(str(path), data, choose)


def _kind_of_file(path: Path) -> str:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: no system has a file of that name
        raise DataError(f"no such file: {path}") from error
    if S_ISDIR(found.st_mode):
        raise DataError(f"{path} is a folder; expected a file, name one inside it")
    suffix = next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "none")
    if suffix not in KINDS:
        known = ", ".join(KINDS)
        raise DataError(f"{path}: unknown kind of file (suffix {suffix}); expected one of {known}, each also with .gz; rename it")
    if not found.st_size:
        raise DataError(f"{path} is empty; {EXPECTED}")
    return KINDS[suffix]


def _unzipped(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except EOFError as error:
        size = path.stat().st_size
        raise DataError(f"{path}: the gzip file is cut short after {size:,} bytes; copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged ({error}); copy or download it again") from error


def _from_parquet(path: Path, data: Path | bytes, choose: Choose) -> Table:
    head, tail, size = _ends(data)
    if head != PARQUET_MAGIC:
        raise DataError(f"{path} is not a Parquet file: it begins with {head!r}, expected {PARQUET_MAGIC!r}")
    if tail != PARQUET_MAGIC:
        raise DataError(f"{path}: the Parquet file is cut short after {size:,} bytes; copy or write it again")
    try:
        lazy = pl.scan_parquet(io.BytesIO(data) if isinstance(data, bytes) else data, glob=False)
        return _from_frame(lazy, str(path), choose)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: the Parquet file is damaged ({first_line(error)}); copy or write it again") from error


def _ends(data: Path | bytes) -> tuple[bytes, bytes, int]:
    """The first and the last four bytes, and how many there are."""
    with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
        head = file.read(len(PARQUET_MAGIC))
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - len(PARQUET_MAGIC), 0))
        return head, file.read(), size


def _from_pandas(source: Any, choose: Choose) -> Table:
    try:
        frame = pl.from_pandas(source)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"the pandas frame cannot be read ({first_line(error)}); give each column one type") from error
    return _from_frame(frame.lazy(), "pandas frame", choose)


def _from_frame(lazy: pl.LazyFrame, source: str, choose: Choose) -> Table:
    header = lazy.collect_schema().names()
    names = {role: header[place] for role, place in choose(header).items()}
    frame = lazy.select(pl.col(name).alias(role) for role, name in names.items()).collect()
    if not frame.height:
        raise DataError(f"{source} has no rows, only the columns {', '.join(header)}")
    return Table(frame, source, header, names, lambda row: f"row {row + 1}")


def _from_json_lines(source: str, data: bytes, choose: Choose) -> Table:
    check_utf8(source, data)
    data = data.removeprefix(UTF8_MARK)
    if not data.strip():
        raise DataError(f"{source} is empty; expected an object a line, with user, item and time")
    try:  # the types that suit all lines; only the chosen columns are kept
        return _from_frame(pl.scan_ndjson(io.BytesIO(data), infer_schema_length=None), source, choose)
    except pl.exceptions.PolarsError as error:
        raise DataError(_what_is_no_object(source, data) or f"{source}: {first_line(error)}") from error


def _what_is_no_object(source: str, data: bytes) -> str | None:
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            value = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            return f"{source}: line {number} is not JSON ({error}); expected one object a line (JSON Lines)"
        if not isinstance(value, dict):
            return f"{source}: line {number} is a JSON {type(value).__name__}; expected one object a line (JSON Lines)"
    return None


def _from_text(source: str, data: bytes, choose: Choose) -> Table:
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
    if quoted and b'"' in data and frame.height != data.count(b"\n", header_end) + (not data.endswith(b"\n")):
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
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
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
    r"""Whether `"` encloses fields. Between tabs it may also be a letter like any other: 7\t"Great" film."""
    if b'"' not in data or separator != "\t":
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
            pa_csv.ParseOptions(
                delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted and b'"' in data
            ),
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
    """1-based number of the first line and the fields of each row, the header first. Slow: for messages only."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=strict)
    line = 1
    for fields in reader:
        if fields:
            yield line, fields
        line = reader.line_num + 1
