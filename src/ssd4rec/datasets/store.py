"""Fetched data sets as folders of Parquet files; a folder is complete or absent.

interactions.parquet (user, item, time)   titles.parquet (id, title; where there are any)   manifest.json
"""

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel

from ssd4rec._io import atomic_folder, read_parquet, sha256_of
from ssd4rec.data.interactions import Interactions, ReadReport
from ssd4rec.data.k_core import Counts
from ssd4rec.datasets.archives import Opened
from ssd4rec.errors import DataError, first_line

INTERACTIONS, TITLES, MANIFEST = "interactions.parquet", "titles.parquet", "manifest.json"
ELSEWHERE = "free some space, or set XDG_CACHE_HOME to a folder that can be written"


class About(BaseModel):
    """Where a data set comes from."""

    source: str  # addresses, a path or a package
    checked: str  # what was compared besides the counts
    kept: Counts  # after the 5-core
    license: str


class Manifest(BaseModel):
    """The description of a folder."""

    format: Literal[1] = 1
    about: About
    read: ReadReport
    sha256: dict[str, str]  # of each file


def is_stored(folder: Path) -> bool:
    """Whether the folder has a data set; `is_whole` checks its files."""
    return (folder / MANIFEST).is_file()


def is_whole(folder: Path) -> bool:
    """Whether the folder has a data set whose files are unchanged; they are hashed, not parsed."""
    try:
        _read_manifest(folder)
    except DataError:
        return False
    return True


def save_dataset(folder: Path, interactions: Interactions, titles: pl.DataFrame | None, about: About) -> None:
    """Write a data set as a folder that appears complete or not at all; an existing one is replaced.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        with atomic_folder(folder) as new:
            interactions.table.write_parquet(new / INTERACTIONS)
            if titles is not None:
                titles.write_parquet(new / TITLES)
            hashes = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
            manifest = Manifest(about=about, read=interactions.read, sha256=hashes)
            (new / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot write {folder}: {reason}; {ELSEWHERE}") from error


def load_dataset(folder: Path) -> tuple[Opened, About]:
    """Read a folder that `save_dataset` wrote: its contents, and where they come from.

    Raises:
        DataError: the folder is missing, damaged or of another format.
    """
    manifest = _read_manifest(folder)
    try:
        titles = read_parquet(folder / TITLES) if TITLES in manifest.sha256 else None
        interactions = Interactions(read_parquet(folder / INTERACTIONS), manifest.read)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} cannot be read as a data set ({error}); fetch it again") from error
    return Opened(interactions, titles, published=True), manifest.about


def _read_manifest(folder: Path) -> Manifest:
    """Return the manifest, if every file is unchanged."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        changed = [name for name, expected in manifest.sha256.items() if sha256_of(folder / name) != expected]
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} cannot be read as a data set ({first_line(error)}); fetch it again") from error
    if changed:
        raise DataError(f"{folder}: {', '.join(changed)} was changed since it was written; fetch the data set again")
    return manifest
