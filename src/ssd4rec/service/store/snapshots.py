"""Snapshots: what a model has read of a user with a long history, so that a cold read need not begin at the first event."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, or_, select

from ssd4rec.service.ids import MICROSECONDS, now
from ssd4rec.service.store.bulk import is_postgresql, upsert
from ssd4rec.service.store.tables import snapshots, users

UNUSED_DAYS = 1.0  # that a snapshot of a model which is not loaded is kept


class Snapshot(NamedTuple):
    """A state, and what of the store it stands for."""

    user_key: int
    generation: int
    position: int
    state: bytes


def find_snapshot(connection: Connection, user_id: str, model: str) -> Snapshot | None:
    """Return the snapshot of a user, unless a late event or a removal has voided it."""
    mark = "%s" if is_postgresql(connection) else "?"
    statement = (
        "SELECT s.user_key, s.generation, s.position, s.state FROM users AS u "  # noqa: S608 - no values
        "JOIN snapshots AS s ON s.user_key = u.user_key AND s.generation = u.generation "
        f"WHERE u.user_id = {mark} AND s.model = {mark}"
    )
    row = connection.exec_driver_sql(statement, (user_id, model)).first()
    return None if row is None else Snapshot(*row)


def save_snapshots(connection: Connection, model: str, rows: Sequence[Snapshot]) -> None:
    """Store snapshots in place of older ones; those of users who were erased or changed meanwhile are left out.

    On PostgreSQL the users' rows are locked against an erasure until the transaction ends.
    """
    query = select(users.c.user_key, users.c.generation).where(users.c.user_key.in_([row.user_key for row in rows]))
    query = query.order_by(users.c.user_key)
    current = connection.execute(query.with_for_update(read=True, key_share=True) if is_postgresql(connection) else query).all()
    generations: dict[int, int] = {row.user_key: row.generation for row in current}
    values = [
        {**row._asdict(), "model": model, "created": now()} for row in rows if generations.get(row.user_key) == row.generation
    ]
    if values:
        statement = upsert(connection, snapshots)
        changed = {name: statement.excluded[name] for name in ("generation", "position", "created", "state")}
        connection.execute(statement.on_conflict_do_update(index_elements=["user_key", "model"], set_=changed), values)


def next_without_snapshot(connection: Connection, model: str, fewest_events: int, after: int) -> Any:
    """Return user_key and user_id of the next user after a key with a long history and no valid snapshot, or None."""
    same = and_(snapshots.c.user_key == users.c.user_key, snapshots.c.model == model)
    query = select(users.c.user_key, users.c.user_id).outerjoin(snapshots, same)
    query = query.where(users.c.user_key > after, users.c.events >= fewest_events)
    query = query.where(or_(snapshots.c.user_key.is_(None), snapshots.c.generation != users.c.generation))
    return connection.execute(query.order_by(users.c.user_key).limit(1)).first()


def remove_unused_snapshots(connection: Connection, models: Collection[str]) -> int:
    """Remove old snapshots of other models than these; return how many."""
    oldest = now() - int(UNUSED_DAYS * 86_400 * MICROSECONDS)
    old = delete(snapshots).where(snapshots.c.created < oldest, snapshots.c.model.not_in(models))
    return connection.execute(old).rowcount
