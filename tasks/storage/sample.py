"""A sample of the stored items that has some of every kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import sqlalchemy as sa

from tasks.storage.database import Database
from tasks.storage.schema import items, step_results

Stratum = tuple[float, str, str]
"""A quality, and the media types of the document and of the image."""


def stratified(database: Database, size: int) -> list[str]:
    """The ids of up to `size` stored items, at random: at least one of every quality and media type, as far as there is
    room, and beyond that in proportion."""
    drawn: dict[Stratum, list[str]] = defaultdict(list)
    weights: Counter[Stratum] = Counter()
    with database.read() as connection:
        is_stored = items.c.state == "stored"
        counts = connection.execute(
            sa.select(items.c.quality, sa.func.count()).where(is_stored).group_by(items.c.quality)
        ).all()
        for quality, count in counts:
            rows = connection.execute(
                sa.select(items.c.id, step_results.c.value)
                .outerjoin(step_results, sa.and_(step_results.c.item_id == items.c.id, step_results.c.stage == "fetch"))
                .where(is_stored, items.c.quality == quality)
                .order_by(sa.func.random())
                .limit(size)
            ).all()
            for row in rows:
                stratum = quality, _media_type(row.value, "document"), _media_type(row.value, "image")
                drawn[stratum].append(row.id)
                weights[stratum] += count / len(rows)
    return _drawn_in_proportion(drawn, weights, size)


def _drawn_in_proportion(drawn: dict[Stratum, list[str]], weights: Counter[Stratum], size: int) -> list[str]:
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


def _media_type(fetched: Any, column: str) -> str:
    asset = (fetched or {}).get(column) or {}
    return str(asset.get("media_type", "")).partition(";")[0]
