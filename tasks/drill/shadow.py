"""The shadow of a drill: a temporary store and home with copies of the sampled items."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import sqlalchemy as sa

from repli.tasks.items import Asset
from repli.tasks.settings import Settings
from repli.tasks.sources.locate import HIDDEN
from repli.tasks.storage import pipelines
from repli.tasks.storage.blobs import Blobs, copies_of, last_copies, remember_copies
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items, step_results

PREFIX = "repli-drill-"
ABANDONED_AFTER_S = 24 * 3600.0
"""The age from which a shadow counts as left by a killed drill: no drill lasts so long."""
NAMES_PER_QUERY = 10_000
"""The most names in one query; SQLite accepts three times as many."""


@contextmanager
def shadow(settings: Settings, item_ids: Sequence[str]) -> Iterator[Settings]:
    """Yield the settings with a temporary store and home, which are deleted when the block ends.

    The store holds the items of `item_ids`, their step results and the last good copies of their assets. The home has
    links to their fetched bytes.
    """
    original = Database(settings.database_url)
    _remove_abandoned()
    with TemporaryDirectory(prefix=PREFIX) as folder:
        home = Path(folder)
        copy = Database(f"sqlite:///{home / 'repli.db'}")
        copy.migrate()
        shadow_settings = replace(settings, home=home, database_url=copy.url.render_as_string(hide_password=False))
        if pipeline := pipelines.read(original):
            pipelines.declare(copy, pipeline)
        fetching = pipeline.stages_of("assets") if pipeline else ()
        assets: list[dict[str, Any]] = []
        with original.read() as source, copy.write() as target:
            for table, key in ((items, items.c.id), (step_results, step_results.c.item_id)):
                rows = [dict(row) for row in source.execute(sa.select(table).where(key.in_(item_ids))).mappings()]
                if rows:
                    target.execute(sa.insert(table), rows)
                if table is step_results:
                    assets = [asset for row in rows if row["stage"] in fetching for asset in _assets(row["value"])]
        copies = _good_copies(original, assets)
        remember_copies(copy, list(copies.items()), datetime.now(UTC))
        content = {asset["sha256"] for asset in assets} | {kept.sha256 for kept in copies.values()}
        _link_blobs(content, Blobs(settings.blobs), Blobs(shadow_settings.blobs))
        try:
            yield shadow_settings
        finally:
            copy.engine.dispose()


def _assets(fetched: Any) -> list[dict[str, Any]]:
    return [asset for asset in (fetched or {}).values() if asset]


def _good_copies(original: Database, assets: Sequence[Mapping[str, Any]]) -> dict[str, Asset]:
    """Return the last good copies of the URIs of these assets, by name.

    `repli.tasks.stages.fetch` stores copies that were read with private addresses allowed under a name of their own.
    The names of copies that were read with credentials are found by the bytes.
    """
    copies: dict[str, Asset] = {}
    names = [name for uri in sorted({asset["uri"] for asset in assets}) for name in (uri, f"private {uri}")]
    for start in range(0, len(names), NAMES_PER_QUERY):
        copies.update(last_copies(original, names[start : start + NAMES_PER_QUERY]))
    read_with_credentials = sorted({asset["sha256"] for asset in assets if HIDDEN in asset["uri"]})
    for start in range(0, len(read_with_credentials), NAMES_PER_QUERY):
        copies.update(copies_of(original, read_with_credentials[start : start + NAMES_PER_QUERY]))
    return copies


def _link_blobs(content: Iterable[str], original: Blobs, shadow_settings: Blobs) -> None:
    """Link the bytes of these SHA-256s into the shadow, without copying them."""
    for sha256 in content:
        link = shadow_settings.path(sha256)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(original.path(sha256))


def _remove_abandoned() -> None:
    """Remove the shadows of drills that were killed."""
    for folder in Path(gettempdir()).glob(f"{PREFIX}*"):
        try:
            is_old = time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S
        except OSError:  # another drill has removed it meanwhile
            continue
        if is_old:
            shutil.rmtree(folder, ignore_errors=True)
