"""Transactions that are run again: after conflicts, through outages, and where a commit was not confirmed."""

from __future__ import annotations

import ast
import itertools
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Breaker, StoreError
from repli.tasks.fallback.breaker import CallEnded, Cause, Decision, Event, PermitRequested, Verdict
from repli.tasks.items import Item
from repli.tasks.storage import blobs, breakers, catalogue, drills, outages, results, runs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.catalogue import Registered
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import StoreUnavailable, TransactionConflict, retried, wait_out
from repli.tasks.storage.retry import claims
from repli.tasks.storage.schema import drills as drill_rows
from repli.tasks.storage.schema import incoming, items, retry_queue, run_items
from repli.tasks.storage.schema import runs as run_rows
from repli.tasks.storage.search import documents
from tests.support import ROOT
from tests.support.fleet import Fleet, Job
from tests.support.queue import OWED, POLICY, Queue
from tests.support.register_jobs import register_overlapping, register_sample
from tests.support.stopwatch import Stopwatch

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
BREAKER, KEY = Breaker(scope="fleet", failures=2), Key("classify_image.gpu")
NOWHERE = "postgresql://repli@127.0.0.1:1/repli"
on_postgresql = pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def no_place_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process remembers which places it has given up waiting for."""
    monkeypatch.setattr(outages, "_given_up", {})


def patient(database: Database, seconds: float = 20) -> Database:
    """The same store, for a caller that waits for it."""
    return Database(database.url.render_as_string(hide_password=False), patience_s=seconds)


# Conflicts


@on_postgresql
def test_a_deadlock_is_retried(database: Database, registered: Callable[..., str]) -> None:
    """Of two transactions that lock each other out PostgreSQL ends one. It runs again, and both are committed."""
    registered("a", "b")
    both_hold_one = threading.Barrier(2)
    conflicts: list[TransactionConflict] = []

    @retried
    def rename(database: Database, first: str, second: str) -> None:
        is_first_try = len(conflicts) == 0
        try:
            with database.write() as connection:
                for id_ in (first, second):
                    connection.execute(sa.update(items).where(items.c.id == id_).values(name=f"by {first}"))
                    if id_ == first and is_first_try:
                        both_hold_one.wait(10)
        except TransactionConflict as conflict:
            conflicts.append(conflict)
            raise

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(rename, database, *ids) for ids in (("a", "b"), ("b", "a"))]:
            done.result(20)
    assert len(conflicts) == 1
    assert "deadlock" in str(conflicts[0])
    assert deadlocks(database) > 0, "they are counted"
    with database.read() as connection:
        assert len(set(connection.scalars(sa.select(items.c.name)))) == 1, "the transaction that ran again came last"


@on_postgresql
def test_a_serialization_failure_is_retried(database: Database, registered: Callable[..., str]) -> None:
    """Two transactions that change what both have read are done one after the other, and no change is lost."""
    registered("a")
    both_have_read = threading.Barrier(2)
    conflicts: list[TransactionConflict] = []

    @retried
    def count_up(database: Database) -> None:
        is_first_try = not conflicts
        engine = database.engine.execution_options(isolation_level="SERIALIZABLE")
        try:
            with database.translated_errors(), engine.begin() as connection:
                revision = connection.scalar(sa.select(items.c.revision))
                if is_first_try:
                    both_have_read.wait(10)
                connection.execute(sa.update(items).values(revision=revision + 1))
        except TransactionConflict as conflict:
            conflicts.append(conflict)
            raise

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(count_up, database) for _ in range(2)]:
            done.result(20)
    assert len(conflicts) == 1
    with database.read() as connection:
        assert connection.scalar(sa.select(items.c.revision)) == 3


def deadlocks(database: Database) -> int:
    """How many there have been."""
    with database.read() as connection:
        counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(connection.scalar(sa.text(counted)) or 0)


@on_postgresql
@pytest.mark.parametrize("job", [register_overlapping, register_sample])
def test_registrations_of_the_same_items_do_not_deadlock(database: Database, job: Callable[..., Job]) -> None:
    """Four processes register manifests that overlap, new items and changed ones, in several portions."""
    rounds, count, before = 2, 1200, deadlocks(database)
    with Fleet([{}] * 4) as fleet:
        each = [{"number": number, "rounds": rounds, "items": count} for number in range(4)]
        assert fleet.do(database, job, each) == [[count] * rounds] * 4
    assert deadlocks(database) == before
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(incoming)) == 0
        assert connection.scalar(sa.select(sa.func.count()).select_from(run_items)) == 4 * rounds * count


# Patience


def test_a_command_does_not_wait_for_a_store_that_is_away() -> None:
    """Without patience the first answer counts."""
    tries = []

    @retried
    def read(database: Database) -> None:
        tries.append(time.monotonic())
        with database.read():
            pass

    with pytest.raises(StoreError, match="did not answer") as failed:
        read(Database(NOWHERE))
    assert len(tries) == 1
    assert "waited" not in str(failed.value)


def test_a_command_retries_a_conflict_all_the_same() -> None:
    """The other transaction is over soon."""
    answers = iter([TransactionConflict("deadlock"), TransactionConflict("deadlock")])

    def work() -> str:
        if conflict := next(answers, None):
            raise conflict
        return "done"

    assert wait_out(work, "a place", patience_s=0) == "done"


def test_a_run_waits_so_long_and_says_it() -> None:
    """The last error is told, with the time that was waited."""
    tries: list[float] = []

    @retried
    def read(database: Database) -> None:
        tries.append(time.monotonic())
        with database.read():
            pass

    with pytest.raises(StoreError, match=r"did not answer \(.*\); .*; waited 1 s$") as failed:
        read(Database(NOWHERE, patience_s=1))
    assert not isinstance(failed.value, StoreUnavailable), "nothing around it waits for the same outage again"
    assert 1 <= tries[-1] - tries[0] + outages.LONGEST_PAUSE_S < 30
    assert len(tries) > 3


def test_another_error_is_not_retried(database: Database) -> None:
    """It would only come later, and again."""
    tries = []

    @retried
    def work(database: Database) -> None:
        tries.append(1)
        with database.write() as connection:
            connection.execute(sa.text("SELECT nothing FROM nowhere"))

    with pytest.raises((sa.exc.DBAPIError, StoreError)):
        work(patient(database))
    assert len(tries) == 1


def test_retried_functions_inside_one_another_wait_once() -> None:
    """The outer one retries; the inner one takes part in each of its tries."""
    tries: Counter[str] = Counter()

    @retried
    def inner(database: Database) -> None:
        tries["inner"] += 1
        raise StoreUnavailable("away")

    @retried
    def outer(database: Database) -> None:
        tries["outer"] += 1
        inner(database)

    with pytest.raises(StoreError, match=r"away; waited 0\.6 s"):
        outer(Database(NOWHERE, patience_s=0.6))
    assert tries["inner"] == tries["outer"] > 2
    elsewhere = NOWHERE.replace(":1/", ":2/")
    with pytest.raises(StoreError, match="waited"):  # the mark is taken back: the next call waits as before
        inner(Database(elsewhere, patience_s=0.2))
    assert tries["inner"] > tries["outer"] + 1


def test_a_process_gives_up_waiting_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After that each call tries once, for a while: a run that an outage ends does not wait at each step."""
    monkeypatch.setattr(outages, "GIVEN_UP_FOR_S", 600.0)
    tries: Counter[str] = Counter()

    @retried
    def work(database: Database, name: str) -> None:
        tries[name] += 1
        raise StoreUnavailable("away")

    store, other = Database(NOWHERE, patience_s=0.3), Database(NOWHERE.replace(":1/", ":2/"), patience_s=0.3)
    for name in ("first", "second"):
        with pytest.raises(StoreError):
            work(store, name)
    with pytest.raises(StoreError):
        work(other, "of another store")
    assert tries["first"] > 1
    assert tries["second"] == 1
    assert tries["of another store"] > 1
    monkeypatch.setattr(outages, "GIVEN_UP_FOR_S", 0.0)
    with pytest.raises(StoreError):
        work(store, "third")
    assert tries["third"] > 1


def test_the_pauses_grow_and_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is between a half and the whole of twice the last one, up to a longest; no two callers keep step."""
    monkeypatch.setattr(outages, "LONGEST_PAUSE_S", 0.4)

    def times() -> list[tuple[float, float]]:
        tries: list[tuple[float, float]] = []

        def work() -> None:
            tries.append((time.monotonic(), stopwatch.seconds))
            raise StoreUnavailable("away")

        with pytest.raises(StoreError):
            wait_out(work, f"a place of thread {threading.get_ident()}", 2.5)
        return tries

    with Stopwatch() as stopwatch, ThreadPoolExecutor(2) as pool:
        both = [done.result() for done in [pool.submit(times) for _ in range(2)]]
    shares: list[float] = []
    for tries in both:
        pauses = [(end - begin, ticked - before) for (begin, before), (end, ticked) in itertools.pairwise(tries)]
        longest_pauses = [0.05, 0.1, 0.2, *[0.4] * len(pauses)]
        for (pause, ticked), longest in zip(pauses[:-1], longest_pauses, strict=False):  # the last is cut off
            assert longest / 2 <= pause
            assert ticked < longest + 0.05
            shares.append(ticked / longest)
    assert min(shares) < 0.85, "they are drawn"


# Outages


def test_a_lock_on_sqlite_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is locked for longer than SQLite itself waits."""
    monkeypatch.setattr("repli.tasks.storage.database.BUSY_TIMEOUT_S", 0)
    store = Database(f"sqlite:///{tmp_path / 'store.db'}", patience_s=60)
    store.migrate()
    is_locked, tries = threading.Event(), list[int]()

    def hold() -> None:
        with store.write():
            is_locked.set()
            while len(tries) < 3:
                time.sleep(0.01)

    @retried
    def write(database: Database) -> None:
        tries.append(1)
        with database.write():
            pass

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        is_locked.wait(60)
        write(store)
        holding.result(60)
    assert len(tries) > 2
    store.engine.dispose()


@contextmanager
def mounted(folder: Path) -> Iterator[Callable[[str], None]]:
    """Mount a small disk on the folder, and yield a function that mounts it anew with other options."""
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    try:
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount`")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_is_full_for_a_while(tmp_path: Path) -> None:
    """What found no room is written once there is some."""
    with mounted(tmp_path):
        store = Database(f"sqlite:///{tmp_path / 'store.db'}", patience_s=60)
        store.migrate()
        filler = tmp_path / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        freeing = threading.Timer(1, filler.unlink)
        began_at = time.monotonic()
        freeing.start()
        runs.start(store, "flow run", "x" * 500_000, {}, NOW)
        assert time.monotonic() - began_at >= 1
        freeing.join()
        assert runs.latest(store) is not None
        store.engine.dispose()


def test_a_disk_is_read_only_for_a_while(tmp_path: Path) -> None:
    """A connection that was opened meanwhile can write once the disk can be written."""
    with mounted(tmp_path) as remount:
        url = f"sqlite:///{tmp_path / 'store.db'}"
        die = "import os, sys; from repli.tasks.storage.database import Database; Database(sys.argv[1]).migrate(); "
        subprocess.run([sys.executable, "-c", die + "os._exit(0)", url], cwd=ROOT, check=True)
        assert (tmp_path / "store.db-wal").exists(), "with it, SQLite opens a store that it cannot write"
        remount("ro")
        back = threading.Timer(1, remount, ["rw"])
        back.start()
        store = Database(url, patience_s=60)
        try:
            runs.start(store, "flow run", "source", {}, NOW)
        finally:
            back.join()
            store.engine.dispose()
        assert runs.latest(store) is not None
        store.engine.dispose()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            lambda store: documents.create_vector_indexes(store, ["a"]),
            id="create_vector_indexes",
        ),
        pytest.param(lambda store: results.load(store, ["a"]), id="load"),
        pytest.param(lambda store: blobs.last_copies(store, ["a"]), id="last_copies"),
        pytest.param(lambda store: claims.release(store, "holder"), id="release"),
        pytest.param(lambda store: store.migrate(), id="migrate"),
        pytest.param(lambda store: store.now(), id="now"),
    ],
)
def test_a_server_that_is_away_is_a_store_error(call: Callable[[Database], object]) -> None:
    """Whatever is asked of it first."""
    with pytest.raises(StoreError, match="did not answer"):
        call(Database(NOWHERE))


# Commits that were made, and not confirmed


@contextmanager
def unconfirmed(database: Database, number: int = 1) -> Iterator[None]:
    """Make the commit `number` of the block, and lose the answer: the connection breaks before it comes."""
    dialect = database.engine.dialect
    made = []

    def commit(connection: Any) -> None:
        type(dialect).do_commit(dialect, connection)
        made.append(connection)
        if len(made) != number:
            return
        if database.is_sqlite:
            lost = sqlite3.OperationalError("disk I/O error")
            lost.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise lost
        [backend] = connection.execute("SELECT pg_backend_pid()").fetchone()
        connection.rollback()
        with database.engine.connect() as other:
            other.execute(sa.select(sa.func.pg_terminate_backend(backend)))
        connection.execute("SELECT 1")

    dialect.do_commit = commit  # type: ignore[method-assign]
    try:
        yield
    finally:
        del dialect.do_commit
    assert len(made) >= number, "there was no such commit"


def test_a_claim_that_was_not_confirmed_returns_its_items(queue: Queue) -> None:
    """Run again, it finds them under its id, and claims no others."""
    queue.store("a", "b", "c", "d", "e")
    with unconfirmed(queue.database):
        claimed = claims.claim(patient(queue.database), "holder", OWED, 3, 60)
    assert [claim.item_id for claim in claimed] == ["a", "b", "c"]
    assert [claim.quality for claim in claimed] == [0.5] * 3
    assert Counter(queue.states().values()) == {"claimed": 3, "queued": 2}
    assert queue.claimed("another") == ["d", "e"]


def test_a_start_that_was_not_confirmed_is_one_run(database: Database) -> None:
    with unconfirmed(database):
        run_id = runs.start(patient(database), "flow run", "manifest.jsonl", {"limit": 3}, NOW)
    with database.read() as connection:
        assert connection.scalars(sa.select(run_rows.c.id)).all() == [run_id]


def test_a_drill_that_was_not_confirmed_is_kept_once(database: Database) -> None:
    with unconfirmed(database):
        id_ = drills.keep(patient(database), "flow run", NOW, NOW, {"verdict": "passed", "rungs": []})
    with database.read() as connection:
        assert connection.scalars(sa.select(drill_rows.c.id)).all() == [id_]


@pytest.mark.parametrize("number", range(1, 8))
def test_a_registration_that_was_not_confirmed_counts_each_item_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever of its commits it is: three of lines, three of items, and the last."""
    queue = Queue(database)
    queue.register("a", "b", "c", "d")
    queue.store("a", "d", at="1")
    run_id = queue.begin_run()
    monkeypatch.setattr(catalogue, "LINES_PER_TRANSACTION", 2)
    names = {"a": "name", "b": "changed", "c": "name", "d": "name", "e": "new"}
    records = [Item(id=id_, name=name) for id_, name in names.items()]
    with unconfirmed(database, number):
        registered = catalogue.register(patient(database), run_id, [*records, records[0]])
    with database.read() as connection:
        listed = connection.scalars(sa.select(run_items.c.item_id).where(run_items.c.run_id == run_id)).all()
        revisions = dict(connection.execute(sa.select(items.c.id, items.c.revision)).tuples().all())
        assert connection.scalar(sa.select(sa.func.count()).select_from(incoming)) == 0
    assert sorted(listed) == sorted(names)
    assert revisions == {"a": 1, "b": 2, "c": 1, "d": 1, "e": 1}
    assert registered == Registered(items=5, duplicates=1, failed=0, stored={1.0: 2})


def test_a_settlement_that_was_not_confirmed_counts_one_try(queue: Queue) -> None:
    """An item that was upgraded, one that was not, and one that is parked by it."""
    queue.store("a", "b", "c")
    queue.hold("earlier", "c")
    run_id = queue.begin_run()
    with queue.database.write() as connection:
        is_c = retry_queue.c.item_id == "c"
        connection.execute(sa.update(retry_queue).where(is_c).values(tries=POLICY.tries - 1, state="ready"))
    taken = queue.claim("holder", 3)
    queue.store("a", at="1", run_id=run_id)
    with unconfirmed(queue.database):
        claims.settle(patient(queue.database), "holder", run_id, taken, ["a", "b", "c"], POLICY)
    assert queue.outcomes(run_id) == {"a": "upgraded", "b": "unchanged", "c": "parked"}
    assert queue.states() == {"b": "queued", "c": "parked"}
    assert (queue.entry("b").tries, queue.entry("c").tries) == (1, POLICY.tries)


def apply(database: Database, event: Event, at: datetime) -> breakers.Change:
    return breakers.apply(database, BREAKER, KEY, event, clock=lambda connection: at)


def test_a_failure_that_was_not_confirmed_counts_once(database: Database) -> None:
    failed = [CallEnded(str(uuid.uuid4()), Verdict.FAILED, "down") for _ in range(2)]
    with unconfirmed(database):
        first = apply(patient(database), failed[0], NOW)
    assert len(first.state.failures) == 1
    with unconfirmed(database):
        second = apply(patient(database), failed[1], NOW)
    assert second.state.cause is Cause.TOO_MANY_FAILURES
    assert [move.number for move in breakers.last_moves(database, 9)] == [2]


def test_a_probe_that_was_not_confirmed_is_granted(database: Database) -> None:
    """Else nobody would probe until its lease ends, and the breaker would count the probe as lost."""
    for token in ("1", "2"):
        apply(database, CallEnded(token, Verdict.FAILED, "down"), NOW)
    later = NOW + timedelta(seconds=BREAKER.open_for_s + 1)
    with unconfirmed(database):
        asked = apply(patient(database), PermitRequested("probe"), later)
    assert asked.decision is Decision.PROBE


# All of them


EXEMPT = (
    "database.py",  # its transactions themselves; `migrate` and `now` have tests above
    "search/query.py",
    "search/neighbours.py",
    "search/matrices.py",
    "search/snippets.py",
    "views/browse.py",
    "views/dashboard_stats.py",
)
"""Modules of which no flow and no stage calls anything."""

STORAGE = ROOT / "tasks" / "storage"
Functions = Mapping[str, ast.FunctionDef]


def functions() -> dict[str, ast.FunctionDef]:
    """The functions of the store that flows and stages may call, by module and name."""
    return {
        f"{path.relative_to(STORAGE)}:{node.name}": node
        for path in sorted(STORAGE.rglob("*.py"))
        if "migrations" not in path.parts and str(path.relative_to(STORAGE)) not in EXEMPT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


def opens_a_transaction(function: ast.FunctionDef) -> bool:
    opened = {"database.read", "database.write", "self._database.read", "self._database.write"}
    called = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
    return any(name in opened or name.endswith(("engine.connect", "engine.begin")) for name in called)


def is_retried(function: ast.FunctionDef) -> bool:
    return "retried" in map(ast.unparse, function.decorator_list)


def callers(of: str, among: Functions) -> list[str]:
    """The functions that mention this one by its name."""
    name = of.rpartition(":")[2]
    return [
        other
        for other, function in among.items()
        if other != of
        and any(
            (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)
            for node in ast.walk(function)
        )
    ]


def waits(name: str, among: Functions) -> bool:
    """Whether a function is retried, or is a part of functions that are."""
    if is_retried(among[name]):
        return True
    is_private = name.rpartition(":")[2].startswith("_") or name in PARTS
    return is_private and bool(found := callers(name, among)) and all(waits(caller, among) for caller in found)


PARTS = ("search/documents.py:has_pgvector", "search/documents.py:index")
"""Public functions that flows and stages do not call themselves."""


def test_every_function_that_opens_a_transaction_waits_out_an_outage() -> None:
    """A flow or a stage that calls it goes on when the store is back."""
    found = functions()
    transactions = [name for name, function in found.items() if opens_a_transaction(function)]
    assert len(transactions) > 35
    assert [name for name in transactions if not waits(name, found)] == []
    with_parts = {name.partition(":")[0] for name in PARTS}
    assert with_parts <= {name.partition(":")[0] for name in found}


def test_nothing_exempt_is_used_by_flows_or_stages() -> None:
    """What reads without waiting is for commands and the dashboard."""
    modules = {name.removesuffix(".py").replace("/", ".") for name in EXEMPT} - {"database"}
    users = [*(ROOT / "flows").glob("*.py"), *(ROOT / "flows" / "dispatch").rglob("*.py")]
    users += [*(ROOT / "tasks" / "stages").rglob("*.py"), *(ROOT / "tasks" / "execution").rglob("*.py")]
    for path in users:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert not {f"repli.tasks.storage.{module}" for module in modules} & named, f"{path}: {node.module}"
