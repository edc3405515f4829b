"""The event store: SQLAlchemy Core on SQLite or PostgreSQL."""
