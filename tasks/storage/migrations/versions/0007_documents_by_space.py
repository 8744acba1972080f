"""An index to count the vectors of each space by: a search asks for that first, and all documents were read for it."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("documents_by_space", "documents", ["space"], unique=False)


def downgrade() -> None:
    op.drop_index("documents_by_space", table_name="documents")
