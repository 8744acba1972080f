"""A small pipeline whose values tell the record and the rungs that they are of, and runs over it without a cluster.

Its stages have the names that search reads: a label, a text of the name and the label, a vector of the text. Every
penalty below the best puts an item into the retry queue.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from repli.flows.dispatch.retry_planner import retry_targets
from repli.tasks.execution.stage_runner import RunOptions, StageReport, Upgrade, run_stage
from repli.tasks.fallback import (
    Chain,
    Failed,
    InvalidItem,
    ItemError,
    Outcome,
    Rule,
    Rung,
    RungError,
    Served,
    Unavailable,
)
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.items import Embedding, Item, ItemState, Label, Text
from repli.tasks.pipeline import Pipeline, Stage, store
from repli.tasks.settings import Settings
from repli.tasks.storage import catalogue, outdated, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.claims import Claim
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.runs import Progress
from repli.tasks.storage.schema import retry_queue
from repli.tasks.storage.schema import runs as runs_table
from tests.support.fakes import runtime
from tests.support.stages import stage_of
from tests.support.stores import fill_with

LABEL, TEXT, VECTOR, STORE = NAMES = ("classify_image", "extract_text", "embed_text", "store")
PRODUCES: Mapping[str, type] = {LABEL: Label, TEXT: Text, VECTOR: Embedding}
GPU, MODEL = f"{LABEL}.gpu", f"{VECTOR}.model"
RUNGS = {
    LABEL: {"gpu": "1", "cpu": "0.8"},
    TEXT: {"full": "1", "brief": "0.9"},
    VECTOR: {"model": "1", "hashed": "0.6"},
}
RULES = (Rule(LABEL, {"cpu"}, forbids=f"{TEXT}.full", because="a guess is not to be told at length"),)
RETRY = RetryPolicy(lease_s=600)
BATCH_SIZE = 4
BROKEN = "broken"
"""The image of an item that fails for good."""


def record(item_id: str, image: str, name: str | None = None) -> Item:
    return Item(id=item_id, name=name or f"thing {image}", image=image)


def label_of(image: str, rung: str) -> str:
    return f"label of {image} by {rung}"


def text_of(name: str, label: str, rung: str) -> str:
    return f"{name}, {label}, told {rung}"


def vector_of(text: str, rung: str) -> list[float]:
    """A unit vector in single precision, another one for each text and rung."""
    digest = hashlib.sha256(f"{text} {rung}".encode()).digest()
    vector = np.frombuffer(digest[:4], np.uint8).astype(np.float32) + 1
    return [float(number) for number in vector / np.linalg.norm(vector)]


def possible_texts(item: Item) -> set[str]:
    """All texts that the record may be given."""
    labels = [label_of(item.image, rung) for rung in RUNGS[LABEL]]
    return {text_of(item.name, label, rung) for label, rung in product(labels, RUNGS[TEXT])}


def pipeline(down: Collection[str] = (), version: str = "1") -> Pipeline:
    """The pipeline, while these rungs are `down`, the labels' rungs of this version. An item whose id is among them is
    not told.
    """

    def label(rung: str, image: str) -> Any:
        if image == BROKEN:
            raise InvalidItem("the image is not one")
        return {"label": label_of(image, rung)}

    def text(rung: str, told: Sequence[str]) -> Any:
        item_id, name, found = told
        if item_id in down:
            raise ItemError("there is nothing to tell")
        return Text(text=text_of(name, found, rung))

    def vector(rung: str, told: str) -> Any:
        return Embedding(space=rung, vector=np.array(vector_of(told, rung), np.float32))

    def stage(name: str, answer: Callable[[str, Any], Any], input_of: Callable[[ItemState], Any]) -> Stage:
        rungs = [_rung(name, rung, penalty, answer, down) for rung, penalty in RUNGS[name].items()]
        if name == LABEL:
            rungs = [replace(rung, version=version) for rung in rungs]
        return stage_of(Chain(name, *rungs), input_of, produces=PRODUCES[name])

    def told(state: ItemState) -> Sequence[str]:
        return [state.item.id, state.item.name, state.value(LABEL)["label"]]

    stages = [
        stage(LABEL, label, lambda state: state.item.image),
        stage(TEXT, text, told),
        stage(VECTOR, vector, lambda state: state.value(TEXT)["text"]),
    ]
    return Pipeline([*stages, store.STAGE], RULES)


def _rung(
    stage: str, name: str, penalty: str, answer: Callable[[str, Any], Any], down: Collection[str]
) -> Rung[Any, Any, Any]:
    def outcome(value: Any) -> Outcome[Any]:
        try:
            return Served(answer(name, value))
        except RungError as error:
            return Failed.because(error)

    def run(inputs: Sequence[Any], context: object) -> Sequence[Outcome[Any]]:
        if f"{stage}.{name}" in down:
            raise Unavailable(f"{name} is down")
        return [outcome(value) for value in inputs]

    return Rung(name, run, penalty=penalty, time_limit_s=60)


def targets(down: Collection[str], stages: Iterable[str]) -> list[RetryTarget]:
    """The results of these stages that a rung may improve that is not down."""
    declared = pipeline()
    return [
        target
        for chain in declared.chains
        if chain.stage in set(stages)
        for target in retry_targets(
            chain,
            chain.rung_names,
            {rung.name for rung in chain.rungs if f"{chain.stage}.{rung.name}" not in down},
            declared.rules,
        )
    ]


@dataclass(frozen=True)
class EnrichRun:
    """A run of `enrich`, as the flow has it: from its start to the pruning of older runs."""

    records: Sequence[Item]
    down: frozenset[str] = frozenset()
    refresh: bool = False
    source: str = "manifest.jsonl"

    def __call__(self, database: Database) -> str:
        """Do it; the run's id."""
        run_id = _begin(database, runs.ENRICH, self.source)
        registered = catalogue.register(database, run_id, self.records)
        runs.beat(database, run_id, Progress(items=registered.items))
        options = RunOptions(run_id=run_id, refresh=self.refresh)
        for batch in catalogue.batches(database, run_id, BATCH_SIZE, refresh=self.refresh):
            _through(database, batch, options, self.down)
        _end(database, run_id)
        return run_id


@dataclass(frozen=True)
class ReprocessRun:
    """A run of `reprocess`, as the flow has it: first what was not stored, then what may be improved.

    Of another `version` than the first it makes the labels anew, as with ``--outdated``.
    """

    down: frozenset[str] = frozenset()
    limit: int | None = None
    version: str = "1"

    def __call__(self, database: Database) -> str:
        """Do it; the run's id."""
        run_id = _begin(database, runs.REPROCESS, "the retry queue")
        if self.version != "1":
            outdated.enqueue(database, {LABEL: dict.fromkeys(RUNGS[LABEL], self.version)})
        improvable = {target.stage for target in targets(self.down, NAMES[:-1])}
        options = RunOptions(run_id=run_id, upgrade=Upgrade(holder=run_id, stages=frozenset(improvable)))
        left = self.limit or 1000
        for wanted in targets(self.down, [STORE]), targets(self.down, improvable):
            while taken := claims.claim(database, run_id, wanted, min(left, BATCH_SIZE), RETRY.lease_s):
                left -= len(taken)
                self._process(database, taken, options)
        _end(database, run_id)
        return run_id

    def _process(self, database: Database, taken: Sequence[Claim], options: RunOptions) -> None:
        reports = _through(database, [claim.item_id for claim in taken], options, self.down, self.version)
        tried = {item_id for report in reports for item_id in report.tried}
        claims.settle(database, options.run_id, options.run_id, taken, tried, RETRY)


Run = EnrichRun | ReprocessRun


def _begin(database: Database, kind: str, source: str) -> str:
    fill_with(database, pipeline().described("small_pipeline:pipeline"))
    return runs.start(database, str(uuid.uuid4()), source, {}, database.now(), kind=kind)


def _end(database: Database, run_id: str) -> None:
    claims.release(database, run_id)  # as the heartbeat does when it ends
    runs.finish(database, run_id, database.now(), ["a note"])
    runs.summarize(database, run_id, {"is": "over"})
    runs.prune(database, keep=1)


def _through(
    database: Database, item_ids: Sequence[str], options: RunOptions, down: Collection[str], version: str = "1"
) -> list[StageReport]:
    """Take a batch through all stages."""
    declared = pipeline(down, version)
    url = database.url.render_as_string(hide_password=False)
    settings = Settings(home=Path("no-home"), database_url=url, retry=RETRY)
    within = replace(runtime(), now=lambda: datetime.now(UTC))
    return [run_stage(declared, name, item_ids, options, settings, within) for name in NAMES]


def pass_time(database: Database, by: timedelta = timedelta(days=2)) -> None:
    """Make all that waits, is claimed, or shows that a run is alive so much older."""
    with database.write() as connection:
        for table, names in (
            (retry_queue, ("enqueued_at", "due_at")),
            (runs_table, ("started_at", "alive_at", "finished_at")),
        ):
            key = next(iter(table.primary_key))
            for row in connection.execute(sa.select(table)).mappings().all():
                older = {name: row[name] - by for name in names if row[name]}
                connection.execute(sa.update(table).where(key == row[key.name]).values(older))
