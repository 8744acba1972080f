"""The embed_text stage with its model behind an API: a real server, real breakers, and a real store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from repli.tasks.execution.run_pipeline import choose
from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.fallback import AttemptOutcome, ChainInput, Position, Runtime, Served, Status, StepResult, run_chain
from repli.tasks.models import text_embedder
from repli.tasks.pipeline import StageContext
from repli.tasks.runtime.process import process_runtime
from repli.tasks.search import Mode, Query, search
from repli.tasks.settings import Settings
from repli.tasks.stages.embed_text import STAGE, Passage
from repli.tasks.storage import breakers, runs, usage
from repli.tasks.storage.breakers import Move
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import metadata
from repli.tasks.storage.usage import ApiUsage
from tests.support import embeddings_server
from tests.support.default_pipeline import PIPELINE
from tests.support.embeddings_server import (
    KEY,
    MAX_TOKENS,
    MINILM,
    EmbeddingsServer,
    Fault,
    Said,
    hangs,
    refusal,
    said,
    serving,
    slow,
)
from tests.support.in_process import enrich, open_context

LAMP = Passage(name="Brass lamp", text="A lamp that is made of brass.", label="table lamp")
SPACE = "all-minilm:api:384-dimensions-l2"


@pytest.fixture(scope="module")
def started() -> Iterator[EmbeddingsServer]:
    with serving() as server:
        embeddings_server.embedded(["loads the model"])
        yield server


@pytest.fixture
def server(started: EmbeddingsServer) -> EmbeddingsServer:
    started.reset()
    return started


@pytest.fixture
def here(tmp_path: Path, server: EmbeddingsServer) -> Settings:
    """Settings with the model behind the server, at a price."""
    variables = {"REPLI_HOME": str(tmp_path / "home"), "REPLI_TEXT_MODEL_PRICE": "20"}
    return Settings.from_environment({**variables, **server.variables})


@pytest.fixture
def context(here: Settings) -> Iterator[StageContext]:
    with open_context(here) as context:
        yield context


def impatient(settings: Settings) -> Settings:
    """These settings with a time limit of two seconds."""
    return replace(settings, models=replace(settings.models, text_time_limit_s=2))


class Worker:
    """A process with breakers in the store, which embeds batches."""

    def __init__(self, context: StageContext) -> None:
        self.moves: list[Move] = []
        self._context = context
        self._chain = PIPELINE.with_models(context.settings.models).stage("embed_text").chain
        self._registry = BreakerRegistry(context.database, device_scope="here", on_move=self.moves.append)

    @property
    def runtime(self) -> Runtime:
        return process_runtime(may_exit=False, breaker_of=self._registry.of)

    def embed(self, passages: Sequence[Passage]) -> list[StepResult]:
        inputs = [ChainInput(f"item {position}", passage) for position, passage in enumerate(passages)]
        return run_chain(self._chain, inputs, self._context, run_id="run", runtime=self.runtime)


def passages(count: int) -> list[Passage]:
    return [replace(LAMP, name=f"Lamp {number}") for number in range(count)]


def outcomes(result: StepResult) -> list[str]:
    return [attempt.outcome.value for attempt in result.attempts]


def test_items_are_embedded_by_the_api(context: StageContext) -> None:
    """At full quality, with the model's own vectors, in a space of its name and dimensions; the trail says where."""
    [lamp, dog] = Worker(context).embed([LAMP, Passage(name="Dog", text=None, label=None)])
    assert [(result.status, result.rung) for result in (lamp, dog)] == [(Status.SUCCEEDED, "text_and_label")] * 2
    wanted = text_embedder.load(MINILM).embed([LAMP.words(with_label=True), "Dog"])
    np.testing.assert_allclose([lamp.value.vector, dog.value.vector], wanted, atol=1e-5)
    assert lamp.value.space == SPACE
    where = lamp.attempts[0].where
    assert where
    assert where.partition("/")[2] == context.settings.models.text_api.host  # type: ignore[union-attr]


def test_no_model_is_loaded_for_an_api(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker neither imports nor loads a model that runs elsewhere."""
    monkeypatch.setattr(text_embedder.load, "start", lambda *arguments: pytest.fail("a model was loaded"))
    STAGE.hooks.warm_up(here)
    assert STAGE.hooks.imports(here) == ("repli.tasks.remote.text_vectors",)


def test_a_text_that_is_too_long_falls_back_alone(context: StageContext) -> None:
    """It is hashed and not shortened, for a reason that waiting does not change; the others are at full quality."""
    long = Passage(name="Book", text="a boat of the sea " * MAX_TOKENS, label=None)
    first, book, last = Worker(context).embed([LAMP, long, LAMP])
    assert [first.rung, book.rung, last.rung] == ["text_and_label", "hashed", "text_and_label"]
    assert outcomes(book) == ["declined", "declined", "served"]
    assert "maximum context length" in str(book.error)
    assert not book.retryable


def test_a_label_that_makes_a_text_too_long_is_left_out(context: StageContext) -> None:
    """The next rung embeds the text without it."""
    words = "boat " * (MAX_TOKENS - 5)
    [result] = Worker(context).embed([Passage(name="Sea", text=words.strip(), label="a very long label of a boat")])
    assert (result.status, result.rung, outcomes(result)) == (Status.DEGRADED, "text_only", ["declined", "served"])


NAN = float("nan")


def vectors(*lists: list[float]) -> Said:
    return said([{"index": position, "embedding": one} for position, one in enumerate(lists)])


def changing(texts: list[str]) -> Said | None:
    """The model, and vectors of 3 numbers for texts of a Lamp 7: another model behind the same name."""
    is_other = any("Lamp 7" in text for text in texts)
    return vectors(*[[1.0, 2.0, 3.0]] * len(texts)) if is_other else None


NONSENSE: dict[str, tuple[Fault, str]] = {
    "too few": (lambda texts: vectors(*[[1.0, 0.0]] * (len(texts) - 1)), "7 vectors for 8 texts"),
    "too many": (lambda texts: vectors(*[[1.0, 0.0]] * (len(texts) + 1)), "9 vectors for 8 texts"),
    "not a number": (lambda texts: vectors(*[[NAN, 0.0]] * len(texts)), "not a number"),
    "other dimensions in one answer": (
        lambda texts: vectors([1.0, 0.0, 0.0], *[[1.0, 0.0]] * (len(texts) - 1)),
        "vectors of 2 and of 3 numbers",
    ),
    "no JSON": (lambda texts: Said("<html>Welcome to nginx!</html>"), "what is no JSON"),
    "an error as a success": (lambda texts: Said({"error": {"message": "CUDA error"}}), "without a list `data`"),
    "another model behind the name": (changing, "vectors of 3 numbers, and before in this run of 384"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_never_a_success(context: StageContext, server: EmbeddingsServer, kind: str) -> None:
    """The items are hashed, the reason says what was wrong, and waiting may help."""
    worker = Worker(context)
    server.fault = lambda texts: None
    assert worker.embed([LAMP])[0].rung == "text_and_label"
    server.fault, why = NONSENSE[kind]
    for result in worker.embed(passages(8)):
        assert (result.status, result.rung) == (Status.DEGRADED, "hashed")
        assert result.error
        assert result.error.type == "BadAnswer"
        assert why in result.error.message
        assert result.retryable


@pytest.mark.parametrize("kind", ["down", "busy", "wrong key"])
def test_a_dead_api_is_called_as_often_as_opens_its_breaker(
    context: StageContext, server: EmbeddingsServer, kind: str
) -> None:
    """Whatever the number of batches and of rungs that use it: its tries of one request are one failure."""
    if kind == "down":
        server.stop()
    server.fault = lambda texts: refusal(503 if kind == "busy" else 401, "no")
    worker = Worker(context)
    try:
        batches = [worker.embed(passages(8)) for _ in range(20)]
    finally:
        if kind == "down":
            server.start()
    assert {result.rung for results in batches for result in results} == {"hashed"}
    [opened] = worker.moves
    assert (opened.key.name, opened.key.place, opened.new) == (
        "embed_text.text_and_label",
        context.settings.models.text_api.url,  # type: ignore[union-attr]
        Position.OPEN,
    )
    calls = [len(result.attempts) for results in batches for result in results[:1]]
    assert calls == [3] * 20
    kinds = [attempt.outcome for results in batches for attempt in results[0].attempts[:2]]
    assert kinds == [AttemptOutcome.UNAVAILABLE] * 5 + [AttemptOutcome.REFUSED] * 35
    waits = {result.waits_for for results in batches for result in results}
    assert waits == {(f"{opened.key.name}@{opened.key.place}",)}, "no item waits for a breaker that there is not"
    tries = {"down": 0, "busy": 5 * 3, "wrong key": 5}[kind]
    assert tries - 2 <= len(server.requests) <= tries


def test_an_api_that_hangs_costs_few_time_limits(context: StageContext, server: EmbeddingsServer) -> None:
    """Twenty batches take as long as the calls that open the breaker, four at a time; each alone would take 80 s."""
    server.fault = hangs(5)
    worker = Worker(replace(context, settings=impatient(context.settings)))
    began = time.monotonic()
    batches = [worker.embed(passages(128)) for _ in range(20)]
    assert 2 <= time.monotonic() - began < 40
    assert {result.rung for results in batches for result in results} == {"hashed"}
    assert batches[0][0].error
    assert batches[0][0].error.type == "TimedOut"
    assert len(server.requests) <= 8


def test_a_slow_api_is_waited_for(context: StageContext, server: EmbeddingsServer) -> None:
    """Within its time limit nothing is degraded."""
    server.fault = slow(1)
    assert {result.rung for result in Worker(context).embed(passages(40))} == {"text_and_label"}


def test_a_rate_limit_is_kept_to(context: StageContext, server: EmbeddingsServer) -> None:
    """A short one is waited out; a long one opens the breaker at once, for as long as the API asks."""
    answers: list[Said | None] = [refusal(429, "slow down", Retry_After="1"), None]
    server.fault = lambda texts: answers.pop(0)
    worker = Worker(context)
    assert worker.embed([LAMP])[0].rung == "text_and_label"
    server.requests = []
    server.fault = lambda texts: refusal(429, "slow down", Retry_After="3600")
    assert {result.rung for result in worker.embed(passages(20))} == {"hashed"}
    assert len(server.requests) == 1
    [opened] = worker.moves
    declared = PIPELINE.with_models(context.settings.models).breakers
    [view] = [view for view in breakers.views(context.database, declared) if view.key == opened.key]
    assert view.state.probe_at
    assert 3500 < (view.state.probe_at - context.database.now()).total_seconds() <= 3600


def manifest(folder: Path, texts: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"id": id_, "name": id_, "document": text}) for id_, text in texts.items()]
    (folder / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "items.jsonl"


TEXTS = {
    "whale": "A very large animal that lives in the ocean and breathes air.",
    "loom": "A machine on which cloth is woven from thread.",
    "volcano": "A mountain from which molten rock comes out.",
}


def latest(settings: Settings) -> str:
    run = runs.latest(Database(settings.database_url))
    assert run
    return run.id


def test_a_run_counts_what_it_used(here: Settings, server: EmbeddingsServer, tmp_path: Path) -> None:
    """Requests, texts, and tokens as the API counts them, and their price."""
    enrich(here, manifest(tmp_path / "catalogue", TEXTS), forced={})
    [used] = usage.of_run(Database(here.database_url), latest(here))
    tokens = embeddings_server.embedded([f"{name}. {text}" for name, text in TEXTS.items()]).document["usage"]
    assert used == ApiUsage(
        model=server.source,
        requests=1,
        texts=3,
        tokens=tokens["total_tokens"],
        uncounted=0,
        cost=pytest.approx(20e-6 * tokens["total_tokens"]),
    )


def test_a_search_asks_the_same_api(here: Settings, server: EmbeddingsServer, tmp_path: Path) -> None:
    """Once, in the space of the items; what it uses is no run's."""
    enrich(here, manifest(tmp_path / "catalogue", TEXTS), forced={})
    server.requests = []
    database = Database(here.database_url)
    found = search(here, database, Query(text="enormous marine mammal", mode=Mode.VECTOR))
    assert found.hits[0].id == "whale"
    assert server.requests == [["enormous marine mammal"]]
    assert not found.notes
    assert [used.requests for used in usage.of_run(database, latest(here))] == [1]
    assert usage.of_run(database, "search") == []


def test_a_search_goes_on_without_the_api(here: Settings, server: EmbeddingsServer, tmp_path: Path) -> None:
    """By keywords, soon, with one request; the note says why there is no vector."""
    enrich(here, manifest(tmp_path / "catalogue", TEXTS), forced={})
    server.requests = []
    server.fault = hangs(4)
    began = time.monotonic()
    found = search(impatient(here), Database(here.database_url), Query(text="molten rock"))
    assert time.monotonic() - began < 30
    assert [hit.id for hit in found.hits] == ["volcano"]
    assert [
        note for note in found.notes if "no vector search by embed_text" in note and "did not answer within" in note
    ]
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["none", "wrong key", "nonsense"])
def test_the_key_is_kept_nowhere(here: Settings, server: EmbeddingsServer, tmp_path: Path, fault: str) -> None:
    """Not in the store, nor in any file of the home, even where the API says it in its errors."""
    faults: dict[str, Fault] = {
        "none": lambda texts: None,
        "wrong key": lambda texts: refusal(401, f"Incorrect API key provided: {KEY}"),
        "nonsense": lambda texts: Said(f"Bearer {KEY}"),
    }
    server.fault = faults[fault]
    enrich(here, manifest(tmp_path / "catalogue", TEXTS), forced={})
    database = Database(here.database_url)
    with database.read() as connection:
        rows = [repr(row) for table in metadata.sorted_tables for row in connection.execute(sa.select(table))]
    assert len(rows) > 10
    assert KEY not in "".join(rows)
    files = [path for path in here.home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in repr(here)


def test_only_an_api_changes_the_breakers(here: Settings, settings: Settings) -> None:
    """A model that runs here has one for each device; one behind an API has one for all workers, by its key."""
    local, remote = (PIPELINE.with_models(one.models) for one in (settings, here))
    assert local is PIPELINE
    assert {name: breaker.scope for name, breaker in remote.breakers.items() if name.startswith("embed")} == {
        "embed_text.text_and_label": "key",
        "embed_text.text_only": "key",
    }
    assert remote.version != local.version
    assert remote is PIPELINE.with_models(here.models), "the same pipeline in all places of a process"
    database = Database(here.database_url)
    database.migrate()
    assert choose(here, database).declared is remote


@pytest.mark.parametrize("rung", ["text_and_label", "text_only"])
def test_without_an_item_nothing_is_sent(context: StageContext, server: EmbeddingsServer, rung: str) -> None:
    """An empty batch is no request."""
    run: Callable[..., Sequence[Served[object]]] = next(one.run for one in STAGE.chain.rungs if one.name == rung)  # type: ignore[assignment]
    assert run([], context) == []
    assert server.requests == []
