"""`repli reprocess` under `kill -9`: no item is lost, none is done twice, and what is left is taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.storage.search import neighbours
from repli.tasks.storage.search.matrices import Matrices
from repli.tasks.storage.search.query import search
from tests.benchmarks.kill_reprocess import ITEMS_PER_KILL, campaign
from tests.support.preloaded import Preloaded, Shop

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]

KILLS = 6


def test_it_may_be_killed_at_any_moment(preloaded: Preloaded, tmp_path: Path, standing: dict[str, str]) -> None:
    """After each kill every item is whole, queued, or claimed for a while; one run that is let be lifts the rest."""
    shop = Shop(preloaded, tmp_path / "home")
    outcome = campaign(shop, tmp_path / "items", standing["REPLI_DASK_ADDRESS"], kills=KILLS, seed=11)
    after_kills = outcome.censuses[1:-1]
    assert outcome.killed_at_work == KILLS, "none ended before its time"
    assert sum(bool(census.claimed) for census in after_kills) >= KILLS / 3, "some were in the middle of something"
    assert outcome.left, "there was something left to lift"
    assert outcome.last["claimed"] == outcome.last["upgraded"] == outcome.left
    done = outcome.censuses[-1].done
    assert len(done) == ITEMS_PER_KILL * KILLS
    [space] = neighbours.spaces(shop.store)
    assert space != HASHED_SPACE
    with Matrices(shop.store).open() as matrices:
        looked_for = matrices[space].vectors[0].copy()
    for words, vectors in (["thing"], {}), ([], {space: looked_for}):
        found = search(shop.store, words, vectors, limit=len(done), min_quality=1)
        assert {hit.id for hit in found} == done, "a search does not know what was lifted"
