"""The vectors of a SQLite store as matrices in memory-mapped files, one for each space.

A cache beside the store: a search first brings it up to date with the documents that changed since, and no others.
Deleting the folder costs one slower search, and so does another store at the same place, a backup that was put back
there, or a folder of an older Repli.

A matrix has a row for each vector of its space, and beside it the number of the document in each row. A document that
left the space leaves a free row, which the next one takes. Vectors are written first, then the numbers, then up to
which revision: whoever is killed in between leaves rows that nobody sees, or that the next writes once more.
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
"""Of the files; those of another are made anew."""
FREE = -1
"""In place of a number, a row without a document."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """The vectors of one space, float32 of shape (rows, dimensions), and the number of the document in each row."""

    numbers: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


class Matrices:
    """The matrices of one store, in a folder beside it. Safe beside other processes that do the same."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = Path(f"{database.url.database}.vectors")

    @contextmanager
    def open(self) -> Iterator[Mapping[str, Matrix]]:
        """The matrices as the store stands now, by space, for the block.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)  # readers do not wait for each other; who writes waits for them
            if (matrices := self._current()) is None:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._catch_up()
                fcntl.flock(lock, fcntl.LOCK_SH)
                matrices = self._opened(self._read_state())
            yield matrices

    def _current(self) -> Mapping[str, Matrix] | None:
        """The matrices, where they are whole and those of the store as it stands."""
        state = self._read_state()
        if not state:
            return None
        with self._database.read() as connection:
            is_up_to_date = state["revision"] == _revision(connection) and _knows(connection, state["run"])
        return self._whole(state) if is_up_to_date else None

    def _whole(self, state: Mapping[str, Any]) -> Mapping[str, Matrix] | None:
        try:
            return self._opened(state)
        except (OSError, ValueError):
            return None

    def _opened(self, state: Mapping[str, Any]) -> Mapping[str, Matrix]:
        return {space: self._matrix(space, dimensions) for space, dimensions in state.get("dimensions", {}).items()}

    def _matrix(self, space: str, dimensions: int) -> Matrix:
        numbers = np.load(self._path(space, "npy"), mmap_mode="r")
        path = self._path(space, "f32")
        file = path.stat()
        if file.st_size < len(numbers) * dimensions * 4:
            raise ValueError(f"{path} was cut off")
        return Matrix(numbers, _mapped(path, file.st_ino, len(numbers), dimensions))

    def _catch_up(self) -> None:
        """Copy the vectors of the documents that changed since last time."""
        state = self._read_state()
        with self._database.read() as connection:
            is_ours = bool(state) and state["revision"] <= _revision(connection) and _knows(connection, state["run"])
            run = _last_run(connection)
        if (kept := self._whole(state) if is_ours else None) is None:
            kept, state = {}, {"format": FORMAT, "revision": 0, "dimensions": {}}
            for path in self._folder.glob("*.*"):
                path.unlink()
        state["run"] = run
        numbers = {space: np.array(matrix.numbers) for space, matrix in kept.items()}
        query = (
            sa.select(documents.c.number, documents.c.revision, documents.c.space, step_results.c.vector)
            .outerjoin(step_results, is_vector_of_document())
            .where(documents.c.revision > state["revision"])
            .order_by(documents.c.revision, documents.c.number)
            .execution_options(yield_per=ROWS_PER_READ)
        )
        with self._database.read() as connection:
            for rows in connection.execute(query).partitions():
                self._take(state, numbers, rows)
        for space, of_space in numbers.items():
            with _replaced(self._path(space, "npy")) as fresh, fresh.open("wb") as file:
                np.save(file, of_space)
        with _replaced(self._folder / "state.json") as fresh:
            fresh.write_text(json.dumps(state), encoding="utf-8")

    def _take(self, state: dict[str, Any], numbers: dict[str, npt.NDArray[np.int64]], rows: Sequence[Any]) -> None:
        changed = [row.number for row in rows]
        vectors: dict[str, dict[int, npt.NDArray[np.float32]]] = {space: {} for space in numbers}
        for row in rows:
            if row.vector:
                vectors.setdefault(row.space, {})[row.number] = np.frombuffer(row.vector, np.float32)
        for space, of_space in vectors.items():
            before = numbers.get(space, np.empty(0, np.int64))
            numbers[space], placed = _placed(before, changed, list(of_space))
            if of_space:
                state["dimensions"][space] = len(next(iter(of_space.values())))
                self._write(space, np.stack(list(of_space.values())), placed)
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
    """The last turn in which documents changed."""
    return connection.scalar(sa.select(sa.func.max(documents.c.revision))) or 0


def _last_run(connection: sa.Connection) -> tuple[str, str] | None:
    """The run that was heard of last, and when.

    It tells the store from others that were or will be at its place. A backup that is put back there does not know the
    run, or not that it lived so long.
    """
    row = connection.execute(sa.select(runs.c.id, _heard_of).order_by(_heard_of.desc(), runs.c.id).limit(1)).first()
    return (row.id, row.heard_of.isoformat()) if row else None


def _knows(connection: sa.Connection, run: Sequence[str] | None) -> bool:
    if run is None:
        return False
    is_it = runs.c.id == run[0], _heard_of >= datetime.fromisoformat(run[1])
    return connection.execute(sa.select(runs.c.id).where(*is_it)).first() is not None


_heard_of = sa.func.coalesce(runs.c.alive_at, runs.c.started_at).label("heard_of")


@lru_cache(maxsize=8)
def _mapped(path: Path, inode: int, rows: int, dimensions: int) -> npt.NDArray[np.float32]:
    """A file as a matrix. Kept, since a new mapping takes as long as a search; what is written later shows in it."""
    return np.memmap(path, np.float32, "r", shape=(rows, dimensions))


def _placed(
    numbers: npt.NDArray[np.int64], changed: Sequence[int], kept: Sequence[int]
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """The numbers of the rows once some documents changed, and the rows of those that have a vector."""
    numbers = numbers.copy()
    had = np.flatnonzero(np.isin(numbers, changed))
    row_of = {int(numbers[row]): int(row) for row in had}
    gone = [row_of[number] for number in row_of.keys() - set(kept)]
    numbers[gone] = FREE
    new = [number for number in kept if number not in row_of]
    free = np.flatnonzero(numbers == FREE)[: len(new)]
    rows = [*free.tolist(), *range(len(numbers), len(numbers) + len(new) - len(free))]
    row_of |= dict(zip(new, rows, strict=True))
    numbers = np.concatenate([numbers, np.full(len(new) - len(free), FREE, np.int64)])
    numbers[rows] = new
    return numbers, [row_of[number] for number in kept]


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A path to write to, which then takes the place of another at once."""
    fresh = path.with_name(f"{path.name}.new")
    yield fresh
    fresh.replace(path)
