"""Statements on many rows at once, in the form that is cheapest in each database.

SQLAlchemy compiles a statement with one parameter for each value, which costs more than the statement itself. Here all values
are one parameter: a JSON list in SQLite, an array in PostgreSQL. Rows are inserted by the driver, or by COPY.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table

_USERS = "SELECT user_id, user_key, generation, position, events, last_timestamp, last_received FROM users"
_CHANGED = ("generation", "position", "events", "last_timestamp", "last_received", "user_key")


def is_postgresql(connection: Connection) -> bool:
    """Whether the database is PostgreSQL; else it is SQLite."""
    return connection.dialect.name == "postgresql"


def select_users(connection: Connection, user_ids: Sequence[str]) -> list[Any]:
    """Return the rows of those users who exist: user_id, and what `update_users` writes."""
    return _all_of(connection, f"{_USERS} WHERE user_id", "text", user_ids)


def lock_users(connection: Connection, user_keys: Sequence[int]) -> list[Any]:
    """Lock users of PostgreSQL until the transaction ends, in the order of their keys; return their rows."""
    tail = "ORDER BY user_key FOR NO KEY UPDATE"  # records of answers need not wait
    return _all_of(connection, f"{_USERS} WHERE user_key", "bigint", user_keys, tail)


def existing_users(connection: Connection, user_keys: Sequence[int]) -> set[int]:
    """Return which users exist; in PostgreSQL they cannot be erased until the transaction ends."""
    tail = "ORDER BY user_key FOR KEY SHARE" if is_postgresql(connection) else ""
    return {row[0] for row in _all_of(connection, "SELECT user_key FROM users WHERE user_key", "bigint", user_keys, tail)}


def make_users(connection: Connection, user_ids: Sequence[str]) -> None:
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
    """Insert rows.

    Args:
        connection: in a transaction.
        table: where.
        columns: their names.
        rows: values of the columns.
    """
    names = ", ".join(columns)
    if is_postgresql(connection):
        driver: Any = connection.connection.driver_connection
        with driver.cursor().copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        marks = ", ".join("?" for _ in columns)
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", list(rows))  # noqa: S608 - ours


def update_users(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Update users.

    Args:
        connection: in a transaction that holds the locks of the users.
        rows: generation, position, events, last_timestamp, last_received and user_key of each.
    """
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
        connection.exec_driver_sql(f"UPDATE users SET {assigned} WHERE user_key = ?", list(rows))  # noqa: S608 - ours


def _all_of(connection: Connection, start: str, kind: str, values: Sequence[Any], tail: str = "") -> list[Any]:
    condition = f"= ANY(%s::{kind}[])" if is_postgresql(connection) else "IN (SELECT value FROM json_each(?))"
    return list(connection.exec_driver_sql(f"{start} {condition} {tail}", (_as_parameter(connection, values),)).all())


def _as_parameter(connection: Connection, values: Sequence[Any]) -> object:
    return list(values) if is_postgresql(connection) else json.dumps(list(values))
