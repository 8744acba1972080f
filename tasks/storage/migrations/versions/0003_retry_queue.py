"""The retry queue, and what came of each retry; what a result was made from; runs of more than one kind."""

import sqlalchemy as sa
from alembic import op

from repli.tasks.storage.schema import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("kind", sa.String(length=32), nullable=False, server_default="enrich"))
    op.add_column("runs", sa.Column("alive_at", UtcDateTime(), nullable=True))
    op.add_column("runs", sa.Column("summary", sa.JSON(), nullable=True))
    op.add_column("step_results", sa.Column("made_from", sa.String(length=64), nullable=True))
    op.create_table(
        "retry_queue",
        sa.Column("item_id", sa.String(length=512), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("quality", sa.Float(), nullable=True),
        sa.Column("enqueued_at", UtcDateTime(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("is_parked", sa.Boolean(), nullable=False),
        sa.Column("holder", sa.String(length=36), nullable=True),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"]),
        sa.PrimaryKeyConstraint("item_id"),
    )
    op.create_index(
        "retry_queue_by_turn", "retry_queue", ["is_parked", "priority", "quality", "enqueued_at"], unique=False
    )
    op.create_index("retry_queue_by_holder", "retry_queue", ["holder"], unique=False)
    op.create_table(
        "retries",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("item_id", sa.String(length=512), nullable=False),
        sa.Column("quality_before", sa.Float(), nullable=True),
        sa.Column("quality_after", sa.Float(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"]),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.PrimaryKeyConstraint("run_id", "item_id"),
    )
    op.create_index("retries_by_item", "retries", ["item_id"], unique=False)


def downgrade() -> None:
    op.drop_table("retries")
    op.drop_table("retry_queue")
    op.drop_column("step_results", "made_from")
    op.drop_column("runs", "summary")
    op.drop_column("runs", "alive_at")
    op.drop_column("runs", "kind")
