"""Files and frames as tables of chosen columns: text, JSON and Parquet, also compressed; folders; polars and pandas frames.

Only the chosen columns are read, so that other columns cannot fail. Parquet is read with plain reads by Arrow: a mapped file
that is cut while it is read would kill the process.
"""

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ssd4rec.data.columns import Choose, ReadOptions, Table
from ssd4rec.data.delimited import EXPECTED, read_delimited
from ssd4rec.data.json_rows import read_json
from ssd4rec.data.values import exact_series
from ssd4rec.errors import DataError, first_line

KINDS = (
    dict.fromkeys((".csv", ".tsv", ".inter", ".item", ".txt", ".dat", ".data"), "text")
    | dict.fromkeys((".jsonl", ".ndjson", ".json"), "json")
    | dict.fromkeys((".parquet", ".pq"), "parquet")
)
SPREADSHEETS = (".xlsx", ".xls", ".ods")
PARQUET_MAGIC = b"PAR1"
MOST_ROWS_PER_BYTE = 1000  # of a Parquet file; more is damage or an attack
COMPRESSIONS: dict[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
OPENERS: dict[str, Callable[[Path], Any]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "Zstandard": lambda path: pa.input_stream(str(path), compression="zstd"),
}
DAMAGED = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    OSError,
)
AT_ONCE = 1 << 22  # bytes
ALWAYS_ALLOWED = 1 << 26  # decompressed bytes
BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError)

Source = str | Path | pl.DataFrame | pl.LazyFrame | Any  # Any: a pandas frame; pandas is imported by its owner


def read_table(source: Source, choose: Choose, options: ReadOptions = ReadOptions()) -> Table:  # noqa: B008 - frozen
    """Read the columns that `choose` picks.

    Args:
        source: the path of a file or of a folder with the parts of a table, or a polars or pandas frame.
        choose: picks columns by the header; raises DataError if it cannot.
        options: how files are read.

    Returns:
        The columns. Text files give text exactly as written, other sources their own types.

    Raises:
        DataError: the file is missing, empty, without rows, of an unknown kind, not UTF-8, ragged, cut short or
            otherwise damaged; the object is not a frame.
    """
    if isinstance(source, pl.DataFrame | pl.LazyFrame):
        return _from_polars(source.lazy(), choose)
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        return _from_pandas(source, choose)
    if not isinstance(source, str | Path):
        raise DataError(f"cannot read a value of type {type(source).__name__}; expected a path, a polars frame or a pandas frame")
    path = Path(source)
    is_folder = os.path.isdir(path)  # noqa: PTH112 - False where Path.is_dir raises; reading the path will give the reason
    return _from_folder(path, choose, options) if is_folder else _from_file(path, choose, options)


def _from_file(path: Path, choose: Choose, options: ReadOptions) -> Table:
    try:
        kind = _kind_of_file(path)
        with path.open("rb") as file:
            head = file.read(6)
            compression = format_of(head)
            if compression is None and (kind == "parquet" or head.startswith(PARQUET_MAGIC)):
                return _from_parquet(path, file, choose)
        if compression is None:
            data = path.read_bytes()
        else:
            name, data = _decompress(path, compression, options.max_expansion)
            kind = KINDS.get(_suffix(Path(name)), kind)
    except (OSError, MemoryError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}") from error
    if kind == "parquet" or data.startswith(PARQUET_MAGIC):
        return _from_parquet(path, io.BytesIO(data), choose)
    return read_json(str(path), data, choose) if kind == "json" else read_delimited(str(path), data, choose, options)


def _suffix(path: Path) -> str:
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() not in SUFFIXES), "none")


def _kind_of_file(path: Path) -> str:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"no such file: {path}") from error
    suffix = _suffix(path)
    if suffix in SPREADSHEETS:
        raise DataError(f"{path} is a spreadsheet; export it as CSV and give the CSV file")
    if suffix == "none" and path.suffix.lower() == ".zip":
        return "text"
    if suffix not in KINDS:
        raise DataError(
            f"{path}: unknown kind of file (suffix {suffix}); expected one of {', '.join(KINDS)}, each also with "
            f"{', '.join(SUFFIXES)}: rename it if it is one of these, or export it as Parquet or CSV"
        )
    if not status.st_size:
        raise DataError(f"{path} is empty; {EXPECTED}")
    return KINDS[suffix]


def format_of(head: bytes) -> str | None:
    """Return the compression of a file that begins with these bytes; None: not compressed."""
    return next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)


def _decompress(path: Path, kind: str, max_expansion: float) -> tuple[str, bytes]:
    """Return the name and the content of a compressed file; see `ReadOptions` for `max_expansion`."""
    size = path.stat().st_size
    try:
        if kind == "zip":
            return _from_zip(path, size, max_expansion)
        with OPENERS[kind](path) as stream:
            return path.name, _bounded(path, stream, size, max_expansion)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, gzip.BadGzipFile):
            raise
        state = f"cut short after {size:,} bytes" if isinstance(error, EOFError) else f"damaged ({first_line(error)})"
        raise DataError(f"{path}: the {kind} file is {state}; copy or download it again") from error


def _bounded(path: Path, stream: IO[bytes], compressed: int, max_expansion: float) -> bytes:
    blocks, size = [], 0
    limit = max(ALWAYS_ALLOWED, int(max_expansion * compressed))
    while block := stream.read(AT_ONCE):
        blocks.append(block)
        size += len(block)
        if size > limit:
            raise DataError(
                f"{path}: {compressed:,} compressed bytes expand to more than {limit:,}, which is not usual for interactions; if "
                f"the file is right, allow it with --set data.max_expansion=100000"
            )
    return b"".join(blocks)


def _from_zip(path: Path, size: int, max_expansion: float) -> tuple[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
        files = [name for name in members if _suffix(Path(name)) in KINDS]
        if len(files) != 1:
            inside = f"it holds {', '.join(members[:8]) or 'nothing'}{' …' if len(members) > 8 else ''}"
            raise DataError(f"{path}: expected a zip file with one table, {inside}; extract the table and give its path")
        if archive.getinfo(files[0]).flag_bits & 1:
            raise DataError(f"{path}: the zip file is encrypted; extract {files[0]} and give its path")
        with archive.open(files[0]) as stream:
            return files[0].rpartition("/")[2], _bounded(path, stream, size, max_expansion)


def _from_folder(folder: Path, choose: Choose, options: ReadOptions) -> Table:
    """Read the parts of a table that Spark, Ray, DuckDB and others write to a folder, in the order of their names."""
    try:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and _suffix(path) in KINDS)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    inside = [path for path in files if not is_hidden(path.relative_to(folder))]
    if not inside:
        raise DataError(f"the folder {folder} has no file that could be a part of a table; expected {', '.join(KINDS)}")
    parts = [_from_file(path, choose, options) for path in inside]
    first = parts[0]
    for part in parts[1:]:
        if part.names != first.names or part.frame.schema != first.frame.schema:
            raise DataError(
                f"the files of {folder} are not parts of one table: {first.source} has {_columns(first)}, {part.source} has "
                f"{_columns(part)}; give the files one header and the same types, or name one file"
            )
    starts = [0, *accumulate(part.frame.height for part in parts)]

    def where(row: int) -> str:
        number = bisect_right(starts, row) - 1
        return f"{parts[number].where(row - starts[number])} of {inside[number].relative_to(folder)}"

    notes = dict.fromkeys(note for part in parts for note in part.notes)
    return Table(pl.concat([part.frame for part in parts]), str(folder), first.header, first.names, where, tuple(notes))


def is_hidden(path: Path) -> bool:
    """Whether a path inside a folder of parts names no part: .crc, _SUCCESS, _temporary and so on."""
    return any(name.startswith((".", "_")) for name in path.parts)


def _columns(table: Table) -> str:
    kinds = dict(zip(table.frame.columns, table.frame.dtypes, strict=True))
    return ", ".join(f"{name} ({kinds[role]})" for role, name in table.names.items() if role in kinds)


def _from_parquet(path: Path, file: Any, choose: Choose) -> Table:
    file.seek(0)
    if (head := file.read(len(PARQUET_MAGIC))) != PARQUET_MAGIC:
        raise DataError(f"{path} is not a Parquet file: it begins with {head!r}, expected {PARQUET_MAGIC!r}")
    size = file.seek(0, io.SEEK_END)
    file.seek(size - len(PARQUET_MAGIC))
    if file.read() != PARQUET_MAGIC:
        raise DataError(f"{path}: the Parquet file is cut short after {size:,} bytes; copy or write it again")
    file.seek(0)
    try:
        parquet = pq.ParquetFile(file)
        header, rows = parquet.schema_arrow.names, parquet.metadata.num_rows
    except (*BROKEN, ValueError) as error:
        raise DataError(f"{path}: the Parquet file is damaged ({first_line(error)}); copy or write it again") from error
    names = {role: header[place] for role, place in choose(header).items()}
    if not rows:
        raise DataError(f"{path} has no rows, only the columns {', '.join(header)}")
    if not 0 < rows <= MOST_ROWS_PER_BYTE * size:
        raise DataError(f"{path}: the Parquet file is damaged ({size:,} bytes for {rows:,} rows); copy or write it again")
    try:
        table = parquet.read(columns=list(dict.fromkeys(names.values())))
        table.validate(full=True)  # text of a damaged file may not be UTF-8, on which polars panics
        columns = {role: _from_arrow(table.column(name)).alias(role) for role, name in names.items()}
        return _table(pl.DataFrame(columns), str(path), header, names)
    except (*BROKEN, ValueError, KeyError) as error:
        raise DataError(f"{path}: the Parquet file is damaged ({first_line(error)}); copy or write it again") from error


def _from_arrow(column: pa.ChunkedArray) -> pl.Series:
    """Convert a column; the instants of times with a zone are UTC, whatever the zone is called."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        unit = "us" if kind.unit == "s" else kind.unit
        plain = column.cast(pa.timestamp(unit, kind.tz)) if unit != kind.unit else column
        chunks = [chunk.view(pa.int64()) for chunk in plain.chunks]
        ticks = cast("pl.Series", pl.from_arrow(pa.chunked_array(chunks, pa.int64())))
        return ticks.cast(pl.Datetime(cast("Any", unit)))
    return cast("pl.Series", pl.from_arrow(column))


def _from_pandas(source: Any, choose: Choose) -> Table:
    header = [str(name) for name in source.columns]
    places = dict(choose(header))
    columns = {role: _pandas_column(source.iloc[:, place], header[place]) for role, place in places.items()}
    return _table(pl.DataFrame(columns), "pandas frame", header, {role: header[place] for role, place in places.items()})


def _pandas_column(column: Any, name: str) -> pl.Series:
    if not hasattr(column, "dtype"):
        raise DataError(f"pandas frame: column {name!r} has several levels; give each column one name")
    try:
        if column.dtype == object:
            with suppress(pa.ArrowException, TypeError, UnicodeError):  # text alone, many times as fast
                return _from_arrow(pa.chunked_array([pa.array(column, pa.large_string(), from_pandas=True)]))
            values = column.to_numpy(dtype=object)
            missing = np.asarray(column.isna(), dtype=bool)
            present = [None if gone else value for gone, value in zip(missing, values, strict=True)]
            return exact_series(present, f"pandas frame: column {name!r}")
        return cast("pl.Series", pl.from_pandas(column, nan_to_null=False))
    except DataError:
        raise
    except (*BROKEN, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"pandas frame: column {name!r} cannot be read ({first_line(error)}); give it one type") from error


def _from_polars(lazy: pl.LazyFrame, choose: Choose) -> Table:
    try:
        header = lazy.collect_schema().names()
        names = {role: header[place] for role, place in choose(header).items()}
        frame = lazy.select(pl.col(name).alias(role) for role, name in names.items()).collect()
    except BROKEN as error:  # a lazy frame reads its file now
        raise DataError(f"the polars frame cannot be read: {first_line(error)}") from error
    columns = [
        exact_series(column.to_list(), f"polars frame: column {names[column.name]!r}").alias(column.name)
        if column.dtype == pl.Object
        else column
        for column in frame
    ]
    return _table(pl.DataFrame(columns), "polars frame", header, names)


def _table(frame: pl.DataFrame, source: str, header: Sequence[str], names: Mapping[str, str]) -> Table:
    if not frame.height:
        raise DataError(f"{source} has no rows, only the columns {', '.join(header)}")
    return Table(frame, source, header, names, lambda row: f"row {row + 1}")
