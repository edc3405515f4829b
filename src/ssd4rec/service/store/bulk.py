"""Statements on many rows at once, in the form that is cheapest in each database.

SQLAlchemy compiles a statement with one parameter for each value, which costs more than the statement itself. Here all values
are one parameter: a JSON list in SQLite, an array in PostgreSQL. Rows are inserted by the driver, or by COPY.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

_USERS = "SELECT user_id, user_key, generation, position, events, last_timestamp, last_received FROM users"  # a LockedUser
_CHANGED = ("generation", "position", "events", "last_timestamp", "last_received", "user_key")
ATTEMPTS = 5  # to lock users that another process is erasing


def is_postgresql(connection: Connection) -> bool:
    """Whether the database is PostgreSQL; else it is SQLite."""
    return connection.dialect.name == "postgresql"


def upsert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that takes ON CONFLICT, in the dialect of the database."""
    return (postgresql.insert if is_postgresql(connection) else sqlite.insert)(table)


@dataclass(slots=True)
class LockedUser:
    """The row of a user, changed here first and written at the end."""

    key: int
    generation: int
    position: int
    events: int
    last_timestamp: int | None
    last_received: int | None
    late: bool = False
    changed: bool = False

    def add(self, count: int, first: int, last: int, received: int) -> None:
        """Count new events: the timestamps of the first and the last of them, and when they arrived."""
        newest = self.last_timestamp
        if newest is not None and first < newest:
            self.late = True
        if newest is None or last > newest:
            self.last_timestamp = last
        self.last_received = received
        self.position += count
        self.events += count
        self.changed = True


def lock_users(connection: Connection, user_ids: set[str]) -> dict[str, LockedUser]:
    """Return the rows of users, made where there are none; on PostgreSQL locked until the transaction ends.

    They are locked in the order of their keys, so that two processes never wait for each other in a circle.
    """
    by_id = f"{_USERS} WHERE user_id"
    rows: list[Any] = []
    for _ in range(ATTEMPTS):
        rows = _all_of(connection, by_id, "text", sorted(user_ids))
        if missing := sorted(user_ids - {row.user_id for row in rows}):
            _make_users(connection, missing)
            rows += _all_of(connection, by_id, "text", missing)
        if is_postgresql(connection):
            tail = "ORDER BY user_key FOR NO KEY UPDATE"  # records of answers need not wait
            rows = _all_of(connection, f"{_USERS} WHERE user_key", "bigint", [row.user_key for row in rows], tail)
        if len(rows) == len(user_ids):
            break
    return {row.user_id: LockedUser(*row[1:]) for row in rows}


def existing_users(connection: Connection, user_keys: Sequence[int]) -> set[int]:
    """Return which users exist; in PostgreSQL they cannot be erased until the transaction ends."""
    tail = "ORDER BY user_key FOR KEY SHARE" if is_postgresql(connection) else ""
    return {row[0] for row in _all_of(connection, "SELECT user_key FROM users WHERE user_key", "bigint", user_keys, tail)}


def _make_users(connection: Connection, user_ids: Sequence[str]) -> None:
    """Create users; those who exist stay as they are."""
    values = "unnest(%s::text[]) AS ids(value)" if is_postgresql(connection) else "json_each(?) WHERE true"
    connection.exec_driver_sql(
        f"INSERT INTO users (user_id, generation, position, events) SELECT value, 0, 0, 0 FROM {values} "  # noqa: S608 - ours
        "ON CONFLICT DO NOTHING",
        (_as_parameter(connection, user_ids),),
    )


def stored_event_ids(connection: Connection, event_ids: Sequence[str]) -> set[str]:
    """Return which of the event ids are stored."""
    if not event_ids:
        return set()
    return {row[0] for row in _all_of(connection, "SELECT event_id FROM events WHERE event_id", "text", event_ids)}


def insert(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows: the values of some columns of a table."""
    names = ", ".join(columns)
    if is_postgresql(connection):
        driver: Any = connection.connection.driver_connection
        with driver.cursor().copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        marks = ", ".join("?" for _ in columns)
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", list(rows))  # noqa: S608 - ours


def update_users(connection: Connection, users: Iterable[LockedUser]) -> None:
    """Write the rows of locked users that changed."""
    rows = [
        (user.generation + user.late, user.position, user.events, user.last_timestamp, user.last_received, user.key)
        for user in users
        if user.changed
    ]
    if is_postgresql(connection):
        arrays = ", ".join("%s::bigint[]" for _ in _CHANGED)
        assigned = ", ".join(f"{name} = new.{name}" for name in _CHANGED[:-1])
        connection.exec_driver_sql(
            f"UPDATE users SET {assigned} FROM unnest({arrays}) AS new({', '.join(_CHANGED)}) "  # noqa: S608 - ours
            "WHERE users.user_key = new.user_key",
            tuple(list(column) for column in zip(*rows, strict=True)),
        )
    else:
        assigned = ", ".join(f"{name} = ?" for name in _CHANGED[:-1])
        connection.exec_driver_sql(f"UPDATE users SET {assigned} WHERE user_key = ?", rows)  # noqa: S608 - ours


def _all_of(connection: Connection, start: str, kind: str, values: Sequence[Any], tail: str = "") -> list[Any]:
    condition = f"= ANY(%s::{kind}[])" if is_postgresql(connection) else "IN (SELECT value FROM json_each(?))"
    return list(connection.exec_driver_sql(f"{start} {condition} {tail}", (_as_parameter(connection, values),)).all())


def _as_parameter(connection: Connection, values: Sequence[Any]) -> object:
    return list(values) if is_postgresql(connection) else json.dumps(list(values))
