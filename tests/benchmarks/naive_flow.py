"""The first version that most people write: one mapped task per item and stage, with Prefect's own retries."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from prefect import flow, task

from repli.tasks.models import image_classifier, text_embedder
from repli.tasks.settings import ModelSettings

MODELS = ModelSettings()
DATABASE = Path(os.environ["REPLI_HOME"], "naive.db")


@task(retries=3)
def fetch(folder: str, record: dict[str, Any]) -> tuple[bytes, bytes]:
    return Path(folder, record["document"]).read_bytes(), Path(folder, record["image"]).read_bytes()


@task(retries=3)
def validate(record: dict[str, Any]) -> dict[str, Any]:
    assert record["id"]
    assert record["name"]
    return record


@task(retries=3)
def extract_text(fetched: tuple[bytes, bytes]) -> str:
    import trafilatura

    return trafilatura.extract(fetched[0].decode()) or ""


@task(retries=3)
def classify_image(fetched: tuple[bytes, bytes]) -> str | None:
    classifier = image_classifier.load(MODELS.image_cpu, "cpu")
    return classifier.classify([classifier.prepare(fetched[1])])[0].label.label


@task(retries=3)
def embed_text(record: dict[str, Any], text: str, label: str | None) -> bytes:
    vector = text_embedder.load(MODELS.text).embed([f"{record['name']}. {label}. {text}"])[0]
    return bytes(vector.tobytes())


@task(retries=3)
def store(record: dict[str, Any], text: str, label: str | None, vector: bytes) -> None:
    with sqlite3.connect(DATABASE, timeout=60) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS items (id PRIMARY KEY, text, label, vector)")
        connection.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", (record["id"], text, label, vector))


@flow(name="naive")
def naive_flow(folder: str, records: list[dict[str, Any]]) -> None:
    fetched = fetch.map(folder, records)
    validated = validate.map(records)
    texts = extract_text.map(fetched)
    labels = classify_image.map(fetched)
    vectors = embed_text.map(validated, texts, labels)
    store.map(validated, texts, labels, vectors).wait()
