"""Search over stored items, on both databases: words, vectors of one space at a time, and quality."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sqlite3
import time
import tracemalloc
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import Status, StepResult
from repli.tasks.items import Embedding, Item, Text
from repli.tasks.storage import catalogue, results, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items
from repli.tasks.storage.search import documents, neighbours
from repli.tasks.storage.search.matrices import Matrices
from repli.tasks.storage.search.neighbours import Vector
from repli.tasks.storage.search.query import RANK_CONSTANT, Hit, RankBy, Ranking, fuse, search, words_of
from repli.tasks.storage.search.snippets import BEGIN, END, TOKENIZER
from tests.support.stores import store_at

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
SPACE, OTHER = "model:1", "hashing:1"
WHOLE: dict[str, Any] = {"status": Status.SUCCEEDED, "penalty": Decimal(1)}
FISH = "A fish lives in the sea. It breathes by gills, and swims by its fins."


def unit(*numbers: float) -> Vector:
    """A vector of length 1, of three dimensions."""
    vector = np.asarray([*numbers, 0, 0][:3], dtype=np.float32)
    return vector / np.float32(np.linalg.norm(vector))


class Shelf:
    """Puts items into a store as the stages would, and looks for them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._runs = 0

    def put(
        self,
        item_id: str,
        text: str = "",
        *,
        label: str | None = None,
        vector: Vector | None = None,
        space: str = SPACE,
        quality: str = "1",
        confidence: float = 1.0,
    ) -> None:
        """Store an item, or store it anew; below 1 its image was degraded."""
        self._runs += 1
        run_id = f"run-{self._runs}"
        common: dict[str, Any] = {"item_id": item_id, "run_id": run_id, "finished_at": NOW}
        common["confidence"] = confidence
        less: dict[str, Any] = {"status": Status.DEGRADED, "penalty": Decimal(quality)}
        steps = [
            StepResult(stage="extract_text", value=Text(text=text), **common, **WHOLE),
            StepResult(stage="classify_image", value={"label": label}, **common, **(WHOLE if quality == "1" else less)),
        ]
        if vector is not None:
            steps.append(StepResult(stage="embed_text", value=Embedding(space=space, vector=vector), **common, **WHOLE))
        results.save(self.database, steps)
        store_at(self.database, run_id, {item_id: Decimal(quality)})

    def register(self, *item_ids: str) -> None:
        run_id = runs.start(self.database, str(uuid.uuid4()), "manifest.jsonl", {}, datetime.now(UTC))
        catalogue.register(self.database, run_id, [Item(id=item_id, name=item_id) for item_id in item_ids])

    def find(
        self,
        query: str = "",
        *,
        limit: int = 10,
        min_quality: float = 0,
        rank_by: RankBy = RankBy.QUALITY,
        **vectors: Vector,
    ) -> list[Hit]:
        """The hits of a query; vectors are given by `model` and `hashing`."""
        by_space = {{"model": SPACE, "hashing": OTHER}.get(name, name): vector for name, vector in vectors.items()}
        words = words_of(query)
        return search(self.database, words, by_space, limit=limit, min_quality=min_quality, rank_by=rank_by)

    def ids(self, *arguments: Any, **options: Any) -> list[str]:
        return [hit.id for hit in self.find(*arguments, **options)]


@pytest.fixture
def shelf(database: Database) -> Shelf:
    return Shelf(database)


def test_words_find_what_has_them(shelf: Shelf) -> None:
    """By name, label or text, in any form of the word; the passage is shown with the words marked."""
    shelf.register("fish", "bird", "stone")
    shelf.put("fish", FISH)
    shelf.put("bird", "It flies.", label="seagull")
    shelf.put("stone", "It does nothing.")
    [hit] = shelf.find("swimming")
    assert hit.id == "fish"
    assert f"{BEGIN}swims{END}" in hit.snippet
    assert hit.as_json()["snippet"].count("**swims**") == 1
    assert shelf.ids("seagulls") == ["bird"]
    assert set(shelf.ids("stone fish")) == {"stone", "fish"}
    assert shelf.ids("whale") == []


def test_a_hit_says_its_quality_and_what_is_degraded(shelf: Shelf) -> None:
    """Of two that say the same, the whole one comes first."""
    shelf.register("carp", "tuna")
    shelf.put("carp", FISH, quality="0.72")
    shelf.put("tuna", FISH)
    second = shelf.find("gills")[1]
    assert shelf.ids("gills") == ["tuna", "carp"]
    assert (second.id, second.quality, second.degraded) == ("carp", 0.72, ("classify_image",))
    assert second.score < 0.73
    assert shelf.find("gills")[0].score == 1
    assert shelf.ids("gills", min_quality=0.8) == ["tuna"]
    assert shelf.ids("gills", limit=1) == ["tuna"]


def test_hits_may_be_ranked_by_their_expected_accuracy(shelf: Shelf) -> None:
    """By it alone; those that are surely not right come last, by their relevance, and those without one by quality."""
    shelf.register("carp", "tuna", "eel", "aal", "perch")
    shelf.put("carp", FISH, quality="0.72", confidence=0.9)
    shelf.put("tuna", FISH, confidence=0.5)
    shelf.put("perch", FISH, quality="0.6", confidence=1.0)
    shelf.put("eel", FISH, confidence=0.0)
    shelf.put("aal", "Of a fish with gills there is not much that any of us could say.", confidence=0.0)
    with shelf.database.write() as connection:
        connection.execute(sa.update(items).where(items.c.id == "perch").values(expected_accuracy=None))
    assert set(shelf.ids("gills")[:2]) == {"eel", "tuna"}
    hits = shelf.find("gills", rank_by=RankBy.EXPECTED_ACCURACY)
    assert [hit.id for hit in hits] == ["carp", "perch", "tuna", "eel", "aal"]
    assert [hit.expected_accuracy for hit in hits] == [0.81, None, 0.25, 0.0, 0.0]


def test_items_without_a_vector_are_found_by_words(shelf: Shelf) -> None:
    """Beside those that have one, in one list."""
    shelf.register("near", "far", "none")
    shelf.put("near", "Whatever.", vector=unit(1, 0, 0))
    shelf.put("far", "Whatever.", vector=unit(0, 1, 0))
    shelf.put("none", FISH)
    assert shelf.ids(model=unit(1, 0.1, 0)) == ["near", "far"]
    assert shelf.ids("gills", model=unit(1, 0.1, 0)) == ["near", "none", "far"]


def test_a_whole_item_is_before_its_degraded_self(shelf: Shelf) -> None:
    """First by words and whole, it is found before one that says the same, without a vector and of less quality."""
    others = [f"other-{number:02}" for number in range(30)]
    shelf.register("whole", "less", *others)
    shelf.put("whole", FISH, vector=unit(0, 1))
    shelf.put("less", FISH, quality="0.7")
    for number, item_id in enumerate(others):
        shelf.put(item_id, vector=unit(1, number / 100))
    found = {hit.id: hit.score for hit in shelf.find("gills", model=unit(1, 0), limit=40)}
    assert found["whole"] > found["less"]
    assert found["other-00"] > found["less"], "the nearest of all is behind an item without a vector"


@given(
    of_words=st.permutations(range(8)),
    of_meaning=st.permutations(range(8)),
    found=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    lost=st.integers(0, 7),
)
def test_nothing_is_gained_by_the_loss_of_a_vector(
    of_words: list[int], of_meaning: list[int], found: tuple[int, int], shares: tuple[float, float], lost: int
) -> None:
    """An item has at most as much without a vector as with one, wherever it is in the lists, whatever its space."""
    words = Ranking(numbers=of_words[: found[0]])
    spaces = [of_meaning[: found[1]], of_meaning[found[1] :]]
    whole = [Ranking(numbers=one, share=share) for one, share in zip(spaces, shares, strict=True)]
    without = [replace(one, numbers=[number for number in one.numbers if number != lost]) for one in whole]
    assert fuse(words, without).get(lost, 0) <= fuse(words, whole).get(lost, 0)


def test_spaces_are_those_of_the_vectors(shelf: Shelf) -> None:
    """Each once, and none of an empty store, or of items without a vector."""
    assert neighbours.spaces(shelf.database) == []
    shelf.register("a", "b", "c", "d")
    shelf.put("d", "No vector.")
    assert neighbours.spaces(shelf.database) == []
    for item_id, space in {"a": SPACE, "b": SPACE, "c": OTHER}.items():
        shelf.put(item_id, vector=unit(1), space=space)
    assert neighbours.spaces(shelf.database) == sorted([SPACE, OTHER])


def test_vectors_of_different_spaces_are_never_compared(shelf: Shelf) -> None:
    """A vector of another space is not near, whatever its numbers are, and one that moved is in its new space only."""
    shelf.register("model", "hashed", "moved")
    shelf.put("model", vector=unit(0, 1, 0))
    shelf.put("hashed", vector=unit(1, 0, 0), space=OTHER)
    shelf.put("moved", vector=unit(1, 0, 0), space=OTHER)
    assert shelf.ids(model=unit(1, 0, 0)) == ["model"]
    assert set(shelf.ids(hashing=unit(1, 0, 0))) == {"hashed", "moved"}
    shelf.put("moved", vector=unit(1, 0, 0), space=SPACE)
    assert shelf.ids(hashing=unit(1, 0, 0)) == ["hashed"]
    assert shelf.ids(model=unit(1, 0, 0)) == ["moved", "model"]


@contextmanager
def slow(database: Database) -> Iterator[None]:
    """Without what makes a search by vectors fast: the folder of matrices, or pgvector's table."""
    folder = Path(f"{database.url.database}.vectors")
    if database.is_sqlite:
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_text("a file is in its place")
    else:
        _rename(database, "document_vectors", "put_away")
    try:
        yield
    finally:
        if database.is_sqlite:
            folder.unlink()
        else:
            _rename(database, "put_away", "document_vectors")


def _rename(database: Database, old: str, new: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))
    documents._has_vector_table.cache_clear()


@pytest.mark.parametrize(("space", "dimensions"), [("of another length", 2), ("of the same", 3)])
def test_a_vector_that_is_not_stored_yet_is_not_compared(shelf: Shelf, space: str, dimensions: int) -> None:
    """Between `embed_text` and `store` an item has a vector of the space to come, and is in neither."""
    shelf.register("hashed", "better", "model")
    shelf.put("hashed", vector=unit(1, 0), space=OTHER)
    shelf.put("better", vector=unit(0, 1), space=OTHER)
    x, y = unit(1, 0)[:dimensions], unit(0, 1)[:dimensions]
    shelf.put("model", vector=y, space=space)
    new = Embedding(space=space, vector=x)
    step = StepResult(item_id="better", stage="embed_text", value=new, run_id="mend", finished_at=NOW, **WHOLE)
    results.save(shelf.database, [step])
    with slow(shelf.database):
        assert shelf.ids(hashing=unit(0, 1)) == ["hashed"]
        assert shelf.ids(**{space: x}) == ["model"]
    assert "better" not in shelf.ids(**{space: x})
    assert shelf.ids(hashing=unit(1, 0))[0] == "hashed"
    store_at(shelf.database, "mend", {"better": Decimal(1)})
    assert shelf.ids(**{space: x})[0] == "better"
    assert shelf.ids(hashing=unit(0, 1)) == ["hashed"]


def test_the_best_of_a_few_is_not_the_best_of_all(shelf: Shelf) -> None:
    """The first of a space of two stands where it would be expected among all: behind some of the twenty."""
    many = [f"many-{number:02}" for number in range(20)]
    shelf.register(*many, "few-0", "few-1")
    for number, item_id in enumerate(many):
        shelf.put(item_id, vector=unit(1, number / 10, 0))
    for number in range(2):
        shelf.put(f"few-{number}", vector=unit(1, number / 10, 0), space=OTHER)
    found = shelf.ids(model=unit(1, 0, 0), hashing=unit(1, 0, 0), limit=20)
    assert found[:5] == many[:5]
    assert found.index("few-0") in range(8, 12)
    assert "few-1" not in found or found.index("few-1") > 18


def test_the_index_is_never_stale(shelf: Shelf) -> None:
    """What is stored is found at once, by what it says now; what failed since is not found at all."""
    shelf.register("a", "b")
    shelf.put("a", "An old story.", vector=unit(1, 0))
    shelf.put("b", "Another.", vector=unit(0, 1))
    assert shelf.ids("old") == ["a"]
    shelf.put("a", "A new tale.", vector=unit(0, 1))
    assert shelf.ids("old") == []
    assert shelf.ids("tale") == ["a"]
    first, second = shelf.find(model=unit(0, 1))
    assert first.score == pytest.approx(second.score * (2 + RANK_CONSTANT) / (1 + RANK_CONSTANT))
    failed = StepResult(item_id="b", stage="validate", status=Status.FAILED, run_id="last", finished_at=NOW)
    results.save(shelf.database, [failed])
    assert shelf.ids("another") == []
    assert shelf.ids(model=unit(0, 1)) == ["a"]


def test_nothing_is_made_anew_for_one_item(shelf: Shelf, database: Database) -> None:
    """A search after a batch takes in what that batch changed, and leaves every other row of the matrix alone."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL keeps its index itself")
    shelf.register("a", "b", "c")
    shelf.put("a", vector=unit(1, 0))
    shelf.put("b", vector=unit(1, 1))
    assert shelf.ids(model=unit(1, 0)) == ["a", "b"]
    [path] = Path(f"{database.url.database}.vectors").glob("*.f32")
    matrix = np.memmap(path, np.float32, "r+").reshape(-1, 3)
    [spoiled] = np.flatnonzero(matrix[:, 1] > 0.5)
    matrix[spoiled] = unit(-1, 0)
    matrix.flush()
    shelf.put("c", vector=unit(1, 0.5))
    assert shelf.ids(model=unit(1, 0)) == ["a", "c", "b"], "a row was written again that nothing had changed"


def test_a_cache_that_is_gone_or_foreign_is_made_again(shelf: Shelf, database: Database) -> None:
    """The folder beside a SQLite store may be deleted, and one that another store left is not believed."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL keeps its index itself")
    shelf.register("a", "b")
    shelf.put("a", vector=unit(1, 0))
    shelf.put("b", vector=unit(0, 1))
    folder = Path(f"{database.url.database}.vectors")
    assert shelf.ids(model=unit(0, 1)) == ["b", "a"]
    shutil.rmtree(folder)
    assert shelf.ids(model=unit(0, 1)) == ["b", "a"]
    state = folder / "state.json"
    state.write_text(state.read_text().replace('"run": ["', '"run": ["another-'))
    [path] = folder.glob("*.f32")
    path.write_bytes(b"\0" * path.stat().st_size)
    assert shelf.ids(model=unit(0, 1)) == ["b", "a"]
    state.write_text("{ half a sta")
    assert shelf.ids(model=unit(0, 1)) == ["b", "a"]
    whole = json.loads(state.read_text())
    state.write_text(json.dumps({**whole, "revision": whole["revision"] + 1}))  # of a store that was put back since
    path.write_bytes(b"\0" * path.stat().st_size)
    assert shelf.ids(model=unit(0, 1)) == ["b", "a"]
    path.write_bytes(b"")
    assert shelf.ids(model=unit(0, 1)) == ["b", "a"]
    state.write_text(json.dumps({**whole, "format": whole["format"] - 1}))  # of an older Repli
    path.write_bytes(b"\0" * 108)
    assert shelf.ids(model=unit(0, 1)) == ["b", "a"]


@pytest.mark.parametrize("is_in_a_run", [True, False], ids=["made during a run", "made before a run"])
def test_a_backup_that_is_put_back_has_its_own_vectors(shelf: Shelf, database: Database, is_in_a_run: bool) -> None:
    """What was in the cache since the backup was made is not taken for what is in the store since it was put back."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL keeps its index itself")
    ids = [f"item-{number}" for number in range(4)]
    shelf.register(*ids)
    for item_id in ids[:2]:
        shelf.put(item_id, vector=unit(1, 0))
    kept = Path(f"{database.url.database}.backup")
    with closing(sqlite3.connect(str(database.url.database))) as store, closing(sqlite3.connect(kept)) as backup:
        store.backup(backup)
    if is_in_a_run:
        run = runs.latest(database, source="manifest.jsonl")
        assert run
        runs.beat(database, run.id)
    else:
        shelf.register(*ids)
    shelf.put("item-0", vector=unit(0, 1))
    shelf.put("item-2", vector=unit(1, 0))
    assert shelf.ids(model=unit(0, 1))[0] == "item-0"
    with closing(sqlite3.connect(kept)) as backup, closing(sqlite3.connect(str(database.url.database))) as store:
        backup.backup(store)
    shelf.register(*ids)
    for item_id in ids[1:]:
        shelf.put(item_id, vector=unit(0, 1))
    assert set(shelf.ids(model=unit(0, 1), limit=3)) == set(ids[1:])


HOSTILE = {
    '"': False,
    "'; DROP TABLE items; --": False,
    'fish" OR "1"="1': True,
    "NEAR(fish gills, 2)": True,
    "fish AND NOT gills": True,
    "text: fish": True,
    "^fish* -gills": True,
    "fish & | ! <-> gills:*": True,
    "'fish' \\ 'gills": True,
    "(((": False,
    "\x02 \x02\x03 %s %(name)s :words": False,
    "🐟 gills": True,
    "fish " * 2_500: True,
    " ".join(f"word{number}" for number in range(1_500)): False,
    "é̂ß İstanbul ﬁsh 魚 рыба": False,
    "x_y c__d _": False,
    "an_fish": True,
    "²³ ½ ª": False,
    "\u0301 \u093f": False,
}
"""Each with whether it finds the fish."""


@pytest.mark.parametrize(("query", "is_found"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_no_query_breaks_it(shelf: Shelf, query: str, is_found: bool) -> None:
    """Quotes, operators, 10 kB, emoji: an answer, and the item where a word of it is there."""
    shelf.register("fish")
    shelf.put("fish", FISH)
    assert shelf.ids(query) == (["fish"] if is_found else [])


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ("node.js", ["node", "js", "node.js", "JS"]),
        ("Of a harbour.jpg", ["harbour", "jpg", "harbour.jpg"]),
        ("3.14", ["3.14", "3", "14"]),
        ("-5 °C", ["5", "-5"]),
        ("fish/chips", ["fish", "chip", "fish/chips"]),
        ("bob@example.com", ["bob", "example", "bob@example.com"]),
        ("https://example.com/a-page?q=1#top", ["page", "top", "https://example.com/a-page?q=1#top"]),
        ("snake_case", ["snake", "case", "snake_case"]),
        ("<b>bold</b> &amp; brave", ["bold", "brave", "b"]),
        ("C'est l'été", ["été", "ete", "Ete", "e\u0301te\u0301", "l'été"]),
        ("İstanbul", ["İstanbul", "istanbul", "ISTANBUL"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Рыба", ["рыба", "РЫБА"]),
        ("한국어 문서", ["한국어"]),
        ("The Who", ["the who", "The Who", "who"]),
        ("To be, or not to be", ["to be or not to be"]),
        ("2³ H₂O", ["2³", "h₂o"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_word_is_found_whatever_stands_beside_it(shelf: Shelf, text: str, queries: Sequence[str]) -> None:
    """By itself and as it is written, on both databases alike; the snippet marks it."""
    shelf.register("it", "other")
    shelf.put("it", text)
    shelf.put("other", "Nothing in common.")
    for query in queries:
        [hit] = shelf.find(query)
        assert (hit.id, BEGIN in hit.snippet) == ("it", True), query


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x02BEGIN\x03 fish",
        "fish\n\n\tfish",
        "<b>fish</b> **fish**",
        "fish " * 50_000,
        "fish-" * 50_000,
        "f" * 9_999,
    ],
)
def test_no_text_breaks_it(shelf: Shelf, text: str) -> None:
    """Whatever an item's text is, its snippet is one line of it, not a long one, its marks in pairs, found soon."""
    shelf.register("fish")
    shelf.put("fish", text)
    began = time.monotonic()
    [hit] = shelf.find("fish")
    assert time.monotonic() - began < 30
    assert "\n" not in hit.snippet
    assert hit.snippet
    assert len(re.sub(f"[{BEGIN}{END}]", "", hit.snippet)) < 1000
    assert re.fullmatch(f"([^{BEGIN}{END}]|{BEGIN}[^{BEGIN}{END}]+{END})*", hit.snippet)


def test_a_snippet_is_where_most_of_the_words_are(shelf: Shelf) -> None:
    """Of a long text, the passage with most of the words looked for, each counted once, with what stands around it."""
    shelf.register("long")
    filler = " ".join(["nothing"] * 100)
    shelf.put("long", f"Gills. {filler} fish fish fish fish. {filler} A fish breathes by gills. {filler} Fish, gills.")
    [hit] = shelf.find("gill fish")
    assert f"nothing A {BEGIN}fish{END} breathes by {BEGIN}gills{END}. nothing" in hit.snippet
    assert hit.snippet[0] == hit.snippet[-1] == "…"
    assert hit.snippet.count("nothing") < 24


def test_snippets_of_many_long_texts_take_the_memory_of_one(shelf: Shelf) -> None:
    """They are chosen one text at a time."""
    shelf.register("a", "b", "c", "d", "e", "f")
    text = " ".join(f"fish{number}" for number in range(20_000))

    def peak(limit: int) -> int:
        tracemalloc.start()
        assert len(shelf.find("fish7", limit=limit)) == limit
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    for item_id in "abcdef":
        shelf.put(item_id, text)
    peak(1)
    assert peak(6) < 2 * peak(1)


def test_snippets_mark_what_the_index_finds(database: Database) -> None:
    """Words are taken apart for a snippet as they are in the full-text index."""
    if not database.is_sqlite:
        pytest.skip("its words are those of FTS5, see above")
    with database.read() as connection:
        made = connection.scalar(sa.text("SELECT sql FROM sqlite_master WHERE name = 'documents_words'"))
    assert f"tokenize='{TOKENIZER}'" in str(made)


def test_a_filter_does_not_empty_the_list(shelf: Shelf) -> None:
    """The nearest of enough quality are found behind any number of nearer ones."""
    low, high = [f"low-{n:03}" for n in range(300)], ["high-0", "high-1"]
    shelf.register(*low, *high)
    for number, item_id in enumerate(low):
        shelf.put(item_id, vector=unit(1, number / 1000), quality="0.72")
    for number, item_id in enumerate(high):
        shelf.put(item_id, vector=unit(0.1, 1 + number))
    assert shelf.ids(model=unit(1, 0), min_quality=0.9) == high


def test_without_what_makes_it_fast_it_is_slower_and_the_same(shelf: Shelf) -> None:
    """Where the folder beside a SQLite store cannot be written, or there is no pgvector: by the step results."""
    with slow(shelf.database):
        shelf.register("a", "b")
        shelf.put("a", vector=unit(1, 0))
        shelf.put("b", vector=unit(0, 1))
        assert not documents.has_pgvector(shelf.database)
        assert shelf.ids(model=unit(0.1, 1)) == ["b", "a"]
    if shelf.database.is_sqlite:
        assert shelf.ids(model=unit(0.1, 1)) == ["b", "a"]


def test_a_matrix_is_as_long_as_its_space(shelf: Shelf, database: Database) -> None:
    """One row for each vector, whatever else is in the store; a row that was left is taken by the next."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL keeps its index itself")
    many = [f"many-{number:02}" for number in range(20)]
    shelf.register(*many, "few-0", "few-1")
    for item_id in many:
        shelf.put(item_id, vector=unit(1, 0))
    shelf.put("few-0", vector=unit(0, 1), space=OTHER)

    def rows() -> dict[str, int]:
        with Matrices(database).open() as matrices:
            assert all(len(matrix.numbers) == len(matrix.vectors) for matrix in matrices.values())
            return {space: len(matrix.vectors) for space, matrix in matrices.items()}

    assert rows() == {SPACE: 20, OTHER: 1}
    shelf.put("many-07", vector=unit(1, 0), space=OTHER)
    assert rows() == {SPACE: 20, OTHER: 2}
    assert set(shelf.ids(model=unit(1, 0), limit=20)) == {*many} - {"many-07"}
    shelf.put("few-1", vector=unit(0, 1))
    assert rows() == {SPACE: 20, OTHER: 2}
    assert shelf.ids(model=unit(0, 1), limit=1) == ["few-1"]
    assert shelf.ids(hashing=unit(0, 1)) == ["few-0", "many-07"]


def _open(url: str, ready: Any) -> list[int]:
    ready.wait()
    with Matrices(Database(url)).open() as matrices:
        return [len(matrix.vectors) for matrix in matrices.values()]


def test_processes_may_open_the_matrices_at_once(shelf: Shelf, database: Database) -> None:
    """Several that find the cache empty make it once, and see it whole."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL keeps its index itself")
    shelf.register("a", "b")
    shelf.put("a", vector=unit(1, 0))
    shelf.put("b", vector=unit(0, 1))
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(3) as pool:
        ready = manager.Barrier(3)
        url = database.url.render_as_string(hide_password=False)
        opened = pool.starmap(_open, [(url, ready)] * 3)
    assert opened == [opened[0]] * 3
    assert opened[0][0] >= 2


class TestPostgreSQL:
    """What only PostgreSQL has."""

    @pytest.fixture(autouse=True)
    def _only_there(self, database: Database) -> None:
        if database.is_sqlite:
            pytest.skip("SQLite has its matrices")

    def test_a_filter_finds_what_the_index_gives_up_on(self, shelf: Shelf, database: Database) -> None:
        """A walk through the index ends after so many vectors; what is wanted may be behind them."""
        low, high = [f"low-{n:03}" for n in range(200)], ["high-0", "high-1"]
        shelf.register(*low, *high)
        for number, item_id in enumerate(low):
            shelf.put(item_id, vector=unit(1, number / 1000), quality="0.72")
        for number, item_id in enumerate(high):
            shelf.put(item_id, vector=unit(0.1, 1 + number))

        def walk(connection: Any) -> None:
            for setting in "hnsw.max_scan_tuples = 1", "enable_seqscan = off", "enable_sort = off":
                connection.execute(sa.text(f"SET LOCAL {setting}"))

        sa.event.listen(database.engine, "begin", walk)
        try:
            assert shelf.ids(model=unit(1, 0), min_quality=0.9) == high
            assert shelf.ids(model=unit(1, 0), limit=2) == low[:2]
        finally:
            sa.event.remove(database.engine, "begin", walk)

    def test_the_index_of_a_space_serves_its_searches(self, shelf: Shelf, database: Database) -> None:
        """The plan of a search uses the HNSW index of its own space, and no other."""
        shelf.register("a", "b")
        shelf.put("a", vector=unit(1, 0))
        shelf.put("b", vector=unit(1, 0, 0), space=OTHER)
        plans: list[str] = []

        def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            if "vector(3)" in statement and not statement.startswith("EXPLAIN"):
                with connection.connection.cursor() as other:
                    other.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
                    other.execute("EXPLAIN " + statement, parameters)
                    plans.append("\n".join(row[0] for row in other.fetchall()))

        sa.event.listen(database.engine, "before_cursor_execute", explain)
        assert shelf.ids(model=unit(1, 0)) == ["a"]
        assert shelf.ids(hashing=unit(1, 0, 0)) == ["b"]
        indexes = [plan.partition("Index Scan using document_vectors_")[2][:16] for plan in plans]
        assert all(indexes), plans
        assert len(set(indexes)) == 2


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    vectors=st.lists(st.tuples(*[st.integers(-50, 50)] * 3).filter(any), min_size=1, max_size=30, unique=True),
    query=st.tuples(*[st.integers(-50, 50)] * 3).filter(any),
)
def test_nearest_means_nearest(vectors: Sequence[tuple[int, ...]], query: tuple[int, ...]) -> None:
    """What is taken from a matrix is in the order of the cosines, whatever the numbers."""
    matrix = np.stack([unit(*vector) for vector in vectors])
    cosines = matrix @ unit(*query)

    best = neighbours.nearest(cosines, np.arange(len(matrix)), 5, are_stored=set)
    assert [cosines[number] for number in best] == sorted(cosines, reverse=True)[:5]
