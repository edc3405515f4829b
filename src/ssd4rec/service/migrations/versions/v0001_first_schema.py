"""Create the first schema: users, events, items, recommendations, keys and erasures."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "users",
        sa.Column("user_key", BIG, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.Text, nullable=False, unique=True),
        sa.Column("generation", BIG, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("events", BIG, nullable=False),
        sa.Column("last_timestamp", BIG),
        sa.Column("last_received", BIG),
        sqlite_autoincrement=True,
    )
    op.create_index("users_by_last_received", "users", ["last_received"])
    op.create_table(
        "events",
        sa.Column("user_key", BIG, primary_key=True, autoincrement=False),
        sa.Column("position", BIG, primary_key=True, autoincrement=False),
        sa.Column("timestamp", BIG, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("received", BIG, nullable=False),
        sa.Column("event_id", sa.Text),
        sa.Column("value", sa.Float),
        sa.Column("recommendation_id", sa.Text),
        sa.Column("properties", sa.Text),
        sqlite_with_rowid=False,
    )
    op.create_index("events_by_event_id", "events", ["event_id"], unique=True)
    op.create_table(
        "items",
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("title", sa.Text),
        sa.Column("categories", sa.Text, nullable=False),
        sa.Column("hidden", sa.Boolean, nullable=False),
        sa.Column("available_from", BIG),
        sa.Column("available_until", BIG),
        sa.Column("version", BIG, nullable=False),
    )
    op.create_index("items_by_version", "items", ["version"])
    counters = op.create_table("counters", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", BIG, nullable=False))
    op.bulk_insert(counters, [{"name": "items", "value": 0}])
    op.create_table(
        "recommendations",
        sa.Column("recommendation_id", sa.Text, primary_key=True),
        sa.Column("user_key", BIG),
        sa.Column("position", BIG),
        sa.Column("created", BIG, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
    )
    op.create_index("recommendations_by_user", "recommendations", ["user_key"])
    op.create_index("recommendations_by_created", "recommendations", ["created"])
    op.create_table(
        "idempotency",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("request_sha256", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", BIG, nullable=False),
    )
    op.create_index("idempotency_by_created", "idempotency", ["created"])
    op.create_table(
        "idempotency_users",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("user_key", BIG, primary_key=True, autoincrement=False),
    )
    op.create_index("idempotency_users_by_user", "idempotency_users", ["user_key"])
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created", BIG, nullable=False),
        sa.Column("revoked", BIG),
    )
    op.create_table(
        "erasures",
        sa.Column("erasure_key", BIG, primary_key=True, autoincrement=True),
        sa.Column("user_key", BIG, nullable=False),
        sa.Column("erased_at", BIG, nullable=False),
        sa.Column("events", BIG, nullable=False),
        sa.Column("first_received", BIG),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "imports",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("rows_done", BIG, nullable=False),
        sa.Column("rows", BIG, nullable=False),
        sa.Column("updated", BIG, nullable=False),
    )
