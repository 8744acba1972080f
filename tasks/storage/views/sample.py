"""A stratified random sample of the stored items."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import items, stages, step_results

Stratum = tuple[float, str, str]
"""A quality, and the media types of the document and the image."""


@retried
def stratified(database: Database, size: int) -> list[str]:
    """Draw up to `size` stored items at random and return their ids.

    Each stratum gives at least one item, as far as `size` allows, and beyond that in proportion to its items.
    """
    kind = (items.c.quality, _media_type("document"), _media_type("image"))
    fetching = sa.select(stages.c.name).where(stages.c.produces == "assets").order_by(stages.c.position).limit(1)
    rank = sa.func.row_number().over(partition_by=kind, order_by=sa.func.random())
    listed = (
        sa.select(items.c.id, *kind, rank.label("rank"), sa.func.count().over(partition_by=kind).label("stratum_size"))
        .select_from(items)
        .outerjoin(step_results, sa.and_(step_results.c.item_id == items.c.id, step_results.c.stage.in_(fetching)))
        .where(items.c.state == "stored")
        .subquery()
    )
    drawn: dict[Stratum, list[str]] = defaultdict(list)
    weights: dict[Stratum, int] = {}
    with database.read() as connection:
        for row in connection.execute(sa.select(listed).where(listed.c.rank <= size)):
            stratum = row.quality, row.document, row.image
            drawn[stratum].append(row.id)
            weights[stratum] = row.stratum_size
    return _draw_in_proportion(drawn, weights, size)


def _draw_in_proportion(drawn: dict[Stratum, list[str]], weights: dict[Stratum, int], size: int) -> list[str]:
    """Take the next item from the most under-represented stratum, first from strata without any, and return the ids."""
    taken: Counter[Stratum] = Counter()
    chosen: list[str] = []
    while len(chosen) < size and any(drawn.values()):
        behind = max(
            (stratum for stratum in drawn if drawn[stratum]),
            key=lambda stratum: (not taken[stratum], weights[stratum] / (taken[stratum] + 1)),
        )
        chosen.append(drawn[behind].pop())
        taken[behind] += 1
    return chosen


def _media_type(column: str) -> sa.Label[Any]:
    """Return the media type of the item's fetched document or image; '' where there is none."""
    return sa.func.coalesce(step_results.c.value[(column, "media_type")].as_string(), "").label(column)
