"""The first schema: users, events, items, recommendations, keys and erasures.

A new store is made from `store.tables`, which have the newest schema; this is where the updates of the oldest stores begin.
"""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing is older."""
