"""Read users and their histories."""

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, tuple_

from ssd4rec.service.store.bulk import is_postgresql
from ssd4rec.service.store.tables import events, users

NOTHING_READ = (-1, -1, 0)  # (user key, generation, position) that no user has

# One statement, thus one consistent state in both databases: the user, the counter of the items, and the events after the
# position that a cached state has read, where that state is still valid; else all.
_NEW_EVENTS = """
    SELECT c.value, u.user_key, u.generation, u.position, u.last_timestamp, e.item_id
    FROM counters AS c
    LEFT JOIN users AS u ON u.user_id = ?
    LEFT JOIN events AS e ON e.user_key = u.user_key
        AND e.position > CASE WHEN u.user_key = ? AND u.generation = ? THEN ? ELSE 0 END
    WHERE c.name = 'items'
    ORDER BY e.timestamp, e.position
"""
_NEW_EVENTS_POSTGRESQL = _NEW_EVENTS.replace("?", "%s")


@dataclass(frozen=True, slots=True)
class NewHistory:
    """Events that a cached state has not read, and the user they belong to."""

    items_version: int  # of the metadata of items
    user_key: int | None  # None: no such user
    generation: int
    position: int  # of the newest event
    last_event: int | None  # the largest timestamp, in microseconds since 1970
    items: list[str]  # oldest first
    continues: bool  # the items follow those that the cached state has read; else they are the whole history


def read_new_events(connection: Connection, user_id: str, read: tuple[int, int, int]) -> NewHistory:
    """Read the events of a user after the user key, generation and position of a cached state; `NOTHING_READ`: all of them."""
    user_key, generation, position = read
    statement = _NEW_EVENTS_POSTGRESQL if is_postgresql(connection) else _NEW_EVENTS
    rows = connection.exec_driver_sql(statement, (user_id, user_key, generation, position)).all()
    version, key, current, newest, last, _ = rows[0]
    if key is None:
        return NewHistory(version, None, 0, 0, None, [], continues=False)
    items = [row[5] for row in rows] if rows[0][5] is not None else []
    return NewHistory(version, key, current, newest, last, items, continues=(key, current) == (user_key, generation))


class History(NamedTuple):
    """Events of a user."""

    items: list[str]  # oldest first
    last_event: int | None  # when it was, in microseconds since 1970; None: there are no events


def read_history(connection: Connection, user_id: str, until_timestamp: int | None = None) -> tuple[int | None, int, History]:
    """Read the history of a user as it was at a time.

    Returns:
        The user's key (None: no such user), the position of the newest event of all, and the events.
    """
    if (user := find_user(connection, user_id)) is None:
        return None, 0, History([], None)
    return user.user_key, user.position, history_of(connection, user.user_key, until_timestamp)


def history_of(
    connection: Connection, user_key: int, until_timestamp: int | None = None, until_position: int | None = None
) -> History:
    """Read the events of a user up to a timestamp or a position."""
    query = select(events.c.item_id, events.c.timestamp).where(events.c.user_key == user_key)
    if until_timestamp is not None:
        query = query.where(events.c.timestamp <= until_timestamp)
    if until_position is not None:
        query = query.where(events.c.position <= until_position)
    rows = connection.execute(query.order_by(events.c.timestamp, events.c.position)).all()
    return History([row.item_id for row in rows], rows[-1].timestamp if rows else None)


def find_user(connection: Connection, user_id: str) -> Any:
    """Return the row of a user, or None."""
    return connection.execute(select(users).where(users.c.user_id == user_id)).first()


def existing_users(connection: Connection, user_ids: Collection[str]) -> set[str]:
    """Return those of some users that the store has."""
    return set(connection.scalars(select(users.c.user_id).where(users.c.user_id.in_(user_ids))))


def recent_users(connection: Connection, limit: int) -> list[str]:
    """Return the users whose events arrived last."""
    query = select(users.c.user_id).where(users.c.last_received.is_not(None)).order_by(users.c.last_received.desc())
    return list(connection.scalars(query.limit(limit)))


def search_users(connection: Connection, prefix: str, limit: int) -> list[Any]:
    """Return users whose ids start with a text, in the order of the ids; without a text those whose events arrived last."""
    if prefix:
        query = select(users).where(users.c.user_id.startswith(prefix, autoescape=True)).order_by(users.c.user_id)
        return list(connection.execute(query.limit(limit)))
    received = users.c.last_received
    recent = list(connection.execute(select(users).where(received.is_not(None)).order_by(received.desc()).limit(limit)))
    if len(recent) == limit:
        return recent
    imported = select(users).where(received.is_(None)).order_by(users.c.user_key).limit(limit - len(recent))
    return [*recent, *connection.execute(imported)]


def page_of_events(
    connection: Connection, user_key: int, limit: int, cursor: str | None, *, newest_first: bool
) -> tuple[list[Any], str | None]:
    """Read a page of a user's events.

    Returns:
        The rows, and the cursor of the next page; None on the last one.

    Raises:
        ValueError: the cursor is not one that an earlier page gave.
    """
    query = select(events).where(events.c.user_key == user_key)
    keys = (events.c.timestamp, events.c.position)
    if cursor is not None:
        place, last = tuple_(*keys), _parse_cursor(cursor)
        query = query.where(place < last if newest_first else place > last)
    query = query.order_by(*(key.desc() if newest_first else key for key in keys)).limit(limit + 1)
    rows = list(connection.execute(query))
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, _make_cursor(rows[-1].timestamp, rows[-1].position) if more else None


def _make_cursor(timestamp: int, position: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([timestamp, position]).encode()).decode().rstrip("=")


def _parse_cursor(cursor: str) -> tuple[int, int]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        timestamp, position = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("the cursor is not one that an earlier page gave; start without it") from error
    if not all(type(each) is int and abs(each) < 2**62 for each in (timestamp, position)):
        raise ValueError("the cursor is not one that an earlier page gave; start without it")
    return timestamp, position
