"""The pipeline that fills a store: its stages in their order, their rungs, and what each produces.

Search, export, the dashboard and `repli show` read it here, so that none of them imports the code of a pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import AnyChain, Breaker, Chain, Rung, Skip, Status, UsageError
from repli.tasks.fallback.chain import breakers_of
from repli.tasks.items import STORE
from repli.tasks.storage import results
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.schema import items, stages, step_results, task_chains

ITEMS_PER_WRITE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPipeline:
    """What the store keeps of a pipeline.

    Args:
        name: how it was chosen: `MODULE:NAME`, or the name of an entry point.
        chains: the chains of its stages, in their order. Rungs of a chain that was read from the store cannot run.
        produces: the role of each stage that has one, by the stage's name: `text`, `label`, `embedding` or `assets`.
    """

    name: str
    chains: tuple[AnyChain, ...]
    produces: Mapping[str, str]

    def __str__(self) -> str:
        stages = [f"{name}: {role}" if (role := self.produces.get(name)) else name for name in self.names]
        return f"{self.name} ({' → '.join(stages)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the stages, in their order."""
        return tuple(chain.stage for chain in self.chains)

    @property
    def breakers(self) -> dict[str, Breaker]:
        """Return the declared breakers by rung, `STAGE.RUNG`, in the order of the chains."""
        return breakers_of(self.chains)

    def stages_of(self, role: str) -> tuple[str, ...]:
        """Return the stages that produce this, the last first: its value is the item's, where it has one."""
        return tuple(name for name in reversed(self.names) if self.produces.get(name) == role)

    def has_stages_of(self, other: StoredPipeline) -> bool:
        """Return whether both have the same stages in the same order, and each produces the same."""
        return (self.names, self.produces) == (other.names, other.produces)


class PipelineConflict(UsageError):
    """The store was filled by another pipeline. The message says what to do."""


@retried
def read(database: Database) -> StoredPipeline | None:
    """Return the pipeline that fills the store; None before its first run."""
    with database.read() as connection:
        return _read(connection)


@retried
def declare(database: Database, pipeline: StoredPipeline) -> None:
    """Record the pipeline of a run. Idempotent.

    Raises:
        PipelineConflict: the store was filled by a pipeline of another name, or with other stages. Nothing is changed.
    """
    stored = read(database)
    if stored == pipeline or (stored and _rows(stored) == _rows(pipeline)):
        return
    with database.write() as connection:
        _lock(database, connection)
        stored = _read(connection)
        if stored and not (stored.name == pipeline.name and stored.has_stages_of(pipeline)):
            by_name = "" if stored.name == pipeline.name else f"--pipeline {stored.name}, or "
            raise PipelineConflict(
                f"{database} was filled by the pipeline {stored}, and this run has {pipeline}; choose {by_name}another "
                "store with --database; `repli run SOURCE --change-pipeline` goes on with the new one and keeps the "
                "results of stages that both have"
            )
        _write(connection, pipeline)


def change(database: Database, pipeline: StoredPipeline) -> None:
    """Make this the store's pipeline, whatever it was. Idempotent: a change that was cut off is completed.

    Results of stages that both pipelines have, and that produce the same in both, stay; failed ones and those of
    `store` are deleted, as all others are. All items become pending and are queued: the next run of their source, or
    of `reprocess`, does what is missing.
    """
    stored = read(database)
    if stored and not stored.has_stages_of(pipeline):
        kept = [name for name in stored.names if name != STORE and _is_same_stage(name, stored, pipeline)]
        last: str | None = ""
        while last is not None:
            last = _reopen(database, kept, last)
    _replace(database, pipeline)


def _is_same_stage(name: str, old: StoredPipeline, new: StoredPipeline) -> bool:
    return name in new.names and old.produces.get(name) == new.produces.get(name)


@retried
def declare_task(database: Database, chain: AnyChain) -> None:
    """Record the chain of a task of another flow, so that its breakers can be shown and overridden. Idempotent."""
    row = {"name": chain.stage, "chain": _as_json(chain)}
    with database.read() as connection:
        known = connection.execute(sa.select(task_chains).where(task_chains.c.name == chain.stage)).mappings().first()
    if known and dict(known) == row:
        return
    with database.write() as connection:
        insert = database.insert(task_chains).values(**row)
        connection.execute(
            insert.on_conflict_do_update(index_elements=[task_chains.c.name], set_={"chain": insert.excluded.chain})
        )


@retried
def task_breakers(database: Database) -> dict[str, Breaker]:
    """Return the breakers of the tasks of other flows that use this store, by rung, `TASK.RUNG`."""
    with database.read() as connection:
        rows = connection.execute(sa.select(task_chains).order_by(task_chains.c.name)).all()
    return breakers_of(_chain(row.name, row.chain) for row in rows)


@retried
def _reopen(database: Database, kept: Sequence[str], after: str) -> str | None:
    """Reopen the next items in the order of their ids; return the last of these ids, None at the end.

    Args:
        kept: the stages whose results stay.
    """
    query = sa.select(items.c.id).where(items.c.id > after).order_by(items.c.id).limit(ITEMS_PER_WRITE)
    with database.write() as connection:
        ids = list(connection.scalars(query))
        if not ids:
            return None
        locked = retry_queue.lock_items(connection, ids)
        is_not_kept = sa.or_(step_results.c.stage.not_in(kept), step_results.c.status == Status.FAILED)
        is_gone = step_results.c.item_id.in_(ids), is_not_kept
        connection.execute(sa.delete(step_results).where(*is_gone))
        stored = [id_ for id_ in ids if locked[id_].state == "stored"]
        pending = {"state": "pending", "quality": None, "expected_accuracy": None}
        connection.execute(sa.update(items).where(items.c.id.in_(stored)).values(pending))
        failed = [id_ for id_ in ids if locked[id_].state == "failed"]
        results.mark_pending(connection, failed)
        is_reopened = items.c.id.in_([*stored, *failed]), items.c.state == "pending"
        reopened = list(connection.scalars(sa.select(items.c.id).where(*is_reopened).order_by(items.c.id)))
        retry_queue.enqueue_unfinished(database, connection, reopened)
        return str(ids[-1])


@retried
def _replace(database: Database, pipeline: StoredPipeline) -> None:
    with database.write() as connection:
        _lock(database, connection)
        _write(connection, pipeline)


def _lock(database: Database, connection: sa.Connection) -> None:
    """Lock the table until the transaction ends; SQLite has one writer anyway."""
    if not database.is_sqlite:
        connection.execute(sa.text("LOCK TABLE stages IN EXCLUSIVE MODE"))


def _read(connection: sa.Connection) -> StoredPipeline | None:
    rows = connection.execute(sa.select(stages).order_by(stages.c.position)).mappings().all()
    return _of_rows([dict(row) for row in rows]) if rows else None


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> StoredPipeline:
    return StoredPipeline(
        name=rows[0]["pipeline"],
        chains=tuple(_chain(row["name"], row["chain"]) for row in rows),
        produces={row["name"]: row["produces"] for row in rows if row["produces"]},
    )


def as_stored(pipeline: StoredPipeline) -> StoredPipeline:
    """Return the pipeline as `read` returns it: with rungs that cannot run, and that other processes can receive."""
    return _of_rows(_rows(pipeline))


def _write(connection: sa.Connection, pipeline: StoredPipeline) -> None:
    connection.execute(sa.delete(stages))
    connection.execute(sa.insert(stages), _rows(pipeline))


def _rows(pipeline: StoredPipeline) -> list[dict[str, Any]]:
    return [
        {
            "position": position,
            "name": chain.stage,
            "produces": pipeline.produces.get(chain.stage),
            "chain": _as_json(chain),
            "pipeline": pipeline.name,
        }
        for position, chain in enumerate(pipeline.chains)
    ]


def _as_json(chain: AnyChain) -> dict[str, Any]:
    rungs = [
        {
            "name": rung.name,
            "penalty": rung.penalty,
            "time_limit_s": rung.time_limit_s,
            "per_item": rung.per_item,
            "breaker": {**asdict(rung.breaker), "key": None} if rung.breaker else None,
        }
        for rung in chain.rungs
    ]
    return {"rungs": rungs, "skip": chain.skip.penalty if chain.skip else None}


def _cannot_run(inputs: Sequence[Any], context: Any) -> Any:
    raise AssertionError("a rung that was read from the store was called")


def _chain(stage: str, saved: Mapping[str, Any]) -> AnyChain:
    rungs = [
        Rung(**{**rung, "run": _cannot_run, "breaker": Breaker(**rung["breaker"]) if rung["breaker"] else None})
        for rung in saved["rungs"]
    ]
    return Chain(stage, *rungs, *([Skip(penalty=saved["skip"])] if saved["skip"] else []))
