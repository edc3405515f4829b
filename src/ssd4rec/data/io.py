"""Files and frames as tables of chosen columns: CSV, TSV, RecBole's, JSON Lines, Parquet, each also gzip; polars and pandas."""

import gzip
import io
import json
import zlib
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import polars as pl
import pyarrow as pa

from ssd4rec.data.columns import Choose, Table
from ssd4rec.data.delimited import EXPECTED, UTF8_MARK, check_utf8, read_delimited
from ssd4rec.errors import DataError, first_line

KINDS = (
    dict.fromkeys((".csv", ".tsv", ".inter", ".item", ".txt", ".dat", ".data"), "text")
    | dict.fromkeys((".jsonl", ".ndjson", ".json"), "json")
    | dict.fromkeys((".parquet", ".pq"), "parquet")
)
GZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"

Source = str | Path | pl.DataFrame | pl.LazyFrame | Any  # Any: a pandas frame; pandas is imported by those who have one


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
    return _from_json_lines(str(path), data, choose) if kind == "json" else read_delimited(str(path), data, choose)


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
