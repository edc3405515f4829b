"""The publishers' own files: which table is in which archive, and how it is read."""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from ssd4rec.data.columns import AmbiguousColumnsError, Columns
from ssd4rec.data.interactions import Interactions, ReadOptions, read_interactions, read_titles
from ssd4rec.data.io import DAMAGED, format_of
from ssd4rec.errors import DataError


@dataclass(frozen=True)
class PublishedFile:
    """A file to download."""

    address: str
    checksum: str | None = None  # as the publisher states it, "md5:c4d9…" or "sha256:7b8a…"; None: not stated

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedTable:
    """A table in an archive, or in a file of its own.

    ml-1m/ratings.dat, separator "::", a line of it: 1::1193::5::978300760
    """

    path: str  # inside the archive
    names: tuple[str, ...] = ()  # of the columns (of titles, the first two) if the file has no header
    separator: str = ","
    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Opened:
    """The contents of files."""

    interactions: Interactions
    titles: pl.DataFrame | None  # columns id, title
    published: bool  # the publisher's own form, not an interchange form such as `.inter`


def read_files(paths: Sequence[Path], table: PublishedTable, titles: PublishedTable | None) -> Opened:
    """Read the publisher's archive or files, or a file of any form that `read_interactions` reads.

    Raises:
        DataError: a missing file, an archive that is damaged or does not contain the table, or a table that cannot be read.
    """
    if missing := [path for path in paths if not path.is_file()]:
        state = "is a folder" if missing[0].is_dir() else "is not a plain file" if missing[0].exists() else "does not exist"
        raise DataError(f"{missing[0]} {state}; give the path of the file")
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _read(paths, table, titles, Path(folder))
        except AmbiguousColumnsError as error:
            expected = f"expected the publisher's {table.name}, or columns user_id, item_id and timestamp"
            raise DataError(f"{error.reason.replace(f'{folder}/', f'{paths[0]}: ')}; {expected}") from error
        except DataError as error:  # an extracted file is named as a part of the archive
            raise DataError(str(error).replace(f"{folder}/", f"{paths[0]}: ")) from error


def titles_beside(path: Path) -> Path | None:
    """Return the file of titles that RecBole keeps next to interactions: NAME.item next to NAME.inter, each also .gz."""
    stem = path.name.removesuffix(".gz").removesuffix(".inter")
    candidates = [path.with_name(f"{stem}.item"), path.with_name(f"{stem}.item.gz")]
    return next((each for each in candidates if path.name.startswith(f"{stem}.inter") and each.is_file()), None)


def _read(paths: Sequence[Path], table: PublishedTable, titles: PublishedTable | None, folder: Path) -> Opened:
    if _is_archive(paths[0]):
        extracted = _extract(paths[0], [table.name, *([titles.name] if titles else [])], folder)
        if table.name not in extracted:
            raise DataError(f"{paths[0]} does not contain {table.path}; give the publisher's archive")
        table_file, title_file = extracted[table.name], extracted.get(titles.name) if titles else None
    else:
        table_file = next((path for path in paths if path.name == table.name), paths[0])
        neighbor = table_file.with_name(titles.name) if titles else None
        title_file = neighbor if neighbor is not None and neighbor.is_file() else None
    if not table.names:
        return Opened(read_interactions(table_file), None, published=table_file.name == table.name)
    try:
        interactions = read_interactions(table_file, Columns(), ReadOptions(names=table.names, separator=table.separator))
    except DataError:
        if _has_the_form(table_file, table):
            raise  # a damaged row
        neighbor = titles_beside(table_file)
        return Opened(read_interactions(table_file), None if neighbor is None else read_titles(neighbor), published=False)
    return Opened(interactions, _titles(title_file, titles), published=True)


def _titles(path: Path | None, titles: PublishedTable | None) -> pl.DataFrame | None:
    if path is None or titles is None:
        return None
    rows = [line.split(titles.separator)[:2] for line in path.read_text(encoding=titles.encoding).splitlines() if line]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"{path} is not the publisher's {titles.name}: a line has no title; replace or remove it")
    return read_titles(pl.DataFrame(rows, schema={"item_id": pl.String, "title": pl.String}, orient="row"))


def _has_the_form(path: Path, table: PublishedTable) -> bool:
    """Whether the first line has as many fields as the publisher's, the last of them a number."""
    with path.open("rb") as file:
        fields = file.readline(1 << 16).decode("latin-1").strip().split(table.separator)
    return len(fields) == len(table.names) and fields[-1].strip().isdigit()


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        zipped = format_of(file.read(6)) == "zip"
    return zipped or tarfile.is_tarfile(path)


def _extract(path: Path, names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Extract the files of these names, wherever they are in the archive, and return their paths by name."""
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path) as archive:
            inside = archive.namelist() if isinstance(archive, zipfile.ZipFile) else archive.getnames()
            members = {PurePosixPath(member).name: member for member in reversed(inside)}
            for name in members.keys() & set(names):
                member = members[name]
                source = archive.open(member) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(member)
                if source is not None:  # None: a folder of this name
                    with source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (*DAMAGED, tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be unpacked ({error or type(error).__name__}); copy or download it again") from error
    return {file.name: file for file in folder.iterdir()}
