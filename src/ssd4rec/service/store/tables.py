"""The tables of the store. A new store is made from them; migrations bring older ones to the same schema."""

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text, text

metadata = MetaData()
_BIG = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows in INTEGER PRIMARY KEY columns alone
_NAMED = text("recommendation_id IS NOT NULL")

users = Table(
    "users",
    metadata,
    Column("user_key", _BIG, primary_key=True, autoincrement=True),  # never used again after an erasure
    Column("user_id", Text, nullable=False, unique=True),
    Column("generation", _BIG, nullable=False),  # raised by a late event or a removal: cached states are void
    Column("position", _BIG, nullable=False),  # of the newest event, in the order of arrival
    Column("events", _BIG, nullable=False),
    Column("last_timestamp", _BIG),  # microseconds since 1970
    Column("last_received", _BIG),  # when the newest event arrived, or happened, if it was imported
    Index("users_by_last_received", "last_received"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("user_key", _BIG, primary_key=True, autoincrement=False),
    Column("position", _BIG, primary_key=True, autoincrement=False),
    Column("timestamp", _BIG, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("received", _BIG, nullable=False),
    Column("event_id", Text),
    Column("value", Float),
    Column("recommendation_id", Text),
    Column("properties", Text),
    Index("events_by_event_id", "event_id", unique=True),
    Index("events_by_recommendation", "recommendation_id", sqlite_where=_NAMED, postgresql_where=_NAMED),
    sqlite_with_rowid=False,  # a user's events lie together on disk
)

# What a model has read of a user: a cache, valid as long as the user's generation is that of the row.
snapshots = Table(
    "snapshots",
    metadata,
    Column("user_key", _BIG, primary_key=True, autoincrement=False),
    Column("model", Text, primary_key=True),  # `ServedModel.identity`
    Column("generation", _BIG, nullable=False),
    Column("position", _BIG, nullable=False),  # of the newest event that was read
    Column("created", _BIG, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Index("snapshots_by_created", "created"),
)

items = Table(
    "items",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column("title", Text),
    Column("categories", Text, nullable=False),  # JSON list
    Column("hidden", Boolean, nullable=False),
    Column("available_from", _BIG),
    Column("available_until", _BIG),
    Column("version", _BIG, nullable=False),  # of the counter "items" when it was written
    Index("items_by_version", "version"),
)

counters = Table("counters", metadata, Column("name", Text, primary_key=True), Column("value", _BIG, nullable=False))

recommendations = Table(
    "recommendations",
    metadata,
    Column("recommendation_id", Text, primary_key=True),
    Column("user_key", _BIG),
    Column("position", _BIG),  # newest event that was read
    Column("created", _BIG, nullable=False),
    Column("model", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("request", Text, nullable=False),  # JSON
    Column("items", Text, nullable=False),  # JSON list of ids, of this page and those before
    Index("recommendations_by_user", "user_key"),
    Index("recommendations_by_created", "created"),
    Index("recommendations_by_variant", "variant"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", Text, primary_key=True),  # key id and route
    Column("name", Text, primary_key=True),
    Column("request_sha256", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("created", _BIG, nullable=False),
    Index("idempotency_by_created", "created"),
)

idempotency_users = Table(
    "idempotency_users",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("user_key", _BIG, primary_key=True, autoincrement=False),
    Index("idempotency_users_by_user", "user_key"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("scopes", Text, nullable=False),  # separated by spaces
    Column("created", _BIG, nullable=False),
    Column("revoked", _BIG),
)

erasures = Table(
    "erasures",
    metadata,
    Column("erasure_key", _BIG, primary_key=True, autoincrement=True),
    Column("user_key", _BIG, nullable=False),  # for the other processes to drop the state of; a number of no other use
    Column("erased_at", _BIG, nullable=False),
    Column("events", _BIG, nullable=False),
    Column("first_received", _BIG),  # of the deleted events
    sqlite_autoincrement=True,
)

imports = Table(
    "imports",
    metadata,
    Column("sha256", Text, primary_key=True),  # of the file
    Column("rows_done", _BIG, nullable=False),
    Column("rows", _BIG, nullable=False),
    Column("updated", _BIG, nullable=False),
)

experiments = Table(
    "experiments",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # shadow, ab or interleaving
    Column("control", Text, nullable=False),  # version of the model
    Column("treatment", Text, nullable=False),
    Column("share", Float, nullable=False),  # of the users who are given the treatment or the interleaved list
    Column("started", _BIG, nullable=False),
    Column("ended", _BIG),
)

# Sums over the events and answers of five minutes, added up by all processes; they name no user.
live_sums = Table(
    "live_sums",
    metadata,
    Column("model", Text, primary_key=True),  # version@fingerprint
    Column("against", Text, primary_key=True),  # the experiment of a paired comparison; else empty
    Column("bucket", _BIG, primary_key=True, autoincrement=False),  # seconds since 1970
    Column("name", Text, primary_key=True),
    Column("value", Float, nullable=False),
)
