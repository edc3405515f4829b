"""From files of interactions to a folder of sequences, within a memory limit; a killed build goes on where it stopped."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import polars as pl

from ssd4rec._io import exclusive_lock, sync
from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.folder import write_metadata
from ssd4rec.data.interactions import Columns, ReadReport
from ssd4rec.data.out_of_core.arrange import Layout, make_layout, partition, sort_partitions
from ssd4rec.data.out_of_core.core import Core, stream_k_core
from ssd4rec.data.out_of_core.encode import RECORDED_EVERY, Encoded, encode_files
from ssd4rec.data.out_of_core.memory import free_bytes, peak_bytes
from ssd4rec.data.out_of_core.scratch import EventFile, damaged, read_record, write_record
from ssd4rec.data.out_of_core.stream import InputFile, list_files
from ssd4rec.data.sequences import Counts, Filtering, id_order, nothing_left
from ssd4rec.errors import DataError

FORMAT = 1
BYTES_A_ROW = 128  # of working memory while events are counted or partitioned
SMALLEST_BLOCK = 1 << 14  # events

Progress = Callable[[str, int, int], None]  # stage, done, all


@dataclass(frozen=True)
class BuildReport:
    """The outcome of a build."""

    read: ReadReport
    filtering: Filtering
    kept: Counts
    partitions: int
    seconds: dict[str, float]  # for each stage of this run
    peak_bytes: int | None  # of resident memory of this process
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
    try:
        with exclusive_lock(folder / "lock", busy, lambda reason: DataError(f"cannot write to {folder}: {reason}")):
            resumed = _begin_or_resume(folder, plan)
            codes, read_report, seconds = _encode(folder, files, columns, memory, progress, recorded_every)
            report = _build(folder, target, codes, read_report, _Job(min_interactions, tie_order, memory, progress))
            report = replace(report, seconds={"reading": seconds, **report.seconds}, resumed=resumed)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot build {target}: {error.strerror or error}; give the same command again once there is room, it goes on from "
            f"what lies in {folder}"
        ) from error
    return report


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


@dataclass(frozen=True)
class _Job:
    """How the events are filtered and sorted, and how to report."""

    k: int
    tie_order: TieOrder
    memory: int
    progress: Progress

    def reporter(self, stage: str) -> Callable[[int, int], None]:
        """Return what one stage reports to."""
        return lambda done, total: self.progress(stage, done, total)


def _encode(
    folder: Path, files: Sequence[InputFile], columns: Columns, memory: int, progress: Progress, recorded_every: float
) -> tuple[Encoded, ReadReport, float]:
    """Run the first stage; the last value is its seconds."""
    began = time.monotonic()
    codes, read_report = encode_files(
        folder, files, columns, memory, lambda done, total: progress("reading", done, total), recorded_every=recorded_every
    )
    return codes, read_report, round(time.monotonic() - began, 2)


def _build(folder: Path, target: Path, encoded: Encoded, read_report: ReadReport, job: _Job) -> BuildReport:
    """Run the other stages."""
    clock = _Stopwatch()
    k, memory = job.k, job.memory
    events = EventFile(folder, "events")
    rows_at_once = max(free_bytes(memory) // BYTES_A_ROW, SMALLEST_BLOCK)
    core = _core(folder, events, encoded, k, rows_at_once, job.reporter("counting"))
    clock.lap("counting")
    came = Counts(read_report.users, read_report.items, read_report.rows)
    if not core.interactions:
        raise DataError(nothing_left(read_report.source, k, came, core.steps, _largest_k(events, encoded, k, rows_at_once)))
    layout = _layout(folder, core, memory)
    if not (folder / "partitioned.json").exists():
        partition(folder, events, layout, encoded.rows, rows_at_once, job.reporter("partitioning"))
        write_record(folder / "partitioned.json", {})
    clock.lap("partitioning")
    complete = folder / "complete"
    complete.mkdir(exist_ok=True)
    users, items = _left(encoded.users.ids(), layout.new_users), _left(encoded.items.ids(), layout.new_items)
    catalog = Catalog(items)
    ties = id_order(catalog)[1:] if job.tie_order == "item" else None
    sort_partitions(folder, complete, layout, ties, job.reporter("sorting"))
    remaining = Counts(len(users), len(items), layout.events)
    removed = Counts(came.users - remaining.users, came.items - remaining.items, came.interactions - layout.events)
    filtering = Filtering(k, len(core.steps), came, removed)
    np.save(complete / "offsets.npy", layout.offsets, allow_pickle=False)
    write_metadata(complete, users, catalog, filtering, job.tie_order, read_report)
    sync([*complete.iterdir(), complete])
    complete.rename(target)
    sync([target.parent])
    clock.lap("sorting")
    return BuildReport(read_report, filtering, remaining, len(layout.first_users) - 1, clock.seconds, peak_bytes(), resumed=False)


def _core(
    folder: Path, events: EventFile, encoded: Encoded, k: int, rows_at_once: int, progress: Callable[[int, int], None]
) -> Core:
    """Return the k-core, as recorded by a killed build if it came so far."""
    record = read_record(folder / "core.json")
    arrays = folder / "core.npz"
    if record is not None:
        try:
            with arrays.open("rb") as file, np.load(file) as counts:
                return Core(counts["users"], counts["items"], [Counts(**step) for step in record["steps"]])
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise damaged(folder, error) from error
    core = stream_k_core(events, encoded.rows, len(encoded.users), len(encoded.items), k, rows_at_once, progress)
    np.savez(arrays, users=core.user_counts, items=core.item_counts)
    write_record(folder / "core.json", {"steps": [asdict(step) for step in core.steps]})
    return core


def _layout(folder: Path, core: Core, memory: int) -> Layout:
    """Return the layout with the partitions of the first run: those of a resumed one would differ with its free memory."""
    record = read_record(folder / "layout.json")
    if record is None:
        record = {"free": free_bytes(memory)}
        write_record(folder / "layout.json", record)
    return make_layout(core.user_counts, core.item_counts, int(record["free"]))


def _largest_k(events: EventFile, encoded: Encoded, k: int, rows_at_once: int) -> int:
    """Return the largest smaller k whose k-core has interactions; 1 if there is none."""
    low, high = 1, k - 1
    while low < high:
        middle = (low + high + 1) // 2
        core = stream_k_core(
            events, encoded.rows, len(encoded.users), len(encoded.items), middle, rows_at_once, lambda _done, _all: None
        )
        low, high = (middle, high) if core.interactions else (low, middle - 1)
    return low


def _left(ids: pl.Series, new_codes: np.ndarray[Any, Any]) -> pl.Series:
    stays = new_codes >= 0
    return ids if stays.all() else ids.filter(pl.Series(stays))


class _Stopwatch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        """Note the seconds since the last stage."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 2)
        self._last = now
