"""Pipelines of one's own: written into a file as a user writes them, or made by a test and run in this process."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import sqlalchemy as sa

import repli
from repli.tasks.execution.stage_runner import RunOptions, StageReport, run_stage
from repli.tasks.fallback import StepResult, WorkingSizes
from repli.tasks.items import Item
from repli.tasks.pipeline import DeclarationError, Pipeline, Stage, registry
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings
from repli.tasks.storage import catalogue, results, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items

BEGINNING = """
import repli

translate = repli.Stage("translate", input=lambda item: item.name)
"""


def refusal(folder: Path, source: str) -> str:
    """Return why a module is refused that begins with `BEGINNING`.

    The message has to begin with the module's file, and the line that ends in `# refused`.
    """
    path = folder / "own.py"
    text = BEGINNING + dedent(source)
    path.write_text(text, encoding="utf-8")
    [line] = [number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# refused")]
    with pytest.raises(DeclarationError) as raised:
        exec(compile(text, path, "exec"), {"__name__": "own"})
    place = f"{path}, line {line}: "
    assert str(raised.value).startswith(place)
    return str(raised.value).removeprefix(place)


@contextmanager
def modules_of(folder: Path) -> Iterator[Path]:
    """Forget the modules of this folder, which is a test's own, at the end of the block."""
    path, names = list(sys.path), set(sys.modules)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - names:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]
    registry.load.cache_clear()


def stage_by(
    name: str,
    answer: Callable[[Any], Any] = lambda value: value,
    *,
    skip: str | None = "0.7",
    input: Callable[..., Any] = lambda item: item.name,  # noqa: A002  as in `Stage`
    **options: Any,
) -> Stage:
    """Return a stage of one rung, `only`, that answers item by item."""
    stage = repli.Stage(name, input=input, **options)

    @stage.rung(time_limit_s=60, per_item=True)
    def only(value: Any) -> Any:
        """Answer."""
        return answer(value)

    if skip:
        stage.skip(penalty=skip)
    return stage


def run(
    pipeline: Pipeline,
    database: Database,
    records: Sequence[Item],
    *,
    stages: Sequence[str] | None = None,
    refresh: bool = False,
) -> dict[str, StageReport]:
    """Register the records as a run's and take them through these stages, all by default; return the reports."""
    run_id = runs.start(database, str(uuid.uuid4()), "manifest.jsonl", {}, database.now())
    catalogue.register(database, run_id, records)
    settings = Settings(home=Path("no-home"), database_url=database.url.render_as_string(hide_password=False))
    runtime = replace(process_runtime(may_exit=False), sizes=WorkingSizes())
    ids = [record.id for record in records]
    return {
        name: run_stage(pipeline, name, ids, RunOptions(run_id=run_id, refresh=refresh), settings, runtime)
        for name in stages or pipeline.names
    }


def saved(database: Database, item_id: str) -> dict[str, StepResult]:
    """Return the results of an item, by stage."""
    [state] = results.load(database, [item_id])
    return dict(state.results)


def states(database: Database) -> dict[str, str]:
    """Return the state of each item."""
    with database.read() as connection:
        return {row.id: row.state for row in connection.execute(sa.select(items.c.id, items.c.state))}
