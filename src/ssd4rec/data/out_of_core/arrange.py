"""Last stages: partition the events by user, sort each partition in memory, and write the arrays one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssd4rec._csr import IntArray
from ssd4rec.data.catalog import Codes
from ssd4rec.data.k_core import renumber
from ssd4rec.data.out_of_core.scratch import Block, EventFile, read_record, write_record
from ssd4rec.data.sequences import time_order

BYTES_AN_EVENT = 96  # of working memory while a partition is sorted
MOST_PARTITIONS = 512

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Layout:
    """Where each user's events go, and which users share a partition."""

    new_users: Codes  # [users] code after the k-core, -1 = removed
    new_items: Codes  # [items]
    offsets: IntArray  # [users that stay + 1]
    first_users: IntArray  # [partitions + 1] partition p has the users first_users[p] … first_users[p + 1] - 1

    @property
    def events(self) -> int:
        """How many events stay."""
        return int(self.offsets[-1])


def make_layout(user_counts: IntArray, item_counts: IntArray, free: int) -> Layout:
    """Number users and items without gaps, and cut the users into partitions that memory holds.

    A user with more events than that is a partition alone.

    Args:
        user_counts: [users] events that stay; 0 = removed.
        item_counts: [items] the same.
        free: bytes of working memory.
    """
    stays = user_counts > 0
    offsets = np.concatenate([[0], np.cumsum(user_counts[stays])]).astype(np.int64)
    size = max(free // BYTES_AN_EVENT, int(offsets[-1]) // MOST_PARTITIONS + 1)
    first_users = [0]
    while first_users[-1] < len(offsets) - 1:
        start = first_users[-1]
        stop = int(np.searchsorted(offsets, offsets[start] + size, side="right")) - 1
        first_users.append(max(stop, start + 1))
    return Layout(renumber(stays), renumber(item_counts > 0), offsets, np.asarray(first_users, dtype=np.int64))


def partition(folder: Path, events: EventFile, layout: Layout, rows: int, rows_at_once: int, progress: Progress) -> None:
    """Write the events that stay, renumbered, into one set of files a partition; in each they keep their order.

    A killed build partitions again: the pass has no state that could be kept.
    """
    parts = _parts(folder, layout)
    for part in parts:
        part.cut(0)
    done = 0
    for block in events.blocks(rows_at_once):
        done += len(block["user"])
        user, item = layout.new_users[block["user"]], layout.new_items[block["item"]]
        stay = np.flatnonzero((user >= 0) & (item >= 0))
        user = user[stay]
        number = (np.searchsorted(layout.first_users, user, side="right") - 1).astype(np.uint16)
        order = np.argsort(number, kind="stable")
        edges = np.searchsorted(number[order], np.arange(len(parts) + 1))
        sorted_block: Block = {"user": user[order], "item": item[stay][order], "time": block["time"][stay][order]}
        for place in np.flatnonzero(np.diff(edges)).tolist():
            rows_of_part = slice(edges[place], edges[place + 1])
            parts[place].append({column: values[rows_of_part] for column, values in sorted_block.items()})
        progress(done, rows)


def sort_partitions(folder: Path, out: Path, layout: Layout, then: IntArray | None, progress: Progress) -> None:
    """Sort each partition by user, time, `then` [items] and file, and append it to items.npy and times.npy in `out`."""
    columns: dict[str, np.dtype[Any]] = {"items": np.dtype(np.int32), "times": np.dtype(np.int64)}
    record = read_record(folder / "sorted.json")
    first = int(record["partitions"]) if record else 0
    for name, dtype in columns.items():
        _begin(out / f"{name}.npy", dtype, layout.events, int(layout.offsets[layout.first_users[first]]))
    for number, part in enumerate(_parts(folder, layout)):
        stop = int(layout.offsets[layout.first_users[number + 1]])
        if number >= first:
            block = part.read()
            ties = None if then is None else then[block["item"]]
            order = time_order(block["user"], block["time"], ties)
            sorted_columns = {"items": block["item"][order] + np.int32(1), "times": block["time"][order]}
            for name, values in sorted_columns.items():
                with (out / f"{name}.npy").open("ab") as file:
                    file.write(values.data)
            write_record(folder / "sorted.json", {"partitions": number + 1})
        part.remove()
        progress(stop, layout.events)


def _begin(path: Path, dtype: np.dtype[Any], length: int, written: int) -> None:
    """Write the header of a .npy file of known length, or cut the file after what is recorded as written."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        header: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + written * dtype.itemsize)


def _parts(folder: Path, layout: Layout) -> list[EventFile]:
    return [EventFile(folder, f"part-{number:04}") for number in range(len(layout.first_users) - 1)]
