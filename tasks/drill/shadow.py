"""Where a drill works: a store and a folder of its own, with what it needs of the sampled items, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from tasks.settings import Settings
from tasks.storage.blobs import Blobs
from tasks.storage.database import Database
from tasks.storage.schema import items, step_results


@contextmanager
def shadow(settings: Settings, item_ids: Sequence[str]) -> Iterator[Settings]:
    """The settings with a store in the place of theirs that holds these items and their results, and with a home in
    which the fetched bytes of these items can be read. Whatever is written there is gone when the block ends."""
    original = Database(settings.database_url)
    with TemporaryDirectory(prefix="repli-drill-") as folder:
        home = Path(folder)
        copy = Database(f"sqlite:///{home / 'repli.db'}")
        copy.migrate()
        shadowed = replace(settings, home=home, database_url=copy.url.render_as_string(hide_password=False))
        with original.read() as source, copy.write() as target:
            for table, key in ((items, items.c.id), (step_results, step_results.c.item_id)):
                rows = [dict(row) for row in source.execute(sa.select(table).where(key.in_(item_ids))).mappings()]
                if rows:
                    target.execute(sa.insert(table), rows)
                if table is step_results:
                    _link_blobs(rows, Blobs(settings.blobs), Blobs(shadowed.blobs))
        try:
            yield shadowed
        finally:
            copy.engine.dispose()


def _link_blobs(rows: Sequence[dict[str, Any]], original: Blobs, shadowed: Blobs) -> None:
    """Make the bytes that `fetch` left readable in the shadow, without copying them."""
    for row in rows:
        for asset in (row["value"] or {}).values() if row["stage"] == "fetch" else ():
            if asset and not (link := shadowed.path(asset["sha256"])).is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(original.path(asset["sha256"]))
