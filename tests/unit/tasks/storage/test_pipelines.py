"""The pipeline of a store: declared by runs, changed on request, and asked for roles by search and views."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

import repli
from repli.tasks.fallback import Breaker, RepliError, Status, UsageError
from repli.tasks.items import Item
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.reporting.export import export
from repli.tasks.search import Mode, Query, search
from repli.tasks.settings import Settings
from repli.tasks.storage import pipelines
from repli.tasks.storage.database import Database
from repli.tasks.storage.pipelines import PipelineConflict, StoredPipeline
from repli.tasks.storage.retry import claims, retry_queue
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.schema import stages as stages_table
from repli.tasks.storage.search import query
from repli.tasks.storage.views import browse, lookup, sample
from repli.tasks.storage.views.browse import Selection
from repli.tasks.storage.views.dashboard_stats import collect_stats
from repli.tasks.storage.views.lookup import ItemView
from tests.support.own_pipeline import modules_of, run, saved, stage_by, states

ITEMS = [Item(id=id_, name=f"name of {id_}") for id_ in ("a", "b", "c", "d", "e")]
IDS = [item.id for item in ITEMS]


def described(*stages: Stage, name: str = "own:pipeline") -> StoredPipeline:
    return Pipeline(stages).described(name)


@pytest.fixture
def empty(database: Database) -> Database:
    """A store that no run has filled."""
    with database.write() as connection:
        connection.execute(sa.delete(stages_table))
    return database


def fill(database: Database, *stages: Stage, name: str = "own:pipeline", items: Sequence[Item] = ITEMS) -> Pipeline:
    """Make these stages the store's pipeline, and run it over the items."""
    pipeline = Pipeline(stages)
    pipelines.declare(database, pipeline.described(name))
    run(pipeline, database, items)
    return pipeline


def read(database: Database) -> StoredPipeline:
    """Return the store's pipeline, which there is."""
    stored = pipelines.read(database)
    assert stored
    return stored


def view(database: Database, item_id: str) -> ItemView:
    """Return an item as `repli show` has it."""
    found = lookup.view(database, item_id, read(database))
    assert found
    return found


def found(database: Database, words: str) -> list[str]:
    """Return the ids of the items that have any of these words."""
    return [hit.id for hit in query.search(database, words.split(), {}, limit=10, min_quality=0)]


class TestDeclare:
    """The pipeline that a run declares."""

    def test_a_new_store_has_none(self, empty: Database) -> None:
        """Before its first run."""
        assert pipelines.read(empty) is None

    def test_it_comes_back_as_it_went(self, empty: Database) -> None:
        """Its name, its stages in their order, their roles, rungs, penalties, limits and breakers."""
        first = Stage("first", input=len, produces=repli.Text)
        first.rung(time_limit_s=30, breaker=Breaker(scope="fleet", failures=2))(max)
        first.rung(time_limit_s=2.5, penalty="0.90", per_item=True)(min)
        first.skip(penalty="0.5")
        given = described(first, stage_by("second", skip=None))
        pipelines.declare(empty, given)
        stored = read(empty)
        assert str(stored) == "own:pipeline (first: text → second → store)"
        assert (stored.names, stored.produces) == (("first", "second", "store"), {"first": "text"})
        assert stored.breakers == {"first.max": Breaker(scope="fleet", failures=2)}
        for chain, declared in zip(stored.chains, given.chains, strict=True):
            assert (chain.rung_names, chain.is_required) == (declared.rung_names, declared.is_required)
            assert [(one.factor, one.time_limit_s, one.per_item) for one in chain.rungs] == [
                (one.factor, one.time_limit_s, one.per_item) for one in declared.rungs
            ]
        with pytest.raises(AssertionError, match="a rung that was read from the store was called"):
            stored.chains[0].rungs[0].run([], None)

    def test_twice_is_once(self, empty: Database) -> None:
        """The second time writes nothing, so that it needs no lock of a store that is busy."""
        given = described(stage_by("first"))
        pipelines.declare(empty, given)
        with empty.write() if empty.is_sqlite else empty.read():  # SQLite has one writer: another would wait and fail
            pipelines.declare(Database(empty.url.render_as_string(hide_password=False)), given)

    def test_rungs_may_change(self, empty: Database) -> None:
        """The same stages with other rungs: the store has the latest."""
        pipelines.declare(empty, described(stage_by("first")))
        changed = stage_by("first", skip=None)
        changed.rung(time_limit_s=5, penalty="0.5")(max)
        pipelines.declare(empty, described(changed))
        assert read(empty).chains[0].rung_names == ("only", "max")

    def test_another_name_is_another_pipeline(self, empty: Database) -> None:
        """Its stages may have the same names, and do something else. To be told is enough: all results are kept."""
        pipelines.declare(empty, described(stage_by("first")))
        run(Pipeline([stage_by("first")]), empty, ITEMS)
        with pytest.raises(PipelineConflict, match="was filled by the pipeline"):
            pipelines.declare(empty, described(stage_by("first"), name="poems:pipeline"))
        pipelines.change(empty, described(stage_by("first"), name="poems:pipeline"))
        assert read(empty).name == "poems:pipeline"
        assert states(empty) == dict.fromkeys(IDS, "stored")

    @pytest.mark.parametrize(
        "other",
        [
            [stage_by("first"), stage_by("second"), stage_by("third")],
            [stage_by("first")],
            [stage_by("second"), stage_by("first")],
            [stage_by("first", produces=repli.Text), stage_by("second")],
        ],
        ids=["one more", "one less", "another order", "another role"],
    )
    def test_other_stages_are_a_conflict(self, empty: Database, other: list[Stage]) -> None:
        """The message has both pipelines and the ways out, and nothing is changed."""
        pipelines.declare(empty, described(stage_by("first"), stage_by("second")))
        with pytest.raises(PipelineConflict) as raised:
            pipelines.declare(empty, described(*other, name="other:pipeline"))
        message = str(raised.value)
        assert "was filled by the pipeline own:pipeline (first → second → store), and this run has " in message
        expected = described(*other, name="other:pipeline")
        assert str(expected) != str(read(empty)).replace("own", "other")
        assert f"{expected}; choose --pipeline own:pipeline, or another store with --database" in message
        assert "--change-pipeline" in message
        assert isinstance(raised.value, UsageError)
        assert str(read(empty)) == "own:pipeline (first → second → store)"

    def test_one_of_many_at_once(self, empty: Database) -> None:
        """Runs that begin together with different pipelines: one fills the store, and the others are told."""
        together = threading.Barrier(6)

        def begin(number: int) -> str:
            own = described(stage_by(f"stage_{number}"))
            together.wait()
            try:
                pipelines.declare(empty, own)
            except PipelineConflict:
                return ""
            return str(own)

        with ThreadPoolExecutor(6) as threads:
            [winner] = filter(None, threads.map(begin, range(6)))
        assert str(read(empty)) == winner


class Cut(BaseException):
    """The process that ends here."""


@contextmanager
def cut_off(database: Database, after: int) -> Iterator[None]:
    """End the block when it has committed so often, before the next commit."""
    left = after

    def count(connection: sa.Connection) -> None:
        nonlocal left
        if not left:
            raise Cut
        left -= 1

    sa.event.listen(database.engine, "commit", count)
    try:
        with pytest.raises(Cut):
            yield
    finally:
        sa.event.remove(database.engine, "commit", count)


class TestChange:
    """Another pipeline for a store that is filled."""

    def test_what_both_have_stays(self, empty: Database) -> None:
        """Results of other stages are deleted; all items are pending and queued; the next run does what is missing."""
        calls: list[str] = []

        def count(name: str) -> str:
            calls.append(name)
            return name

        fill(empty, kept := stage_by("kept", count), stage_by("gone"))
        new = Pipeline([kept, stage_by("new")])
        pipelines.change(empty, new.described("new:pipeline"))
        assert read(empty).names == ("kept", "new", "store")
        assert states(empty) == dict.fromkeys(IDS, "pending")
        assert set(saved(empty, "a")) == {"kept"}
        assert retry_queue.tally(empty).waiting == len(IDS)
        run(new, empty, ITEMS)
        assert len(calls) == len(IDS)
        assert states(empty) == dict.fromkeys(IDS, "stored")
        assert set(saved(empty, "a")) == {"kept", "new", "store"}
        assert retry_queue.tally(empty).waiting == 0

    @pytest.mark.parametrize("order", [["first"], ["second", "first"]], ids=["one less", "another order"])
    def test_items_are_stored_again_where_no_stage_is_new(self, empty: Database, order: list[str]) -> None:
        """Their quality may be what it was: they must not stay pending for that."""
        stages = {name: stage_by(name) for name in ("first", "second")}
        fill(empty, *stages.values())
        changed = Pipeline([stages[name] for name in order])
        pipelines.change(empty, changed.described("own:pipeline"))
        run(changed, empty, ITEMS)
        assert states(empty) == dict.fromkeys(IDS, "stored")

    def test_a_result_of_another_role_is_made_again(self, empty: Database) -> None:
        """A plain value is not the text that the stage now produces."""
        fill(empty, stage_by("told", lambda name: {"words": name}))
        changed = Pipeline([stage_by("told", produces=repli.Text)])
        pipelines.change(empty, changed.described("own:pipeline"))
        assert saved(empty, "a") == {}
        run(changed, empty, ITEMS)
        assert view(empty, "a").produced("text") == {"text": "name of a", "characters": 9}
        assert found(empty, "name") == IDS

    def test_what_failed_is_tried_again(self, empty: Database) -> None:
        """It is queued, so that `reprocess` stores it: the change may be what mends it, in a stage that stays too."""

        def refuse(name: str) -> str:
            if name.endswith("a"):
                raise repli.InvalidItem("it is broken")
            return name

        def refuse_too(name: str) -> str:
            if name.endswith("b"):
                raise repli.InvalidItem("it is broken too")
            return name

        kept = stage_by("kept", refuse_too, skip=None)
        fill(empty, kept, stage_by("gone", refuse, skip=None))
        assert states(empty) == {**dict.fromkeys(IDS, "stored"), "a": "failed", "b": "failed"}
        changed = Pipeline([kept])
        pipelines.change(empty, changed.described("own:pipeline"))
        assert states(empty) == dict.fromkeys(IDS, "pending")
        unfinished = [RetryTarget(stage="store", rungs=[None])]
        claimed = claims.claim(empty, "reprocess", unfinished, 10, 60)
        assert sorted(claim.item_id for claim in claimed) == ["a", "b", "c", "d", "e"]
        run(changed, empty, ITEMS)
        assert states(empty) == {**dict.fromkeys(IDS, "stored"), "b": "failed"}

    @pytest.mark.parametrize("commits", [0, 1, 2, 3])
    def test_it_may_be_cut_off_and_repeated(
        self, empty: Database, monkeypatch: pytest.MonkeyPatch, commits: int
    ) -> None:
        """At each of its commits; until the last one the store has its old pipeline."""
        monkeypatch.setattr(pipelines, "ITEMS_PER_WRITE", 2)
        fill(empty, kept := stage_by("kept"), stage_by("gone"))
        new = Pipeline([kept, stage_by("new")])
        with cut_off(empty, after=commits):
            pipelines.change(empty, new.described("new:pipeline"))
        reopened = dict.fromkeys(IDS[: 2 * commits], "pending")
        assert states(empty) == {**dict.fromkeys(IDS, "stored"), **reopened}
        assert read(empty).names == ("kept", "gone", "store")
        pipelines.change(empty, new.described("new:pipeline"))
        assert read(empty).names == ("kept", "new", "store")
        assert states(empty) == dict.fromkeys(IDS, "pending")
        run(new, empty, ITEMS)
        assert states(empty) == dict.fromkeys(IDS, "stored")

    def test_it_may_be_cut_off_and_taken_back(self, empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run of the old pipeline makes whole again what was deleted."""
        monkeypatch.setattr(pipelines, "ITEMS_PER_WRITE", 2)
        old = fill(empty, stage_by("kept"), stage_by("gone"))
        with cut_off(empty, after=1):
            pipelines.change(empty, described(stage_by("new")))
        pipelines.declare(empty, old.described("own:pipeline"))
        run(old, empty, ITEMS)
        assert states(empty) == dict.fromkeys(IDS, "stored")
        assert set(saved(empty, "a")) == {"kept", "gone", "store"}

    def test_to_the_same_is_nothing(self, empty: Database) -> None:
        """No item is done again; a changed name is kept. A store without a pipeline gets one."""
        stage = stage_by("kept")
        pipelines.change(empty, described(stage))
        fill(empty, stage)
        pipelines.change(empty, described(stage, name="installed"))
        assert read(empty).name == "installed"
        assert states(empty) == dict.fromkeys(IDS, "stored")


TEXTS = {"a": "Katze", "b": "Hund"}
TRANSLATIONS = {"b": "dog"}


def two_texts() -> list[Stage]:
    """A stage that has a text for some items, and one that translates some of these."""

    def told(texts: Mapping[str, str]) -> Any:
        def answer(item_id: str) -> str:
            if item_id not in texts:
                raise repli.Declined("nothing is known of it")
            return texts[item_id]

        return answer

    return [
        stage_by("original", told(TEXTS), input=lambda item: item.id, produces=repli.Text),
        stage_by("translation", told(TRANSLATIONS), input=lambda item: item.id, produces=repli.Text),
    ]


def embedding(
    name: str = "embed", vector: Sequence[float] = (0.6, 0.8), produces: type | None = repli.Embedding, **options: Any
) -> Stage:
    """A stage whose vectors are all the same."""
    return stage_by(
        name,
        lambda value: repli.Embedding(f"{name}:1", np.array(vector)),
        produces=produces,
        **{"query_input": lambda text: text, **options},
    )


class TestRoles:
    """Search and views ask what a stage produces; no stage here has a name that they know."""

    def test_the_last_text_that_there_is(self, empty: Database) -> None:
        """Of two stages of which one has none for an item, it is the other's."""
        fill(empty, *two_texts())
        assert {id_: view(empty, id_).produced("text").get("text") for id_ in ("a", "b", "c")} == {
            "a": "Katze",
            "b": "dog",
            "c": None,
        }
        assert (found(empty, "Katze"), found(empty, "dog"), found(empty, "Hund")) == (["a"], ["b"], [])
        with empty.read() as connection:
            rows = connection.execute(sa.text("SELECT id, text, label, vector_space FROM repli_items ORDER BY id"))
            assert [tuple(row) for row in rows][:3] == [
                ("a", "Katze", None, None),
                ("b", "dog", None, None),
                ("c", None, None, None),
            ]

    def test_a_text_that_comes_later_replaces_the_first(self, empty: Database) -> None:
        """Once its stage has served, the item is found by it alone."""
        first, second = two_texts()
        fill(empty, first)
        assert found(empty, "Hund") == ["b"]
        later = Pipeline([first, second])
        pipelines.change(empty, later.described("own:pipeline"))
        run(later, empty, ITEMS)
        assert (found(empty, "dog"), found(empty, "Hund"), found(empty, "Katze")) == (["b"], [], ["a"])

    def test_no_role_at_all(self, empty: Database) -> None:
        """Items are found by their names, sampled, counted and shown."""
        fill(empty, stage_by("price", lambda name: 9.5))
        assert found(empty, "name") == IDS
        shown = view(empty, "a")
        assert (shown.produced("text"), shown.produced("label"), shown.produced("embedding")) == ({}, {}, {})
        assert shown.as_json()["stages"]["price"]["value"] == 9.5
        assert sorted(sample.stratified(empty, 10)) == IDS
        stats = collect_stats(empty, read(empty))
        assert stats.tally.as_json()["stages"]["price"] == {"succeeded": len(IDS)}

    def test_a_store_without_vectors(self, empty: Database, settings: Settings) -> None:
        """A search goes by words; one by vectors alone says what there is."""
        fill(empty, *two_texts())
        of_store = replace(settings, database_url=empty.url.render_as_string(hide_password=False))
        result = search(of_store, empty, Query(text="Katze"))
        assert ([hit.id for hit in result.hits], result.notes) == (["a"], [])
        with pytest.raises(RepliError, match=r"^no stored item has a vector; try --mode keyword$"):
            search(of_store, empty, Query(text="Katze", mode=Mode.VECTOR))

    def test_a_label_and_a_vector(self, empty: Database) -> None:
        """They are found under their roles, whatever the stages are called."""
        fill(empty, stage_by("queue", lambda name: "billing", produces=repli.Label), embedding("meaning"))
        assert view(empty, "a").produced("label")["label"] == "billing"
        assert view(empty, "a").produced("embedding") == {"space": "meaning:1", "dimensions": 2}
        assert found(empty, "billing") == IDS
        by_vector = query.search(empty, [], {"meaning:1": np.array([0.6, 0.8], np.float32)}, limit=10, min_quality=0)
        assert [hit.id for hit in by_vector] == IDS

    def test_a_stage_without_a_label_has_no_word(self, empty: Database) -> None:
        """An earlier stage's label counts in its place."""

        def unknown(name: str) -> repli.Label:
            raise repli.Declined(f"{name} has no label")

        fill(
            empty,
            stage_by("rules", lambda name: "billing", produces=repli.Label),
            stage_by("model", unknown, produces=repli.Label),
        )
        assert found(empty, "billing") == IDS

    def test_a_vector_without_a_role_is_nobodys(self, empty: Database, tmp_path: Path) -> None:
        """A second stage of embeddings that has no role: search and export have the vector of the one that has."""
        fill(
            empty,
            embedding("picture", (1.0, 0.0), produces=None, query_input=None),
            embedding("words", (0.6, 0.8)),
            embedding("sound", (0.0, 1.0), produces=None, query_input=None),
        )
        path = tmp_path / "items.parquet"
        stored = read(empty)
        assert export(browse.browse(empty, stored, Selection()), stored.names, path) == len(IDS)
        import pyarrow.parquet as pq

        table = pq.read_table(path).to_pydict()
        assert table["vector_space"] == ["words:1"] * len(IDS)
        assert np.allclose(table["vector"], [[0.6, 0.8]] * len(IDS))
        by_vector = query.search(empty, [], {"words:1": np.array([0.6, 0.8], np.float32)}, limit=10, min_quality=0)
        assert len(by_vector) == len(IDS)

    def test_an_export_has_the_columns_of_the_stages(self, empty: Database, tmp_path: Path) -> None:
        """The text is that of the last stage that has one."""
        fill(empty, *two_texts(), items=ITEMS[:3])
        stored = read(empty)
        path = tmp_path / "items.parquet"
        export(browse.browse(empty, stored, Selection()), stored.names, path)
        import pyarrow.parquet as pq

        table = pq.read_table(path).to_pydict()
        assert table["text"] == ["Katze", "dog", None]
        assert table["translation_status"] == ["skipped", "succeeded", "skipped"]
        assert table["vector"] == [None] * 3

    def test_a_selection_goes_by_the_stages(self, empty: Database) -> None:
        """Of this store; those of another pipeline are unknown."""
        fill(empty, *two_texts())
        stored = read(empty)
        selection = Selection.parse(["translation=succeeded"], stored.names, None, None)
        assert [one.view.state.item.id for one in browse.browse(empty, stored, selection)] == ["b"]
        assert selection.statuses == {"translation": Status.SUCCEEDED}
        with pytest.raises(UsageError, match="a stage of original, translation, store"):
            Selection.parse(["fetch=skipped"], stored.names, None, None)


SEARCHED = """
import repli

meaning = repli.Stage("meaning", input=lambda item: item.name, produces=repli.Embedding, {options})


@meaning.rung(time_limit_s=5)
def model(texts):
    {answer}
    return [repli.Embedding("meaning:1", [0.6, 0.8]) for text in texts]


pipeline = repli.Pipeline([meaning])
"""


class TestQuery:
    """The vector of a query, by the rungs of the store's own pipeline."""

    @pytest.fixture
    def hits(self, empty: Database, settings: Settings, tmp_path: Path) -> Iterator[Callable[..., tuple[Any, Any]]]:
        """Searches a store of vectors whose pipeline is now declared so; returns the ids that are found, and notes."""
        fill(empty, embedding("meaning"), name="searched:pipeline")
        own = replace(settings, pipeline_folder=tmp_path, database_url=empty.url.render_as_string(hide_password=False))

        def hits(source: str, text: str = "name", mode: Mode = Mode.HYBRID) -> tuple[list[str], str]:
            (tmp_path / "searched.py").write_text(source)
            result = search(own, empty, Query(text=text, mode=mode))
            return [hit.id for hit in result.hits], "; ".join(result.notes)

        with modules_of(tmp_path):
            yield hits

    def test_its_input_is_made_of_the_text(self, hits: Callable[..., tuple[Any, Any]]) -> None:
        """By the stage's own function; the rung makes the vector."""
        source = SEARCHED.format(options="query_input=str.upper", answer='assert texts == ["RED"]')
        assert hits(source, "red", Mode.VECTOR) == (IDS, "")

    @pytest.mark.parametrize(
        ("options", "answer", "note"),
        [
            ("query_input=lambda text: text[99]", "", "no vector search: the query_input of meaning raised IndexError"),
            ("query_input=str", "assert not texts", "no vector search by meaning.model: AssertionError"),
            ("query_input=str", 'raise repli.Unavailable("no model")', "no vector search by meaning.model: no model"),
            ("query_input=str", "return [repli.Declined('no word')]", "no vector search by meaning.model: no word"),
            ("query_input=str", "return ['red']", "no vector search by meaning.model: the answer is not an Embedding"),
            ("query_input=str", "return []", "no vector search by meaning.model: meaning.model returned 0 answers"),
            (
                "query_input=str",
                "return [repli.Embedding('other', [1, 0])]",
                "0 of 5 items are in the space of the present model; 5 in the older one meaning:1, which is ",
            ),
            ("", "", "no vector search: the stage meaning does not say how to embed a query; give it a `query_input`"),
            ("unknown=3", "", "no vector search: pipeline 'searched:pipeline': "),
        ],
    )
    def test_without_a_vector_the_words_are_searched(
        self, hits: Callable[..., tuple[Any, Any]], options: str, answer: str, note: str
    ) -> None:
        """Whatever the functions of the pipeline do, and where it cannot be imported; a note says why."""
        ids, notes = hits(SEARCHED.format(options=options, answer=answer))
        assert ids == IDS
        assert notes.startswith(note)

    def test_a_pipeline_without_embeddings(self, hits: Callable[..., tuple[Any, Any]]) -> None:
        """The note names the way out."""
        source = SEARCHED.format(options="", answer="").replace("produces=repli.Embedding, ", "")
        assert hits(source) == (
            IDS,
            "no vector search: no stage of the store's pipeline produces embeddings",
        )


def test_a_result_of_an_input_without_a_json_form_follows_it(empty: Database) -> None:
    """Bytes have no JSON form: what they may be made from is compared, so no result outlives its input."""
    said = {"first": "old"}
    first = stage_by("first", lambda name: said["first"], skip=None)
    second = stage_by("second", bytes.decode, input=lambda item: item.value("first").encode(), skip=None)
    pipeline = Pipeline([first, second])
    run(pipeline, empty, ITEMS)
    said["first"] = "new"
    run(pipeline, empty, ITEMS, stages=["first"], refresh=True)
    assert run(pipeline, empty, ITEMS)["second"].items == len(ITEMS)
    assert {saved(empty, id_)["second"].value for id_ in IDS} == {"new"}
    assert run(pipeline, empty, ITEMS)["second"].items == 0
