"""Vector matrices of a SQLite store, in memory-mapped files: one for each space.

They are a cache beside the store. A search first updates it with the documents that have changed since. It is rebuilt,
at the cost of one slower search, when the folder was deleted or is of an older Repli, or when the store at this path
is another one or a restored backup.

A matrix has a row for each vector of its space, and the number of the document of each row. A document that leaves the
space frees its row for the next new one. Vectors are written first, then the numbers, then the revision: a process
killed in between leaves only rows that no reader sees, or that the next update writes again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import documents, runs, step_results
from repli.tasks.storage.search.documents import is_vector_of_document

ROWS_PER_READ = 2000
FORMAT = 3
"""The version of the file format. Files of another version are rebuilt."""
FREE = -1
"""The number that marks a row without a document."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """The vectors of one space, float32 of shape (rows, dimensions), and the document number of each row."""

    numbers: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


class Matrices:
    """The matrices of one store, in a folder beside it. Safe while other processes use the same folder."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = Path(f"{database.url.database}.vectors")

    @contextmanager
    def open(self) -> Iterator[Mapping[str, Matrix]]:
        """Update the matrices and yield them, by space. They are locked against changes while the block runs.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)  # readers share the lock; a writer waits for them
            if (matrices := self._current()) is None:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._update()
                fcntl.flock(lock, fcntl.LOCK_SH)
                matrices = self._map_all(self._read_state())
            yield matrices

    def discard(self) -> None:
        """Delete the matrices, and with them the vectors of items that are gone. The next search makes them anew."""
        if not self._folder.exists():
            return
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for path in self._folder.glob("*.*"):
                path.unlink()

    def _current(self) -> Mapping[str, Matrix] | None:
        """Return the matrices; None where they are incomplete or not up to date with the store."""
        state = self._read_state()
        if not state:
            return None
        with self._database.read() as connection:
            is_up_to_date = state["revision"] == _revision(connection) and _has_run(connection, state["run"])
        return self._complete(state) if is_up_to_date else None

    def _complete(self, state: Mapping[str, Any]) -> Mapping[str, Matrix] | None:
        """Return the matrices; None where a file is missing or cut off."""
        try:
            return self._map_all(state)
        except (OSError, ValueError):
            return None

    def _map_all(self, state: Mapping[str, Any]) -> Mapping[str, Matrix]:
        return {space: self._matrix(space, dimensions) for space, dimensions in state.get("dimensions", {}).items()}

    def _matrix(self, space: str, dimensions: int) -> Matrix:
        numbers = np.load(self._path(space, "npy"), mmap_mode="r")
        path = self._path(space, "f32")
        file = path.stat()
        if file.st_size < len(numbers) * dimensions * 4:
            raise ValueError(f"{path} was cut off")
        return Matrix(numbers, _map_file(path, file.st_ino, len(numbers), dimensions))

    def _update(self) -> None:
        """Copy the vectors of the documents that have changed since the last update."""
        state = self._read_state()
        with self._database.read() as connection:
            is_same_store = (
                bool(state) and state["revision"] <= _revision(connection) and _has_run(connection, state["run"])
            )
            run = _last_run(connection)
        if (kept := self._complete(state) if is_same_store else None) is None:
            kept, state = {}, {"format": FORMAT, "revision": 0, "dimensions": {}}
            for path in self._folder.glob("*.*"):
                path.unlink()
        state["run"] = run
        numbers = {space: np.array(matrix.numbers) for space, matrix in kept.items()}
        query = (
            sa.select(documents.c.number, documents.c.revision, documents.c.space, step_results.c.vector)
            .select_from(documents)
            .outerjoin(step_results, is_vector_of_document())
            .where(documents.c.revision > state["revision"])
            .order_by(documents.c.revision, documents.c.number)
            .execution_options(yield_per=ROWS_PER_READ)
        )
        with self._database.read() as connection:
            for rows in connection.execute(query).partitions():
                self._apply(state, numbers, rows)
        for space, row_numbers in numbers.items():
            with _replacing(self._path(space, "npy")) as fresh, fresh.open("wb") as file:
                np.save(file, row_numbers)
        with _replacing(self._folder / "state.json") as fresh:
            fresh.write_text(json.dumps(state), encoding="utf-8")

    def _apply(self, state: dict[str, Any], numbers: dict[str, npt.NDArray[np.int64]], rows: Sequence[Any]) -> None:
        """Write the vectors of changed documents, and change `state` and the `numbers` of the rows in place."""
        changed = [row.number for row in rows]
        vectors: dict[str, dict[int, npt.NDArray[np.float32]]] = {space: {} for space in numbers}
        for row in rows:
            if row.vector:
                vector = np.frombuffer(row.vector, np.float32)
                if len(vector) == state["dimensions"].setdefault(row.space, len(vector)):  # others cannot be compared
                    vectors.setdefault(row.space, {})[row.number] = vector
        for space, by_number in vectors.items():
            before = numbers.get(space, np.empty(0, np.int64))
            numbers[space], assigned = _assign_rows(before, changed, list(by_number))
            if by_number:
                self._write(space, np.stack(list(by_number.values())), assigned)
        state["revision"] = max(row.revision for row in rows)

    def _write(self, space: str, vectors: npt.NDArray[np.float32], rows: Sequence[int]) -> None:
        path = self._path(space, "f32")
        path.touch()
        with path.open("r+b") as file:
            for row, vector in zip(rows, vectors, strict=True):
                file.seek(row * vector.nbytes)
                file.write(vector.tobytes())

    def _path(self, space: str, ending: str) -> Path:
        return self._folder / f"{hashlib.sha256(space.encode()).hexdigest()[:16]}.{ending}"

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self._folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            state = {}
        return state if state.get("format") == FORMAT else {}


def _revision(connection: sa.Connection) -> int:
    """Return the latest revision of the documents; 0 where there are none."""
    return connection.scalar(sa.select(sa.func.max(documents.c.revision))) or 0


def _last_run(connection: sa.Connection) -> tuple[str, str] | None:
    """Return the id of the run with the latest heartbeat, and the time of that heartbeat.

    They identify the store among others at the same path: a restored backup lacks the run, or its later heartbeats.
    """
    row = connection.execute(
        sa.select(runs.c.id, _last_heartbeat).order_by(_last_heartbeat.desc(), runs.c.id).limit(1)
    ).first()
    return (row.id, row.last_heartbeat.isoformat()) if row else None


def _has_run(connection: sa.Connection, run: Sequence[str] | None) -> bool:
    """Return whether the store has this run with a heartbeat at this time or later; see `_last_run`."""
    if run is None:
        return False
    is_same = runs.c.id == run[0], _last_heartbeat >= datetime.fromisoformat(run[1])
    return connection.execute(sa.select(runs.c.id).where(*is_same)).first() is not None


_last_heartbeat = sa.func.coalesce(runs.c.alive_at, runs.c.started_at).label("last_heartbeat")


@lru_cache(maxsize=8)
def _map_file(path: Path, inode: int, rows: int, dimensions: int) -> npt.NDArray[np.float32]:
    """Map a file as a matrix. Cached: a new mapping takes as long as a search, and later writes show in an old one."""
    return np.memmap(path, np.float32, "r", shape=(rows, dimensions))


def _assign_rows(
    numbers: npt.NDArray[np.int64], changed: Sequence[int], kept: Sequence[int]
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Assign a row to each document that has a vector, reusing rows and free rows.

    Args:
        numbers: the document number of each row, before the change.
        changed: the numbers of the changed documents.
        kept: those of them that have a vector of this space.

    Returns:
        The document number of each row after the change, and the rows of `kept`, in its order.
    """
    numbers = numbers.copy()
    present = np.flatnonzero(np.isin(numbers, changed))
    row_of = {int(numbers[row]): int(row) for row in present}
    freed = [row_of[number] for number in row_of.keys() - set(kept)]
    numbers[freed] = FREE
    new = [number for number in kept if number not in row_of]
    free = np.flatnonzero(numbers == FREE)[: len(new)]
    rows = [*free.tolist(), *range(len(numbers), len(numbers) + len(new) - len(free))]
    row_of |= dict(zip(new, rows, strict=True))
    numbers = np.concatenate([numbers, np.full(len(new) - len(free), FREE, np.int64)])
    numbers[rows] = new
    return numbers, [row_of[number] for number in kept]


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, and then replace `path` by it atomically."""
    fresh = path.with_name(f"{path.name}.new")
    yield fresh
    fresh.replace(path)
