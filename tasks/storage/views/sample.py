"""A sample of the stored items that has some of every kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items, step_results

Stratum = tuple[float, str, str]
"""A quality, and the media types of the document and of the image."""


def stratified(database: Database, size: int) -> list[str]:
    """The ids of up to `size` stored items, at random: at least one of every quality and media type, as far as there is
    room, and beyond that in proportion."""
    kind = (items.c.quality, _media_type("document"), _media_type("image"))
    place = sa.func.row_number().over(partition_by=kind, order_by=sa.func.random())
    listed = (
        sa.select(items.c.id, *kind, place.label("place"), sa.func.count().over(partition_by=kind).label("of_its_kind"))
        .outerjoin(step_results, sa.and_(step_results.c.item_id == items.c.id, step_results.c.stage == "fetch"))
        .where(items.c.state == "stored")
        .subquery()
    )
    drawn: dict[Stratum, list[str]] = defaultdict(list)
    weights: dict[Stratum, int] = {}
    with database.read() as connection:
        for row in connection.execute(sa.select(listed).where(listed.c.place <= size)):
            stratum = row.quality, row.document, row.image
            drawn[stratum].append(row.id)
            weights[stratum] = row.of_its_kind
    return _drawn_in_proportion(drawn, weights, size)


def _drawn_in_proportion(drawn: dict[Stratum, list[str]], weights: dict[Stratum, int], size: int) -> list[str]:
    """Item by item from the stratum that is furthest behind its share, the empty-handed first."""
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
    """What was fetched as the item's document or image; '' where nothing was."""
    return sa.func.coalesce(step_results.c.value[(column, "media_type")].as_string(), "").label(column)
