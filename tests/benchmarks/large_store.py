"""A store of many items, made without a stage: made-up names and texts, vectors by chance, and a usual mix of ends.

``python -m tests.benchmarks.large_store URL ITEMS`` makes one at a database URL. The rows are those that the stages
would leave; the documents and their indexes are made by the store itself.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from repli.tasks.fallback.breaker import Cause
from repli.tasks.items import Item
from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.storage import breakers, runs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items, retry_queue, step_results
from repli.tasks.storage.search import documents
from tests.support.default_pipeline import declared_breakers

SPACE, DIMENSIONS, HASHED_DIMENSIONS = "made-up:1:384", 384, 1024
PORTION = 2000
WORDS_A_TEXT = 90
NIGHT = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeo"]
VOCABULARY = [a + b + c for a in SYLLABLES for b in SYLLABLES[::4] for c in SYLLABLES[::3]]
"""Some four thousand words."""
# How items end: the share, what became of classify_image and embed_text, and the quality.
ENDS = (
    (0.70, ("succeeded", "gpu"), ("succeeded", "text_and_label"), 1.0),
    (0.14, ("degraded", "cpu"), ("succeeded", "text_and_label"), 0.9),
    (0.05, ("degraded", "cpu"), ("degraded", "hashed"), 0.72),
    (0.04, ("skipped", "skip"), ("degraded", "text_only"), 0.665),
    (0.03, ("succeeded", "gpu"), ("skipped", "skip"), 0.7),
    (0.02, ("not_applicable", None), ("succeeded", "text_and_label"), 1.0),
    (0.02, None, None, None),
)
GONE = {"type": "OutOfMemory", "message": "CUDA out of memory", "retryable": True}


def make(url: str, count: int, seed: int = 0) -> Database:
    """A store with so many items, at a URL where there is none yet."""
    database = Database(url)
    database.migrate()
    chance = np.random.default_rng(seed)
    run_id = runs.start(database, str(uuid.uuid4()), "made-up.jsonl", {}, NIGHT)
    for first in range(0, count, PORTION):
        _make_portion(database, run_id, range(first, min(count, first + PORTION)), chance)
    runs.finish(database, run_id, NIGHT + timedelta(hours=1))
    for cause in (Cause.FORCED_OPEN, Cause.RESET) * 10:
        breakers.override(database, declared_breakers()["classify_image.gpu"], Key("classify_image.gpu"), cause)
    if not database.is_sqlite:
        with database.write() as connection:
            connection.execute(sa.text("ANALYZE"))  # as PostgreSQL does by itself within a minute; SQLite never does
    return database


def _make_portion(database: Database, run_id: str, numbers: range, chance: np.random.Generator) -> None:
    ends = chance.choice(len(ENDS), size=len(numbers), p=[end[0] for end in ENDS])
    item_rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    queued: list[dict[str, Any]] = []
    for number, which in zip(numbers, ends, strict=True):
        name, text = " ".join(words(chance, 3)).title(), " ".join(words(chance, WORDS_A_TEXT))
        _, image, vector, quality = ENDS[which]
        id_ = f"item-{number:07}"
        record = Item(id=id_, name=name, document=f"{number}.html", image=f"{number}.jpg")
        item_rows.append(
            {
                "id": id_,
                "name": name,
                "record": {"document": record.document, "image": record.image, **_REST},
                "fingerprint": record.fingerprint,
                "state": "stored" if quality else "failed",
                "quality": quality,
                "run_id": run_id,
            }
        )
        steps += _steps(id_, run_id, text, image, vector, quality, chance)
        if quality is None or quality < 0.8:
            since = NIGHT + timedelta(seconds=float(chance.uniform(0, 40 * 3600)))
            entry = {"item_id": id_, "priority": 3 if quality else 2, "quality": quality, "enqueued_at": since}
            needs = "classify_image=cpu?" if quality else "validate=!?"
            queued.append({**entry, "state": "ready", "tries": 0, "needs": needs})
    stored = [row["id"] for row in item_rows if row["state"] == "stored"]
    with database.write() as connection:
        connection.execute(sa.insert(items), item_rows)
        connection.execute(sa.insert(step_results), steps)
        connection.execute(sa.insert(retry_queue), queued)
    documents.create_vector_indexes(database, stored)
    with database.write() as connection:
        documents.index(database, connection, stored)


_REST: dict[str, Any] = {"attributes": {}, "folder": "", "repaired": [], "problem": None}


def words(chance: np.random.Generator, count: int) -> list[str]:
    """Words as texts have them: a few are in most, most are in a few."""
    places = (len(VOCABULARY) ** chance.random(count)).astype(int)
    return [VOCABULARY[place % len(VOCABULARY)] for place in places]


def unit(chance: np.random.Generator, dimensions: int) -> npt.NDArray[np.float32]:
    """A unit vector of any direction."""
    vector = chance.standard_normal(dimensions, dtype=np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def _steps(
    id_: str, run_id: str, text: str, image: Any, vector: Any, quality: float | None, chance: np.random.Generator
) -> Iterator[dict[str, Any]]:
    def step(stage: str, status: str, rung: str | None, value: Any = None, **fields: Any) -> dict[str, Any]:
        less = status in {"degraded", "skipped", "failed"}
        trail = [{"rung": rung, "outcome": "served", "error": None, "seconds": 0.01}]
        row = {"item_id": id_, "stage": stage, "status": status, "rung": rung, "value": value, "vector": None}
        row |= {"rank": 3.0, "confidence": 0.9, "penalty": 1.0, "error": GONE if less else None, "attempts": trail}
        return row | {"retryable": less, "run_id": run_id, "finished_at": NIGHT, "input_hash": None} | fields

    yield step("fetch", "succeeded", "origin", {"document": None, "image": None})
    if quality is None:
        yield step("validate", "failed", None)
        return
    yield step("validate", "succeeded", "expectations", {"violations": []})
    yield step("extract_text", "succeeded", "full", {"text": text, "characters": len(text)})
    yield step("classify_image", image[0], image[1], {"label": words(chance, 1)[0]})
    space, dimensions = (HASHED_SPACE, HASHED_DIMENSIONS) if vector[1] == "hashed" else (SPACE, DIMENSIONS)
    if vector[1] == "skip":
        yield step("embed_text", vector[0], vector[1])
    else:
        said = {"space": space, "dimensions": dimensions}
        yield step("embed_text", vector[0], vector[1], said, vector=unit(chance, dimensions).tobytes())
    yield step("store", "succeeded", "database", {"quality": quality})


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]))
