"""Fetched data sets as folders of Parquet files; a folder is complete or absent.

interactions.parquet (user, item, time)   titles.parquet (id, title; where there are any)   manifest.json
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ssd4rec._io import atomic_folder, read_parquet, sha256_of
from ssd4rec.data.interactions import Interactions, ReadReport
from ssd4rec.errors import DataError

FORMAT = 1
INTERACTIONS, TITLES, MANIFEST = "interactions.parquet", "titles.parquet", "manifest.json"
ELSEWHERE = "free some space, or set XDG_CACHE_HOME to a folder that can be written"
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # raised for files that were cut or changed


@dataclass(frozen=True)
class Stored:
    """The contents of a folder."""

    interactions: Interactions
    titles: pl.DataFrame | None  # columns id, title
    about: Mapping[str, Any]  # source, checks and license


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


def save_dataset(folder: Path, interactions: Interactions, titles: pl.DataFrame | None, about: Mapping[str, Any]) -> None:
    """Write a data set as a folder that appears complete or not at all; an existing one is replaced.

    Args:
        folder: the folder to make.
        interactions: the rows keep their order.
        titles: columns id and title.
        about: its source, checks and license; JSON-able.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        with atomic_folder(folder) as new:
            interactions.table.write_parquet(new / INTERACTIONS)
            if titles is not None:
                titles.write_parquet(new / TITLES)
            hashes = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
            manifest = {"format": FORMAT, "about": dict(about), "read": asdict(interactions.read), "sha256": hashes}
            (new / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot write {folder}: {reason}; {ELSEWHERE}") from error


def load_dataset(folder: Path) -> Stored:
    """Read a folder that `save_dataset` wrote.

    Raises:
        DataError: the folder is missing, damaged or of another format.
    """
    manifest = _read_manifest(folder)
    try:
        report = ReadReport.from_dict(manifest["read"])
        table = read_parquet(folder / INTERACTIONS)
        titles = read_parquet(folder / TITLES) if TITLES in manifest["sha256"] else None
        return Stored(Interactions(table, report), titles, manifest["about"])
    except DAMAGE as error:
        raise DataError(f"{folder} cannot be read as a data set ({error}); fetch it again") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest, if every file is unchanged."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        changed = [name for name, expected in manifest["sha256"].items() if sha256_of(folder / name) != expected]
        version = manifest["format"]
    except DAMAGE as error:
        raise DataError(f"{folder} cannot be read as a data set ({error}); fetch it again") from error
    if version != FORMAT:
        raise DataError(f"{folder} has format {version}, expected {FORMAT}; fetch the data set again")
    if changed:
        raise DataError(f"{folder}: {', '.join(changed)} was changed since it was written; fetch the data set again")
    return manifest
