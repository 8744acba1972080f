"""The items of a source that are no longer in its manifest: counted at the end of a run, or removed."""

from __future__ import annotations

from repli.flows.config.run_request import RunRequest
from repli.tasks.settings import Settings
from repli.tasks.storage import runs
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.database import Database
from repli.tasks.storage.forget import forget
from repli.tasks.storage.unlisted import count_unreadable, unlisted


def treat_unlisted(database: Database, run_id: str, request: RunRequest, settings: Settings) -> list[str]:
    """Remove what the manifest does not have any more, if the run was asked to, and return what to say of it.

    Nothing is removed where a line of the manifest cannot be read, since it may be of an item that would go; nor while
    another run works on the store.

    Raises:
        StoreError: The store or the blob folder cannot be written.
    """
    if request.limit is not None:
        return []
    ids = unlisted(database, run_id)
    if not ids:
        return []
    count = f"{len(ids)} items of this source are in the store and no longer in the manifest"
    if not request.prune:
        return [f"{count}; `repli run --prune` or `repli forget ID` removes them"]
    if unreadable := count_unreadable(database, run_id):
        return [f"{count}; --prune removed none, since {unreadable} lines cannot be read: correct these first"]
    if runs.is_other_alive(database, run_id):
        return [f"{count}; --prune removed none, since another run is active: run it again"]
    forgotten = forget(database, Blobs(settings.blobs), settings.picture_cache, ids)
    return [f"{forgotten.items} items that are no longer in the manifest were removed, and {forgotten.blobs} files"]
