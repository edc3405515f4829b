"""API keys: 256 random bits, stored as SHA-256, with scopes."""

import hashlib
import hmac
import secrets
from typing import Any

from sqlalchemy import Connection, insert, select, update

from ssd4rec.service.ids import now
from ssd4rec.service.store.tables import api_keys

SCOPES = ("events", "read", "admin")
PREFIX = "ssd4rec"


def create_key(connection: Connection, name: str, scopes: tuple[str, ...]) -> tuple[str, str]:
    """Store a new key.

    Returns:
        Its id, and the key itself, which is shown once and not stored.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    token = f"{PREFIX}_{key_id}_{secret}"
    row = {"key_id": key_id, "name": name, "sha256": _hash(token), "scopes": " ".join(scopes), "created": now()}
    connection.execute(insert(api_keys), row)
    return key_id, token


def list_keys(connection: Connection) -> list[Any]:
    """Return all keys, the oldest first."""
    return list(connection.execute(select(api_keys).order_by(api_keys.c.created)).all())


def revoke_key(connection: Connection, key_id: str) -> bool:
    """Revoke a key; False: the key does not exist or was revoked before."""
    query = update(api_keys).where(api_keys.c.key_id == key_id, api_keys.c.revoked.is_(None)).values(revoked=now())
    return connection.execute(query).rowcount > 0


def matches(token: str, sha256: str) -> bool:
    """Whether a key is the one that was stored, compared in constant time."""
    return hmac.compare_digest(_hash(token), sha256)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
