"""The source that listed each item last, by which a run knows what its manifest does not have any more."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("source_key", sa.String(length=64), nullable=True))
    connection = op.get_bind()
    listed = sa.text("SELECT id, source FROM runs WHERE kind = 'enrich' ORDER BY started_at")
    of_run = sa.text(
        "UPDATE items SET source_key = :key WHERE id IN (SELECT item_id FROM run_items WHERE run_id = :run_id)"
    )
    for run_id, source in connection.execute(listed).all():
        key = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        connection.execute(of_run, {"key": key, "run_id": run_id})
    op.create_index("items_by_source", "items", ["source_key"], unique=False)


def downgrade() -> None:
    op.drop_index("items_by_source", "items")
    op.drop_column("items", "source_key")
