"""Fetched bytes: files named by the SHA-256 of their content, and the last good copy of each URI."""

from __future__ import annotations

import errno
import hashlib
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import StoreError
from repli.tasks.items import Asset, Item
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import StoreUnavailable, retried, wait_out
from repli.tasks.storage.schema import good_copies

PATIENCE_S = 20.0
"""Seconds that a blob waits for its disk, which may be full for a while: less than a rung may take."""
PASSING_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
"""The errors of a disk that may pass: no room, read-only, and those of a file server."""


class Blobs:
    """A folder of blobs. The same bytes are kept in one file, and each file is written atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return the path of the blob of this hash, whether or not it exists."""
        return self.folder / sha256[:2] / sha256[2:4] / sha256

    def put(self, content: bytes) -> str:
        """Save `content` and return its SHA-256. However it ends, no part of a blob stays behind.

        Raises:
            StoreError: the folder cannot be written, or could not be for `PATIENCE_S`.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if not path.exists():
            wait_out(partial(self._write, path, content), str(self.folder), PATIENCE_S)
        return sha256

    def _write(self, path: Path, content: bytes) -> None:
        # Named before it is made: a call that is cut off at its time limit may end at any line.
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.touch(mode=0o600, exist_ok=False)
                part.write_bytes(content)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            kind = StoreUnavailable if error.errno in PASSING_ERRORS else StoreError
            raise kind(f"the blob folder {self.folder} cannot be written ({error.strerror}); see REPLI_HOME") from error

    def read(self, sha256: str) -> bytes:
        """Return the bytes of a blob. Raises FileNotFoundError where there is none."""
        return self.path(sha256).read_bytes()


def keep_contents(records: Iterable[Item], blobs: Blobs) -> Iterator[Item]:
    """Yield the items without the contents that their manifest carries, once those are blobs.

    Raises:
        StoreError: The folder cannot be written.
    """
    for item in records:
        for content in item.contents.values():
            blobs.put(content)
        yield replace(item, contents={}) if item.contents else item


@retried
def remember_copies(database: Database, copies: Sequence[tuple[str, Asset]], now: datetime) -> None:
    """Save `(name, asset)` pairs as the last good copies; `repli.tasks.stages.fetch` gives the names."""
    rows = {
        _key(uri): {
            "uri_sha256": _key(uri),
            "uri": uri,
            "sha256": asset.sha256,
            "size": asset.size,
            "media_type": _content_type(asset),
            "fetched_at": now,
        }
        for uri, asset in copies
    }
    if not rows:
        return
    insert = database.insert(good_copies)
    upsert = insert.on_conflict_do_update(
        index_elements=[good_copies.c.uri_sha256],
        set_={name: insert.excluded[name] for name in ("sha256", "size", "media_type", "fetched_at")},
    )
    with database.write() as connection:
        connection.execute(upsert, [rows[key] for key in sorted(rows)])


@retried
def last_copies(database: Database, names: Sequence[str]) -> dict[str, Asset]:
    """Return the last good copies of these names, as assets of source `cached`; absent where there is none."""
    query = sa.select(good_copies).where(good_copies.c.uri_sha256.in_([_key(name) for name in names]))
    with database.read() as connection:
        rows = connection.execute(query).all()
    return {row.uri: _cached(row) for row in rows}


@retried
def copies_of(database: Database, contents: Collection[str]) -> dict[str, Asset]:
    """Return the last good copies whose bytes have these SHA-256s, by name. It reads the whole table."""
    query = sa.select(good_copies).where(good_copies.c.sha256.in_(contents))
    with database.read() as connection:
        return {row.uri: _cached(row) for row in connection.execute(query)}


def _content_type(asset: Asset) -> str:
    """Return the media type with the encoding, as HTTP writes them."""
    return f"{asset.media_type}; charset={asset.charset}" if asset.charset else asset.media_type


def _cached(row: Any) -> Asset:
    media_type, _, charset = row.media_type.partition("; charset=")
    return Asset(
        uri=row.uri,
        sha256=row.sha256,
        size=row.size,
        media_type=media_type,
        charset=charset or None,
        source="cached",
    )


def _key(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()
