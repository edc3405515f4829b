"""Stored recommendations (for next pages and for measuring) and stored answers (for Idempotency-Key)."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select

from ssd4rec.service.ids import MICROSECONDS, now
from ssd4rec.service.store import bulk
from ssd4rec.service.store.tables import idempotency, idempotency_users, recommendations

IDEMPOTENCY_SECONDS = 86_400


class RecommendationRecord(NamedTuple):
    """An answer that was given. Without a user's key it belongs to nobody."""

    recommendation_id: str
    user_key: int | None
    position: int
    created: int
    model: str
    variant: str
    source: str
    request: str  # JSON
    items: str  # JSON list of ids of this page and those before


def record_recommendations(connection: Connection, records: Sequence[RecommendationRecord]) -> None:
    """Store answers; those whose user was erased in the meantime are left out."""
    if not records:
        return
    keys = sorted({record.user_key for record in records if record.user_key is not None})
    present = bulk.existing_users(connection, keys) if keys else set()
    rows = [record for record in records if record.user_key is None or record.user_key in present]
    if rows:
        bulk.insert(connection, recommendations, RecommendationRecord._fields, rows)


def find_recommendation(connection: Connection, recommendation_id: str) -> Any:
    """Return a stored answer, or None."""
    query = select(recommendations).where(recommendations.c.recommendation_id == recommendation_id)
    return connection.execute(query).first()


def find_answer(connection: Connection, scope: str, name: str) -> Any:
    """Return the stored answer to an Idempotency-Key, or None."""
    query = select(idempotency).where(idempotency.c.scope == scope, idempotency.c.name == name)
    row = connection.execute(query).first()
    return row if row is not None and row.created > now() - IDEMPOTENCY_SECONDS * MICROSECONDS else None


def record_answer(
    connection: Connection, scope: str, name: str, request_sha256: str, body: str, user_keys: Iterable[int | None]
) -> Any:
    """Store the answer to an Idempotency-Key, unless another request with the same key was first; return the stored one."""
    oldest = now() - IDEMPOTENCY_SECONDS * MICROSECONDS
    same = (idempotency.c.scope == scope, idempotency.c.name == name)
    connection.execute(delete(idempotency).where(*same, idempotency.c.created <= oldest))
    row = {"scope": scope, "name": name, "request_sha256": request_sha256, "status": 200, "body": body, "created": now()}
    written = connection.execute(bulk.upsert(connection, idempotency).values(row).on_conflict_do_nothing()).rowcount
    if written:
        for key in sorted({key for key in user_keys if key is not None}):
            link = {"scope": scope, "name": name, "user_key": key}
            connection.execute(bulk.upsert(connection, idempotency_users).values(link).on_conflict_do_nothing())
    return connection.execute(select(idempotency).where(*same)).first()
