"""Stop a run at one of its commits, in a process of its own: kill it there, or do something else meanwhile.

A scripted scenario is cut into its runs. Each begins with the store as the run before has left it, so that the n-th
commit of one needs none of the others again.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Any

import sqlalchemy as sa

from repli.tasks.items import Item
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import metadata
from repli.tasks.storage.search import documents
from tests.support.invariants import broken_at_rest, broken_claims, broken_when_healed
from tests.support.small_pipeline import BROKEN, GPU, MODEL, EnrichRun, ReprocessRun, Run, pass_time, record
from tests.support.stores import delete_all

PATIENCE_S = 60.0
ENDS_WITHIN_S = 200.0
BLOCKED_AFTER_S = 0.1
"""Seconds after which a run that has not ended beside a stopped one waits for a lock of that."""


class Place(StrEnum):
    """Where a run is stopped, at one of its transactions that write."""

    BEGIN = "before it begins"
    COMMIT = "just before its commit"
    COMMITTED = "just after its commit"


@dataclass(frozen=True)
class Stop:
    """The place at the run's transaction of this number, and what to do there."""

    number: int
    place: Place
    act: Callable[[], object]


def watch(database: Database, stop: Stop | None) -> list[int]:
    """Stop this process's transactions of the store as told; a list that grows with each commit."""
    engine, began, committed = database.engine, list[int](), list[int]()
    commit = engine.dialect.do_commit

    def reached(place: Place, number: int) -> None:
        if stop and (stop.place, stop.number) == (place, number):
            stop.act()

    def connected(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("repli_writes"):
            began.append(1)
            reached(Place.BEGIN, len(began))

    def do_commit(connection: Any) -> None:
        reached(Place.COMMIT, len(committed) + 1)
        commit(connection)
        committed.append(1)
        reached(Place.COMMITTED, len(committed))

    sa.event.listen(engine, "engine_connect", connected)  # at "begin" SQLite has taken its lock
    engine.dialect.do_commit = do_commit  # type: ignore[assignment,method-assign]  # events tell only that a commit comes
    return committed


STOPPED, GO_ON = "stopped", "go on"


class Forked:
    """A run in a fork of this process, with connections of its own."""

    def __init__(
        self, database: Database, run: Run, number: int = 0, place: Place | None = None, *, dies: bool = False
    ):
        database.engine.dispose()  # no connection is shared
        context = multiprocessing.get_context("fork")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, database, run, number, place, dies), daemon=True)
        self._process.start()
        theirs.close()

    def answer(self) -> Any:
        """What it says next: that it has stopped, or with how many commits it has ended."""
        assert self._orders.poll(ENDS_WITHIN_S), "the run does not answer"
        said = self._orders.recv()
        assert not isinstance(said, str) or said == STOPPED, said
        return said

    def has_ended(self, within_s: float) -> bool:
        return self._orders.poll(within_s)

    def go_on(self) -> int:
        """Let it go on from where it has stopped, to its end; how many commits it made."""
        self._orders.send(GO_ON)
        return self.ended()

    def ended(self) -> int:
        """How many commits it made."""
        commits = self.answer()
        assert isinstance(commits, int), commits
        self._process.join()
        self._orders.close()
        return commits

    def died(self) -> None:
        """Wait for its death. It has to be by `kill -9`."""
        self._process.join(ENDS_WITHIN_S)
        code = self._process.exitcode
        assert code == -signal.SIGKILL, (
            f"it was not killed: {code}; {self._orders.recv() if self._orders.poll() else ''}"
        )
        self._orders.close()

    def end_at_once(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(orders: Connection, database: Database, run: Run, number: int, place: Place | None, dies: bool) -> None:
    def pause() -> None:
        orders.send(STOPPED)
        assert orders.recv() == GO_ON

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    documents._indexed.clear()  # a new process knows of no vector index
    database = Database(database.url.render_as_string(hide_password=False), patience_s=PATIENCE_S)
    committed = watch(database, Stop(number, place, die if dies else pause) if place else None)
    try:
        run(database)
        database.engine.dispose()
        orders.send(len(committed))
    except BaseException:
        orders.send(traceback.format_exc())


@contextmanager
def forked(database: Database, run: Run, number: int = 0, place: Place | None = None) -> Iterator[Forked]:
    """A run in a fork that is stopped there. It is dead after the block."""
    child = Forked(database, run, number, place)
    try:
        yield child
    finally:
        child.end_at_once()


# A store as it was.

Snapshot = Mapping[str, Sequence[Mapping[str, Any]]]
_VECTORS = sa.table("document_vectors", sa.column("number"), sa.column("space"), sa.column("embedding"))


def snapshot(database: Database) -> Snapshot:
    """All rows of the store."""
    with database.read() as connection:
        rows = {
            table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for table in metadata.sorted_tables
        }
        if documents.has_pgvector(database):
            query = sa.select(_VECTORS.c.number, _VECTORS.c.space, sa.cast(_VECTORS.c.embedding, sa.Text))
            rows[_VECTORS.name] = [dict(row) for row in connection.execute(query).mappings()]
    return rows


def restore(database: Database, rows: Snapshot) -> None:
    """Have these rows in the store, and no others."""
    delete_all(database)
    with database.write() as connection:
        for table in metadata.sorted_tables:
            if rows[table.name]:
                connection.execute(sa.insert(table), rows[table.name])
        if not database.is_sqlite:
            last = sa.text(
                "SELECT setval('documents_number_seq', 1 + (SELECT coalesce(max(number), 0) FROM documents))"
            )
            connection.execute(last)
        if rows.get(_VECTORS.name):
            connection.execute(
                sa.text("INSERT INTO document_vectors VALUES (:number, :space, CAST(:embedding AS vector))"),
                rows[_VECTORS.name],
            )


# The scenario.

UNTOLD = "e"
"""An item that is not told at first, and so fails."""
OLD = (
    record("a", "acorn"),  # replaced by the later one
    record("a", "amber"),
    record("b", "birch"),
    record("c", "copper"),
    record("d", "daisy"),
    record(UNTOLD, "ember"),
    record("f", BROKEN),
)


def changed(records: Sequence[Item], images: Mapping[str, str]) -> tuple[Item, ...]:
    """The records, with other images for these ids."""
    return tuple(record(one.id, images[one.id]) if one.id in images else one for one in records)


NEW = changed(OLD, {"b": "bamboo"})


@dataclass(frozen=True)
class Act:
    """One run of the scenario, and the records as they are then."""

    name: str
    run: Run
    records: Sequence[Item]


SCENARIO = (
    Act("new items without the accelerator", EnrichRun(OLD, frozenset({GPU, UNTOLD})), OLD),
    Act("a record has changed", EnrichRun(NEW, frozenset({GPU})), NEW),
    Act("refresh without the model", EnrichRun(NEW, frozenset({GPU, MODEL}), refresh=True), NEW),
    Act("reprocess a few without the model", ReprocessRun(frozenset({MODEL}), limit=2), NEW),
    Act("reprocess the rest", ReprocessRun(), NEW),
    Act("reprocess labels of an older version", ReprocessRun(version="2"), NEW),
)


FEW = [one for one in OLD if one.id in {"a", "b", UNTOLD}]
FEW_NEW = changed(FEW, {"b": "bamboo"})
SHORT_SCENARIO = (
    Act("new items without the accelerator", EnrichRun(FEW, frozenset({GPU, UNTOLD})), FEW),
    Act("a record has changed", EnrichRun(FEW_NEW, frozenset({GPU})), FEW_NEW),
    Act("reprocess without the model", ReprocessRun(frozenset({MODEL})), FEW_NEW),
    Act("reprocess labels of an older version", ReprocessRun(version="2"), FEW_NEW),
)
"""The same for tests that have to be quick."""


@dataclass
class Scenario:
    """The scenario on a store: what is there before each act, and how many commits each makes."""

    database: Database
    acts: Sequence[Act] = SCENARIO
    before: list[Snapshot] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        gc.collect()
        gc.freeze()  # so that no fork copies what all share
        for act in self.acts:
            pass_time(self.database)
            self.before.append(snapshot(self.database))
            with forked(self.database, act.run) as child:
                self.commits.append(child.ended())

    def positions(self) -> list[tuple[int, int]]:
        """Every commit, as the number of its act and its own number in that."""
        return [(act, number + 1) for act, commits in enumerate(self.commits) for number in range(commits)]

    def kill(self, act: int, number: int, place: Place) -> list[str]:
        """Kill the act there; what is broken then, and after new runs."""
        restore(self.database, self.before[act])
        child = Forked(self.database, self.acts[act].run, number, place, dies=True)
        child.died()
        broken = broken_at_rest(self.database) + broken_claims(self.database)
        return self._told(act, number, place, "killed", broken + self._heal(self.acts[act].records))

    def interleave(self, act: int, number: int, place: Place, name: str) -> list[str]:
        """Stop the act there, do the second run of this name meanwhile, and let the first go on; what is broken then.

        Where the second run waits for a lock of the first, both go on.
        """
        second = _second_run(name, self.acts[act].records)
        restore(self.database, self.before[act])
        with forked(self.database, self.acts[act].run, number, place) as first:
            assert first.answer() == STOPPED
            broken = []
            if place is Place.COMMIT:
                with forked(self.database, second) as other:
                    other.has_ended(BLOCKED_AFTER_S)
                    first.go_on()
                    other.ended()
            else:
                second(self.database)
                broken += broken_at_rest(self.database)
                first.go_on()
        broken += broken_at_rest(self.database) + broken_claims(self.database)
        records = second.records if isinstance(second, EnrichRun) else self.acts[act].records
        return self._told(act, number, place, name, broken + self._heal(records))

    def _heal(self, records: Sequence[Item]) -> list[str]:
        """Run anew over the records, and reprocess, all with every rung; what is broken then."""
        pass_time(self.database)
        broken = broken_claims(self.database)
        run_id = EnrichRun(records)(self.database)
        broken += broken_at_rest(self.database)
        ReprocessRun()(self.database)
        return broken + broken_when_healed(self.database, records, run_id)

    def _told(self, act: int, number: int, place: Place, name: str, broken: Collection[str]) -> list[str]:
        return [f"{self.acts[act].name}, commit {number}, {place}, {name}: {problem}" for problem in broken]


SAME_ITEMS, CHANGED_RECORDS, REPROCESS = "the same items", "changed records", "reprocess"
"""The runs that come in between. All their rungs serve."""


def _second_run(name: str, records: Sequence[Item]) -> Run:
    if name == REPROCESS:
        return ReprocessRun()
    images = {"a": "agate", "c": "cobalt", UNTOLD: "elder"} if name == CHANGED_RECORDS else {}
    return EnrichRun(changed(records, images), source="other.jsonl")
