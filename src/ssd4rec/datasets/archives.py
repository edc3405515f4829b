"""Publishers' own files: which table lies in which archive, and how it becomes one that `read_interactions` takes."""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from ssd4rec.data.columns import AmbiguousColumnsError
from ssd4rec.data.interactions import Interactions, read_interactions, read_titles
from ssd4rec.datasets.addresses import file_name
from ssd4rec.errors import DataError

ZIP_MAGIC, GZIP_MAGIC = b"PK\x03\x04", b"\x1f\x8b"
AT_ONCE = 1 << 24  # bytes
DAMAGED = (gzip.BadGzipFile, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, UnicodeDecodeError)


@dataclass(frozen=True)
class PublishedFile:
    """A file to download."""

    address: str
    checksum: str | None = None  # as the publisher states it, "md5:c4d9…" or "sha256:7b8a…"; None: none is stated

    @property
    def name(self) -> str:
        """The last part of the address, without what may be asked of it."""
        return file_name(self.address)


@dataclass(frozen=True)
class PublishedTable:
    """A table in an archive, or in a file of its own.

    ml-1m/ratings.dat, separator "::", a line of it: 1::1193::5::978300760
    """

    path: str  # inside the archive
    names: tuple[str, ...] = ()  # of the columns, where the file has no line of names
    separator: str = ","
    encoding: str = "utf-8"
    rename: tuple[tuple[str, str], ...] = ()  # columns of a Parquet file that have no usual name

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Given:
    """What files held."""

    interactions: Interactions
    titles: pl.DataFrame | None  # columns id, title
    published: bool  # the publisher's own form, not an interchange form such as `.inter`


class _AbsentError(DataError):
    """An archive has no such table."""


def read_given(paths: Sequence[Path], table: PublishedTable, titles: PublishedTable | None, workspace: Path) -> Given:
    """Read the publisher's archive or files, or one file of any form that `read_interactions` takes.

    Args:
        paths: one archive, the publisher's files, or one file of interactions (`.inter`, CSV, Parquet, each also gzip).
        table: where the publisher keeps the interactions, and in which form.
        titles: where the titles are; None: the publisher has none.
        workspace: an empty folder for what is taken out of an archive.

    Returns:
        Interactions, and titles from the archive or from the file beside, where they are there.

    Raises:
        DataError: no such file; an archive that is damaged or has no such table; a table that cannot be read.
    """
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        what = "a folder" if missing.is_dir() else "not a plain file" if missing.exists() else "not there"
        raise DataError(f"{missing} is {what}; name the file")
    try:
        return _read(paths, table, titles, workspace)
    except DataError as error:  # a file in the workspace is named as the part of the archive that it was
        raise DataError(str(error).replace(f"{workspace}/", f"{paths[0]}: ")) from error
    except DAMAGED as error:
        raise DataError(f"{paths[0]} cannot be read ({error}); copy or download it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{paths[0]} cannot be unpacked ({error}); copy or download it again") from error  # bzip2's way to say it


def titles_beside(path: Path) -> Path | None:
    """The file of titles that RecBole keeps beside interactions: NAME.item beside NAME.inter, each also .gz."""
    stem = path.name.removesuffix(".gz").removesuffix(".inter")
    candidates = [path.with_name(f"{stem}.item"), path.with_name(f"{stem}.item.gz")]
    return next((each for each in candidates if path.name.startswith(f"{stem}.inter") and each.is_file()), None)


def _read(paths: Sequence[Path], table: PublishedTable, titles: PublishedTable | None, workspace: Path) -> Given:
    first = paths[0]
    archive = _is_archive(first)
    holding = first if archive or len(paths) == 1 else _named(paths, table)
    if holding is None:
        raise DataError(f"none of {', '.join(path.name for path in paths)} is called {table.name}; expected that file")
    if not archive and not (_is_headless(holding, table) if table.names else holding.name == table.name):
        beside = titles_beside(holding)
        return Given(_read_interactions(holding, table), None if beside is None else read_titles(beside), published=False)
    interactions = _read_interactions(_unpacked(holding, table, workspace), table)
    titles_in = None if titles is None else first if archive else _named([*paths, first.with_name(titles.name)], titles)
    return Given(interactions, _read_titles(titles_in, titles, workspace), published=True)


def _read_interactions(path: Path, table: PublishedTable) -> Interactions:
    try:
        return read_interactions(path)
    except AmbiguousColumnsError as error:  # of a named data set nobody names the columns
        raise DataError(
            f"{error.found}; expected the publisher's {table.name}, or its interactions in columns user_id, item_id and timestamp"
        ) from error


def _read_titles(path: Path | None, titles: PublishedTable | None, workspace: Path) -> pl.DataFrame | None:
    if path is None or titles is None:
        return None
    try:
        unpacked = _unpacked(path, titles, workspace)
    except _AbsentError:  # an archive of the interactions alone is as good as the bare table
        return None
    return read_titles(_renamed(unpacked, titles) if titles.rename else unpacked)


def _renamed(path: Path, table: PublishedTable) -> pl.DataFrame:
    try:
        return pl.read_parquet(path).rename(dict(table.rename))
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is not the publisher's {table.name} ({reason}); replace or remove it") from error


def _named(paths: Sequence[Path], table: PublishedTable) -> Path | None:
    return next((path for path in paths if path.name == table.name and path.is_file()), None)


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC or tarfile.is_tarfile(path)


def _is_headless(path: Path, table: PublishedTable) -> bool:
    """Whether the first line is data in the publisher's form, and not a line of names."""
    if not table.names:
        return False
    with _maybe_zipped(path) as file:
        fields = file.readline(1 << 16).decode("latin-1").strip().split(table.separator)
    return len(fields) == len(table.names) and fields[-1].strip().isdigit()


def _unpacked(path: Path, table: PublishedTable, workspace: Path) -> Path:
    """The table as a file that the readers take."""
    archive = _is_archive(path)
    as_it_is = not table.names and table.encoding == "utf-8"
    if as_it_is and not archive:
        return path
    target = workspace / table.name
    with _opened(path, table) if archive else _maybe_zipped(path) as source, target.open("wb") as file:
        if as_it_is:
            shutil.copyfileobj(source, file)
            return target
        separator = "," if table.separator == "," else "\t"
        file.write(f"{separator.join(table.names)}\n".encode())
        while lines := source.readlines(AT_ONCE):
            block = b"".join(lines).replace(table.separator.encode(), separator.encode())
            file.write(block if table.encoding == "utf-8" else block.decode(table.encoding).encode())
    return target


@contextmanager
def _maybe_zipped(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if not zipped:
            yield file
            return
        with gzip.open(file) as unzipped:
            yield unzipped  # type: ignore[misc]  # GzipFile reads as any binary file does


@contextmanager
def _opened(path: Path, table: PublishedTable) -> Iterator[IO[bytes]]:
    """The table inside the archive, found by its path or, in an archive packed again, by its name."""
    if zipfile.is_zipfile(path):
        with _opened_in_zip(path, table) as file:
            yield file
        return
    with path.open("rb") as head:
        if head.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            raise DataError(f"{path}: the zip file is cut short after {path.stat().st_size:,} bytes; copy or download it again")
    with tarfile.open(path) as archive_of_tar:
        taken = archive_of_tar.extractfile(_member(archive_of_tar.getnames(), path, table))
        if taken is None:
            raise DataError(f"{path}: {table.path} is not a file; expected the publisher's archive")
        with taken as file:
            yield file


def _opened_in_zip(path: Path, table: PublishedTable) -> IO[bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.open(_member(archive.namelist(), path, table))  # it stays open when the archive is closed
    except RuntimeError as error:  # encrypted; NotImplementedError, which is one: packed in a way that Python does not know
        raise DataError(f"{path} cannot be unpacked ({error}); unpack it with another program and give {table.name}") from error


def _member(names: Sequence[str], path: Path, table: PublishedTable) -> str:
    plain = {name.removeprefix("./"): name for name in names}
    if table.path in plain:
        return plain[table.path]
    same = [name for name in names if name.rpartition("/")[2] == table.name]
    if len(same) != 1:
        listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        kind = DataError if same else _AbsentError
        raise kind(f"{path} holds no {table.path}, but {listed or 'nothing'}; expected the publisher's archive")
    return same[0]
