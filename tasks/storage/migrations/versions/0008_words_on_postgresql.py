r"""PostgreSQL cuts a text into words as FTS5 does, so that what one database finds the other finds.

Its own parser takes `node.js`, `fish/chips`, `3.14` and `bob@example.com` for one word each, which no part of them
finds; so all punctuation of ASCII, by which it tells such words, is a blank before it looks. Marks on letters go, and
`café` is found by `cafe`. Words that it would leave out (`the`, `who`) are kept, as FTS5 keeps them.

`repli_searchable(text)` and the configuration `repli_english` are used by the index and by queries alike.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WITHOUT_MARKS = r"normalize(regexp_replace(normalize($1, NFD), '[\u0300-\u036f]', '', 'g'), NFC)"
PUNCTUATION = r"[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u007f]"
WEIGHTS = {"name": "A", "label": "B", "text": "D"}
MOST = 250_000
"""Characters; a `tsvector` takes 1 MB of lexemes."""


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    _run(
        "CREATE FUNCTION repli_searchable(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS "
        f"$$ SELECT regexp_replace({WITHOUT_MARKS}, '{PUNCTUATION}', ' ', 'g') $$"
    )
    _run("CREATE TEXT SEARCH DICTIONARY repli_stem (TEMPLATE = snowball, Language = english)")  # without stop words
    _run("CREATE TEXT SEARCH CONFIGURATION repli_english (COPY = pg_catalog.english)")
    _run("ALTER TEXT SEARCH CONFIGURATION repli_english ALTER MAPPING REPLACE english_stem WITH repli_stem")
    _index("to_tsvector('repli_english', left(repli_searchable(left(coalesce({name}, ''), {most})), {most}))")


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    _index("to_tsvector('english', left(coalesce({name}, ''), {most}))")
    _run("DROP TEXT SEARCH CONFIGURATION repli_english")
    _run("DROP TEXT SEARCH DICTIONARY repli_stem")
    _run("DROP FUNCTION repli_searchable")


def _index(of_column: str) -> None:
    """Make the words anew, and the index of them."""
    weighted = (f"setweight({of_column.format(name=name, most=MOST)}, '{weight}')" for name, weight in WEIGHTS.items())
    _run("ALTER TABLE documents DROP COLUMN words")
    _run(f"ALTER TABLE documents ADD COLUMN words tsvector GENERATED ALWAYS AS ({' || '.join(weighted)}) STORED")
    _run("CREATE INDEX documents_by_word ON documents USING gin (words)")


def _run(statement: str) -> None:
    """As it is: a colon or a backslash in it is no parameter."""
    op.get_bind().exec_driver_sql(statement)
