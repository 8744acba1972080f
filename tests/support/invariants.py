"""What holds of a store at every moment, and what holds once runs with all rungs have healed it.

Each check returns the sentences about what does not hold. The items are those of `small_pipeline`, whose values tell
the record that they are of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import sqlalchemy as sa

from repli.tasks.fallback import Status, StepResult, expected_accuracy, quality
from repli.tasks.items import Item
from repli.tasks.storage import catalogue, results
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.needs import encode, needs_of
from repli.tasks.storage.schema import documents, incoming, items, retry_queue, run_items, step_results
from repli.tasks.storage.search.documents import has_pgvector
from repli.tasks.storage.search.query import search
from tests.support.small_pipeline import (
    BROKEN,
    LABEL,
    NAMES,
    RETRY,
    RUNGS,
    STORE,
    TEXT,
    VECTOR,
    label_of,
    possible_texts,
    targets,
    text_of,
    vector_of,
)

COMMON_WORD = "thing"
"""A word in the name of every item."""
UNMATCHED_RUN = "no such run"


@dataclass(frozen=True, kw_only=True)
class StoredItem:
    """One item with all that the store has of it."""

    item: Item
    revision: int
    state: str
    quality: float | None
    expected_accuracy: float | None
    results: Mapping[str, StepResult]
    vector: tuple[float, ...] | None

    @property
    def is_settled(self) -> bool:
        """Whether it is stored, and every result answers to the present ones."""
        unsettled = [result for result in self.results.values() if result.is_stale or result.is_outdated]
        return self.state == "stored" and not unsettled

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do, whatever rungs there are."""
        if self.state == "failed":
            failed = [result for result in self.results.values() if result.status is Status.FAILED]
            return bool(failed) and not any(result.retryable for result in failed)
        return self.is_settled and self.quality == 1


def stored_items(database: Database) -> dict[str, StoredItem]:
    """All items, by id."""
    with database.read() as connection:
        rows = {row["id"]: row for row in connection.execute(sa.select(items)).mappings()}
        is_vector = step_results.c.stage == VECTOR
        query = sa.select(step_results.c.item_id, step_results.c.vector).where(is_vector)
        vectors = {row.item_id: row.vector for row in connection.execute(query)}
        states = results.load_with(connection, list(rows))
    return {
        state.item.id: StoredItem(
            item=state.item,
            revision=rows[state.item.id]["revision"],
            state=rows[state.item.id]["state"],
            quality=rows[state.item.id]["quality"],
            expected_accuracy=rows[state.item.id]["expected_accuracy"],
            results=state.results,
            vector=_numbers(vectors.get(state.item.id)),
        )
        for state in states
    }


def _numbers(vector: bytes | None) -> tuple[float, ...] | None:
    return None if vector is None else tuple(float(number) for number in np.frombuffer(vector, np.float32))


def broken_at_rest(database: Database) -> list[str]:
    """What does not hold, though it has to after every commit, whoever was killed or is still at work."""
    found = stored_items(database)
    with database.read() as connection:
        queued = {row["item_id"]: row for row in connection.execute(sa.select(retry_queue)).mappings()}
    return [
        *(problem for one in found.values() for problem in _wrong_about(one)),
        *_wrong_in_queue(found, queued),
        *_wrong_in_search(database, found),
    ]


def _wrong_about(one: StoredItem) -> Iterator[str]:
    name = f"item {one.item.id} ({one.state}, {one.quality})"
    for stage, result in one.results.items():
        if not result.status.is_terminal:
            yield f"{name}: {stage} is {result.status} for ever"
        if result.revision != one.revision:
            yield f"{name}: {stage} is of revision {result.revision}, the record of {one.revision}"
        if not _is_of_record(one, stage):
            yield f"{name}: {stage} was not computed from {one.item}: {result.value}"
    if one.is_settled:
        if missing := set(NAMES) - set(one.results):
            yield f"{name} has no result of {missing}"
        product = quality(one.results.values())
        if product is None or one.quality is None or Decimal(repr(one.quality)) != product:
            yield f"{name}: its results come to {product}"
        accuracy = expected_accuracy((result for stage, result in one.results.items() if stage != STORE), {})
        if one.expected_accuracy != accuracy:
            yield f"{name}: its expected accuracy is {one.expected_accuracy}, its results come to {accuracy}"
        if one.results[STORE].value != {"quality": one.quality}:
            yield f"{name}: store says {one.results[STORE].value}"
        if one.results[TEXT].value["text"] != _text_now(one):
            yield f"{name}: the text is of another label: {one.results[TEXT].value}"
        if list(one.vector or ()) != vector_of(_text_now(one), one.results[VECTOR].rung or ""):
            yield f"{name}: the vector is of another text"
    elif one.state != "stored" and (one.quality is not None or one.expected_accuracy is not None):
        yield f"{name} has a quality, or an expected accuracy"


def _text_now(one: StoredItem) -> str:
    return text_of(one.item.name, one.results[LABEL].value["label"], one.results[TEXT].rung or "")


def _is_of_record(one: StoredItem, stage: str) -> bool:
    """Whether a result may have been computed from the record as it stands, by the rung that it names."""
    result = one.results[stage]
    rung = result.rung or ""
    if result.status is Status.FAILED or stage == STORE:
        return result.value is None or stage == STORE
    if stage == LABEL:
        return bool(result.value == {"label": label_of(one.item.image, rung)})
    if stage == TEXT:
        return result.value["text"] in possible_texts(one.item)
    return list(one.vector or ()) in [vector_of(text, rung) for text in possible_texts(one.item)]


def _wrong_in_queue(found: Mapping[str, StoredItem], queued: Mapping[str, sa.RowMapping]) -> Iterator[str]:
    for item_id, row in queued.items():
        one = found[item_id]
        kept = [
            (
                stage,
                one.status.value,
                one.rung,
                one.retryable,
                one.is_stale,
                one.is_outdated,
                None,
            )  # no breaker has keys
            for stage, one in found[item_id].results.items()
        ]
        if (needs := encode(needs_of(kept, is_pending=one.state == "pending"))) != row["needs"]:
            yield f"item {item_id} ({one.state}) is queued for {row['needs']}, and needs {needs}"
        if row["quality"] != one.quality:
            yield f"item {item_id} is queued at {row['quality']}, and of {one.quality}"
    for item_id, one in found.items():
        is_low = one.state == "stored" and one.quality is not None and one.quality < RETRY.below
        if (is_low or (one.state == "stored" and not one.is_settled)) and item_id not in queued:
            yield f"item {item_id} ({one.state}, {one.quality}) is not queued"


def _wrong_in_search(database: Database, found: Mapping[str, StoredItem]) -> Iterator[str]:
    with database.read() as connection:
        rows = {row["item_id"]: row for row in connection.execute(sa.select(documents)).mappings()}
        vectors: dict[int, tuple[str, list[float]]] = {}
        if has_pgvector(database):
            query = sa.text("SELECT number, space, CAST(embedding AS text) AS embedding FROM document_vectors")
            vectors = {row.number: (row.space, json.loads(row.embedding)) for row in connection.execute(query)}
    stored = {item_id for item_id, one in found.items() if one.state == "stored"}
    hits = Counter(hit.id for hit in search(database, [COMMON_WORD], {}, limit=1000, min_quality=0))
    if hits != Counter(stored):
        yield f"a search finds {dict(hits)}, stored are {stored}"
    for item_id, one in found.items():
        if not one.is_settled:
            continue
        if (row := rows.get(item_id)) is None:
            yield f"item {item_id} has no document"
            continue
        expected = (one.item.name, one.results[LABEL].value["label"], one.results[TEXT].value["text"])
        if (row["name"], row["label"], row["text"], row["space"]) != (*expected, one.results[VECTOR].value["space"]):
            yield f"item {item_id}: the document is {dict(row)}, the results are {expected}"
        if has_pgvector(database):
            space, embedding = vectors.get(row["number"], ("none", []))
            if space != one.results[VECTOR].rung or not np.allclose(embedding, one.vector or (), atol=1e-6):
                yield f"item {item_id}: the indexed vector is {space} {embedding}, the result {one.vector}"


def broken_claims(database: Database) -> list[str]:
    """What two claims of everything get wrong, and what neither they nor a run of `enrich` would take up.

    Items that are claimed, or delayed, are to be left alone until their time has come.
    """
    broken = []
    found = stored_items(database)
    with database.read() as connection:
        is_waiting = retry_queue.c.due_at > database_time(connection)
        waiting = list(connection.scalars(sa.select(retry_queue.c.item_id).where(is_waiting)))
    everything = targets((), NAMES)
    some = [claim.item_id for claim in claims.claim(database, "first", everything, 2, RETRY.lease_s)]
    rest = [claim.item_id for claim in claims.claim(database, "second", everything, 1000, RETRY.lease_s)]
    if twice := [item_id for item_id, times in Counter([*some, *rest, *waiting]).items() if times > 1]:
        broken.append(f"claimed twice: {twice}")
    for holder, expected in ("first", some), ("second", rest):
        if sorted(item_id for item_id, who in claims.holders(database, list(found)).items() if who == holder) != sorted(
            expected
        ):
            broken.append(f"{holder} was told of {expected}, and holds others")
        claims.release(database, holder)
    with database.read() as connection:
        has_work = catalogue.has_work(UNMATCHED_RUN, refresh=False)
        with_work = set(connection.scalars(sa.select(items.c.id).where(has_work)))
    for item_id, one in found.items():
        if not one.is_finished and item_id not in {*some, *rest, *waiting, *with_work}:
            statuses = {stage: result.status.value for stage, result in one.results.items()}
            broken.append(f"item {item_id} ({one.state}, {one.quality}) is not finished, and left: {statuses}")
    return broken


def broken_when_healed(database: Database, records: Sequence[Item], run_id: str) -> list[str]:
    """What does not hold after a run over `records` and a `reprocess`, both with all rungs.

    Args:
        run_id: the run over the records.
    """
    broken = broken_at_rest(database)
    expected = {one.id: one for one in records}
    found = stored_items(database)
    if set(found) != set(expected):
        broken.append(f"the items are {sorted(found)}, not {sorted(expected)}")
    for item_id, one in found.items():
        if (one.item.name, one.item.image) != (expected[item_id].name, expected[item_id].image):
            broken.append(f"item {item_id} is of another record: {one.item}")
        if one.item.image == BROKEN:
            if not (one.state == "failed" and one.is_finished):
                broken.append(f"item {item_id} is {one.state}, and cannot but fail")
        elif not (one.is_settled and one.quality == 1):
            broken.append(f"item {item_id} is {one.state} at {one.quality}, not whole")
        elif wrong := [stage for stage, rungs in RUNGS.items() if one.results[stage].rung != next(iter(rungs))]:
            broken.append(f"item {item_id}: {wrong} were not served by the best rung")
    whole = {one.id: one.image for one in records if one.image != BROKEN}
    if {hit.id for hit in search(database, list(whole.values()), {}, limit=1000, min_quality=1)} != set(whole):
        broken.append(f"a search for {list(whole.values())} does not find what these are of")
    with database.read() as connection:
        listed = list(connection.scalars(sa.select(run_items.c.item_id).where(run_items.c.run_id == run_id)))
        if sorted(listed) != sorted(expected):
            broken.append(f"the run lists {sorted(listed)}")
        for table in retry_queue, incoming:
            if rows := connection.execute(sa.select(table.c.item_id)).all():
                broken.append(f"left in {table.name}: {rows}")
    return broken
