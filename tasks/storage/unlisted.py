"""The items of a source that are no longer in its manifest."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.runs import ENRICH, source_key
from repli.tasks.storage.schema import items, run_items, runs


@retried
def unlisted(database: Database, run_id: str) -> list[str]:
    """Return the ids of the items that the run's source listed last, and that neither this run nor another source has.

    Of each other source its latest whole list counts. The run must have read its whole manifest.
    """
    with database.read() as connection:
        source = connection.scalars(sa.select(runs.c.source).where(runs.c.id == run_id)).one()
        present = [run_id, *_latest_of_others(connection, source)]
        known = sa.select(items.c.id).where(items.c.source_key == source_key(source))
        listed = sa.select(run_items.c.item_id).where(run_items.c.run_id.in_(present))
        return sorted(connection.scalars(sa.except_(known, listed)))


@retried
def count_unreadable(database: Database, run_id: str) -> int:
    """Return how many lines of the run's manifest are no items, so that nobody knows whose lines they were."""
    is_unreadable = run_items.c.run_id == run_id, items.c.record["problem"].as_string().is_not(None)
    query = sa.select(sa.func.count()).select_from(run_items.join(items, items.c.id == run_items.c.item_id))
    with database.read() as connection:
        return connection.scalar(query.where(*is_unreadable)) or 0


def _latest_of_others(connection: sa.Connection, source: str) -> Sequence[str]:
    """Return the latest run of each other source that read its whole manifest; the latest at all where none did."""
    is_of_other = runs.c.kind == ENRICH, runs.c.source != source, runs.c.lines > 0
    latest: dict[str, tuple[bool, str]] = {}
    query = sa.select(runs.c.id, runs.c.source, runs.c.options).where(*is_of_other)
    for run_id, other, options in connection.execute(query.order_by(runs.c.started_at)):
        is_whole = not options.get("limit")
        if is_whole or not latest.get(other, (False, ""))[0]:
            latest[other] = is_whole, run_id
    return [run_id for _, run_id in latest.values()]
