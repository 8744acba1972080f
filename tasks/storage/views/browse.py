"""Read the items of a selection in pages: memory does not grow with the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from repli.tasks.fallback import Status, UsageError
from repli.tasks.items import ItemState
from repli.tasks.storage import labels, results
from repli.tasks.storage.database import Database
from repli.tasks.storage.pipelines import StoredPipeline
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.search.documents import is_embedding
from repli.tasks.storage.views.lookup import ItemView, Scores

ITEMS_PER_READ = 500
STATES = ("stored", "failed", "pending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Conditions on items. An item must meet all of them.

    Args:
        min_quality, max_quality: bounds of the quality, inclusive. Only stored items have a quality.
        states: the item's state is one of these; any state where empty.
        statuses: the status that a stage must have, by the stage's name.
    """

    min_quality: float | None = None
    max_quality: float | None = None
    states: Sequence[str] = ()
    statuses: Mapping[str, Status] = field(default_factory=dict)

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions on `items`."""
        found: list[sa.ColumnElement[bool]] = []
        if self.min_quality is not None:
            found.append(items.c.quality >= self.min_quality)
        if self.max_quality is not None:
            found.append(items.c.quality <= self.max_quality)
        if self.states:
            found.append(items.c.state.in_(self.states))
        for stage, status in self.statuses.items():
            result = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.stage == stage)
            found.append(
                sa.not_(result) if status is Status.PENDING else result.where(step_results.c.status == status.value)
            )
        return found

    @classmethod
    def parse(
        cls, specs: Sequence[str], stages: Sequence[str], min_quality: float | None, max_quality: float | None
    ) -> Selection:
        """Parse the options of the command line.

        Args:
            specs: values of `--status`, each STATE or STAGE=STATUS.
            stages: the names of the stages.

        Raises:
            UsageError: a state, stage or status does not exist, or a bound is not from 0 to 1.
        """
        states, statuses = [], {}
        for spec in specs:
            stage, equals, status = spec.partition("=")
            if not equals and spec in STATES:
                states.append(spec)
            elif equals and stage in stages and status in set(Status):
                statuses[stage] = Status(status)
            else:
                raise UsageError(
                    f"--status {spec[:80]!r}: choose from {', '.join(STATES)}, or STAGE=STATUS with a stage of "
                    f"{', '.join(stages)} and a status of {', '.join(Status)}"
                )
        for option, bound in (("--min-quality", min_quality), ("--max-quality", max_quality)):
            if bound is not None and not 0 <= bound <= 1:
                raise UsageError(f"{option} {bound:g}: a quality is from 0 to 1; choose another bound")
        return cls(min_quality=min_quality, max_quality=max_quality, states=states, statuses=statuses)


@dataclass(frozen=True, slots=True)
class Browsed:
    """An item with its state in the store and its vector, if there is one.

    `labels` is what people said of its stages, as far as their inputs are still the same.
    """

    view: ItemView
    state: str
    vector: npt.NDArray[np.float32] | None
    labels: Mapping[str, str] = field(default_factory=dict)


def browse(database: Database, pipeline: StoredPipeline, selection: Selection) -> Iterator[Browsed]:
    """Yield the selected items in the order of their ids, from one snapshot of the store."""
    with database.read() as connection:
        last = ""
        while True:
            query = sa.select(items.c.id, items.c.state, items.c.quality, items.c.expected_accuracy).where(
                items.c.id > last, *selection.conditions()
            )
            found = connection.execute(query.order_by(items.c.id).limit(ITEMS_PER_READ)).all()
            if not found:
                return
            ids = [row.id for row in found]
            states = results.load_with(connection, ids)
            vectors = _vectors(connection, ids)
            given = _labels(connection, states)
            for row, state in zip(found, states, strict=True):
                scores = Scores(row.quality, row.expected_accuracy)
                view = ItemView.of(state, scores, pipeline)
                yield Browsed(view, row.state, vectors.get(row.id), given.get(row.id, {}))
            last = ids[-1]


def _labels(connection: sa.Connection, states: Sequence[ItemState]) -> dict[str, dict[str, str]]:
    """Return what people said of each stage of these items, by item; of inputs that have changed since, nothing."""
    hashes = {(state.item.id, name): result.input_hash for state in states for name, result in state.results.items()}
    found: dict[str, dict[str, str]] = {}
    for label in labels.of_items_with(connection, [state.item.id for state in states]):
        if hashes.get((label.item_id, label.stage)) == label.input_hash:
            found.setdefault(label.item_id, {})[label.stage] = label.said
    return found


def _vectors(connection: sa.Connection, item_ids: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    query = sa.select(step_results.c.item_id, step_results.c.vector).where(
        step_results.c.item_id.in_(item_ids), is_embedding()
    )
    return {row.item_id: np.frombuffer(row.vector, np.float32) for row in connection.execute(query)}
