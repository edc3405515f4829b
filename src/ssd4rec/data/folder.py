"""Prepared data as one folder: sequences, catalog and the report of what was read; training maps it into memory."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import ReadReport
from ssd4rec.data.sequences import Filtering, Sequences, new_folder, write_about
from ssd4rec.errors import DataError

CATALOG, READ = "catalog.parquet", "read.json"


class PreparedFolder(NamedTuple):
    """The contents of a folder."""

    sequences: Sequences
    catalog: Catalog
    read: ReadReport


def save_folder(directory: str | Path, sequences: Sequences, catalog: Catalog, read: ReadReport) -> None:
    """Write prepared data as a folder that `open_folder` maps into memory; it appears complete or not at all.

    Raises:
        DataError: the folder exists, or it cannot be written.
    """
    with new_folder(directory) as folder:
        sequences.write_arrays(folder)
        write_metadata(folder, sequences.users, catalog, sequences.filtering, sequences.tie_order, read)


def open_folder(directory: str | Path) -> PreparedFolder:
    """Map a folder that `save_folder` or `ssd4rec data build` wrote; items and times stay on disk.

    Raises:
        DataError: the folder is missing, damaged or of another format.
    """
    folder = Path(directory)
    sequences = Sequences.open(folder)
    catalog = Catalog.read(folder / CATALOG)
    try:
        fields: dict[str, Any] = json.loads((folder / READ).read_text(encoding="utf-8"))
        report = ReadReport.from_dict(fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} cannot be read as sequences ({error}); build the folder again") from error
    return PreparedFolder(sequences, catalog, report)


def write_metadata(
    folder: Path, users: pl.Series, catalog: Catalog, filtering: Filtering, tie_order: TieOrder, read: ReadReport
) -> None:
    """Write all files of a folder but its arrays."""
    write_about(folder, users, filtering, read.clock, tie_order)
    catalog.write(folder / CATALOG)
    fields: Mapping[str, Any] = asdict(read)
    (folder / READ).write_text(json.dumps(fields, indent=1), encoding="utf-8")
