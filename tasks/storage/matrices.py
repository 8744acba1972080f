"""The vectors of a SQLite store as matrices in memory-mapped files, one for each space.

A cache beside the store: a search first brings it up to date with the documents that changed since, and no others. Row
`number` of a matrix is the vector of the document of that number; a row of zeros is none. Deleting the folder costs one
slower search, and so does another store at the same place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from tasks.storage.database import Database
from tasks.storage.schema import documents, runs, step_results

ROWS_PER_READ = 2000
GROWTH = 1.5


class Matrices:
    """The matrices of one store, in a folder beside it. Safe beside other processes that do the same."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = Path(f"{database.url.database}.vectors")

    @contextmanager
    def open(self) -> Iterator[Mapping[str, npt.NDArray[np.float32]]]:
        """The matrices as the store stands now, by space: float32 of shape (rows, dimensions), for the block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read_state(self._store())
            if self._catch_up(state):
                self._write_state(state)
            fcntl.flock(lock, fcntl.LOCK_SH)  # readers do not wait for each other; who writes waits for them
            yield {
                space: np.memmap(self._path(space), np.float32, "r", shape=(found["rows"], found["dimensions"]))
                for space, found in state["spaces"].items()
            }

    def _catch_up(self, state: dict[str, Any]) -> bool:
        """Copy the vectors of the documents that changed since last time; whether there were any."""
        changed = False
        query = (
            sa.select(documents.c.number, documents.c.revision, documents.c.space, step_results.c.vector)
            .outerjoin(
                step_results,
                sa.and_(step_results.c.item_id == documents.c.item_id, step_results.c.stage == "embed_text"),
            )
            .where(documents.c.revision > state["revision"])
            .order_by(documents.c.revision, documents.c.number)
            .execution_options(yield_per=ROWS_PER_READ)
        )
        with self._database.read() as connection:
            for rows in connection.execute(query).partitions():
                changed = True
                self._take(state, rows)
        return changed

    def _take(self, state: dict[str, Any], rows: Any) -> None:
        most = max(row.number for row in rows) + 1
        by_space: dict[str, list[tuple[int, bytes]]] = {}
        for row in rows:
            if row.space and row.vector:
                by_space.setdefault(row.space, []).append((row.number, row.vector))
        for space, vectors in by_space.items():
            self._grow(state, space, most, len(vectors[0][1]) // 4)
        for space, found in state["spaces"].items():
            matrix = np.memmap(self._path(space), np.float32, "r+", shape=(found["rows"], found["dimensions"]))
            gone = [row.number for row in rows if row.space != space and row.number < found["rows"]]
            matrix[gone] = 0
            for number, vector in by_space.get(space, ()):
                matrix[number] = np.frombuffer(vector, dtype=np.float32)
            matrix.flush()
        state["revision"] = max(row.revision for row in rows)

    def _grow(self, state: dict[str, Any], space: str, rows: int, dimensions: int) -> None:
        found = state["spaces"].setdefault(space, {"rows": 0, "dimensions": dimensions})
        if found["rows"] < rows:
            found["rows"] = max(rows, int(found["rows"] * GROWTH))
            with self._path(space).open("ab") as file:
                file.truncate(found["rows"] * dimensions * 4)  # what is new reads as zeros

    def _path(self, space: str) -> Path:
        return self._folder / f"{hashlib.sha256(space.encode()).hexdigest()[:16]}.f32"

    def _store(self) -> str | None:
        """What tells this store from another that was at its place before: its first run."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(runs.c.id).order_by(runs.c.started_at, runs.c.id).limit(1))

    def _read_state(self, store: str | None) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self._folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            state = {}
        if state and state["store"] == store:
            return state
        for path in self._folder.glob("*.f32"):
            path.unlink()
        return {"store": store, "revision": 0, "spaces": {}}

    def _write_state(self, state: dict[str, Any]) -> None:
        fresh = self._folder / "state.json.new"
        fresh.write_text(json.dumps(state), encoding="utf-8")
        fresh.replace(self._folder / "state.json")
