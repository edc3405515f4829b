"""From files of interactions to a folder of sequences, within a memory limit; a killed build goes on where it stopped."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import polars as pl

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec._io import exclusive_lock, sync
from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog, Codes
from ssd4rec.data.folder import write_metadata
from ssd4rec.data.interactions import Columns, ReadReport
from ssd4rec.data.k_core import Core, Counts, Filtering, count_k_core, filled_core, renumber
from ssd4rec.data.out_of_core.encode import RECORDED_EVERY, Encoded, encode_files
from ssd4rec.data.out_of_core.memory import free_bytes, peak_bytes
from ssd4rec.data.out_of_core.scratch import Block, EventFile, choose_once, damaged, read_record, write_record
from ssd4rec.data.out_of_core.stream import list_files
from ssd4rec.data.sequences import id_order, time_order, user_blocks
from ssd4rec.errors import DataError

FORMAT = 2  # of the working folder
BYTES_A_ROW = 128  # of working memory while events are counted or partitioned
SMALLEST_BLOCK = 1 << 14  # events
BYTES_AN_EVENT = 96  # of working memory while a partition is sorted
MOST_PARTITIONS = 512

Progress = Callable[[str, int, int], None]  # stage, done, all


@dataclass(frozen=True)
class BuildReport:
    """The outcome of a build."""

    read: ReadReport
    filtering: Filtering
    kept: Counts
    partitions: int
    seconds: dict[str, float]  # for each stage of this run
    peak_bytes: int  # of resident memory of this process
    resumed: bool


def build_folder(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    memory: int,
    columns: Columns = Columns(),  # noqa: B008 - a frozen value
    min_interactions: int = 5,
    tie_order: TieOrder = "file",
    progress: Progress = lambda _stage, _done, _all: None,
    recorded_every: float = RECORDED_EVERY,
) -> BuildReport:
    """Build the folder that `save_folder` writes for the same interactions, byte for byte, without holding them in memory.

    The files are read once and written to a working folder next to `out` as codes; the k-core counts them there; then they are
    partitioned by user, sorted one partition at a time, and written. Ids of users and items are held in
    memory, with a few arrays of 4 or 8 bytes each.

    Args:
        sources: Parquet and text files, folders of them, or URLs that fsspec opens; their order is the order of the rows.
        out: the folder to make; it appears complete or not at all.
        memory: the limit in bytes for this process.
        columns: names of the columns that do not have usual names.
        min_interactions: k of the k-core; 1 keeps all.
        tie_order: what orders simultaneous events of a user.
        progress: called with (stage, done, all).
        recorded_every: seconds between two records of the first stage; a resumed build reads later rows again.

    Raises:
        DataError: a file cannot be read or used, nothing is left after the k-core, `out` exists, or another build is running.
    """
    if min_interactions < 1:
        raise DataError(f"min_interactions must be 1 or more, found {min_interactions}; 1 keeps everything")
    target = Path(out)
    if target.exists():
        raise DataError(f"{target} exists; name a folder that does not, or remove it")
    files = list_files(sources)
    plan = {
        "format": FORMAT,
        "files": [asdict(file) for file in files],
        "columns": asdict(columns),
        "min_interactions": min_interactions,
        "tie_order": tie_order,
    }
    folder = target.parent / f".{target.name}.build"
    busy = DataError(f"another build of {target} is running; wait for it, or choose another folder")
    seconds: dict[str, float] = {}
    try:
        with exclusive_lock(folder / "lock", busy, lambda reason: DataError(f"cannot write to {folder}: {reason}")):
            resumed = _begin_or_resume(folder, plan)
            with _timed(seconds, "reading"):
                encoded, report = encode_files(
                    folder, files, columns, memory, partial(progress, "reading"), recorded_every=recorded_every
                )
            with _timed(seconds, "counting"):
                rows = max(free_bytes(memory) // BYTES_A_ROW, SMALLEST_BLOCK)
                core = _core(folder, encoded, report, min_interactions, rows, partial(progress, "counting"))
            offsets = lengths_to_offsets(core.user_counts[core.user_counts > 0])
            free = choose_once(folder / "layout.json", lambda: free_bytes(memory))
            first_users = _cut_users(offsets, free)
            parts = [EventFile(folder, f"part-{number:04}") for number in range(len(first_users) - 1)]
            with _timed(seconds, "partitioning"):
                if not (folder / "partitioned.json").exists():
                    blocks = EventFile(folder, "events").blocks(rows)
                    _partition(blocks, parts, core, first_users, lambda done: progress("partitioning", done, encoded.rows))
                    write_record(folder / "partitioned.json", {})
            with _timed(seconds, "sorting"):
                users = encoded.users.ids().filter(pl.Series(core.user_counts > 0))
                items = encoded.items.ids().filter(pl.Series(core.item_counts > 0))
                filtering = core.filtering(min_interactions, report.counts)
                complete = folder / "complete"
                complete.mkdir(exist_ok=True)
                then = id_order(Catalog(items))[1:] if tie_order == "item" else None
                _sort_partitions(folder, parts, offsets[first_users], then, partial(progress, "sorting"))
                np.save(complete / "offsets.npy", offsets, allow_pickle=False)
                write_metadata(complete, users, Catalog(items), filtering, tie_order, report)
                sync([*complete.iterdir(), complete])
                complete.rename(target)
                sync([target.parent])
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot build {target}: {error.strerror or error}; give the same command again once there is room, it goes on from "
            f"what lies in {folder}"
        ) from error
    return BuildReport(report, filtering, core.left, len(parts), seconds, peak_bytes(), resumed)


def _begin_or_resume(folder: Path, plan: dict[str, Any]) -> bool:
    """Return whether the working folder is that of a killed build of the same files; otherwise empty it."""
    if read_record(folder / "plan.json") == plan:
        return True
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()
    write_record(folder / "plan.json", plan)
    return False


def _core(
    folder: Path, encoded: Encoded, report: ReadReport, k: int, rows_at_once: int, progress: Callable[[int, int], None]
) -> Core:
    """Return the k-core, as recorded by a killed build if it came so far.

    Raises:
        DataError: nothing is left.
    """
    record = read_record(folder / "core.json")
    arrays = folder / "core.npz"
    if record is not None:
        try:
            with arrays.open("rb") as file, np.load(file) as counts:
                steps = [Counts(**step) for step in record["steps"]]
                return Core(counts["users"], counts["items"], steps)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise damaged(folder, error) from error
    events = EventFile(folder, "events")

    def blocks() -> Iterator[tuple[Codes, Codes]]:
        done = 0
        for block in events.blocks(rows_at_once, ("user", "item")):
            yield block["user"], block["item"]
            done += len(block["user"])
            progress(done, encoded.rows)

    def core_of(k: int) -> Core:
        return count_k_core(blocks, len(encoded.users), len(encoded.items), k)

    core = filled_core(core_of, k, report.source, report.counts)
    np.savez(arrays, users=core.user_counts, items=core.item_counts)
    write_record(folder / "core.json", {"steps": [asdict(step) for step in core.steps]})
    return core


def _cut_users(offsets: IntArray, free: int) -> IntArray:
    """Cut the users into partitions that memory holds; one with more events than that is a partition alone.

    Args:
        offsets: [users + 1] of their events.
        free: bytes of working memory.

    Returns:
        [partitions + 1] first users: partition p has the users first[p] … first[p + 1] - 1.
    """
    size = max(free // BYTES_AN_EVENT, int(offsets[-1]) // MOST_PARTITIONS + 1)
    return np.array([0, *(stop for _, stop in user_blocks(offsets, size))])


def _partition(
    blocks: Iterator[Block], parts: Sequence[EventFile], core: Core, first_users: IntArray, progress: Callable[[int], None]
) -> None:
    """Write the events that stay, renumbered, into one set of files a partition; in each they keep their order.

    A killed build partitions again: the pass has no state that could be kept.
    """
    for part in parts:
        part.cut(0)
    done = 0
    new_users, new_items = renumber(core.user_counts > 0), renumber(core.item_counts > 0)
    for block in blocks:
        user, item = new_users[block["user"]], new_items[block["item"]]
        stay = np.flatnonzero((user >= 0) & (item >= 0))
        number = (np.searchsorted(first_users, user[stay], side="right") - 1).astype(np.uint16)
        order = np.argsort(number, kind="stable")
        edges = np.searchsorted(number[order], np.arange(len(parts) + 1))
        rows = stay[order]
        sorted_block: Block = {"user": user[rows], "item": item[rows], "time": block["time"][rows]}
        for place in np.flatnonzero(np.diff(edges)).tolist():
            rows_of_part = slice(edges[place], edges[place + 1])
            parts[place].append({column: values[rows_of_part] for column, values in sorted_block.items()})
        done += len(block["user"])
        progress(done)


def _sort_partitions(
    folder: Path, parts: Sequence[EventFile], edges: IntArray, then: IntArray | None, progress: Callable[[int, int], None]
) -> None:
    """Sort each partition by user, time, `then` [items] and file, and append it to items.npy and times.npy.

    `edges` are the events before each partition, [partitions + 1].
    """
    record = read_record(folder / "sorted.json")
    first, events = int(record["partitions"]) if record else 0, int(edges[-1])
    items, times = (folder / "complete" / f"{name}.npy" for name in ("items", "times"))
    _begin(items, np.dtype(np.int32), events, int(edges[first]))
    _begin(times, np.dtype(np.int64), events, int(edges[first]))
    for number, part in enumerate(parts):
        if number >= first:
            block = part.read()
            order = time_order(block["user"], block["time"], None if then is None else then[block["item"]])
            for path, values in ((items, block["item"][order] + np.int32(1)), (times, block["time"][order])):
                with path.open("ab") as file:
                    file.write(values.data)
            write_record(folder / "sorted.json", {"partitions": number + 1})
        part.remove()
        progress(int(edges[number + 1]), events)


def _begin(path: Path, dtype: np.dtype[Any], length: int, written: int) -> None:
    """Write the header of a .npy file of known length, or cut the file after what is recorded as written."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        header: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + written * dtype.itemsize)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note the seconds of a stage."""
    began = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - began, 2)
