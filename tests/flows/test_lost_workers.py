"""What is run again when a worker died."""

from __future__ import annotations

from collections.abc import Callable

from flows.lost_workers import FATAL_DEATHS, PIECES, set_aside, suspects
from tasks.fallback import Status
from tasks.stage_task import Batch
from tasks.storage import results
from tasks.storage.database import Database


def batch(*item_ids: str, deaths: int = 0) -> Batch:
    return Batch(number=1, item_ids=item_ids, deaths=deaths)


def test_a_batch_comes_again_in_pieces() -> None:
    """Every item is in exactly one piece, and each piece is a suspect."""
    ids = tuple(map(str, range(100)))
    pieces = suspects(batch(*ids), was_alone=False)
    assert len(pieces) == PIECES
    assert tuple(item for piece in pieces for item in piece.item_ids) == ids
    assert all(piece.is_suspect and piece.deaths == 0 for piece in pieces)


def test_a_death_counts_only_where_it_can_have_one_cause() -> None:
    """Of a batch that was not alone nothing is held against its items."""
    assert [piece.deaths for piece in suspects(batch("a", "b"), was_alone=True)] == [1, 1]
    assert [piece.deaths for piece in suspects(batch("a", "b"), was_alone=False)] == [0, 0]


def test_an_item_is_set_aside_after_its_second_death_alone() -> None:
    """An item that was alone is tried once more; after that nothing is left to run."""
    (again,) = suspects(batch("a"), was_alone=True)
    assert again.deaths == FATAL_DEATHS - 1
    assert suspects(again, was_alone=True) == []
    assert len(suspects(again, was_alone=False)) == 1


def test_what_is_set_aside_is_failed_and_may_be_tried_again(database: Database, registered: Callable[..., str]) -> None:
    """The store says which stage, and why; other items are not touched."""
    run_id = registered("a", "b")
    set_aside(database, run_id, batch("a"), "extract_text")
    one, other = results.load(database, ["a", "b"])
    assert one.results["extract_text"].status is Status.FAILED
    assert one.results["extract_text"].retryable
    assert other.results == {}
