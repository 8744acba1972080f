"""The expected accuracy of stored items, by the rates that the store's own drills have measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Rate, Status, StepResult, expected_accuracy
from repli.tasks.items import STORE
from repli.tasks.storage import drills
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry.retry_queue import lock_items
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.schema import rates as rates_table

ITEMS_PER_WRITE = 2000
_ROW = 1


@retried
def rates(database: Database) -> Mapping[str, Rate]:
    """Return the rates by which the store's expected accuracies go, by `STAGE.RUNG`: none before the first drill."""
    with database.read() as connection:
        return _read(connection)


def accuracies(
    connection: sa.Connection, results: Mapping[str, Mapping[str, StepResult]]
) -> Mapping[str, float | None]:
    """Return the expected accuracy of items by their results by stage. Their locks are held by the caller."""
    factors = {rung: rate.factor for rung, rate in _read(connection).items()}
    return {item_id: _of_item(steps.values(), factors) for item_id, steps in results.items()}


def refresh_expected_accuracy(database: Database) -> int:
    """Compute the expected accuracy of all stored items by the rates of the latest drill; return how many changed.

    Does nothing where no rate has changed since the last time. A call that was interrupted is made up for by the next.
    """
    measured = _measured(drills.latest(database, 1))
    if not _begin(database, measured):
        return 0
    changed, last = 0, ""
    while (portion := _refresh_next(database, last)) is not None:
        last, count = portion
        changed += count
    _end(database, measured)
    return changed


def _measured(latest: Sequence[drills.Drill]) -> dict[str, Any]:
    """Return the rates that a drill has measured on items whose truth is known, as the store keeps them."""
    found: dict[str, Any] = {}
    for drill in latest:
        for rung in drill.report["rungs"]:
            if rung.get("answered") and rung.get("accuracy") is not None and rung.get("mean_confidence"):
                found[f"{rung['stage']}.{rung['rung']}"] = {
                    "value": rung["accuracy"],
                    "interval": rung.get("accuracy_interval"),
                    "items": rung["answered"],
                    "source": f"the drill of {drill.finished_at:%Y-%m-%d %H:%M} UTC",
                    "mean_confidence": rung["mean_confidence"],
                }
    return found


@retried
def _begin(database: Database, measured: Mapping[str, Any]) -> bool:
    """Put these rates in force. Return whether items have to be computed anew."""
    insert = database.insert(rates_table).values(id=_ROW, measured=dict(measured), is_applied=False)
    values = {"measured": insert.excluded.measured, "is_applied": False}
    with database.write() as connection:
        row = connection.execute(sa.select(rates_table)).first()
        if row and row.is_applied and _factors(row.measured) == _factors(measured):
            return False
        connection.execute(insert.on_conflict_do_update(index_elements=[rates_table.c.id], set_=values))
    return True


@retried
def _end(database: Database, measured: Mapping[str, Any]) -> None:
    """Note that all items have their expected accuracy by these rates, unless others are in force by now."""
    with database.write() as connection:
        row = connection.execute(sa.select(rates_table)).first()
        if row and _factors(row.measured) == _factors(measured):
            connection.execute(sa.update(rates_table).values(is_applied=True))


@retried
def _refresh_next(database: Database, last: str) -> tuple[str, int] | None:
    """Refresh the next stored items in the order of their ids; return the last id, and how many items changed."""
    columns = items.c.id, items.c.expected_accuracy
    query = sa.select(*columns).where(items.c.id > last, items.c.state == "stored").order_by(items.c.id)
    with database.write() as connection:
        ids = [row.id for row in connection.execute(query.limit(ITEMS_PER_WRITE))]
        if not ids:
            return None
        lock_items(connection, ids)  # who stores one of them meanwhile reads the rates after this
        is_chosen = items.c.id.in_(ids), items.c.state == "stored"
        present = dict(connection.execute(sa.select(*columns).where(*is_chosen)).tuples().all())
        factors = {rung: rate.factor for rung, rate in _read(connection).items()}
        found = {item_id: _of_item(steps, factors) for item_id, steps in _results(connection, list(present))}
        rows = [{"item": id_, "new": new} for id_, new in found.items() if new != present[id_]]
        if rows:
            update = sa.update(items).where(items.c.id == sa.bindparam("item"))
            connection.execute(update.values(expected_accuracy=sa.bindparam("new")), rows)
    return ids[-1], len(rows)


def _results(connection: sa.Connection, item_ids: Sequence[str]) -> Iterator[tuple[str, Sequence[StepResult]]]:
    """Yield each of these items with as much of its results as its expected accuracy depends on."""
    c = step_results.c
    query = sa.select(c.item_id, c.stage, c.status, c.rung, c.confidence).where(c.item_id.in_(item_ids))
    by_item: dict[str, list[StepResult]] = defaultdict(list)
    for row in connection.execute(query):
        by_item[row.item_id].append(
            StepResult(
                item_id=row.item_id,
                stage=row.stage,
                status=Status(row.status),
                rung=row.rung,
                confidence=row.confidence,
            )
        )
    for item_id in item_ids:
        yield item_id, by_item[item_id]


def _of_item(steps: Iterable[StepResult], factors: Mapping[str, float]) -> float | None:
    return expected_accuracy((step for step in steps if step.stage != STORE), factors)


def _read(connection: sa.Connection) -> Mapping[str, Rate]:
    row = connection.execute(sa.select(rates_table.c.measured)).first()
    return {rung: _rate(found) for rung, found in row.measured.items()} if row else {}


def _factors(measured: Mapping[str, Any]) -> Mapping[str, float]:
    return {rung: _rate(found).factor for rung, found in measured.items()}


def _rate(found: Mapping[str, Any]) -> Rate:
    low, high = found["interval"] or (None, None)
    return Rate(**{**found, "interval": None if low is None else (low, high)})
