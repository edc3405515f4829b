"""Append events: idempotent, in the order of (timestamp, position); a late one voids the cached states of its user."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ssd4rec.service.ids import now
from ssd4rec.service.store.tables import events, users

AT_ONCE = 500  # values of one IN (…)
_T = TypeVar("_T")
ATTEMPTS = 5  # to lock users that another process is erasing


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is to be stored."""

    user_id: str
    item_id: str
    event_id: str | None = None
    type: str = "view"
    timestamp: int | None = None  # microseconds since 1970; None: now, after all earlier events of the user
    value: float | None = None
    recommendation_id: str | None = None
    properties: str | None = None  # JSON


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one batch of events."""

    accepted: int
    duplicates: int


@dataclass(slots=True)
class LockedUser:
    """The row of a user, changed here first and written at the end."""

    key: int
    generation: int
    position: int
    events: int
    last_timestamp: int | None
    late: bool = False
    changed: bool = False


def append_events(connection: Connection, batches: Sequence[Sequence[NewEvent]]) -> list[Appended]:
    """Store batches of events in one transaction that is open.

    The users' rows are locked in the order of their keys, so that two processes never wait for each other in a circle.

    Returns:
        For each batch how many events are new, and how many have an `event_id` that is stored already.
    """
    received = now()
    owners = lock_users(connection, {event.user_id for batch in batches for event in batch})
    taken = _stored_ids(connection, [event.event_id for batch in batches for event in batch if event.event_id is not None])
    rows: list[dict[str, object]] = []
    results = []
    for batch in batches:
        duplicates = 0
        for event in batch:
            if event.event_id is not None:
                if event.event_id in taken:
                    duplicates += 1
                    continue
                taken.add(event.event_id)
            rows.append(_row(owners[event.user_id], event, received))
        results.append(Appended(len(batch) - duplicates, duplicates))
    if rows:
        connection.execute(insert(events), rows)
        update_users(connection, owners.values(), received)
    return results


def _row(user: LockedUser, event: NewEvent, received: int) -> dict[str, object]:
    newest = user.last_timestamp
    timestamp = max(received, received if newest is None else newest) if event.timestamp is None else event.timestamp
    if newest is not None and timestamp < newest:
        user.late = True
    user.last_timestamp = timestamp if newest is None else max(newest, timestamp)
    user.position += 1
    user.events += 1
    user.changed = True
    return {
        "user_key": user.key,
        "position": user.position,
        "timestamp": timestamp,
        "item_id": event.item_id,
        "type": event.type,
        "received": received,
        "event_id": event.event_id,
        "value": event.value,
        "recommendation_id": event.recommendation_id,
        "properties": event.properties,
    }


def lock_users(connection: Connection, user_ids: set[str]) -> dict[str, LockedUser]:
    """Return the rows of users, made where there are none; on PostgreSQL locked until the transaction ends."""
    postgres = connection.dialect.name == "postgresql"
    for _ in range(ATTEMPTS):
        rows = _select_users(connection, sorted(user_ids))
        if missing := sorted(user_ids - {row.user_id for row in rows}):
            values = [{"user_id": each, "generation": 0, "position": 0, "events": 0} for each in missing]
            new = (postgresql.insert if postgres else sqlite.insert)(users).on_conflict_do_nothing()
            connection.execute(new, values)
            rows = _select_users(connection, sorted(user_ids))
        if postgres:
            rows = _locked(connection, [row.user_key for row in rows])
        if len(rows) == len(user_ids):
            break
    return {row.user_id: LockedUser(row.user_key, row.generation, row.position, row.events, row.last_timestamp) for row in rows}


def _select_users(connection: Connection, user_ids: Sequence[str]) -> list[Row[Any]]:
    selected: list[Row[Any]] = []
    for chunk in chunks(user_ids, AT_ONCE):
        selected += connection.execute(select(users).where(users.c.user_id.in_(chunk))).all()
    return selected


def _locked(connection: Connection, keys: Sequence[int]) -> list[Row[Any]]:
    selected: list[Row[Any]] = []
    for chunk in chunks(sorted(keys), AT_ONCE):
        query = select(users).where(users.c.user_key.in_(chunk)).order_by(users.c.user_key)
        selected += connection.execute(query.with_for_update(key_share=True)).all()  # records of answers need not wait
    return selected


def _stored_ids(connection: Connection, event_ids: list[str]) -> set[str]:
    stored: set[str] = set()
    for chunk in chunks(event_ids, AT_ONCE):
        stored.update(connection.scalars(select(events.c.event_id).where(events.c.event_id.in_(chunk))))
    return stored


_UPDATE = (
    update(users)
    .where(users.c.user_key == bindparam("key"))
    .values(
        generation=bindparam("new_generation"),
        position=bindparam("new_position"),
        events=bindparam("new_events"),
        last_timestamp=bindparam("new_last_timestamp"),
        last_received=bindparam("new_last_received"),
    )
)


def update_users(connection: Connection, owners: Iterable[LockedUser], received: int) -> None:
    """Write the rows of users that changed."""
    connection.execute(
        _UPDATE,
        [
            {
                "key": user.key,
                "new_generation": user.generation + user.late,
                "new_position": user.position,
                "new_events": user.events,
                "new_last_timestamp": user.last_timestamp,
                "new_last_received": received,
            }
            for user in owners
            if user.changed
        ],
    )


def chunks(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Cut a sequence into parts of at most `size`."""
    for first in range(0, len(values), size):
        yield values[first : first + size]
