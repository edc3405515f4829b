"""Bulk import of interactions into a store: in large transactions, each with its progress, so that it can be resumed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import polars as pl
from sqlalchemy import Connection, Engine, insert, select, update

from ssd4rec.data.interactions import Interactions
from ssd4rec.errors import DataError
from ssd4rec.service.ids import MAX_SECONDS, MICROSECONDS, check_id, now
from ssd4rec.service.store import bulk
from ssd4rec.service.store.append import COLUMNS
from ssd4rec.service.store.connect import writing
from ssd4rec.service.store.tables import events, imports

EVENTS_AT_ONCE = 20_000  # of a transaction; more keep a running service waiting

Progress = Callable[[int, int], None]  # (events done, all)


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

    events: int  # of this call
    resumed_at: int  # events that an earlier call had imported
    users: int


def import_events(
    engine: Engine, interactions: Interactions, *, event_type: str = "view", progress: Progress | None = None
) -> Imported:
    """Append all interactions to the histories of their users.

    The same interactions are imported once: a second call does nothing, and a call after an interrupted one continues.

    Args:
        engine: of a store whose schema is up to date.
        interactions: from `read_interactions`; ids are stored as text.
        event_type: of all events.
        progress: called with (events done, all).

    Raises:
        DataError: an id or a time that a store cannot hold.
        StoreError: the store refuses.
    """
    table = _sorted(interactions)
    total, digest = len(table), _digest(table)
    with writing(engine) as connection:
        done = _begin(connection, digest, total)
    started = done
    for part in table[done:].iter_slices(EVENTS_AT_ONCE):
        with writing(engine) as connection:
            _append(connection, part, event_type)
            done += len(part)
            connection.execute(update(imports).where(imports.c.sha256 == digest).values(rows_done=done, updated=now()))
        if progress:
            progress(done, total)
    return Imported(done - started, started, table["user"].n_unique() if total else 0)


def _sorted(interactions: Interactions) -> pl.DataFrame:
    """User and item as text, time in microseconds; by user and time, the order of the file between equals."""
    clock = interactions.read.clock
    ticks = clock.ticks_per_second or clock.ticks  # plain numbers count as seconds
    times = interactions.table["time"].to_numpy()
    seconds = times / ticks
    if len(times) and (abs(seconds) > MAX_SECONDS).any():
        raise DataError(
            f"{interactions.read.source}: times from {seconds.min():g} to {seconds.max():g} seconds are outside of the years "
            f"1684 to 2255, which a store holds; convert the column to seconds since 1970"
        )
    exact = MICROSECONDS % ticks == 0
    microseconds = times * (MICROSECONDS // ticks) if exact else np.round(seconds * MICROSECONDS).astype(np.int64)
    table = interactions.table.select(
        pl.col("user").cast(pl.String), pl.col("item").cast(pl.String), pl.Series("time", microseconds, dtype=pl.Int64)
    )
    for column in ("user", "item"):
        for value in table[column].unique():
            try:
                check_id(value)
            except ValueError as error:
                raise DataError(
                    f"{interactions.read.source}: the {column} id {value[:80]!r} cannot be stored: {error}"
                ) from error
    return table.sort("user", "time", maintain_order=True)


def _digest(table: pl.DataFrame) -> str:
    digest = hashlib.sha256(table["time"].to_numpy().tobytes())
    for column in ("user", "item"):
        for chunk in table[column].str.join("\n") if len(table) else ():
            digest.update(chunk.encode())
    return digest.hexdigest()


def _begin(connection: Connection, digest: str, total: int) -> int:
    """How many rows an earlier call has imported."""
    row = connection.execute(select(imports).where(imports.c.sha256 == digest)).first()
    if row is not None:
        return int(row.rows_done)
    connection.execute(insert(imports), {"sha256": digest, "rows_done": 0, "rows": total, "updated": now()})
    return 0


def _append(connection: Connection, part: pl.DataFrame, event_type: str) -> None:
    received = now()
    user_ids = part["user"].unique(maintain_order=True).to_list()
    owners = bulk.lock_users(connection, set(user_ids))
    counts = part.group_by("user", maintain_order=True).agg(pl.len(), pl.col("time").first(), pl.col("time").last().alias("last"))
    keys, positions = [], []
    for user_id, count, first, last in counts.iter_rows():
        owner = owners[user_id]
        keys.append(np.full(count, owner.key))
        positions.append(np.arange(owner.position + 1, owner.position + count + 1))
        happened = min(received, last)  # not when it was imported: recent users are those who were active
        owner.add(count, first, last, happened if owner.last_received is None else max(owner.last_received, happened))
    rows = zip(
        np.concatenate(keys).tolist(),
        np.concatenate(positions).tolist(),
        part["time"].to_list(),
        part["item"].to_list(),
        repeat(event_type),
        repeat(received),
        strict=False,
    )
    bulk.insert(connection, events, COLUMNS[:6], list(rows))
    bulk.update_users(connection, owners.values())
