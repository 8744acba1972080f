"""Measured rates, the expected accuracy in the view of items, and honest confidences of results of an older Repli.

An older Repli gave each text and vector the confidence 1. They get the measured rate of their rung here. The next run,
reprocess or drill computes the expected accuracy of the items that are stored.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_rates = sa.table(
    "rates",
    sa.column("id", sa.Integer()),
    sa.column("measured", sa.JSON()),
    sa.column("is_applied", sa.Boolean()),
)


def upgrade() -> None:
    op.create_table(
        "rates",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("measured", sa.JSON(), nullable=False),
        sa.Column("is_applied", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    if op.get_bind().execute(sa.text("SELECT 1 FROM items LIMIT 1")).first():
        for condition, rate in _RESTATED.items():
            op.execute(f"UPDATE step_results SET confidence = {rate} WHERE confidence = 1 AND {condition}")  # noqa: S608
    else:
        op.bulk_insert(_rates, [{"id": 1, "measured": {}, "is_applied": True}])
    op.drop_index("items_by_quality", table_name="items")  # with all that is counted, so that no row has to be read
    op.create_index("items_by_quality", "items", ["quality", "state", "expected_accuracy"], unique=False)
    op.execute("DROP VIEW repli_items")
    op.execute(f"CREATE VIEW repli_items AS {_items('items.quality, items.expected_accuracy')}")


_IS_PAGE = """(
    SELECT value -> 'document' ->> 'media_type' FROM step_results AS fetched
    WHERE fetched.item_id = step_results.item_id AND fetched.stage = 'fetch'
) = 'text/html'"""
_RESTATED = {
    f"stage = 'extract_text' AND rung = 'full' AND {_IS_PAGE}": 0.958,
    f"stage = 'extract_text' AND rung = 'plain' AND {_IS_PAGE}": 0.643,
    "stage = 'extract_text' AND rung = 'name_only'": 0.035,
    "stage = 'embed_text' AND rung = 'hashed'": 0.25,
}


def _by_role(role: str, field: str) -> str:
    """Return a query for the value of the last stage that produces `role` and has one."""
    return f"""(
        SELECT value ->> '{field}' FROM step_results JOIN stages ON stages.name = step_results.stage
        WHERE item_id = items.id AND produces = '{role}' AND value ->> '{field}' IS NOT NULL
        ORDER BY position DESC LIMIT 1
    )"""  # noqa: S608


def _items(scores: str) -> str:
    return f"""
SELECT
    items.id,
    items.name,
    items.state,
    {scores},
    (
        SELECT count(*) FROM step_results
        WHERE item_id = items.id AND status IN ('degraded', 'skipped')
    ) AS degraded_stages,
    items.record ->> 'document' AS document,
    items.record ->> 'image' AS image,
    items.record ->> 'attributes' AS attributes,
    {_by_role("text", "text")} AS text,
    {_by_role("label", "label")} AS label,
    {_by_role("embedding", "space")} AS vector_space,
    items.run_id
FROM items
"""  # noqa: S608


def downgrade() -> None:
    op.execute("DROP VIEW repli_items")
    op.execute(f"CREATE VIEW repli_items AS {_items('items.quality')}")
    op.drop_index("items_by_quality", table_name="items")
    op.create_index("items_by_quality", "items", ["quality", "state"], unique=False)
    op.drop_table("rates")
