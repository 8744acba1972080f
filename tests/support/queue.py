"""The retry queue by hand: items stored, failed and mended by no stage, and time that passes when told."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, ItemError, Status, StepError, StepResult, quality
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.items import Item
from repli.tasks.storage import catalogue, results, runs
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry import retry_queue as queue_store
from repli.tasks.storage.retry.claims import Claim
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.retry.retry_queue import Entry
from repli.tasks.storage.schema import items, retries, retry_queue, step_results
from tests.support import stores

STAGE = "classify_image"
OWED = [RetryTarget(stage=STAGE, rungs=[None, "cpu"])]
POLICY = RetryPolicy()
NIGHT = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def end(item_id: str, status: Status, *, stage: str = STAGE, rung: str | None = None, **fields: Any) -> StepResult:
    """A finished step."""
    return StepResult(item_id=item_id, stage=stage, status=status, rung=rung, run_id="run", finished_at=NIGHT, **fields)


def merged(steps: Mapping[str, StepResult]) -> Decimal:
    """The quality that an item's results come to."""
    product = quality(steps.values())
    if product is None:
        raise ItemError("it failed")
    return product


def held(database: Database, holder: str, item_ids: Sequence[str]) -> set[str]:
    """Those of the items that `holder` has in hand now."""
    return {item_id for item_id, who in claims.holders(database, item_ids).items() if who == holder}


class Queue:
    """A store's retry queue, by one who works with it and looks into it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def register(self, *item_ids: str, name: str = "name") -> str:
        """Items as a new run's; its id."""
        run_id = self.begin_run()
        catalogue.register(self.database, run_id, [Item(id=item_id, name=name) for item_id in item_ids])
        return run_id

    def begin_run(self) -> str:
        return runs.start(self.database, str(uuid.uuid4()), "manifest.jsonl", {}, datetime.now(UTC))

    def store(
        self,
        *item_ids: str,
        at: str = "0.5",
        stage: str = STAGE,
        rung: str = "cpu",
        retryable: bool = True,
        below: float = POLICY.below,
        run_id: str = "run",
    ) -> None:
        """A stage serves the items at this penalty, and a run stores them; at 1 it is whole."""
        status = Status.SUCCEEDED if at == "1" else Status.DEGRADED
        owes = retryable and status is Status.DEGRADED
        ends = [
            end(item_id, status, stage=stage, rung=rung, penalty=Decimal(at), retryable=owes) for item_id in item_ids
        ]
        results.save(self.database, ends)
        stores.mark_stored(self.database, run_id, item_ids, merge=merged, retry_below=below)

    def wait_for(self, key: str, *item_ids: str, outcome: AttemptOutcome = AttemptOutcome.REFUSED) -> None:
        """A fallback serves the items, since `gpu` cannot be called for this key; they are stored at 0.5."""
        error = StepError(type="BreakerOpen", message="it is open", keys=(key,))
        trail = Attempt(rung="gpu", outcome=outcome, error=error), Attempt(rung="cpu", outcome=AttemptOutcome.SERVED)
        kept = {"rung": "cpu", "penalty": Decimal("0.5"), "retryable": True, "attempts": trail}
        results.save(self.database, [end(item_id, Status.DEGRADED, **kept) for item_id in item_ids])
        stores.mark_stored(self.database, "run", item_ids, merge=merged, retry_below=POLICY.below)

    def fail(self, *item_ids: str, stage: str = STAGE, retryable: bool = True) -> None:
        """A stage could not be done for the items."""
        results.save(
            self.database, [end(item_id, Status.FAILED, stage=stage, retryable=retryable) for item_id in item_ids]
        )

    def outdate(self, *item_ids: str, at: str = "1") -> None:
        """A stage is whole, and stands only because what it makes of its present input is worse; the items are stored
        at this quality all the same."""
        whole = {"status": Status.SUCCEEDED, "rung": "gpu", "penalty": Decimal(1)}
        results.save(self.database, [end(item_id, input_hash="before", **whole) for item_id in item_ids])
        worse = {"status": Status.DEGRADED, "rung": "cpu", "penalty": Decimal("0.9")}
        results.save(self.database, [end(item_id, input_hash="now", retryable=True, **worse) for item_id in item_ids])
        self.store(*item_ids, at=at, stage="embed_text", retryable=False)

    def enqueue_by_operator(self, *item_ids: str) -> tuple[list[str], list[str]]:
        return queue_store.enqueue_by_operator(self.database, item_ids)

    def claim(
        self,
        holder: str,
        limit: int = 100,
        gaps: Sequence[RetryTarget] = OWED,
        lease_s: float = POLICY.lease_s,
    ) -> list[Claim]:
        return claims.claim(self.database, holder, gaps, limit, lease_s)

    def claimed(self, holder: str, limit: int = 100, gaps: Sequence[RetryTarget] = OWED) -> list[str]:
        """The ids that `claim` gives."""
        return [claim.item_id for claim in self.claim(holder, limit, gaps)]

    def hold(self, holder: str, *item_ids: str, lease_s: float = POLICY.lease_s) -> None:
        """Claim these items, whatever they need."""
        with self.database.write() as connection:
            until = database_time(connection) + timedelta(seconds=lease_s)
            held = {"state": queue_store.CLAIMED, "holder": holder, "due_at": until}
            connection.execute(sa.update(retry_queue).where(retry_queue.c.item_id.in_(item_ids)).values(**held))

    def settle(
        self,
        holder: str,
        taken: Sequence[Claim],
        tried: Collection[str] | None = None,
        policy: RetryPolicy = POLICY,
        run_id: str | None = None,
        refused: Collection[str] = (),
    ) -> str:
        """As a run, a new one and one that tried all of them where nothing else is said; its id."""
        run_id = run_id or self.begin_run()
        all_of_them = [claim.item_id for claim in taken]
        tried = all_of_them if tried is None else tried
        claims.settle(self.database, holder, run_id, taken, tried, policy, refused=refused)
        return run_id

    def park(self, *item_ids: str) -> None:
        """Try the items in vain, once, which is the last time."""
        self.hold("parking", *item_ids)
        taken = [Claim(item_id=item_id, quality=self.entry(item_id).quality) for item_id in item_ids]
        self.settle("parking", taken, policy=replace(POLICY, tries=1))

    def pass_time(self, seconds: float, holders: Collection[str] | None = None) -> None:
        """Make everything in the queue so much older; what these `holders` have in hand, where they are named."""
        times = retry_queue.c.enqueued_at, retry_queue.c.due_at
        query = sa.select(retry_queue.c.item_id.label("item"), *times)
        if holders is not None:
            query = query.where(retry_queue.c.holder.in_(holders))
        older = sa.update(retry_queue).where(retry_queue.c.item_id == sa.bindparam("item"))
        with self.database.write() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
            for row in rows:
                row.update(
                    {time.name: row[time.name] and row[time.name] - timedelta(seconds=seconds) for time in times}
                )
            if rows:
                connection.execute(older.values({time.name: sa.bindparam(time.name) for time in times}), rows)

    def entries(self) -> dict[str, Entry]:
        """All that is in the queue, in its order."""
        return {entry.item_id: entry for entry in queue_store.entries(self.database, 1000)}

    def entry(self, item_id: str) -> Entry:
        return self.entries()[item_id]

    def states(self) -> dict[str, str]:
        return {item_id: entry.state for item_id, entry in self.entries().items()}

    def stored(self) -> dict[str, tuple[str, float | None]]:
        """Every item's state and quality."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(items.c.id, items.c.state, items.c.quality)).all()
        return {row.id: (row.state, row.quality) for row in rows}

    def is_retryable(self, item_id: str, stage: str = STAGE) -> bool:
        with self.database.read() as connection:
            query = sa.select(step_results.c.retryable).where(
                step_results.c.item_id == item_id, step_results.c.stage == stage
            )
            return bool(connection.execute(query).scalar_one())

    def books(self, run_id: str) -> dict[str, sa.RowMapping]:
        """What a run came to, by item."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(retries).where(retries.c.run_id == run_id)).mappings().all()
        return {row["item_id"]: row for row in rows}

    def outcomes(self, run_id: str) -> dict[str, str]:
        return {item_id: row["outcome"] for item_id, row in self.books(run_id).items()}
