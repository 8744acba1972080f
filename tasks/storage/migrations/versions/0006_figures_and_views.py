"""The quality of the store at the end of each run, an index to count items by, and views for other tools.

docs/reference/sql-views.md has the views, so their columns are an outside form: they may gain some, and lose none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("quality", sa.JSON(), nullable=True))
    op.drop_index("items_by_state", table_name="items")
    # Not by state first: SQLite, which nobody lets count, would begin each search at it, and pass over all items.
    op.create_index("items_by_quality", "items", ["quality", "state"], unique=False)
    op.execute(f"CREATE VIEW repli_items AS {ITEMS}")
    op.execute(f"CREATE VIEW repli_steps AS {STEPS}")


ITEMS = """
SELECT
    items.id,
    items.name,
    items.state,
    items.quality,
    (
        SELECT count(*) FROM step_results
        WHERE item_id = items.id AND status IN ('degraded', 'skipped')
    ) AS degraded_stages,
    items.record ->> 'document' AS document,
    items.record ->> 'image' AS image,
    items.record ->> 'attributes' AS attributes,
    (SELECT value ->> 'text' FROM step_results WHERE item_id = items.id AND stage = 'extract_text') AS text,
    (SELECT value ->> 'label' FROM step_results WHERE item_id = items.id AND stage = 'classify_image') AS label,
    (SELECT value ->> 'space' FROM step_results WHERE item_id = items.id AND stage = 'embed_text') AS vector_space,
    items.run_id
FROM items
"""

STEPS = """
SELECT
    item_id,
    stage,
    status,
    rung,
    penalty,
    confidence,
    retryable,
    error ->> 'type' AS error_type,
    error ->> 'message' AS error_message,
    json_array_length(attempts) AS attempts,
    CASE WHEN CAST(value AS TEXT) <> 'null' THEN CAST(value AS TEXT) END AS value,
    run_id,
    finished_at
FROM step_results
"""


def downgrade() -> None:
    op.execute("DROP VIEW repli_steps")
    op.execute("DROP VIEW repli_items")
    op.drop_index("items_by_quality", table_name="items")
    op.create_index("items_by_state", "items", ["state"], unique=False)
    op.drop_column("runs", "quality")
