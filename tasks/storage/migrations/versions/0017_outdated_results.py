"""Results that an operator has asked to be made anew, and an index of results by the version of their rung."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0015"
branch_labels = None
depends_on = None

_INDEX = "step_results_by_version"


def upgrade() -> None:
    op.add_column("step_results", sa.Column("is_outdated", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index(_INDEX, "step_results", ["stage", "rung", "rung_version", "item_id"])


def downgrade() -> None:
    op.drop_index(_INDEX, "step_results")
    op.drop_column("step_results", "is_outdated")
