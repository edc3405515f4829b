"""Separate files for training, validation and test as sequences with a split."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import Interactions
from ssd4rec.data.sequences import Sequences, build_sequences
from ssd4rec.data.timestamps import FILE_ORDER, Clock
from ssd4rec.errors import DataError

PARTS = ("train", "validation", "test")


class PartSequences(NamedTuple):
    """Sequences of three files."""

    interactions: Interactions  # all rows, those for training first
    sequences: Sequences
    catalog: Catalog
    parts: npt.NDArray[np.int8]  # [events] 0 for training, 1 for validation, 2 for test


def join_parts(
    train: Interactions,
    validation: Interactions,
    test: Interactions,
    tie_order: TieOrder = "file",
    base: Catalog | None = None,
) -> PartSequences:
    """Join the events of each user: those for training, then those for validation, then those for test, each by time.

    Nothing is filtered by the k-core: the files decide. Items that occur in validation or test alone are in the catalog, but
    are not trained. With `base`, the catalog begins with its items.

    Raises:
        DataError: ids or times of the files have different types.
    """
    tables = [part.table for part in (train, validation, test)]
    for name, part in zip(PARTS[1:], (validation, test), strict=True):
        for column in ("user", "item"):
            kinds = (train.table[column].dtype, part.table[column].dtype)
            if kinds[0] != kinds[1]:
                raise DataError(
                    f"{column} ids are {kinds[0]} in the train file and {kinds[1]} in the {name} file; give both one type"
                )
        if part.read.clock.kind != train.read.clock.kind:
            raise DataError(
                f"times are {train.read.clock.kind} in the train file and {part.read.clock.kind} in the {name} file; give both "
                "the same form"
            )
    ticks = np.lcm.reduce([part.read.clock.ticks for part in (train, validation, test)]).item()
    times = [
        table["time"] * (ticks // part.read.clock.ticks) for table, part in zip(tables, (train, validation, test), strict=True)
    ]
    part_of_row = np.repeat(np.arange(3, dtype=np.int8), [table.height for table in tables])
    time = pl.concat(times).to_numpy()
    if train.read.clock.kind == FILE_ORDER:
        time = np.arange(len(time))
    # one key for part and time: the rank of the time inside of its part, after all of the parts before
    order = np.lexsort((time, part_of_row))
    rank = np.empty(len(time), dtype=np.int64)
    later = np.diff(time[order], prepend=time[order[:1]]) != 0
    later |= np.diff(part_of_row[order], prepend=part_of_row[order[:1]]) != 0
    rank[order] = np.cumsum(later)
    table = pl.concat([table.select("user", "item") for table in tables]).with_columns(time=pl.Series(rank))
    report = replace(
        train.read,
        source=" + ".join(part.read.source for part in (train, validation, test)),
        rows=table.height,
        users=table["user"].n_unique(),
        items=table["item"].n_unique(),
        notes=tuple(dict.fromkeys(note for part in (train, validation, test) for note in part.read.notes)),
    )
    interactions = Interactions(table, report)
    sequences, catalog = build_sequences(interactions, 1, tie_order=tie_order, base=base)
    first_ranks = [int(rank[part_of_row == part].min(initial=len(rank))) for part in (1, 2)]
    parts = np.searchsorted(first_ranks, sequences.times, side="right").astype(np.int8)
    real_times = np.empty(int(rank.max()) + 1, dtype=np.int64)
    real_times[rank] = time
    clock = Clock(train.read.clock.kind, ticks)
    sequences = replace(sequences, times=real_times[sequences.times], clock=clock)
    return PartSequences(interactions, sequences, catalog, parts)
