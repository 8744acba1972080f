"""The stages over a manifest in this process: what a run does, without Prefect and Dask."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repli.tasks.execution.stage_runner import RunOptions, run_stage
from repli.tasks.fallback import AnyChain, ChainInput, Directives, Runtime, StepResult, WorkingSizes, run_chain
from repli.tasks.pipeline import Pipeline, Stage, StageContext
from repli.tasks.pipeline.registry import DEFAULT
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import ManifestOptions, open_manifest
from repli.tasks.stages.rules import RULES
from repli.tasks.storage import catalogue, results, runs
from repli.tasks.storage.blobs import Blobs, keep_contents
from repli.tasks.storage.database import Database
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.lookup import ItemView
from tests.support.default_pipeline import STAGES
from tests.support.stores import fill_with

with warnings.catch_warnings():  # Great Expectations imports what the standard library is about to lose
    warnings.simplefilter("ignore")
    from repli.tasks.stages.suite import load_suite

    load_suite()

NO_MODELS = {"classify_image": "rules", "embed_text": "hashed"}


def enrich(
    settings: Settings,
    source: Path,
    *,
    forced: Mapping[str, str] = NO_MODELS,
    stages: Sequence[Stage] = STAGES,
    refresh: bool = False,
    options: ManifestOptions | None = None,
) -> dict[str, ItemView]:
    """Take the manifest through the stages; its items as they stand after that, by id, in its order."""
    database = Database(settings.database_url)
    database.migrate()
    names = {stage.name for stage in stages}
    rules = [rule for rule in RULES if {rule.stage, rule.forbidden_stage} <= names]
    pipeline = Pipeline(stages, rules).with_models(settings.models)
    stored = pipeline.described(DEFAULT)
    fill_with(database, stored)
    run_id = runs.start(database, str(uuid.uuid4()), str(source), {}, datetime.now(UTC))
    records = keep_contents(open_manifest(source, options or ManifestOptions()).items(), Blobs(settings.blobs))
    catalogue.register(database, run_id, records)
    run_options = RunOptions(run_id=run_id, refresh=refresh, directives=Directives(forced=forced))
    listed = catalogue.batches(database, run_id, 10_000, refresh=True)
    ids = [id_ for batch in listed for id_ in batch]
    for name in pipeline.names:
        run_stage(pipeline, name, ids, run_options, settings, fresh_runtime())
    views = {id_: lookup.view(database, id_, stored) for id_ in ids}
    return {id_: view for id_, view in views.items() if view is not None}


def kept(settings: Settings, item_id: str) -> dict[str, StepResult]:
    """What the store has of an item, by stage."""
    [state] = results.load(Database(settings.database_url), [item_id])
    return dict(state.results)


@contextmanager
def open_context(settings: Settings) -> Iterator[StageContext]:
    """What the rungs of a stage are handed, with a store that is there."""
    database = Database(settings.database_url)
    database.migrate()
    yield StageContext(settings=settings, database=database, run_id="run", now=datetime(2026, 1, 1, tzinfo=UTC))
    database.engine.dispose()


def run_rungs(
    chain: AnyChain, inputs: Sequence[Any], context: StageContext, directives: Directives = Directives()
) -> list[StepResult]:
    """The chain over the inputs as one batch; a result for each, in their order."""
    works = [ChainInput(f"item {position}", value) for position, value in enumerate(inputs)]
    return run_chain(chain, works, context, run_id="run", runtime=fresh_runtime(), directives=directives)


def fresh_runtime() -> Runtime:
    """This process's runtime without what it learnt about working sizes in other tests."""
    return replace(process_runtime(may_exit=False), sizes=WorkingSizes())
