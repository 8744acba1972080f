"""Breakers, their failures and their moves; notes on a run."""

import sqlalchemy as sa
from alembic import op

from repli.tasks.storage.schema import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("notes", sa.JSON(), nullable=True))
    op.create_table(
        "breakers",
        sa.Column("name", sa.String(length=130), nullable=False),
        sa.Column("place", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("position", sa.String(length=16), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=True),
        sa.Column("probe_at", UtcDateTime(), nullable=True),
        sa.Column("failed_probes", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "place"),
    )
    op.create_table(
        "breaker_failures",
        sa.Column("token", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=130), nullable=False),
        sa.Column("place", sa.String(length=255), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("token"),
    )
    op.create_index("breaker_failures_by_breaker", "breaker_failures", ["name", "place", "at"], unique=False)
    op.create_table(
        "breaker_moves",
        sa.Column("name", sa.String(length=130), nullable=False),
        sa.Column("place", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("old", sa.String(length=16), nullable=False),
        sa.Column("new", sa.String(length=16), nullable=False),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "place", "version"),
    )
    op.create_index("breaker_moves_by_time", "breaker_moves", ["at"], unique=False)


def downgrade() -> None:
    op.drop_index("breaker_moves_by_time", table_name="breaker_moves")
    op.drop_table("breaker_moves")
    op.drop_index("breaker_failures_by_breaker", table_name="breaker_failures")
    op.drop_table("breaker_failures")
    op.drop_table("breakers")
    op.drop_column("runs", "notes")
