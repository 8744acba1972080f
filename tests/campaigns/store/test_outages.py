"""`repli run` while its store goes away: PostgreSQL restarts, disks that are full or read-only, a lock that is held.

Each run has a Prefect server and a Dask cluster of its own. A trigger notes every result that reaches the store, so
that a result that was computed twice is seen.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from infra.postgres import installed, prepare
from repli.tasks.fallback import RepliError, StoreError
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import PATIENCE_S
from repli.tasks.storage.schema import documents, incoming, items, runs, step_results
from tests.campaigns.infra.conftest import RestartablePostgres
from tests.support.command_line import command, environment, write_manifest
from tests.support.default_pipeline import STAGE_NAMES
from tests.support.progress_lines import without_progress
from tests.support.stopwatch import Stopwatch

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]

ITEMS, BATCH = 240, 4
ENDS_WITHIN_S = 400.0
DISK_IS_BACK_AFTER_S = 8.0
NOTE_RESULTS = {
    "postgresql": (
        "CREATE TABLE computed (item_id text, stage text, finished_at text)",
        (
            "CREATE FUNCTION note_result() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO computed VALUES (NEW.item_id, NEW.stage, NEW.finished_at); RETURN NEW; END $$"
        ),
        "CREATE TRIGGER note_result AFTER INSERT OR UPDATE ON step_results FOR EACH ROW EXECUTE FUNCTION note_result()",
    ),
    "sqlite": (
        "CREATE TABLE computed (item_id text, stage text, finished_at text)",
        *(
            f"CREATE TRIGGER note_{event} AFTER {event} ON step_results BEGIN "
            "INSERT INTO computed VALUES (NEW.item_id, NEW.stage, NEW.finished_at); END"
            for event in ("INSERT", "UPDATE")
        ),
    ),
}


class Postgres(RestartablePostgres):
    """A PostgreSQL that is stopped as its operator does, or as a crash does. Its store is migrated."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        url = sa.make_url(self.variables["REPLI_DATABASE_URL"]).set(password=self.variables["PGPASSWORD"])
        self.url = url.render_as_string(hide_password=False)
        prepare(self.url)

    def crash(self) -> None:
        """End it like `pg_ctl stop -m immediate`: without a checkpoint, so that the next start recovers."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this test's own, in a folder that its user can reach: pytest's are closed to others."""
    try:
        installed()
    except RepliError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="repli-away-") as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()


class Run:
    """One `repli run`, as a process group with its terminal in files."""

    def __init__(self, folder: Path, url: str, *, home: Path | None = None, **variables: str) -> None:
        self._manifest = folder / "items" / "manifest.jsonl"
        if not self._manifest.exists():
            write_manifest(self._manifest.parent, ITEMS, with_image=lambda number: number % 8 == 0)
        self.store = Database(url)
        if not self.store.is_migrated():
            self.store.migrate()
            with self.store.write() as connection:
                for statement in NOTE_RESULTS["sqlite" if self.store.is_sqlite else "postgresql"]:
                    connection.exec_driver_sql(statement)
        self._out, self._err = folder / "out", folder / "err"
        options = ("--json", "--batch-size", str(BATCH), "--database", url)
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                command("run", self._manifest, *options),
                env={**environment(home or folder / "home"), **variables},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def stored(self) -> int:
        with self.store.read() as connection:
            return int(
                connection.scalar(sa.select(sa.func.count()).where(items.c.state == "stored").select_from(items)) or 0
            )

    def wait_until_stored(self, share: float) -> None:
        """Return once this share of the items is stored."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        while self.stored() < share * ITEMS:
            assert self._process.poll() is None, f"it ended before it was disturbed: {self.terminal()}"
            assert time.monotonic() < deadline, f"it does not come so far: {self.terminal()}"
            time.sleep(0.1)

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def done(self, within_s: float = ENDS_WITHIN_S) -> int:
        """Its exit status. No traceback is on its terminal."""
        status = self._process.wait(within_s)
        assert "Traceback" not in self.terminal()
        return status

    def terminal(self) -> str:
        return self._out.read_text(encoding="utf-8") + self._err.read_text(encoding="utf-8")

    def errors(self) -> list[str]:
        """The lines on its standard error, but for those of its progress."""
        return without_progress(self._err.read_text(encoding="utf-8")).splitlines()

    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self._out.read_text(encoding="utf-8")))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
        self.store.engine.dispose()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Begins a run; none is left behind."""
    begun: list[Run] = []

    def run(url: str, **options: Any) -> Run:
        begun.append(Run(tmp_path, url, **options))
        return begun[-1]

    yield run
    for one in begun:
        one.kill()


def check_all_stored_once(run: Run) -> None:
    """Raise AssertionError for an item that was lost, was computed twice at a stage, or is not stored at its best."""
    summary = run.summary()
    assert summary["quality"] == {"1.0": ITEMS}, "an outage of the store degrades no item"
    assert summary["stored"] == summary["items"] == ITEMS, summary
    of_stage = sa.select(step_results.c.stage, sa.func.count()).group_by(step_results.c.stage)
    twice = sa.text(
        "SELECT item_id, stage, count(DISTINCT finished_at) FROM computed "
        "GROUP BY item_id, stage HAVING count(DISTINCT finished_at) > 1"
    )
    with run.store.read() as connection:
        states = connection.execute(sa.select(items.c.state, sa.func.count()).group_by(items.c.state))
        assert dict(states.tuples().all()) == {"stored": ITEMS}
        assert dict(connection.execute(of_stage).tuples().all()) == dict.fromkeys(STAGE_NAMES, ITEMS)
        assert connection.execute(twice).all() == []
        assert connection.execute(sa.select(step_results.c.item_id).where(step_results.c.is_stale)).all() == []
        assert connection.scalar(sa.select(sa.func.count()).select_from(documents)) == ITEMS
        assert connection.scalar(sa.select(sa.func.count()).select_from(incoming)) == 0
        assert connection.execute(sa.select(runs.c.id).where(runs.c.finished_at.is_(None))).all() == []


def test_postgresql_restarts_three_times(postgres: Postgres, begin: Callable[..., Run]) -> None:
    """The run completes, whether the sessions were ended or the server crashed; nothing is lost or done twice."""
    run = begin(postgres.url)
    for share, end in ((0.1, postgres.stop), (0.35, postgres.crash), (0.6, postgres.stop)):
        run.wait_until_stored(share)
        end()
        postgres.start()
    assert run.stored() < ITEMS, "it was disturbed while it worked"
    assert run.done() == 0, run.terminal()
    check_all_stored_once(run)


def test_postgresql_is_gone_for_30_s(postgres: Postgres, begin: Callable[..., Run]) -> None:
    run = begin(postgres.url)
    run.wait_until_stored(0.3)
    postgres.stop()
    time.sleep(30)
    assert not run.is_over(), run.terminal()
    postgres.start()
    assert run.stored() < ITEMS, "it was disturbed while it worked"
    assert run.done() == 0, run.terminal()
    check_all_stored_once(run)


def test_postgresql_is_gone_for_longer_than_a_run_waits(postgres: Postgres, begin: Callable[..., Run]) -> None:
    """The run ends with one line that says so, and its counts. The next run continues, and does nothing twice."""
    run = begin(postgres.url)
    run.wait_until_stored(0.3)
    stored = run.stored()
    stopped_at = time.monotonic()
    with Stopwatch() as stopwatch:
        postgres.stop()
        assert run.done() == 1
    waited_s = time.monotonic() - stopped_at
    errors = run.errors()
    assert len(errors) == 1, f"after {waited_s:.0f} s: {run.terminal()}"
    [line] = errors
    assert waited_s >= PATIENCE_S
    assert re.fullmatch(
        r"repli: the store postgresql\S+ did not answer \(.*\); .*; waited 60 s; "
        rf"(\d+) of {ITEMS} items done: \d+ stored, 0 failed; start the run again, it continues from here",
        line,
    ), line
    postgres.start()
    again = begin(postgres.url)
    assert again.stored() >= stored
    assert again.done() == 0, again.terminal()
    with again.store.write() as connection:  # the first run could not record its end
        connection.execute(sa.update(runs).where(runs.c.finished_at.is_(None)).values(finished_at=runs.c.started_at))
    check_all_stored_once(again)
    assert stopwatch.seconds < 2 * PATIENCE_S, "the flow waits once, and for the batches in flight"


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A disk of its own; skips the test where none can be mounted."""
    with tempfile.TemporaryDirectory(prefix="repli-disk-") as folder:
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder]
        try:
            mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no `mount`")
        if mounted.returncode:
            pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Take all room on the disk; delete the file to give it back."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def check_is_out_of_order(run: Run) -> None:
    """Raise AssertionError if the store can be written."""
    with pytest.raises(StoreError), run.store.write() as connection:
        connection.exec_driver_sql("CREATE TABLE big AS SELECT randomblob(8000000) AS content")


def fill_for_a_while(disk: Path, run: Run) -> None:
    """Take all room on the disk under the run, and give it back."""
    run.wait_until_stored(0.3)
    filler = fill(disk)
    check_is_out_of_order(run)
    time.sleep(DISK_IS_BACK_AFTER_S)
    filler.unlink()
    assert run.stored() < ITEMS, "it was disturbed while it worked"
    assert run.done() == 0, run.terminal()


def test_a_disk_is_full_for_a_while(begin: Callable[..., Run]) -> None:
    with small_disk(64) as disk:
        run = begin(f"sqlite:///{disk / 'store.db'}")
        fill_for_a_while(disk, run)
        check_all_stored_once(run)
        run.kill()


def test_a_disk_of_the_store_and_the_blobs_is_full_for_a_while(
    begin: Callable[..., Run], standing_server: dict[str, str]
) -> None:
    """Blobs wait for it too: no item is degraded because of it, and no part of a blob is left."""
    with small_disk(64) as disk:
        run = begin(f"sqlite:///{disk / 'store.db'}", home=disk / "home", **standing_server)
        fill_for_a_while(disk, run)
        check_all_stored_once(run)
        assert not list(disk.rglob("*.part")), "a blob was left in part"
        run.kill()


@contextmanager
def read_only(*files: Path) -> Iterator[None]:
    """Refuse every write to the files while the block runs, also by processes that have them open.

    A mount cannot be made read-only while a run has a store on it open.
    """
    made = subprocess.run(["chattr", "+i", *map(str, files)], capture_output=True, text=True, check=False)
    try:
        if made.returncode:
            pytest.skip(f"files cannot be made immutable here: {made.stderr.strip()}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *map(str, files)], capture_output=True, check=not made.returncode)


def test_a_store_is_read_only_for_a_while(begin: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    run = begin(f"sqlite:///{path}")
    run.wait_until_stored(0.3)
    with read_only(path, Path(f"{path}-wal")):
        check_is_out_of_order(run)
        time.sleep(DISK_IS_BACK_AFTER_S)
    assert run.stored() < ITEMS, "it was disturbed while it worked"
    assert run.done() == 0, run.terminal()
    check_all_stored_once(run)


def test_another_process_holds_the_write_lock(begin: Callable[..., Run], tmp_path: Path) -> None:
    run = begin(f"sqlite:///{tmp_path / 'store.db'}")
    run.wait_until_stored(0.3)
    with run.store.write():
        before = run.stored()
        time.sleep(20)
        assert run.stored() == before, "nothing can be stored meanwhile"
        assert not run.is_over(), run.terminal()
    assert before < ITEMS, "it was disturbed while it worked"
    assert run.done() == 0, run.terminal()
    check_all_stored_once(run)
