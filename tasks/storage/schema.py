"""The tables, as the code reads and writes them. Alembic's migrations create them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
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
    Table,
    TypeDecorator,
    false,
    func,
    literal_column,
)

from repli.tasks.storage.storable import StorableString, StorableText


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

# One row per run. `kind` is the flow; `alive_at` is its last heartbeat; `progress` counts its items so far. `quality`
# counts, by quality, all items that were stored when it ended, in this run or another.
runs = Table(
    "runs",
    metadata,
    Column("id", StorableString(36), primary_key=True),
    Column("flow_run_id", StorableString(36), unique=True),
    Column("kind", StorableString(32), nullable=False),
    Column("source", StorableText, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("alive_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("options", JSON, nullable=False),
    Column("lines", Integer, nullable=False, default=0),
    Column("duplicates", Integer, nullable=False, default=0),
    Column("progress", JSON),
    Column("notes", JSON),
    Column("summary", JSON),
    Column("quality", JSON),
)

# The catalogue. `state` is pending, stored or failed; `quality` and `expected_accuracy` are set while stored.
# `revision` grows with each change of the record. `source_key` is of the source that listed the item last, see
# `runs.source_key`.
items = Table(
    "items",
    metadata,
    Column("id", StorableString(512), primary_key=True),
    Column("name", StorableText),
    Column("record", JSON, nullable=False),
    Column("fingerprint", StorableString(64), nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("state", StorableString(16), nullable=False),
    Column("quality", Float),
    Column("expected_accuracy", Float),
    Column("run_id", StorableString(36)),
    Column("source_key", StorableString(64)),
    Index("items_by_quality", "quality", "state", "expected_accuracy"),
    Index("items_by_source", "source_key"),
)

# The lines of a manifest before they are merged into `items`: of two lines with one id only the later is compared.
incoming = Table(
    "incoming",
    metadata,
    Column("run_id", StorableString(36), primary_key=True),
    Column("item_id", StorableString(512), primary_key=True),
    Column("ordinal", Integer, nullable=False),
    Column("name", StorableText),
    Column("record", JSON, nullable=False),
    Column("fingerprint", StorableString(64), nullable=False),
)

# The stages of the pipeline that fills the store, in their order. `produces` is text, label, embedding or assets;
# `chain` describes the rungs; `pipeline` is how the pipeline was chosen, the same in each row.
stages = Table(
    "stages",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", StorableString(64), nullable=False, unique=True),
    Column("produces", StorableString(16)),
    Column("chain", JSON, nullable=False),
    Column("pipeline", StorableText, nullable=False),
)

# The chains of tasks of other flows, which share their breakers through this store; see `repli.fallback`.
task_chains = Table(
    "task_chains",
    metadata,
    Column("name", StorableString(64), primary_key=True),
    Column("chain", JSON, nullable=False),
)

# The items of each run, in the manifest's order.
run_items = Table(
    "run_items",
    metadata,
    Column("run_id", StorableString(36), ForeignKey("runs.id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("item_id", StorableString(512), ForeignKey("items.id"), nullable=False),
)

# The result of each stage for each item; no row means pending. A result is never replaced by one of a lower
# `rank`; `input_hash` is a hash of the stage's input, `revision` the item's when it was computed. `is_stale`: the input
# has changed since, and no result as good was computed from the new one. `waits_for`: the breakers, one a line, of the
# keys that kept better rungs from serving. `rung_version` is that of the rung that served; null where it is not known.
# `is_outdated`: an operator has asked for a result by the present version of the rung.
# The migration makes the index of the outdated ones: Alembic cannot compare partial ones.
step_results = Table(
    "step_results",
    metadata,
    Column("item_id", StorableString(512), ForeignKey("items.id"), primary_key=True),
    Column("stage", StorableString(64), primary_key=True),
    Column("status", StorableString(16), nullable=False),
    Column("rank", Float, nullable=False),
    Column("value", JSON),
    Column("vector", LargeBinary),
    Column("confidence", Float),
    Column("rung", StorableString(64)),
    Column("penalty", Float),
    Column("error", JSON),
    Column("retryable", Boolean, nullable=False),
    Column("attempts", JSON, nullable=False),
    Column("run_id", StorableString(36), nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("input_hash", StorableString(64)),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("is_stale", Boolean, nullable=False, server_default=false()),
    Column("waits_for", StorableText),
    Column("rung_version", StorableText),
    Column("is_outdated", Boolean, nullable=False, server_default=false()),
    Index("step_results_by_stage", "stage", "status", "rung"),
    Index("step_results_by_version", "stage", "rung", "rung_version", "item_id"),
)

# The last good copy of each fetched URI, with a hash of the credentials that it was read with. The rung `fetch.cached`
# serves it.
good_copies = Table(
    "good_copies",
    metadata,
    Column("uri_sha256", StorableString(64), primary_key=True),
    Column("uri", StorableText, nullable=False),
    Column("sha256", StorableString(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("media_type", StorableText, nullable=False),
    Column("fetched_at", UtcDateTime, nullable=False),
)

# The state of each breaker at each place; the place '' is the whole fleet. No row means closed, and never moved.
# `version` grows with every change; a change is written only to the version that it was computed from.
breakers = Table(
    "breakers",
    metadata,
    Column("name", StorableString(130), primary_key=True),
    Column("place", StorableString(255), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("position", StorableString(16), nullable=False),
    Column("opened_at", UtcDateTime),
    Column("probe_at", UtcDateTime),
    Column("failed_probes", Integer, nullable=False),
    Column("lease_token", StorableString(36)),
    Column("lease_until", UtcDateTime),
    Column("cause", StorableString(32), nullable=False),
    Column("why", StorableText, nullable=False),
)

# The failed calls in each breaker's window, by the token of their permit. A change of the breaker deletes older ones.
breaker_failures = Table(
    "breaker_failures",
    metadata,
    Column("token", StorableString(36), primary_key=True),
    Column("name", StorableString(130), nullable=False),
    Column("place", StorableString(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("breaker_failures_by_breaker", "name", "place", "at"),
)

# Every move of every breaker; never deleted.
breaker_moves = Table(
    "breaker_moves",
    metadata,
    Column("name", StorableString(130), primary_key=True),
    Column("place", StorableString(255), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("old", StorableString(16), nullable=False),
    Column("new", StorableString(16), nullable=False),
    Column("cause", StorableString(32), nullable=False),
    Column("why", StorableText, nullable=False),
    Index("breaker_moves_by_time", "at"),
)

# The items to process again. The lowest `priority` is claimed first; `quality` is null where the item failed. `state`
# is ready, delayed or claimed until `due_at`, or parked. `needs` says what is wrong with the item's results: items with
# the same needs are claimed together, so that a claim reads only the rows that it takes. `claim_id` is one claim's.
retry_queue = Table(
    "retry_queue",
    metadata,
    Column("item_id", StorableString(512), ForeignKey("items.id"), primary_key=True),
    Column("priority", Integer, nullable=False),
    Column("quality", Float),
    Column("enqueued_at", UtcDateTime, nullable=False),
    Column("state", StorableString(16), nullable=False),
    Column("due_at", UtcDateTime),
    Column("tries", Integer, nullable=False),
    Column("holder", StorableString(36)),
    Column("claim_id", StorableString(36)),
    Column("needs", StorableText, nullable=False),
)
BEFORE_EVERY_QUALITY = -1
"""The place of a failed item, which has no quality, in the order of the queue."""
# The migration makes the indexes of the queue: Alembic cannot compare partial ones.
is_ready = retry_queue.c.state == literal_column("'ready'")  # no parameter: the partial index is of this text
order_of_quality = func.coalesce(retry_queue.c.quality, literal_column(str(BEFORE_EVERY_QUALITY)))

# The outcome of each item that a run of `reprocess` claimed: upgraded, unchanged or parked.
retries = Table(
    "retries",
    metadata,
    Column("run_id", StorableString(36), ForeignKey("runs.id"), primary_key=True),
    Column("item_id", StorableString(512), ForeignKey("items.id"), primary_key=True),
    Column("quality_before", Float),
    Column("quality_after", Float),
    Column("outcome", StorableString(16), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

# What the requests of a run to models behind an API have used: one row per batch and rung. `uncounted` requests did not
# say their tokens; `cost` is null where no price was set.
usage = Table(
    "usage",
    metadata,
    Column("id", StorableString(36), primary_key=True),
    Column("run_id", StorableString(36), ForeignKey("runs.id"), nullable=False),
    Column("model", StorableText, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("texts", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("uncounted", Integer, nullable=False),
    Column("cost", Float),
    Index("usage_by_run", "run_id"),
)

# Every drill that ended; never deleted.
drills = Table(
    "drills",
    metadata,
    Column("id", StorableString(36), primary_key=True),
    Column("flow_run_id", StorableString(36), unique=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("verdict", StorableString(16), nullable=False),
    Column("report", JSON, nullable=False),
    Index("drills_by_time", "finished_at"),
)

# The rates that the latest drill has measured on items whose truth people gave: one row, by which `expected_accuracy`
# of all items goes. `is_applied` is false while items have it by earlier rates.
rates = Table(
    "rates",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("measured", JSON, nullable=False),
    Column("is_applied", Boolean, nullable=False),
)

# The right values of stages that people gave for items. `input_hash` is that of the stage's input when they did: a
# label of another input says nothing about the present one.
labels = Table(
    "labels",
    metadata,
    Column("item_id", StorableString(512), ForeignKey("items.id"), primary_key=True),
    Column("stage", StorableString(64), primary_key=True),
    Column("input_hash", StorableString(64), primary_key=True),
    Column("value", JSON, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

# The searchable document of each stored item, updated in the transaction that stores it. The full-text index and the
# vector matrices refer to its `number`; `revision` grows with each transaction that changes documents.
documents = Table(
    "documents",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("item_id", StorableString(512), ForeignKey("items.id"), nullable=False, unique=True),
    Column("name", StorableText),
    Column("label", StorableText),
    Column("text", StorableText),
    Column("space", StorableString(255)),
    Column("revision", Integer, nullable=False),
    Index("documents_by_revision", "revision"),
    Index("documents_by_space", "space"),
)
