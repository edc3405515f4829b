"""Add snapshots of the states of users with long histories."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "snapshots",
        sa.Column("user_key", BIG, primary_key=True, autoincrement=False),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("generation", BIG, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("created", BIG, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_index("snapshots_by_created", "snapshots", ["created"])
