"""Append events: idempotent, in the order of (timestamp, position); a late one voids the cached states of its user."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from ssd4rec.service.ids import now
from ssd4rec.service.schemas import Event
from ssd4rec.service.store import bulk
from ssd4rec.service.store.tables import events

COLUMNS = tuple(events.columns.keys())


@dataclass(frozen=True, slots=True)
class NewItems:
    """Events of a user that follow all earlier ones, in one batch."""

    user_id: str
    user_key: int
    generation: int
    position: int  # of the first one
    before: int | None  # timestamp of the event before the first one
    items: list[str]
    timestamps: list[int]  # never decreasing; of all events, in microseconds since 1970

    def split(self, count: int) -> "tuple[NewItems, NewItems]":
        """Return the first events and the rest."""
        first = replace(self, items=self.items[:count], timestamps=self.timestamps[:count])
        items, timestamps = self.items[count:], self.timestamps[count:]
        position, before = self.position + count, first.timestamps[-1]
        return first, replace(self, position=position, before=before, items=items, timestamps=timestamps)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one batch of events."""

    accepted: int
    duplicates: int
    new_items: list[NewItems]


def append_events(connection: Connection, batches: Sequence[Sequence[Event]]) -> list[Appended]:
    """Store batches of events in one transaction that is open.

    Returns:
        For each batch how many events are new, and how many have an `event_id` that is stored already.
    """
    received = now()
    owners = bulk.lock_users(connection, {event.user_id for batch in batches for event in batch})
    ids = [event.event_id for batch in batches for event in batch if event.event_id is not None]
    taken = bulk.stored_event_ids(connection, ids)
    rows: list[tuple[object, ...]] = []
    counts, groups = [], []
    for batch in batches:
        duplicates = 0
        group: dict[str, NewItems] = {}
        for event in batch:
            if event.event_id is not None:
                if event.event_id in taken:
                    duplicates += 1
                    continue
                taken.add(event.event_id)
            owner = owners[event.user_id]
            before = owner.last_timestamp
            rows.append(_row(owner, event, received))
            if (new := group.get(event.user_id)) is None:
                new = NewItems(event.user_id, owner.key, owner.generation, owner.position, before, [], [])
                group[event.user_id] = new
            new.items.append(event.item_id)
            new.timestamps.append(owner.last_timestamp or 0)  # `_row` has set it
        counts.append((len(batch) - duplicates, duplicates))
        groups.append(group)
    if rows:
        bulk.insert(connection, events, COLUMNS, rows)
        bulk.update_users(connection, owners.values())
    return [
        Appended(*count, [new for user_id, new in group.items() if not owners[user_id].late])
        for count, group in zip(counts, groups, strict=True)
    ]


def _row(user: bulk.LockedUser, event: Event, received: int) -> tuple[object, ...]:
    """The values of `COLUMNS`."""
    if (timestamp := event.timestamp) is None:
        timestamp = received if user.last_timestamp is None else max(received, user.last_timestamp)
    user.add(1, timestamp, timestamp, received)
    return (
        user.key,
        user.position,
        timestamp,
        event.item_id,
        event.type,
        received,
        event.event_id,
        event.value,
        event.recommendation_id,
        None if event.properties is None else json.dumps(event.properties),
    )
