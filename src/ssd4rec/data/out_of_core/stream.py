"""Interaction files as a stream of small frames: Parquet and delimited text, on this machine or through fsspec."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ssd4rec.data.columns import Columns, ReadOptions, choose_columns
from ssd4rec.data.delimited import UTF8_MARK, begins_quoted, check_utf8, field_count, next_line, read_delimited
from ssd4rec.data.io import is_hidden
from ssd4rec.errors import BackendError, DataError, first_line

TEXT, PARQUET = (".csv", ".tsv", ".inter", ".txt", ".dat", ".data"), (".parquet", ".pq")
SEPARATORS = ("\t", ",", ";")
BYTES_A_ROW = 40  # of text, roughly
LONGEST_RECORD = 1 << 26  # bytes: a quoted field longer than this is taken for a quote that is not closed
ROLES = ("user", "item", "time")


@dataclass(frozen=True)
class InputFile:
    """One file of interactions."""

    path: str  # or a URL that fsspec opens
    size: int  # bytes
    modified: str  # as the file system tells it; a file that changed is not the one that a build began with

    @property
    def suffix(self) -> str:
        """Return the suffix in lower case, without .gz."""
        return Path(self.path.lower().removesuffix(".gz")).suffix


@dataclass(frozen=True)
class Cursor:
    """The place in the stream after a chunk."""

    file: int = 0
    position: int = 0  # in the file: rows of Parquet, bytes of text (decompressed)
    row: int = 0  # rows of the file before this place


@dataclass(frozen=True)
class Chunk:
    """Some rows of one file, in the order of the file."""

    frame: pl.DataFrame  # the chosen columns, called as in the first file
    source: str  # for messages: the file and its rows
    after: Cursor
    share: float  # of the file, up to the end of this chunk
    header: tuple[str, ...]  # all columns of the file


def list_files(sources: Sequence[str | Path]) -> list[InputFile]:
    """Return the files of files, folders and URLs such as s3://bucket/log/; those of folders sorted by path.

    Raises:
        DataError: one does not exist, is empty or of an unknown kind; a folder without Parquet or text files.
    """
    files = [file for source in sources for file in _files_of(str(source))]
    if not files:
        raise DataError("no input files; name Parquet or CSV files, or folders of them")
    for file in files:
        if file.suffix not in (*TEXT, *PARQUET):
            raise DataError(
                f"{file.path} cannot be read piece by piece; expected {', '.join((*PARQUET, *TEXT))} "
                "(text also with .gz): convert it to Parquet"
            )
        if not file.size:
            raise DataError(f"{file.path} is empty; leave it out, or write it again")
    return files


def stream(files: Sequence[InputFile], columns: Columns, rows_at_once: int, start: Cursor) -> Iterator[Chunk]:
    """Read files one after the other from `start` on, as chunks of a bounded number of rows; text is cut by bytes, about as many.

    Two streams with the same arguments cut at the same places.

    Raises:
        DataError: a file cannot be read, lacks a column, or holds rows that do not fit its header.
    """
    names: dict[str, str] = {}
    for number, file in enumerate(files):
        if number < start.file and names:
            continue  # the first file alone decides on the names
        cursor = start if number == start.file else Cursor(number)
        try:
            with _open(file) as raw:
                reader = _parquet if file.suffix in PARQUET else _text
                header, own_names, chunks = reader(file, raw, columns, rows_at_once, cursor)
                names = names or own_names
                if sorted(own_names) != sorted(names):
                    raise DataError(
                        f"{file.path} has columns {_listed(own_names)}, the first file {_listed(names)}; build them separately"
                    )
                if number < start.file:
                    continue
                for frame, after, share in chunks:
                    if frame.height:
                        source = f"{file.path}, rows {cursor.row + 1:,} to {after.row:,}"
                        renamed = frame.select(pl.col(own_names[role]).alias(names[role]) for role in ROLES if role in names)
                        yield Chunk(renamed, source, after, share, tuple(header))
                    cursor = after
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file.path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        except (pa.ArrowException, pl.exceptions.PolarsError) as error:
            where = f"after row {cursor.row:,}" if cursor.row else "at its beginning"
            raise DataError(f"{file.path} cannot be read {where}: {first_line(error)}") from error


def _files_of(source: str) -> list[InputFile]:
    if "://" in source:
        return _remote_files(source)
    path = Path(source)
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if each.is_file() and _is_data(str(each.relative_to(path))))
        if not inside:
            raise DataError(f"the folder {path} has no Parquet or text files; expected {', '.join((*PARQUET, *TEXT))}")
        return [file for each in inside for file in _files_of(str(each))]
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"no such file: {path}") from error
    return [InputFile(source, status.st_size, str(status.st_mtime_ns))]


def _remote_files(url: str) -> list[InputFile]:
    system, path = _file_system(url)
    try:
        listed = system.find(path, detail=True) if system.isdir(path) else {path: system.info(path)}
    except OSError as error:
        raise DataError(f"{url} cannot be read: {error}") from error
    root = f"{url.partition('://')[0]}://"
    folder = len(listed) > 1 or path not in listed
    return [
        InputFile(root + name.removeprefix(root), int(about["size"]), str(about.get("ETag") or about.get("mtime")))
        for name, about in sorted(listed.items())
        if not folder or _is_data(name.removeprefix(path))
    ]


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - only for addresses
    except ImportError as error:
        raise BackendError(f"{url}: addresses are opened by fsspec, which is not installed; pip install fsspec") from error
    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:  # s3:// needs s3fs, and fsspec says so
        raise DataError(f"{url} cannot be opened: {error}") from error
    return system, path


def _is_data(name: str) -> bool:
    return not is_hidden(Path(name.lstrip("/"))) and Path(name.lower().removesuffix(".gz")).suffix in (*PARQUET, *TEXT)


def _open(file: InputFile) -> BinaryIO:
    if "://" not in file.path:
        return Path(file.path).open("rb")
    system, path = _file_system(file.path)
    return cast("BinaryIO", system.open(path, "rb"))


Frames = Iterator[tuple[pl.DataFrame, Cursor, float]]
Opened = tuple[list[str], dict[str, str], Frames]  # all columns, the chosen ones by role, the rows


def _parquet(file: InputFile, raw: BinaryIO, columns: Columns, rows_at_once: int, start: Cursor) -> Opened:
    parquet = pq.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False)
    header = parquet.schema_arrow.names
    names = {role: header[place] for role, place in choose_columns(header, columns, file.path).items()}

    def frames() -> Frames:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        groups = np.flatnonzero(ends > start.position).tolist()
        row = int(ends[groups[0]] - sizes[groups[0]]) if groups else 0
        for batch in parquet.iter_batches(rows_at_once, groups, list(dict.fromkeys(names.values())), use_threads=False):
            skipped = max(min(start.position - row, batch.num_rows), 0)
            row += batch.num_rows
            frame = cast("pl.DataFrame", pl.from_arrow(batch.slice(skipped)))
            yield frame, Cursor(start.file, row, row), row / int(ends[-1])

    return header, names, frames()


def _text(file: InputFile, raw: BinaryIO, columns: Columns, rows_at_once: int, start: Cursor) -> Opened:
    stream = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if file.path.lower().endswith(".gz") else raw
    line = _first_line(file, stream)
    separator = max(SEPARATORS, key=lambda each: field_count(line, each))
    header = next(csv.reader([line], delimiter=separator))
    places = choose_columns(header, columns, file.path)
    names = {role: header[place] for role, place in places.items()}
    options = ReadOptions(separator=separator, layout="interactions")
    first = line.lstrip("#% ").encode() + b"\n"  # of each block, and not a comment

    def frames() -> Frames:
        if start.position:
            stream.seek(start.position)
        position, row = stream.tell(), start.row
        for block in _blocks(file, stream, rows_at_once * BYTES_A_ROW, separator):
            frame = pl.DataFrame()
            if block.strip():
                source = f"{file.path}, from row {row + 1:,} (line 2) on"
                table = read_delimited(source, first + block, lambda _: places, options)
                frame = table.frame.rename(names)
            position, row = position + len(block), row + frame.height
            yield frame, Cursor(start.file, position, row), min(raw.tell() / file.size, 1.0)

    return header, names, frames()


def _first_line(file: InputFile, stream: BinaryIO) -> str:
    """Return the first line that is not blank."""
    head = b""
    while not head.removeprefix(UTF8_MARK).strip() and (line := stream.readline(LONGEST_RECORD)):
        head += line
    check_utf8(file.path, head)
    return next_line(file.path, head.removeprefix(UTF8_MARK), 0).decode()


def _blocks(file: InputFile, stream: BinaryIO, size: int, separator: str) -> Iterator[bytes]:
    """Cut text into blocks of whole records; a line break inside quotes does not end a record."""
    rest = b""
    while True:
        piece = stream.read(max(size, 1 << 12))
        data = rest + piece
        end = _last_end(file, data, separator)
        cut = end if piece else len(data)
        if cut:
            yield data[:cut]
        rest = data[cut:]
        if not piece:
            return
        if len(rest) > max(LONGEST_RECORD, 2 * size):
            raise DataError(
                f"{file.path}: a line or quoted field of over {LONGEST_RECORD >> 20} MB; close its quote, or remove it"
            )


def _last_end(file: InputFile, data: bytes, separator: str) -> int:
    """Return where the last whole record of a block ends; 0 if none does."""
    if not begins_quoted(data, separator):
        return data.rfind(b"\n") + 1
    if separator == "\t":
        raise DataError(
            f"{file.path} is separated by tabs and has fields that begin with a quote; whether those enclose fields "
            "cannot be decided piece by piece: convert the file to CSV or Parquet"
        )
    letters = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    quotes_before = np.searchsorted(np.flatnonzero(letters == ord('"')), ends)
    whole = ends[quotes_before % 2 == 0]
    return int(whole[-1]) + 1 if len(whole) else 0


def _listed(names: dict[str, str]) -> str:
    return ", ".join(f"{role} ({names[role]})" for role in ROLES if role in names)
