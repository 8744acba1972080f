"""What is run again when a worker died."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from repli.flows.dispatch.worker_deaths import (
    FATAL_DEATHS,
    PIECES,
    WorkerCrashes,
    WorkerDeaths,
    mark_poison_item,
    split_after_crash,
)
from repli.tasks.execution.stage_task import Batch
from repli.tasks.fallback import Directives, Position, Status
from repli.tasks.fallback.breaker import BreakerState, CallEnded, Cause, Decision, PermitRequested, Verdict
from repli.tasks.storage import breakers, results
from repli.tasks.storage.breakers import Key, Move
from repli.tasks.storage.database import Database
from tests.support.default_pipeline import PIPELINE, declared_breakers


def batch(*item_ids: str, deaths: int = 0) -> Batch:
    return Batch(number=1, item_ids=item_ids, deaths=deaths)


def test_a_batch_comes_again_in_pieces() -> None:
    """Every item is in exactly one piece, and each piece is a suspect."""
    ids = tuple(map(str, range(100)))
    pieces = split_after_crash(batch(*ids), is_blamed=False)
    assert len(pieces) == PIECES
    assert tuple(item for piece in pieces for item in piece.item_ids) == ids
    assert all(piece.is_suspect and piece.deaths == 0 for piece in pieces)


def test_a_death_counts_only_where_it_can_have_one_cause() -> None:
    """Of a batch that was not alone nothing is held against its items."""
    assert [piece.deaths for piece in split_after_crash(batch("a", "b"), is_blamed=True)] == [1, 1]
    assert [piece.deaths for piece in split_after_crash(batch("a", "b"), is_blamed=False)] == [0, 0]


def test_an_item_is_set_aside_after_its_second_death_alone() -> None:
    """An item that was alone is tried once more; after that nothing is left to run."""
    (again,) = split_after_crash(batch("a"), is_blamed=True)
    assert again.deaths == FATAL_DEATHS - 1
    assert split_after_crash(again, is_blamed=True) == []
    assert len(split_after_crash(again, is_blamed=False)) == 1


def test_a_probe_that_kills_its_worker_failed_and_its_item_is_not_blamed(database: Database) -> None:
    """The breaker opens again for longer. Of a rung that is not refused a death is a failure, and the item's too."""
    name = "classify_image.gpu"
    breaker, key = declared_breakers()[name], Key(name, "here/0")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(breaker.failures):
        failed = CallEnded(str(number), Verdict.FAILED)
        breakers.apply(database, breaker, key, failed, clock=lambda _: start)
    moves: list[Move] = []
    deaths = WorkerCrashes(
        database, Directives(), pipeline=PIPELINE, scope_of=lambda _: key.place, on_move=moves.append
    )
    alone = replace(batch("a"), is_suspect=True)

    assert breakers.apply(database, breaker, key, PermitRequested("probe")).decision is Decision.PROBE
    assert deaths.worker_died(alone, "classify_image", "tcp://one") is False
    assert [(move.new, move.cause) for move in moves] == [(Position.OPEN, Cause.PROBE_FAILED)]
    states, _ = breakers.read(database, breaker, [key])
    assert states[key].failed_probes == 1

    breakers.override(database, breaker, key, Cause.RESET)
    for _ in range(breaker.failures - 1):
        assert deaths.worker_died(alone, "classify_image", "tcp://one") is True
    deaths.batch_succeeded(batch("b"))  # was no suspect
    states, _ = breakers.read(database, breaker, [key])
    assert states[key].failures == ()
    assert deaths.worker_died(alone, "classify_image", "tcp://one") is True
    states, _ = breakers.read(database, breaker, [key])
    assert (states[key].position, len(states[key].failures)) == (Position.OPEN, breaker.failures)
    assert "killed its worker" in states[key].why


def test_deaths_that_an_item_explains_are_no_failures(database: Database) -> None:
    """Once another piece of what the worker had begun succeeds they count from 0 again."""
    name = "classify_image.gpu"
    breaker, key = declared_breakers()[name], Key(name, "here/0")
    deaths = WorkerCrashes(
        database, Directives(), pipeline=PIPELINE, scope_of=lambda _: key.place, on_move=lambda move: None
    )
    alone = replace(batch("a"), is_suspect=True)
    for _ in range(3):
        for _ in range(breaker.failures - 1):
            assert deaths.worker_died(alone, "classify_image", "tcp://one") is True
        deaths.batch_succeeded(replace(batch("b"), is_suspect=True))
    states, _ = breakers.read(database, breaker, [key])
    assert states[key] == BreakerState()


def test_what_is_set_aside_is_failed_and_may_be_tried_again(database: Database, registered: Callable[..., str]) -> None:
    """The store says which stage, and why; other items are not touched."""
    run_id = registered("a", "b")
    mark_poison_item(database, run_id, batch("a"), "extract_text")
    one, other = results.load(database, ["a", "b"])
    assert one.results["extract_text"].status is Status.FAILED
    assert one.results["extract_text"].retryable
    assert other.results == {}


def test_a_death_concerns_what_its_worker_had_begun() -> None:
    """Of tasks of one death the others waited, ran elsewhere, or had ended; all that was begun is told of each."""
    deaths = WorkerDeaths()
    for key, worker in (("a", "one"), ("b", "one"), ("c", "one"), ("d", "two")):
        deaths.begun(key, worker)
    deaths.ended("c")
    assert deaths.begun_with("waiting", "one") == frozenset()
    assert deaths.begun_with("d", "one") == frozenset()
    assert deaths.begun_with("a", "one") == deaths.begun_with("b", "one") == {"a", "b"}


def test_a_process_that_ends_itself_makes_nothing_suspect() -> None:
    """Until another process begins at its address."""
    deaths = WorkerDeaths()
    deaths.begun("a", "one")
    deaths.ends_itself("one")
    assert deaths.begun_with("a", "one") == frozenset()
    deaths.begun("b", "one")
    assert deaths.begun_with("b", "one") == {"b"}
