"""Results that an operator has asked to be made anew, and results by the version of their rung: an index and a view."""

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
    _replace_steps_view("rung_version,")


def downgrade() -> None:
    _replace_steps_view("")
    op.drop_index(_INDEX, table_name="step_results")
    op.drop_column("step_results", "is_outdated")


def _replace_steps_view(version: str) -> None:
    op.execute("DROP VIEW repli_steps")
    op.execute(
        f"""
        CREATE VIEW repli_steps AS SELECT
            item_id,
            stage,
            status,
            rung,
            {version}
            penalty,
            confidence,
            retryable,
            is_stale,
            error ->> 'type' AS error_type,
            error ->> 'message' AS error_message,
            json_array_length(attempts) AS attempts,
            CASE WHEN CAST(value AS TEXT) <> 'null' THEN CAST(value AS TEXT) END AS value,
            run_id,
            finished_at
        FROM step_results
        """  # noqa: S608
    )
