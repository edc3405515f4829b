"""Where the sequences of a batch job come from: a file of interactions, or a folder of `ssd4rec data build`."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog, as_type, encode
from ssd4rec.data.folder import READ, open_folder
from ssd4rec.data.interactions import Columns, Interactions, read_interactions
from ssd4rec.data.sequences import id_order, time_order
from ssd4rec.data.timestamps import Clock
from ssd4rec.errors import DataError


class SequenceSource(Protocol):
    """Users with their sequences, in a fixed order."""

    identity: dict[str, Any]  # what tells it from another source; JSON
    clock: Clock

    def __len__(self) -> int:
        """Return how many users there are."""
        ...

    def batch(self, first: int, stop: int) -> pa.Table:
        """Return some users: columns user, items (lists of ids, oldest first) and, if there are times, last_event (seconds)."""
        ...


class FileSource:
    """A file or frame of interactions, read into memory; users in the order of their first appearance.

    Args:
        source: a path, or interactions that were read.
        columns: names of the columns that do not have usual names.
        catalog: of the model; it decides on the order of simultaneous events if `tie_order` is "item".
        tie_order: of the model.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, source: str | Path | Interactions, columns: Columns, catalog: Catalog, tie_order: TieOrder) -> None:
        interactions = source if isinstance(source, Interactions) else read_interactions(source, columns)
        table = interactions.table
        codes, self._users = encode(table["user"])
        then = id_order(catalog)[catalog.indices(as_type(table["item"], catalog.ids.dtype))] if tie_order == "item" else None
        order = time_order(codes, table["time"].to_numpy(), then)
        self._items = table["item"].gather(order)
        self._times, self.clock = table["time"].to_numpy()[order], interactions.read.clock
        self._offsets = lengths_to_offsets(np.bincount(codes, minlength=len(self._users)))
        digest = hashlib.sha256()
        for column in (codes, encode(table["item"])[0], table["time"].to_numpy()):
            digest.update(np.ascontiguousarray(column).data)
        self.identity = {"users": len(self), "interactions": table.height, "sha256": digest.hexdigest()}

    def __len__(self) -> int:
        """Return how many users there are."""
        return len(self._users)

    def batch(self, first: int, stop: int) -> pa.Table:
        """Return some users, see `SequenceSource`."""
        offsets = self._offsets[first : stop + 1]
        return _batch(self._users[first:stop], self._items[offsets[0] : offsets[-1]], offsets, self._times, self.clock)


class FolderSource:
    """A folder that `ssd4rec data build` wrote; sequences stay on disk until they are read.

    Args:
        directory: the folder.

    Raises:
        DataError: it is not such a folder, or it is damaged.
    """

    def __init__(self, directory: str | Path) -> None:
        folder = Path(directory)
        if not (folder / READ).is_file():
            raise DataError(
                f"{folder} is a folder without sequences; build one with ssd4rec data build {folder} "
                "--out sequences --set data.min_interactions=1, and give that"
            )
        self._sequences, self._catalog, _ = open_folder(folder)
        self.clock = self._sequences.clock
        sizes = {"users": len(self), "interactions": len(self._sequences.items)}
        self.identity = {**sizes, "sha256": self._sequences.fingerprint()}

    def __len__(self) -> int:
        """Return how many users there are."""
        return len(self._sequences.users)

    def batch(self, first: int, stop: int) -> pa.Table:
        """Return some users, see `SequenceSource`."""
        sequences, offsets = self._sequences, self._sequences.offsets[first : stop + 1]
        items = self._catalog.ids_of(sequences.items[offsets[0] : offsets[-1]].astype(np.int64))
        return _batch(sequences.users[first:stop], items, offsets, sequences.times, self.clock)


def open_source(source: str | Path | Interactions, columns: Columns, catalog: Catalog, tie_order: TieOrder) -> SequenceSource:
    """Open a file, a folder of `data build`, or interactions that were read.

    Raises:
        DataError: see `FileSource` and `FolderSource`.
    """
    if not isinstance(source, Interactions) and Path(source).is_dir():
        return FolderSource(source)
    return FileSource(source, columns, catalog, tie_order)


def _batch(users: pl.Series, items: pl.Series, offsets: IntArray, times: IntArray, clock: Clock) -> pa.Table:
    oldest = pl.CompatLevel.oldest()
    values = items.rechunk().to_arrow(compat_level=oldest)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0], pa.int64()), values)
    columns = {"user": users.rechunk().to_arrow(compat_level=oldest), "items": lists}
    if clock.ticks_per_second is not None:
        columns["last_event"] = pa.array(times[offsets[1:] - 1] // clock.ticks_per_second)
    return pa.table(columns)
