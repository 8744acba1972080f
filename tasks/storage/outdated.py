"""Results by an older version of the rung that served them: count them, and queue them to be made anew.

A result without a version, such as one that an older Repli has saved, is of an unknown version: that is no older one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.retry_queue import DELAYED, PARKED, READY
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.schema import retry_queue as entries

ITEMS_PER_WRITE = 1000
MOST_LISTED = 5
"""Versions that a line of text names."""

Versions = Mapping[str, Mapping[str, str | None]]
"""The present version of each rung, by stage and rung; None for one that is not known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCount:
    """The results of one rung by one version that is not the present one; `version` is None where it is unknown."""

    stage: str
    rung: str
    version: str | None
    present: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutdatedTally:
    """The results that are not by the present version of the rung that served them, in the order of the stages."""

    older: Sequence[VersionCount] = ()
    unknown: Sequence[VersionCount] = ()

    @property
    def notes(self) -> list[str]:
        """Return one line on the results by older versions; none where there are none."""
        if not self.older:
            return []
        parts = [
            f"{one.items} of {one.stage}.{one.rung}, by {one.version}, now {one.present}"
            for one in self.older[:MOST_LISTED]
        ]
        more = [f"and {len(self.older) - MOST_LISTED} more"] if len(self.older) > MOST_LISTED else []
        listed = "; ".join([*parts, *more])
        remedy = "`repli reprocess --outdated` makes them anew"
        return [f"results by other versions than the present ones: {listed}; {remedy}"]

    @property
    def by_stage(self) -> dict[str, int]:
        """Return the number of results by an older version, by stage; without the stages that have none."""
        return _by_stage(self.older)

    @property
    def unknown_by_stage(self) -> dict[str, int]:
        """Return the number of results by a version that is not known, by stage; without the stages that have none."""
        return _by_stage(self.unknown)


def _by_stage(found: Sequence[VersionCount]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for one in found:
        counts[one.stage] += one.items
    return dict(counts)


@retried
def tally(database: Database, versions: Versions) -> OutdatedTally:
    """Count the results that are not by the present version of their rung.

    The index is searched for each version that there is, and only results that count are read: a store in which none
    does answers at once, whatever its size.
    """
    with database.read() as connection:
        older = [_count(connection, *one) for one in _older(connection, versions)]
        unknown = [_count(connection, stage, rung, None, present) for stage, rung, present in _rungs(versions)]
    return OutdatedTally(older=older, unknown=[one for one in unknown if one.items])


def _rungs(versions: Versions) -> Iterator[tuple[str, str, str]]:
    """Yield the rungs whose present version is known, with it."""
    for stage, rungs in versions.items():
        for rung, version in rungs.items():
            if version is not None:
                yield stage, rung, version


def _older(connection: sa.Connection, versions: Versions) -> Iterator[tuple[str, str, str, str]]:
    """Yield stage, rung, version and present version of the results that are by an older version."""
    for stage, rung, present in _rungs(versions):
        for version in _versions_of(connection, stage, rung):
            if version != present:
                yield stage, rung, version, present


def _versions_of(connection: sa.Connection, stage: str, rung: str) -> Iterator[str]:
    """Yield the versions of the results of a rung: one look-up in the index for each."""
    c = step_results.c
    query = sa.select(sa.func.min(c.rung_version)).where(c.stage == stage, c.rung == rung)
    version = connection.scalar(query)
    while version is not None:
        yield version
        version = connection.scalar(query.where(c.rung_version > version))


def _count(connection: sa.Connection, stage: str, rung: str, version: str | None, present: str) -> VersionCount:
    query = sa.select(sa.func.count()).select_from(step_results).where(*_is_by(stage, rung, version))
    count = connection.scalar(query) or 0
    return VersionCount(stage=stage, rung=rung, version=version, present=present, items=count)


def _is_by(stage: str, rung: str, version: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    c = step_results.c
    return c.stage == stage, c.rung == rung, c.rung_version == version  # of None, SQLAlchemy makes IS NULL


def enqueue(database: Database, versions: Versions, *, include_unknown: bool = False) -> int:
    """Queue the stored items that have a result by an older version, to make that result anew. Idempotent.

    Their priority is LOW, and their place that of their quality: items of lower quality come first. Items that wait for
    a later try, or are parked, are tried again. In portions, so that no other transaction waits long; a call that was
    cut off is repeated.

    Args:
        include_unknown: whether results by an unknown version are made anew, too.

    Returns:
        The number of results.
    """
    found = tally(database, versions)
    chosen = [*found.older, *(found.unknown if include_unknown else ())]
    return sum(_enqueue_all(database, one.stage, one.rung, one.version) for one in chosen)


def withdraw(database: Database, versions: Versions, below: float) -> None:
    """Withdraw the order for results that are by the present version after all, such as after a return to it.

    Args:
        below: the quality below which their items stay queued.
    """
    for stage, rung, version in _rungs(versions):
        while _withdraw_next(database, stage, rung, version, below):
            pass


@retried
def _withdraw_next(database: Database, stage: str, rung: str, version: str, below: float) -> bool:
    c = step_results.c
    is_ordered = *_is_by(stage, rung, version), c.is_outdated
    query = sa.select(c.item_id).where(*is_ordered).order_by(c.item_id).limit(ITEMS_PER_WRITE)
    with database.read() as connection:  # most calls find nothing: hold no lock for them
        ids = list(connection.scalars(query))
    if not ids:
        return False
    with database.write() as connection:
        retry_queue.lock_items(connection, ids)
        connection.execute(sa.update(step_results).where(*is_ordered, c.item_id.in_(ids)).values(is_outdated=False))
        retry_queue.review(database, connection, ids, below)
    return True


def _enqueue_all(database: Database, stage: str, rung: str, version: str | None) -> int:
    count, last = 0, ""
    while True:
        queued = _enqueue_next(database, stage, rung, version, last)
        if not queued:
            return count
        count, last = count + len(queued), queued[-1]


@retried
def _enqueue_next(database: Database, stage: str, rung: str, version: str | None, after: str) -> list[str]:
    """Queue the next items in the order of their ids, and return their ids."""
    c = step_results.c
    is_wanted = _is_by(stage, rung, version)
    with database.write() as connection:
        query = sa.select(c.item_id).where(*is_wanted, c.item_id > after).order_by(c.item_id).limit(ITEMS_PER_WRITE)
        ids = list(connection.scalars(query))
        if not ids:
            return []
        retry_queue.lock_items(connection, ids)
        connection.execute(sa.update(step_results).where(*is_wanted, c.item_id.in_(ids)).values(is_outdated=True))
        retry_queue.review(database, connection, ids, below=None)
        stored = sa.select(items.c.id).where(items.c.id.in_(ids), items.c.state == "stored")
        connection.execute(
            sa.update(entries)
            .where(entries.c.item_id.in_(stored), entries.c.state.in_([DELAYED, PARKED]))
            .values(state=READY, due_at=None, tries=0)
        )
    return ids
