"""Revisions of items, stale results as a column of their own, and a queue that is claimed by what its items need."""

import sqlalchemy as sa
from alembic import op

from repli.tasks.storage.schema import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_steps = sa.table("step_results", sa.column("status"), sa.column("retryable"), sa.column("is_stale"))


def upgrade() -> None:
    op.add_column("runs", sa.Column("progress", sa.JSON(), nullable=True))
    op.add_column("items", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    op.execute("ALTER TABLE step_results RENAME COLUMN standing TO rank")
    op.execute("ALTER TABLE step_results RENAME COLUMN made_from TO input_hash")
    op.add_column("step_results", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("step_results", sa.Column("is_stale", sa.Boolean(), nullable=False, server_default=sa.false()))
    was_stale = sa.and_(_steps.c.status == "succeeded", _steps.c.retryable)
    op.execute(sa.update(_steps).where(was_stale).values(is_stale=sa.true(), retryable=sa.false()))
    _replace_steps_view(with_is_stale=True)
    _reset_unfinished_items()
    _rebuild_queue()
    op.drop_index("run_items_by_item", "run_items")  # nothing looks for the runs of an item
    op.drop_index("retries_by_item", "retries")


def _reset_unfinished_items() -> None:
    """Make items pending that a killed run left failed without a failed result, or stored without one of `store`."""
    result = "SELECT 1 FROM step_results WHERE item_id = items.id AND"
    op.execute(
        f"""
        UPDATE items SET state = 'pending', quality = NULL
        WHERE (state = 'failed' AND NOT EXISTS ({result} status = 'failed'))
           OR (state = 'stored' AND NOT EXISTS ({result} stage = 'store'))
        """  # noqa: S608
    )


def _rebuild_queue() -> None:
    """Rebuild the queue. Claims end: the runs that held them are of an older version."""
    op.execute("CREATE TEMPORARY TABLE old_queue AS SELECT * FROM retry_queue")
    op.drop_table("retry_queue")
    op.create_table(
        "retry_queue",
        sa.Column("item_id", sa.String(length=512), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("quality", sa.Float(), nullable=True),
        sa.Column("enqueued_at", UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=36), nullable=True),
        sa.Column("claim_id", sa.String(length=36), nullable=True),
        sa.Column("needs", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"]),
        sa.PrimaryKeyConstraint("item_id"),
    )
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    joined = "string_agg(need, ';' ORDER BY need)" if is_postgresql else "group_concat(need, ';')"
    op.execute(
        f"""
        INSERT INTO retry_queue (item_id, priority, quality, enqueued_at, state, due_at, tries, needs)
        SELECT
            item_id, priority, quality, enqueued_at,
            CASE WHEN is_parked THEN 'parked' ELSE 'delayed' END,
            CASE WHEN is_parked THEN NULL ELSE not_before END,
            tries,
            CASE WHEN (SELECT state FROM items WHERE id = item_id) = 'pending' THEN 'store=!?' ELSE coalesce((
                SELECT {joined} FROM (
                    SELECT
                        stage || '=' || coalesce(rung, '') || CASE WHEN status = 'failed' THEN '!' ELSE '' END
                        || CASE WHEN retryable THEN '?' ELSE '' END || CASE WHEN is_stale THEN '~' ELSE '' END AS need
                    FROM step_results
                    WHERE item_id = old_queue.item_id AND status <> 'not_applicable' ORDER BY stage
                ) AS listed
            ), '') END
        FROM old_queue
        """  # noqa: S608
    )
    op.execute("DROP TABLE old_queue")
    # Partial indexes: a claim touches the rows that it takes, and no page of an index for each of them.
    for name, columns, condition in (
        ("turn", "needs, priority, coalesce(quality, -1), enqueued_at, item_id", "state = 'ready'"),
        ("due_time", "due_at", "due_at IS NOT NULL"),
        ("holder", "holder", "holder IS NOT NULL"),
    ):
        op.execute(f"CREATE INDEX retry_queue_by_{name} ON retry_queue ({columns}) WHERE {condition}")


def _replace_steps_view(*, with_is_stale: bool) -> None:
    op.execute("DROP VIEW repli_steps")
    op.execute(
        f"""
        CREATE VIEW repli_steps AS SELECT
            item_id,
            stage,
            status,
            rung,
            penalty,
            confidence,
            retryable,
            {"is_stale," if with_is_stale else ""}
            error ->> 'type' AS error_type,
            error ->> 'message' AS error_message,
            json_array_length(attempts) AS attempts,
            CASE WHEN CAST(value AS TEXT) <> 'null' THEN CAST(value AS TEXT) END AS value,
            run_id,
            finished_at
        FROM step_results
        """  # noqa: S608
    )


def downgrade() -> None:
    op.create_index("run_items_by_item", "run_items", ["item_id"], unique=False)
    op.create_index("retries_by_item", "retries", ["item_id"], unique=False)
    op.drop_table("retry_queue")
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
    turn = ["is_parked", "priority", "quality", "enqueued_at"]
    op.create_index("retry_queue_by_turn", "retry_queue", turn, unique=False)
    op.create_index("retry_queue_by_holder", "retry_queue", ["holder"], unique=False)
    op.execute(sa.update(_steps).where(_steps.c.is_stale).values(retryable=sa.true()))
    _replace_steps_view(with_is_stale=False)
    op.drop_column("step_results", "is_stale")
    op.drop_column("step_results", "revision")
    op.execute("ALTER TABLE step_results RENAME COLUMN input_hash TO made_from")
    op.execute("ALTER TABLE step_results RENAME COLUMN rank TO standing")
    op.drop_column("items", "revision")
    op.drop_column("runs", "progress")
