"""Where the sequences of a batch job come from: a file of interactions, or a folder of `ssd4rec data build`."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class SequenceSource:
    """Users with their sequences, in a fixed order."""

    users: pl.Series
    offsets: IntArray  # [users + 1] events of each user
    items: Callable[[slice], pl.Series]  # returns the item ids of some events
    times: IntArray  # [events] ticks of `clock`
    clock: Clock
    sha256: Callable[[], str]  # computes the hash of the sequences

    def __len__(self) -> int:
        """Return how many users there are."""
        return len(self.users)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from another source, as JSON values."""
        return {"users": len(self), "interactions": len(self.times), "sha256": self.sha256()}

    def batch(self, first: int, stop: int) -> pa.Table:
        """Return some users: columns user, items (lists of ids, oldest first) and, if there are times, last_event (seconds)."""
        offsets = self.offsets[first : stop + 1]
        oldest = pl.CompatLevel.oldest()
        items = self.items(slice(int(offsets[0]), int(offsets[-1]))).rechunk().to_arrow(compat_level=oldest)
        lists = pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0], pa.int64()), items)
        columns = {"user": self.users[first:stop].rechunk().to_arrow(compat_level=oldest), "items": lists}
        if (last_event := self.last_event(first, stop)) is not None:
            columns["last_event"] = pa.array(last_event)
        return pa.table(columns)

    def last_event(self, first: int, stop: int) -> list[int] | None:
        """Return when the last events of some users were, in seconds; None if the times are not those of a calendar."""
        ticks = self.clock.ticks_per_second
        return None if ticks is None else (self.times[self.offsets[first + 1 : stop + 1] - 1] // ticks).tolist()


def from_interactions(interactions: Interactions, catalog: Catalog, tie_order: TieOrder) -> SequenceSource:
    """Return the sequences of interactions; users in the order of their first appearance.

    Args:
        interactions: in memory.
        catalog: of the model; it decides on the order of simultaneous events if `tie_order` is "item".
        tie_order: of the model.
    """
    table, times = interactions.table, interactions.table["time"].to_numpy()
    codes, users = encode(table["user"])
    then = id_order(catalog)[catalog.indices(as_type(table["item"], catalog.ids.dtype))] if tie_order == "item" else None
    order = time_order(codes, times, then)
    items = table["item"].gather(order)

    def sha256() -> str:
        digest = hashlib.sha256()
        for column in (codes, encode(table["item"])[0], times):
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    offsets = lengths_to_offsets(np.bincount(codes, minlength=len(users)))
    return SequenceSource(users, offsets, items.__getitem__, times[order], interactions.read.clock, sha256)


def open_source(path: str | Path, columns: Columns, catalog: Catalog, tie_order: TieOrder) -> SequenceSource:
    """Open a file, which is read into memory, or a folder of `data build`, whose sequences stay on disk until they are read.

    Args:
        path: the file or folder.
        columns: names of the columns of a file that do not have usual names.
        catalog: see `from_interactions`.
        tie_order: of the model.

    Raises:
        DataError: it cannot be read, or the folder is another one or damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        return from_interactions(read_interactions(path, columns), catalog, tie_order)
    if not (folder / READ).is_file():
        raise DataError(
            f"{folder} is a folder without sequences; build one with ssd4rec data build {folder} "
            "--out sequences --set data.min_interactions=1, and give that"
        )
    sequences, own_catalog, _ = open_folder(folder)

    def items(events: slice) -> pl.Series:
        return own_catalog.ids_of(sequences.items[events].astype(np.int64))

    return SequenceSource(sequences.users, sequences.offsets, items, sequences.times, sequences.clock, sequences.fingerprint)
