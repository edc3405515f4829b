"""Remove what must not stay: erased users, and events, recommendations and answers that are too old or too many."""

import logging
import time
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, tuple_, update

from ssd4rec.service.ids import MICROSECONDS, now
from ssd4rec.service.store.answers import IDEMPOTENCY_SECONDS
from ssd4rec.service.store.tables import erasures, events, idempotency, idempotency_users, recommendations, snapshots, users

DAY = 86_400 * MICROSECONDS
USERS_AT_ONCE = 200
TRIES, PAUSE = 20, 0.05  # to truncate a log that is in use

log = logging.getLogger(__name__)


def erase_user(connection: Connection, user_id: str, after: int = 0) -> int | None:
    """Remove a user with all events, recommendations and answers that are stored; return the user's key, None: no such user.

    The erasure is dated later than `after` (microseconds since 1970), the time of models that were trained before, although the
    clock was set back.
    """
    user = connection.execute(select(users).where(users.c.user_id == user_id).with_for_update()).first()
    if user is None:
        return None
    key = user.user_key
    first = connection.scalar(select(events.c.received).where(events.c.user_key == key).order_by(events.c.position).limit(1))
    answers = select(idempotency_users.c.scope, idempotency_users.c.name).where(idempotency_users.c.user_key == key)
    connection.execute(delete(idempotency).where(tuple_(idempotency.c.scope, idempotency.c.name).in_(answers)))
    for table in (idempotency_users, recommendations, snapshots):
        connection.execute(delete(table).where(table.c.user_key == key))
    removed = connection.execute(delete(events).where(events.c.user_key == key)).rowcount
    connection.execute(delete(users).where(users.c.user_key == key))
    row = {"user_key": key, "erased_at": max(now(), after + 1), "events": removed, "first_received": first}
    connection.execute(insert(erasures), row)
    return int(key)


def erased_on_disk(engine: Engine) -> None:
    """Truncate the write-ahead log of SQLite, which holds older pages; PostgreSQL does so by its own checkpoints."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect().execution_options(reads=True) as connection:
        for _ in range(TRIES):
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            if not busy:
                return
            time.sleep(PAUSE)
    log.warning("the write-ahead log is in use and was not truncated; the next erasure tries again")


def list_erasures(connection: Connection, after: int = 0, limit: int = 1000) -> list[Any]:
    """Return the erasures after a key, the newest first."""
    query = select(erasures).where(erasures.c.erasure_key > after).order_by(erasures.c.erasure_key.desc()).limit(limit)
    return list(connection.execute(query).all())


def remove_old_answers(connection: Connection, recommendation_days: float) -> int:
    """Remove stored recommendations and stored answers that are too old; return how many recommendations."""
    old = delete(recommendations).where(recommendations.c.created < now() - int(recommendation_days * DAY))
    removed = connection.execute(old).rowcount
    is_expired = idempotency.c.created < now() - IDEMPOTENCY_SECONDS * MICROSECONDS
    expired = select(idempotency.c.scope, idempotency.c.name).where(is_expired)
    connection.execute(delete(idempotency_users).where(tuple_(idempotency_users.c.scope, idempotency_users.c.name).in_(expired)))
    connection.execute(delete(idempotency).where(is_expired))
    return removed


def users_to_trim(connection: Connection, days: float | None, newest: int | None) -> list[int]:
    """Return the keys of some users who have events that the retention removes."""
    keys: set[int] = set()
    if newest is not None:
        keys.update(connection.scalars(select(users.c.user_key).where(users.c.events > newest).limit(USERS_AT_ONCE)))
    if days is not None:
        old = select(events.c.user_key).where(events.c.timestamp < now() - int(days * DAY)).distinct().limit(USERS_AT_ONCE)
        keys.update(connection.scalars(old))
    return sorted(keys)


def trim_user(connection: Connection, key: int, days: float | None, newest: int | None) -> int:
    """Remove the events of a user that are too old or too many, and void the cached states; return how many."""
    user = connection.execute(select(users).where(users.c.user_key == key).with_for_update()).first()
    if user is None:
        return 0
    removed, own = 0, events.c.user_key == key
    if days is not None:
        removed += connection.execute(delete(events).where(own, events.c.timestamp < now() - int(days * DAY))).rowcount
    if newest is not None:
        order = (events.c.timestamp.desc(), events.c.position.desc())
        rest = select(events.c.position).where(own).order_by(*order).offset(newest)
        removed += connection.execute(delete(events).where(own, events.c.position.in_(rest))).rowcount
    if removed:
        connection.execute(delete(snapshots).where(snapshots.c.user_key == key))
        count, last = connection.execute(select(func.count(), func.max(events.c.timestamp)).where(own)).one()
        values = {"generation": user.generation + 1, "events": count, "last_timestamp": last}
        connection.execute(update(users).where(users.c.user_key == key).values(**values))
    return removed
