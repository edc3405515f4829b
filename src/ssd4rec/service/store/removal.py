"""Remove what is too old: events by age and by count, stored recommendations, answers and imports."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, update

from ssd4rec.service.ids import MICROSECONDS, now
from ssd4rec.service.store.answers import IDEMPOTENCY_SECONDS
from ssd4rec.service.store.tables import events, idempotency, idempotency_users, recommendations, snapshots, users

DAY = 86_400 * MICROSECONDS
USERS_AT_ONCE = 200


@dataclass(frozen=True)
class Removed:
    """How much was removed."""

    events: int = 0
    recommendations: int = 0
    answers: int = 0


def remove_old_answers(connection: Connection, recommendation_days: float) -> Removed:
    """Remove stored recommendations and stored answers that are too old."""
    old = delete(recommendations).where(recommendations.c.created < now() - int(recommendation_days * DAY))
    removed = connection.execute(old).rowcount
    oldest = now() - IDEMPOTENCY_SECONDS * MICROSECONDS
    expired = connection.execute(select(idempotency.c.scope, idempotency.c.name).where(idempotency.c.created < oldest)).all()
    for scope, name in expired:
        links = (idempotency_users.c.scope == scope, idempotency_users.c.name == name)
        connection.execute(delete(idempotency_users).where(*links))
        connection.execute(delete(idempotency).where(idempotency.c.scope == scope, idempotency.c.name == name))
    return Removed(0, removed, len(expired))


def users_to_trim(connection: Connection, days: float | None, newest: int | None) -> list[int]:
    """Return the keys of some users who have events that the retention removes."""
    keys: set[int] = set()
    if newest is not None:
        keys.update(connection.scalars(select(users.c.user_key).where(users.c.events > newest).limit(USERS_AT_ONCE)))
    if days is not None:
        old = select(events.c.user_key).where(events.c.timestamp < now() - int(days * DAY)).distinct().limit(USERS_AT_ONCE)
        keys.update(connection.scalars(old))
    return sorted(keys)


def trim_users(connection: Connection, keys: list[int], days: float | None, newest: int | None) -> int:
    """Remove the events of users that are too old or too many, and void their cached states; return how many."""
    removed = 0
    for key in keys:
        query = select(users).where(users.c.user_key == key)
        user = connection.execute(query.with_for_update() if connection.dialect.name == "postgresql" else query).first()
        if user is None:
            continue
        gone = 0
        if days is not None:
            old = delete(events).where(events.c.user_key == key, events.c.timestamp < now() - int(days * DAY))
            gone += connection.execute(old).rowcount
        if newest is not None:
            order = (events.c.timestamp.desc(), events.c.position.desc())
            rest = select(events.c.position).where(events.c.user_key == key).order_by(*order).offset(newest).limit(-1)
            rest = rest if connection.dialect.name == "sqlite" else rest.limit(None)
            positions = list(connection.scalars(rest))
            for first in range(0, len(positions), 500):
                some = delete(events).where(events.c.user_key == key, events.c.position.in_(positions[first : first + 500]))
                gone += connection.execute(some).rowcount
        if gone:
            connection.execute(delete(snapshots).where(snapshots.c.user_key == key))
            count, last = connection.execute(
                select(func.count(), func.max(events.c.timestamp)).where(events.c.user_key == key)
            ).one()
            values = {"generation": user.generation + 1, "events": count, "last_timestamp": last}
            connection.execute(update(users).where(users.c.user_key == key).values(**values))
        removed += gone
    return removed
