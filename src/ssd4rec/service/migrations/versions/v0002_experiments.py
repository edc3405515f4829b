"""Add experiments and live metrics; find events by the recommendation that they name."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NAMED = sa.text("recommendation_id IS NOT NULL")


def upgrade() -> None:
    """Apply."""
    op.create_index("events_by_recommendation", "events", ["recommendation_id"], sqlite_where=NAMED, postgresql_where=NAMED)
    op.create_index("recommendations_by_variant", "recommendations", ["variant"])
    op.create_table(
        "experiments",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("control", sa.Text, nullable=False),
        sa.Column("treatment", sa.Text, nullable=False),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("started", BIG, nullable=False),
        sa.Column("ended", BIG),
    )
    op.create_table(
        "live_sums",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("against", sa.Text, primary_key=True),
        sa.Column("bucket", BIG, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
    )
