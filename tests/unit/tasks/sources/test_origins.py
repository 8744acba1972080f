"""Origins that are dead, hang, are busy or well, all at once: real servers on loopback, and how often each is asked."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.fallback import Breaker, Position, StepError
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.items import Asset
from repli.tasks.runtime.call_slots import CallSlots
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.batch import Batch, Lookup
from repli.tasks.sources.locate import Content, Place
from repli.tasks.sources.web import FurtherTries, TransientError
from repli.tasks.storage import breakers
from repli.tasks.storage.database import Database
from tests.support.origins import Origin, origins
from tests.support.stopwatch import Stopwatch

NAME = "fetch.origin"
BREAKER = Breaker(scope="key")
LIMITS = FetchLimits(time_limit_s=3.0, allow_private_addresses=True)


class Reader:
    """One process that reads batches of addresses behind the breakers of a store."""

    def __init__(self, database: Database) -> None:
        self.database = database
        registry = BreakerRegistry(database, device_scope="here")
        self.call = KeyedCalls(name=NAME, breaker=BREAKER, breaker_of=registry.of, slot_of=CallSlots().of)

    def read(self, *urls: str) -> tuple[list[StepError | None], dict[str, float]]:
        """Return the error of each, None where it was read, and when the last item of each origin was ready."""
        lookups = [Lookup({"document": url}, "", LIMITS, may_be_text="document") for url in urls]
        batch = Batch(lookups, LIMITS, store=_asset, call=self.call)
        errors: list[StepError | None] = [None] * len(urls)
        ready: dict[str, float] = {}
        started = time.monotonic()
        for position in batch.finished_items(60):
            [place] = batch.located[position].values()
            assert isinstance(place, Place)
            result = batch.read[place]
            errors[position] = result if isinstance(result, StepError) else None
            ready[urls[position].rpartition("/")[0]] = time.monotonic() - started
        return errors, ready

    def position(self, origin: str) -> Position:
        views = breakers.views(self.database, {NAME: BREAKER})
        return {view.key.place: view.state.position for view in views}.get(origin, Position.CLOSED)


def _asset(content: Content, place: Place) -> Asset:
    return Asset(uri=place.uri, sha256="0" * 64, size=len(content.data), media_type="text/html", source="origin")


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    database = Database(f"sqlite:///{tmp_path / 'repli.db'}")
    database.migrate()
    return Reader(database)


def pages(origin: Origin | str, count: int = 40) -> list[str]:
    url = origin if isinstance(origin, str) else origin.url
    return [f"{url}/{number}" for number in range(count)]


def refused(errors: list[StepError | None]) -> int:
    return sum(error is not None and error.type == "BreakerOpen" for error in errors)


def test_a_dead_origin_is_asked_as_often_as_opens_its_breaker_and_is_in_flight(reader: Reader) -> None:
    """Of forty items: the tries of a transient error are made by one request at a time, and end with the breaker."""
    with origins("dead") as [dead]:
        errors, _ = reader.read(*pages(dead))
        assert BREAKER.failures <= dead.requests <= BREAKER.failures + 2 + BREAKER.at_once
        assert reader.position(dead.url) is Position.OPEN
        before = dead.requests
        assert refused(reader.read(*pages(dead))[0]) == 40
        assert dead.requests == before
    assert all(errors)
    assert refused(errors) >= 40 - dead.requests
    messages = {error.message for error in errors if error and error.type == "BreakerOpen"}
    assert all("503" in message for message in messages), "a refusal says what the origin's failure was"


def test_one_request_of_all_batches_finds_out_whether_an_error_passes(reader: Reader) -> None:
    """Small batches cost a dead origin no more requests than a large one."""
    with origins("dead") as [dead]:
        for page in pages(dead, 12):
            reader.read(page)
        assert dead.requests == BREAKER.failures + 2


def test_a_late_answer_of_a_server_that_has_died_since_allows_no_further_tries() -> None:
    """A request that was sent before the one that failed says nothing about the time after it."""
    tries, deadline = FurtherTries(), time.monotonic() + 60
    late, failing = tries.of("https://shop.example", deadline), tries.of("https://shop.example", deadline)
    with late, pytest.raises(TransientError), failing as is_allowed:
        assert is_allowed()
        raise TransientError("it answered 503")
    with tries.of("https://shop.example", deadline) as is_allowed:
        assert not is_allowed()
    with tries.of("https://shop.example", deadline) as is_allowed:
        assert is_allowed(), "a request that was sent since has been answered"


def test_an_origin_that_refuses_connections_is_left_alone(reader: Reader) -> None:
    """Nothing listens there: its items fail at once."""
    with origins("dead") as [gone]:
        pass
    errors, _ = reader.read(*pages(gone))
    assert all(errors)
    assert refused(errors) >= 40 - BREAKER.failures - BREAKER.at_once
    assert reader.position(gone.url) is Position.OPEN


def test_a_hanging_origin_costs_two_time_limits_and_others_nothing(reader: Reader) -> None:
    """Forty items of each, the hanging ones first: those of the others are ready while it hangs."""
    with origins("hanging", "hanging", "well") as [hanging, other, well]:
        with Stopwatch() as stopwatch:
            errors, ready = reader.read(*pages(hanging), *pages(other), *pages(well))
        assert errors[80:] == [None] * 40
        assert ready[well.url] < min(ready[hanging.url], ready[other.url])
        assert stopwatch.seconds < 2 * LIMITS.time_limit_s + 1.5
        for origin in (hanging, other):
            assert origin.requests <= BREAKER.failures - 1 + BREAKER.at_once
            assert reader.position(origin.url) is Position.OPEN


@pytest.mark.parametrize("kind", ["busy for seconds", "busy until a date"])
def test_an_origin_that_asks_to_wait_is_left_alone_as_long(reader: Reader, kind: str) -> None:
    """Its first answer opens the breaker; only those in flight ask too, and none tries again."""
    with origins(kind) as [busy]:
        errors, _ = reader.read(*pages(busy))
        assert busy.requests <= BREAKER.at_once
    assert all(errors)
    [view] = breakers.views(reader.database, {NAME: BREAKER})
    assert view.state.probe_at
    assert timedelta(hours=1.9) < view.state.probe_at - datetime.now(UTC) <= timedelta(hours=2, seconds=5)


def test_a_flaky_origin_stays_in_use(reader: Reader) -> None:
    """Three of ten requests fail, by chance: tries mend most of them, and what is served takes back the other failures,
    so that the breaker stays closed."""
    with origins("flaky", delay_s=0.0) as [flaky]:
        errors, _ = reader.read(*pages(flaky, 400))
        assert Counter(error is None for error in errors)[True] >= 380
        assert Counter(error is None for error in errors)[False] > BREAKER.failures
        assert reader.position(flaky.url) is Position.CLOSED


def test_a_well_origin_is_asked_once_an_item_by_at_most_four_at_once(reader: Reader) -> None:
    """Connections are kept and used again; nothing is written of it."""
    with origins("well") as [well]:
        errors, _ = reader.read(*pages(well))
        assert errors == [None] * 40
        assert well.requests == 40
        assert well.connections <= well.most_at_once <= BREAKER.at_once
    [view] = breakers.views(reader.database, {NAME: BREAKER})
    assert view.key.place == ""


def test_a_redirect_counts_for_the_origin_that_failed(reader: Reader) -> None:
    """The one that sends there is well."""
    with origins("dead") as [dead], origins(f"to {dead.url}") as [sends]:
        errors, _ = reader.read(*pages(sends))
        assert all(errors)
        assert reader.position(dead.url) is Position.OPEN
        assert reader.position(sends.url) is Position.CLOSED
        assert dead.requests <= BREAKER.failures + 2 + BREAKER.at_once
