"""Export the store to a file: JSON Lines or Parquet, one line or row for each item, ordered by id.

Every stage has its status, `pending` if it has no result, so that a missing result is not mistaken for a null value.
The file has no timestamp of the export: an unchanged store gives the same bytes again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from repli.tasks.fallback import RepliError, StepResult, UsageError
from repli.tasks.storage.views.browse import Browsed

ROWS_PER_GROUP = 2000


def export(items: Iterable[Browsed], stages: Sequence[str], path: Path, *, overwrite: bool = False) -> int:
    """Write items to a file and return their number. The file is written under a temporary name and then moved.

    Raises:
        UsageError: The file's name ends in neither .jsonl nor .parquet, or the file exists and `overwrite` is false.
        RepliError: The file cannot be written.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError(f"{path.name}: choose a name that ends in {' or '.join(_WRITERS)}")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; choose another name, or add --overwrite")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            count = write(items, stages, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise RepliError(f"{path} cannot be written ({error.strerror or error}); choose another place") from None
    return count


def _jsonl(items: Iterable[Browsed], stages: Sequence[str], path: Path) -> int:
    """Write the document of `repli show --json` for each item, with its state, attributes and vector."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in items:
            shown = row.view.as_json()
            item = row.view.state.item
            line = {
                "id": shown["id"],
                "name": shown["name"],
                "state": row.state,
                "quality": shown["quality"],
                "expected_accuracy": shown["expected_accuracy"],
                "degraded": shown["degraded"],
                "declined": row.view.declined,
                "labels": row.labels,
                "document": item.document,
                "image": item.image,
                "attributes": item.attributes,
                "vector": None if row.vector is None else row.vector.tolist(),
                "stages": shown["stages"],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def _parquet(items: Iterable[Browsed], stages: Sequence[str], path: Path) -> int:
    """Write one column for each field: `STAGE_status`, `STAGE_rung` and so on; `text`, `label` and `vector`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = {"string": pa.string(), "float": pa.float64(), "bool": pa.bool_(), "time": pa.timestamp("us", tz="UTC")}
    kinds = {**fields, "strings": pa.list_(pa.string()), "vector": pa.list_(pa.float32())}
    columns = _columns(stages)
    schema = pa.schema([(name, kinds[kind]) for name, (kind, _) in columns.items()])
    count = 0
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _chunks(items, ROWS_PER_GROUP):
            arrays = [
                pa.array([read(row) for row in rows], type=field.type)
                for field, (_, read) in zip(schema, columns.values(), strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(rows)
    return count


_Column = tuple[str, Callable[[Browsed], Any]]


def _columns(stages: Sequence[str]) -> dict[str, _Column]:
    columns: dict[str, _Column] = {
        "id": ("string", lambda item: item.view.state.item.id),
        "name": ("string", lambda item: _text(item.view.state.item.name)),
        "state": ("string", lambda item: item.state),
        "quality": ("float", lambda item: item.view.quality),
        "expected_accuracy": ("float", lambda item: item.view.expected_accuracy),
        "degraded": ("strings", lambda item: item.view.degraded),
        "declined": ("strings", lambda item: item.view.declined),
        "labels": ("string", lambda item: _json(item.labels) if item.labels else None),
        "document": ("string", lambda item: _text(item.view.state.item.document)),
        "image": ("string", lambda item: _text(item.view.state.item.image)),
        "attributes": ("string", lambda item: _json(item.view.state.item.attributes)),
        "text": ("string", lambda item: item.view.produced("text").get("text")),
        "label": ("string", lambda item: item.view.produced("label").get("label")),
        "vector_space": ("string", lambda item: item.view.produced("embedding").get("space")),
        "vector": ("vector", lambda item: item.vector),
    }
    for stage in stages:
        for name, (kind, read) in _STAGE_COLUMNS.items():
            columns[f"{stage}_{name}"] = kind, _step_reader(stage, read)
    return columns


_STAGE_COLUMNS: Mapping[str, tuple[str, Callable[[StepResult], Any]]] = {
    "status": ("string", lambda step: step.status.value),
    "rung": ("string", lambda step: step.rung),
    "rung_version": ("string", lambda step: step.rung_version),
    "penalty": ("float", lambda step: None if step.penalty is None else float(step.penalty)),
    "confidence": ("float", lambda step: step.confidence),
    "retryable": ("bool", lambda step: step.retryable),
    "error": ("string", lambda step: step.error.line if step.error else None),
    "value": ("string", lambda step: None if step.value is None else _json(step.value)),
    "attempts": ("string", lambda step: _json([attempt.as_json() for attempt in step.attempts])),
    "run_id": ("string", lambda step: step.run_id),
    "finished_at": ("time", lambda step: step.finished_at),
}


def _step_reader(stage: str, read: Callable[[StepResult], Any]) -> Callable[[Browsed], Any]:
    return lambda item: read(item.view.stages[stage])


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _chunks(items: Iterable[Browsed], size: int) -> Iterator[list[Browsed]]:
    rows = iter(items)
    while chunk := list(islice(rows, size)):
        yield chunk


_WRITERS: Mapping[str, Callable[[Iterable[Browsed], Sequence[str], Path], int]] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
