"""The right values of stages that people gave for items: the answers to the questions of a drill."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import items, labels, step_results

ITEMS_PER_QUERY = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenLabel:
    """The right value of a stage for an item, as a person said.

    `input_hash` is that of the stage's input then: of another input the label says nothing. `value` is the form of
    `repli.tasks.drill.answers`.
    """

    item_id: str
    stage: str
    input_hash: str
    value: Mapping[str, Any]
    at: datetime

    @property
    def said(self) -> str:
        """Return what the person said: the right label, the right rungs separated by commas, or `none`."""
        return str(self.value.get("label") or ",".join(self.value.get("rungs", ())) or "none")


@retried
def give(database: Database, label: GivenLabel) -> None:
    """Keep a label. A later one of the same item, stage and input takes its place."""
    row = {
        "item_id": label.item_id,
        "stage": label.stage,
        "input_hash": label.input_hash,
        "value": dict(label.value),
        "at": label.at,
    }
    insert = database.insert(labels).values(**row)
    keys = [labels.c.item_id, labels.c.stage, labels.c.input_hash]
    later = {name: insert.excluded[name] for name in ("value", "at")}
    with database.write() as connection:
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=later))


@retried
def of_items(
    database: Database, item_ids: Collection[str], stage: str | None = None
) -> dict[tuple[str, str, str], GivenLabel]:
    """Return the labels of these items, of one stage if it is given, by item, stage and hash of the input."""
    ids = list(item_ids)
    with database.read() as connection:
        return {
            (label.item_id, label.stage, label.input_hash): label
            for start in range(0, len(ids), ITEMS_PER_QUERY)
            for label in of_items_with(connection, ids[start : start + ITEMS_PER_QUERY])
            if stage in {None, label.stage}
        }


def of_items_with(connection: sa.Connection, item_ids: Sequence[str]) -> list[GivenLabel]:
    """Return the labels of these items, the oldest first, over an open connection."""
    query = sa.select(labels).where(labels.c.item_id.in_(item_ids)).order_by(labels.c.at)
    return [GivenLabel(**row) for row in connection.execute(query).mappings()]


@retried
def latest_items(database: Database, stages: Collection[str], limit: int) -> list[str]:
    """Return up to `limit` stored items that people labelled for one of these stages, the latest labels first."""
    latest = sa.func.max(labels.c.at)
    query = (
        sa.select(labels.c.item_id)
        .join(items, items.c.id == labels.c.item_id)
        .where(items.c.state == "stored", labels.c.stage.in_(stages))
        .group_by(labels.c.item_id)
        .order_by(latest.desc(), labels.c.item_id)
        .limit(limit)
    )
    with database.read() as connection:
        return list(connection.scalars(query))


@retried
def served(database: Database, stage: str) -> list[str]:
    """Return the different labels that a stage has served."""
    label = step_results.c.value["label"].as_string()
    query = sa.select(label).where(step_results.c.stage == stage, label.is_not(None)).distinct()
    with database.read() as connection:
        return sorted(connection.scalars(query))
