"""What search reads: the documents, and over them a full-text index that the database keeps by itself.

On PostgreSQL with pgvector their vectors too. Where the extension cannot be had, search looks at the step results.
"""

from array import array

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = "name, label, text"


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.String(length=512), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("space", sa.String(length=255), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"]),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("item_id"),
    )
    op.create_index("documents_by_revision", "documents", ["revision"], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()
    _take_in_what_is_stored()


def _take_in_what_is_stored() -> None:
    """The documents of items that were stored before there were any."""
    of_stage = {
        stage: f"(SELECT value ->> '{name}' FROM step_results WHERE item_id = items.id AND stage = '{stage}')"  # noqa: S608
        for stage, name in (("classify_image", "label"), ("extract_text", "text"), ("embed_text", "space"))
    }
    values = ", ".join(of_stage.values())
    stored = f"SELECT id, name, {values}, 1 FROM items WHERE state = 'stored'"  # noqa: S608
    op.execute(f"INSERT INTO documents (item_id, name, label, text, space, revision) {stored}")
    if op.get_bind().dialect.name == "postgresql" and sa.inspect(op.get_bind()).has_table("document_vectors"):
        _take_in_vectors()


def _take_in_vectors() -> None:
    connection = op.get_bind()
    of_stored = "JOIN documents d ON d.item_id = r.item_id WHERE r.stage = 'embed_text' AND r.vector IS NOT NULL"
    kept = connection.execute(sa.text(f"SELECT d.number, d.space, r.vector FROM step_results r {of_stored}"))  # noqa: S608
    for rows in kept.partitions(1000):
        connection.execute(
            sa.text("INSERT INTO document_vectors VALUES (:number, :space, CAST(:embedding AS vector))"),
            [
                {"number": row.number, "space": row.space, "embedding": str(array("f", row.vector).tolist())}
                for row in rows
            ],
        )


def _sqlite() -> None:
    new, old = (", ".join(f"{row}.{name}" for name in ("number", *COLUMNS.split(", "))) for row in ("new", "old"))
    remove = f"INSERT INTO documents_words(documents_words, rowid, {COLUMNS}) VALUES ('delete', {old});"  # noqa: S608
    add = f"INSERT INTO documents_words(rowid, {COLUMNS}) VALUES ({new});"  # noqa: S608
    op.execute(
        f"CREATE VIRTUAL TABLE documents_words USING fts5({COLUMNS}, content='documents', content_rowid='number', "
        "tokenize='porter unicode61 remove_diacritics 2')"
    )
    op.execute(f"CREATE TRIGGER documents_added AFTER INSERT ON documents BEGIN {add} END")
    op.execute(f"CREATE TRIGGER documents_removed AFTER DELETE ON documents BEGIN {remove} END")
    op.execute(f"CREATE TRIGGER documents_changed AFTER UPDATE OF {COLUMNS} ON documents BEGIN {remove} {add} END")


def _postgresql() -> None:
    weighted = " || ".join(
        f"setweight(to_tsvector('english', left(coalesce({name}, ''), 250000)), '{weight}')"  # it takes 1 MB of lexemes
        for name, weight in (("name", "A"), ("label", "B"), ("text", "D"))
    )
    op.execute(f"ALTER TABLE documents ADD COLUMN words tsvector GENERATED ALWAYS AS ({weighted}) STORED")
    op.execute("CREATE INDEX documents_by_word ON documents USING gin (words)")
    if _has_pgvector():
        op.execute(
            "CREATE TABLE document_vectors ("
            "number INTEGER PRIMARY KEY REFERENCES documents ON DELETE CASCADE, "
            "space VARCHAR(255) NOT NULL, embedding vector NOT NULL)"
        )


def _has_pgvector() -> bool:
    """Whether this database has the extension, now that it was asked for."""
    connection = op.get_bind()
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector"))
    except sa.exc.DBAPIError:  # not installed on the server, or not for this user to bring in
        return False
    return True


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE documents_words")
    else:
        op.execute("DROP TABLE IF EXISTS document_vectors")
    op.drop_table("documents")
