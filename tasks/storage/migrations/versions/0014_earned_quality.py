"""The expected accuracy of items, the version of the rung that served a result, and labels that people give."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("expected_accuracy", sa.Float(), nullable=True))
    op.add_column("step_results", sa.Column("rung_version", sa.Text(), nullable=True))
    op.create_table(
        "labels",
        sa.Column("item_id", sa.String(length=512), nullable=False),
        sa.Column("stage", sa.String(length=64), nullable=False),
        sa.Column("input_hash", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"]),
        sa.PrimaryKeyConstraint("item_id", "stage", "input_hash"),
    )


def downgrade() -> None:
    op.drop_table("labels")
    op.drop_column("step_results", "rung_version")
    op.drop_column("items", "expected_accuracy")
