"""The tables, as the code reads and writes them. Alembic's migrations create them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, kept in UTC: SQLite's own type would lose the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        aware: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC)


metadata = MetaData()

# One row per run. `kind` is the flow; `alive_at` is its last heartbeat. `quality` counts, by quality, all items that
# were stored when it ended, in this run or another.
runs = Table(
    "runs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("flow_run_id", String(36), unique=True),
    Column("kind", String(32), nullable=False),
    Column("source", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("alive_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("options", JSON, nullable=False),
    Column("lines", Integer, nullable=False, default=0),
    Column("duplicates", Integer, nullable=False, default=0),
    Column("notes", JSON),
    Column("summary", JSON),
    Column("quality", JSON),
)

# The catalogue. `state` is pending, stored or failed; `quality` is set while stored.
items = Table(
    "items",
    metadata,
    Column("id", String(512), primary_key=True),
    Column("name", Text),
    Column("record", JSON, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("quality", Float),
    Column("run_id", String(36)),
    Index("items_by_quality", "quality", "state"),
)

# The lines of a manifest before they are merged into `items`: of two lines with one id only the later is compared.
incoming = Table(
    "incoming",
    metadata,
    Column("run_id", String(36), primary_key=True),
    Column("item_id", String(512), primary_key=True),
    Column("ordinal", Integer, nullable=False),
    Column("name", Text),
    Column("record", JSON, nullable=False),
    Column("fingerprint", String(64), nullable=False),
)

# The items of each run, in the manifest's order.
run_items = Table(
    "run_items",
    metadata,
    Column("run_id", String(36), ForeignKey("runs.id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("item_id", String(512), ForeignKey("items.id"), nullable=False),
    Index("run_items_by_item", "item_id"),
)

# The result of each stage for each item; no row means pending. A result is never replaced by one of a lower
# `standing`, its rank; `made_from` is a hash of the stage's input.
step_results = Table(
    "step_results",
    metadata,
    Column("item_id", String(512), ForeignKey("items.id"), primary_key=True),
    Column("stage", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("standing", Float, nullable=False),
    Column("value", JSON),
    Column("vector", LargeBinary),
    Column("confidence", Float),
    Column("rung", String(64)),
    Column("penalty", Float),
    Column("error", JSON),
    Column("retryable", Boolean, nullable=False),
    Column("attempts", JSON, nullable=False),
    Column("run_id", String(36), nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("made_from", String(64)),
    Index("step_results_by_stage", "stage", "status", "rung"),
)

# The last good copy of each fetched URI. The rung `fetch.cached` serves it.
good_copies = Table(
    "good_copies",
    metadata,
    Column("uri_sha256", String(64), primary_key=True),
    Column("uri", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("fetched_at", UtcDateTime, nullable=False),
)

# The state of each breaker at each place; the place '' is the whole fleet. No row means closed, and never moved.
# `version` grows with every change; a change is written only to the version that it was computed from.
breakers = Table(
    "breakers",
    metadata,
    Column("name", String(130), primary_key=True),
    Column("place", String(255), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("position", String(16), nullable=False),
    Column("opened_at", UtcDateTime),
    Column("probe_at", UtcDateTime),
    Column("failed_probes", Integer, nullable=False),
    Column("lease_token", String(36)),
    Column("lease_until", UtcDateTime),
    Column("cause", String(32), nullable=False),
    Column("why", Text, nullable=False),
)

# The failed calls in each breaker's window, by the token of their permit. A change of the breaker deletes older ones.
breaker_failures = Table(
    "breaker_failures",
    metadata,
    Column("token", String(36), primary_key=True),
    Column("name", String(130), nullable=False),
    Column("place", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("breaker_failures_by_breaker", "name", "place", "at"),
)

# Every move of every breaker; never deleted.
breaker_moves = Table(
    "breaker_moves",
    metadata,
    Column("name", String(130), primary_key=True),
    Column("place", String(255), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("old", String(16), nullable=False),
    Column("new", String(16), nullable=False),
    Column("cause", String(32), nullable=False),
    Column("why", Text, nullable=False),
    Index("breaker_moves_by_time", "at"),
)

# The items to process again. The lowest `priority` is claimed first; `quality` is null where the item failed.
retry_queue = Table(
    "retry_queue",
    metadata,
    Column("item_id", String(512), ForeignKey("items.id"), primary_key=True),
    Column("priority", Integer, nullable=False),
    Column("quality", Float),
    Column("enqueued_at", UtcDateTime, nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("is_parked", Boolean, nullable=False),
    Column("holder", String(36)),
    Column("claimed_until", UtcDateTime),
    Index("retry_queue_by_turn", "is_parked", "priority", "quality", "enqueued_at"),
    Index("retry_queue_by_holder", "holder"),
)

# The outcome of each item that a run of `reprocess` claimed: upgraded, unchanged or parked.
retries = Table(
    "retries",
    metadata,
    Column("run_id", String(36), ForeignKey("runs.id"), primary_key=True),
    Column("item_id", String(512), ForeignKey("items.id"), primary_key=True),
    Column("quality_before", Float),
    Column("quality_after", Float),
    Column("outcome", String(16), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("retries_by_item", "item_id"),
)

# Every drill that ended; never deleted.
drills = Table(
    "drills",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("flow_run_id", String(36), unique=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("report", JSON, nullable=False),
    Index("drills_by_time", "finished_at"),
)

# The searchable document of each stored item, updated in the transaction that stores it. The full-text index and the
# vector matrices refer to its `number`; `revision` grows with each transaction that changes documents.
documents = Table(
    "documents",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("item_id", String(512), ForeignKey("items.id"), nullable=False, unique=True),
    Column("name", Text),
    Column("label", Text),
    Column("text", Text),
    Column("space", String(255)),
    Column("revision", Integer, nullable=False),
    Index("documents_by_revision", "revision"),
    Index("documents_by_space", "space"),
)
