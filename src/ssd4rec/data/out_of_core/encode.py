"""First stage: read the files once, check every row, and write users and items as codes and times as integers."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ssd4rec._io import read_parquet
from ssd4rec.data.catalog import Codes, encode, plain_ids
from ssd4rec.data.interactions import Columns, Interactions, ReadReport, read_interactions
from ssd4rec.data.out_of_core.memory import free_bytes
from ssd4rec.data.out_of_core.scratch import EventFile, choose_once, damaged, read_record, write_record
from ssd4rec.data.out_of_core.stream import Chunk, Cursor, InputFile, stream
from ssd4rec.data.timestamps import FILE_ORDER
from ssd4rec.errors import DataError

BYTES_A_ROW = 400  # of working memory while a chunk is read, checked and encoded; measured with text ids
LARGEST_CHUNK = 1 << 19  # rows
SMALLEST_CHUNK = 1 << 10
RECORDED_EVERY = 5.0  # seconds
RESTARTS = 8
COUNT = re.compile(r"(?<![\w.,-])\d[\d,]* (?=(?:times|rows|duplicates|of)\b)")  # of rows, in a warning

Progress = Callable[[int, int], None]


class Vocabulary:
    """Distinct ids of users or items, numbered by first appearance over chunks that arrive one after the other.

    They lie in a few Arrow arrays of falling length, so that adding ids copies each of them only a few times.
    """

    def __init__(self, ids: pl.Series | None = None) -> None:
        self._pieces: list[pa.Array] = [] if ids is None or not len(ids) else [_arrow_of(ids)]
        self._dtype = None if ids is None else ids.dtype

    def __len__(self) -> int:
        """Return how many distinct ids there are."""
        return sum(len(piece) for piece in self._pieces)

    def encode(self, values: pl.Series) -> Codes:
        """Return the code of each value; ids that are new are added.

        Args:
            values: [rows] ids of one type, the same in every call.
        """
        self._dtype = values.dtype
        local, distinct = encode(values)
        value_set = _arrow_of(distinct)
        codes = np.full(len(distinct), -1, dtype=np.int32)
        size = 0
        for piece in self._pieces:
            # The hash table is of the chunk, not of all ids: its size does not grow with the build.
            places = pc.index_in(piece, value_set=value_set)
            matched = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
            codes[places.drop_null().to_numpy()] = size + matched
            size += len(piece)
        is_new = codes < 0
        codes[is_new] = np.arange(size, size + int(np.count_nonzero(is_new)), dtype=np.int32)
        if is_new.any():
            self._append(value_set.filter(pa.array(is_new)))
        return codes[local]

    def ids(self, start: int = 0) -> pl.Series:
        """Return the ids from one code on."""
        joined = pa.chunked_array(self._pieces) if self._pieces else pa.array([])
        return pl.Series("id", joined.slice(start), dtype=self._dtype).rechunk()

    def _append(self, piece: pa.Array) -> None:
        while self._pieces and len(self._pieces[-1]) <= 2 * len(piece):
            piece = pa.concat_arrays([self._pieces.pop(), piece])
        self._pieces.append(piece)


def _arrow_of(ids: pl.Series) -> pa.Array:
    return ids.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())


@dataclass
class Encoded:
    """The state of the first stage, and its result once every file is read."""

    cursor: Cursor = field(default_factory=Cursor)
    rows: int = 0
    users: Vocabulary = field(default_factory=Vocabulary)
    items: Vocabulary = field(default_factory=Vocabulary)
    # rows that decide on clock and warnings of the whole table, and those of its first and last time: see `_read`
    witnesses: pl.DataFrame = field(default_factory=pl.DataFrame)
    pinned: int = 0  # how many of them stay
    records: int = 0
    header: list[str] = field(default_factory=list)  # all columns of the first file


class _ClockChangedError(Exception):
    """Later rows need finer ticks than the rows before them were written in."""


def encode_files(
    folder: Path,
    files: Sequence[InputFile],
    columns: Columns,
    memory: int,
    progress: Progress,
    *,
    recorded_every: float = RECORDED_EVERY,
) -> tuple[Encoded, ReadReport]:
    """Read all files and append their events to the working folder; go on where a killed build stopped.

    For the arguments see `build_folder`; `progress` is called with (bytes read, all).

    Returns:
        The numbered ids, and the report that `read_interactions` gives for the whole table.

    Raises:
        DataError: see `stream` and `read_interactions`.
    """
    events = EventFile(folder, "events")
    state = _resume(folder, events)
    # as the first run of this build chose it: the cursor depends on it
    rows_at_once = choose_once(
        folder / "chunk.json", lambda: min(max(free_bytes(memory) // BYTES_A_ROW, SMALLEST_CHUNK), LARGEST_CHUNK)
    )
    before = [0, *accumulate(file.size for file in files)]
    for _ in range(RESTARTS):
        try:
            recorded = time.monotonic()
            for chunk in stream(files, columns, rows_at_once, state.cursor):
                table = _read(chunk, state)
                user, item = state.users.encode(table["user"]), state.items.encode(table["item"])
                events.append({"user": user, "item": item, "time": table["time"].to_numpy()})
                state.rows += table.height
                state.cursor = chunk.after
                number = chunk.after.file
                progress(before[number] + int(chunk.share * files[number].size), before[-1])
                if time.monotonic() - recorded >= recorded_every:
                    _record(folder, state)
                    recorded = time.monotonic()
            break
        except _ClockChangedError:
            state = Encoded(witnesses=state.witnesses, pinned=state.pinned, header=state.header)
            events.cut(0)
            _record(folder, state)
    else:
        raise DataError("the times of the files do not agree on one unit; give all of them in the same unit")
    if not state.rows:
        raise DataError(f"{files[0].path}: the files have no rows, only a header")
    _record(folder, state)
    return state, _whole_report(state, files)


def _read(chunk: Chunk, state: Encoded) -> pl.DataFrame:
    """Return user, item and time of a chunk, as reading the whole table at once gives them.

    Two properties belong to a whole table: the unit of its times, and its warnings. A few rows decide on them, e.g. the one
    with the most decimals. Each chunk is read together with those rows, so that its unit is that of all chunks so far. A row
    that changes the unit or a warning joins them; where it changes the ticks, the files are read again from the beginning.
    """
    frame, columns = chunk.frame, Columns(*chunk.frame.columns)  # user, item and, if there is one, time
    if state.witnesses.is_empty():
        state.witnesses, state.pinned = frame.head(1), 1
    state.header = state.header or list(dict.fromkeys(chunk.header))
    interactions = _interactions(chunk, state.witnesses, frame, columns)
    table = interactions.table.slice(state.witnesses.height)
    if _extend_witnesses(chunk, state, interactions, columns) and state.rows:
        raise _ClockChangedError
    if interactions.read.clock.kind == FILE_ORDER:
        return table.with_columns(time=pl.int_range(state.rows, state.rows + table.height, dtype=pl.Int64, eager=True))
    return table


def _interactions(chunk: Chunk, witnesses: pl.DataFrame, frame: pl.DataFrame, columns: Columns) -> Interactions:
    try:
        return read_interactions(pl.concat([witnesses, frame]), columns)
    except pl.exceptions.PolarsError as error:
        types = ", ".join(f"{name} {dtype}" for name, dtype in frame.schema.items())
        before = ", ".join(f"{name} {dtype}" for name, dtype in witnesses.schema.items())
        raise DataError(f"{chunk.source}: the columns are {types}, before {before}; give all files the same types") from error
    except DataError:
        try:  # again, with the rows of the chunk first: the message then has their numbers
            read_interactions(pl.concat([frame, witnesses]), columns)
        except DataError as error:
            raise DataError(f"{chunk.source}, counted from the first of these: {error}") from error
        raise


def _extend_witnesses(chunk: Chunk, state: Encoded, interactions: Interactions, columns: Columns) -> bool:
    """Add the rows of a chunk that decide on the unit or a warning to the witnesses.

    Returns:
        Whether the ticks of the times are finer than before.
    """
    witnesses = state.witnesses
    both = pl.concat([witnesses, chunk.frame])
    goal = _signature(interactions.read)
    times = interactions.table["time"]
    ends = both[[int(times.arg_min() or 0), int(times.arg_max() or 0)]]
    ticks = read_interactions(witnesses, columns).read.clock.ticks
    pinned = witnesses.head(state.pinned)
    while _signature(report := read_interactions(pl.concat([pinned, ends]), columns).read) != goal:
        if pinned.height > state.pinned + RESTARTS:
            if report.clock == interactions.read.clock:
                break  # a warning about many rows together: the report leaves it out
            raise DataError(f"{chunk.source}: the unit of the times depends on many rows; give them as whole numbers")
        low, high = 0, chunk.frame.height  # bisect: the fewest first rows of the chunk with the same signature
        while low < high:
            middle = (low + high) // 2
            report = read_interactions(pl.concat([pinned, ends, chunk.frame.head(middle)]), columns).read
            low, high = (low, middle) if _signature(report) == goal else (middle + 1, high)
        pinned = pl.concat([pinned, chunk.frame.slice(max(low - 1, 0), 1)])
    state.witnesses, state.pinned = pl.concat([pinned, ends]), pinned.height
    return interactions.read.clock.ticks != ticks


def _signature(report: ReadReport) -> tuple[object, ...]:
    """Return the clock and the warnings without their numbers: the witnesses must have those of the whole chunk."""
    return (report.clock, *(re.sub(r"\d[\d,]*", "#", note) for note in report.notes))


def _whole_report(state: Encoded, files: Sequence[InputFile]) -> ReadReport:
    """Return the report of the whole table: its clock and warnings are those of the witnesses."""
    witnesses = state.witnesses
    others = [name for name in state.header if name not in witnesses.columns]  # a warning lists all columns
    frame = witnesses.with_columns(pl.lit(None).alias(name) for name in others).select(state.header)
    report = read_interactions(frame, Columns(*witnesses.columns)).read
    source = files[0].path if len(files) == 1 else f"{len(files)} files, {files[0].path} to {files[-1].path}"
    notes = tuple(COUNT.sub("some ", note) for note in report.notes)  # the witnesses are a few of the rows
    return replace(report, notes=notes, source=source, rows=state.rows, users=len(state.users), items=len(state.items))


def _record(folder: Path, state: Encoded) -> None:
    """Record the state, so that a killed build goes on from here."""
    before = read_record(folder / "encoded.json") or {}
    if state.rows == 0:
        before = {}
    recorded = {"users": before.get("users", 0), "items": before.get("items", 0)}
    for name, vocabulary in (("users", state.users), ("items", state.items)):
        pl.DataFrame({"id": vocabulary.ids(recorded[name])}).write_parquet(folder / f"{name}-{state.records:06}.parquet")
    if state.witnesses.height:
        state.witnesses.write_parquet(folder / f"witnesses-{state.records:06}.parquet")
    state.records += 1
    counted = {name: getattr(state, name) for name in ("rows", "pinned", "records", "header")}
    vocabulary_sizes = {"users": len(state.users), "items": len(state.items)}
    write_record(folder / "encoded.json", {"cursor": asdict(state.cursor), **vocabulary_sizes, **counted})


def _resume(folder: Path, events: EventFile) -> Encoded:
    record = read_record(folder / "encoded.json")
    if record is None or not record["rows"]:
        events.cut(0)
        return Encoded()
    events.cut(record["rows"])
    numbers = range(record["records"])
    try:
        users, items = (
            Vocabulary(plain_ids(pl.concat(read_parquet(folder / f"{name}-{number:06}.parquet") for number in numbers)["id"]))
            for name in ("users", "items")
        )
        witnesses = read_parquet(folder / f"witnesses-{record['records'] - 1:06}.parquet")
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
    counted = {name: record[name] for name in ("rows", "pinned", "records", "header")}
    return Encoded(Cursor(**record["cursor"]), users=users, items=items, witnesses=witnesses, **counted)
