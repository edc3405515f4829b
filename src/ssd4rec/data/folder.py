"""Prepared data as one folder: sequences, catalog and the report of what was read; training maps it into memory."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import polars as pl
from pydantic import TypeAdapter

from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import ReadReport
from ssd4rec.data.k_core import Filtering
from ssd4rec.data.sequences import Sequences, new_folder, write_about
from ssd4rec.errors import DataError, first_line

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
        report = TypeAdapter(ReadReport).validate_json((folder / READ).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} cannot be read as sequences ({first_line(error)}); build the folder again") from error
    return PreparedFolder(sequences, catalog, report)


def write_metadata(
    folder: Path, users: pl.Series, catalog: Catalog, filtering: Filtering, tie_order: TieOrder, read: ReadReport
) -> None:
    """Write all files of a folder but its arrays."""
    write_about(folder, users, filtering, read.clock, tie_order)
    catalog.write(folder / CATALOG)
    (folder / READ).write_text(json.dumps(asdict(read), indent=1), encoding="utf-8")
