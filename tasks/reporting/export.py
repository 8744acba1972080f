"""The store as a file for other tools: JSON Lines, or Parquet, an item a line or row, in the order of their ids.

Whatever is said of an item's quality is said in the file too: every stage has its status, `pending` where nothing was
left, so that nothing is flattened into null. Nothing of the moment is in it: a second export of an unchanged store is
the same bytes.
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


def export(found: Iterable[Browsed], stages: Sequence[str], path: Path, *, overwrite: bool = False) -> int:
    """Write items to a file; how many. The file appears, or is replaced, when it is whole.

    Raises:
        UsageError: the file's name ends in neither .jsonl nor .parquet, or it is there and not to be overwritten.
        RepliError: it cannot be written.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError(f"{path.name}: choose a name that ends in {' or '.join(_WRITERS)}")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; choose another name, or add --overwrite")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            count = write(found, stages, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise RepliError(f"{path} cannot be written ({error.strerror or error}); choose another place") from None
    return count


def _jsonl(found: Iterable[Browsed], stages: Sequence[str], path: Path) -> int:
    """As `repli show --json` has it, with the item's state, its attributes and its vector."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for one in found:
            shown = one.view.as_json()
            item = one.view.state.item
            line = {
                "id": shown["id"],
                "name": shown["name"],
                "state": one.state,
                "quality": shown["quality"],
                "degraded": shown["degraded"],
                "document": item.document,
                "image": item.image,
                "attributes": item.attributes,
                "vector": None if one.vector is None else one.vector.tolist(),
                "stages": shown["stages"],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def _parquet(found: Iterable[Browsed], stages: Sequence[str], path: Path) -> int:
    """A column a field: `STAGE_status`, `STAGE_rung` and so on, and what search is built on by its own name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = {"string": pa.string(), "float": pa.float64(), "bool": pa.bool_(), "time": pa.timestamp("us", tz="UTC")}
    kinds = {**fields, "strings": pa.list_(pa.string()), "vector": pa.list_(pa.float32())}
    columns = _columns(stages)
    schema = pa.schema([(name, kinds[kind]) for name, (kind, _) in columns.items()])
    count = 0
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _portions(found, ROWS_PER_GROUP):
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
        "id": ("string", lambda one: one.view.state.item.id),
        "name": ("string", lambda one: _text(one.view.state.item.name)),
        "state": ("string", lambda one: one.state),
        "quality": ("float", lambda one: one.view.quality),
        "degraded": ("strings", lambda one: one.view.degraded),
        "document": ("string", lambda one: _text(one.view.state.item.document)),
        "image": ("string", lambda one: _text(one.view.state.item.image)),
        "attributes": ("string", lambda one: _json(one.view.state.item.attributes)),
        "text": ("string", lambda one: _value(one, "extract_text", "text")),
        "label": ("string", lambda one: _value(one, "classify_image", "label")),
        "vector_space": ("string", lambda one: _value(one, "embed_text", "space")),
        "vector": ("vector", lambda one: one.vector),
    }
    for stage in stages:
        for name, (kind, read) in _OF_A_STAGE.items():
            columns[f"{stage}_{name}"] = kind, _of(stage, read)
    return columns


_OF_A_STAGE: Mapping[str, tuple[str, Callable[[StepResult], Any]]] = {
    "status": ("string", lambda step: step.status.value),
    "rung": ("string", lambda step: step.rung),
    "penalty": ("float", lambda step: None if step.penalty is None else float(step.penalty)),
    "confidence": ("float", lambda step: step.confidence),
    "retryable": ("bool", lambda step: step.retryable),
    "error": ("string", lambda step: step.error.line if step.error else None),
    "value": ("string", lambda step: None if step.value is None else _json(step.value)),
    "attempts": ("string", lambda step: _json([attempt.as_json() for attempt in step.attempts])),
    "run_id": ("string", lambda step: step.run_id),
    "finished_at": ("time", lambda step: step.finished_at),
}


def _of(stage: str, read: Callable[[StepResult], Any]) -> Callable[[Browsed], Any]:
    return lambda one: read(one.view.stages[stage])


def _value(one: Browsed, stage: str, name: str) -> Any:
    step = one.view.stages.get(stage)
    return (step.value or {}).get(name) if step else None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _portions(found: Iterable[Browsed], size: int) -> Iterator[list[Browsed]]:
    rows = iter(found)
    while portion := list(islice(rows, size)):
        yield portion


_WRITERS: Mapping[str, Callable[[Iterable[Browsed], Sequence[str], Path], int]] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
