"""The stages of the store's pipeline, by which text, label and vector are found, and the chains of other tasks."""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_stages = sa.table(
    "stages",
    sa.column("position", sa.Integer()),
    sa.column("name", sa.String()),
    sa.column("produces", sa.String()),
    sa.column("chain", sa.JSON()),
    sa.column("pipeline", sa.Text()),
)


def upgrade() -> None:
    op.create_table(
        "stages",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("produces", sa.String(length=16), nullable=True),
        sa.Column("chain", sa.JSON(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "task_chains",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("chain", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    if op.get_bind().execute(sa.text("SELECT 1 FROM runs LIMIT 1")).first():
        op.bulk_insert(_stages, _default_stages())
    op.execute("DROP VIEW repli_items")
    op.execute(f"CREATE VIEW repli_items AS {_items(_by_role)}")


def _default_stages() -> list[dict[str, object]]:
    """Return the stages that every store had before pipelines of one's own. The next run corrects the rungs."""
    return [
        _stage(0, "fetch", "assets", {"origin": "1", "cached": "0.95"}, skip="0.7"),
        _stage(1, "validate", None, {"expectations": "1", "basic": "0.95"}, breakers={"expectations"}),
        _stage(2, "extract_text", "text", {"full": "1", "plain": "0.95", "name_only": "0.85"}, skip="0.8"),
        _stage(
            3,
            "classify_image",
            "label",
            {"gpu": "1", "cpu": "0.9", "rules": "0.8"},
            skip="0.7",
            breakers={"gpu", "cpu"},
        ),
        _stage(
            4,
            "embed_text",
            "embedding",
            {"text_and_label": "1", "text_only": "0.95", "hashed": "0.8"},
            skip="0.7",
            breakers={"text_and_label", "text_only"},
        ),
        _stage(5, "store", None, {"database": "1"}),
    ]


def _stage(
    position: int,
    name: str,
    produces: str | None,
    rungs: dict[str, str],
    *,
    skip: str | None = None,
    breakers: frozenset[str] | set[str] = frozenset(),
) -> dict[str, object]:
    breaker = {
        "scope": "host",
        "failures": 5,
        "within_s": 600.0,
        "open_for_s": 60.0,
        "open_for_at_most_s": 900.0,
        "lease_s": 60.0,
    }
    chain = {
        "rungs": [
            {
                "name": rung,
                "penalty": penalty,
                "time_limit_s": 300.0,
                "per_item": False,
                "breaker": breaker if rung in breakers else None,
            }
            for rung, penalty in rungs.items()
        ],
        "skip": skip,
    }
    return {
        "position": position,
        "name": name,
        "produces": produces,
        "chain": chain,
        "pipeline": "repli:default_pipeline",
    }


def _by_role(role: str, field: str) -> str:
    """Return a query for the value of the last stage that produces `role` and has one."""
    return f"""(
        SELECT value ->> '{field}' FROM step_results JOIN stages ON stages.name = step_results.stage
        WHERE item_id = items.id AND produces = '{role}' AND value ->> '{field}' IS NOT NULL
        ORDER BY position DESC LIMIT 1
    )"""  # noqa: S608


def _by_stage(role: str, field: str) -> str:
    stage = {"text": "extract_text", "label": "classify_image", "embedding": "embed_text"}[role]
    return f"(SELECT value ->> '{field}' FROM step_results WHERE item_id = items.id AND stage = '{stage}')"  # noqa: S608


def _items(value_of: Callable[[str, str], str]) -> str:
    return f"""
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
    {value_of("text", "text")} AS text,
    {value_of("label", "label")} AS label,
    {value_of("embedding", "space")} AS vector_space,
    items.run_id
FROM items
"""  # noqa: S608


def downgrade() -> None:
    op.execute("DROP VIEW repli_items")
    op.execute(f"CREATE VIEW repli_items AS {_items(_by_stage)}")
    op.drop_table("task_chains")
    op.drop_table("stages")
