"""The store as a file: all of it, a portion at a time, and the same bytes for the same store."""

from __future__ import annotations

import json
import subprocess
import weakref
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, RepliError, Status, StepError, StepResult, UsageError
from repli.tasks.items import Embedding, Item, ItemState, Label, Text
from repli.tasks.reporting.export import ROWS_PER_GROUP, export
from repli.tasks.settings import Settings
from repli.tasks.storage import labels, results
from repli.tasks.storage.database import Database
from repli.tasks.storage.labels import GivenLabel
from repli.tasks.storage.schema import step_results
from repli.tasks.storage.views.browse import ITEMS_PER_READ, Browsed, Selection, browse
from repli.tasks.storage.views.lookup import ItemView, Scores
from tests.support.command_line import command, environment
from tests.support.default_pipeline import STAGE_NAMES, STORED
from tests.support.in_process import enrich
from tests.support.stores import store_at

NIGHT = datetime(2026, 11, 24, 3, 0, 0, 250_000, tzinfo=UTC)
GONE = StepError(type="OutOfMemory", message="CUDA out of memory")
TRAIL = (
    Attempt(rung="gpu", outcome=AttemptOutcome.FAILED, error=GONE),
    Attempt(rung="cpu", outcome=AttemptOutcome.SERVED, seconds=0.25),
)
VECTOR = np.asarray([0.6, 0.8], dtype=np.float32)
SUFFIXES = pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])


def step(item_id: str, stage: str, status: Status = Status.SUCCEEDED, **fields: Any) -> StepResult:
    return StepResult(item_id=item_id, stage=stage, status=status, run_id="run", finished_at=NIGHT, **fields)


@pytest.fixture
def store(database: Database, registered: Callable[..., str]) -> Database:
    """A whole item, a degraded one, one that failed and one that nobody has looked at."""
    tabby = Label(label="tabby", label_index=281, top=(), vocabulary="imagenet-1k")
    run_id = registered(
        Item(id="cat", name="Кот, „Мурка“\n2", document="It purrs.", image="cat.png", attributes={"colour": "grey"}),
        "dog",
        "bad",
        "new",
    )
    less = {"rung": "cpu", "penalty": Decimal("0.9"), "confidence": 0.5, "error": GONE, "retryable": True}
    results.save(
        database,
        [
            step("cat", "extract_text", rung="full", penalty=Decimal(1), value=Text(text="It purrs.")),
            step("cat", "classify_image", Status.DEGRADED, value=tabby, attempts=TRAIL, **less),
            step("cat", "embed_text", rung="text_and_label", value=Embedding(space="model:1", vector=VECTOR)),
            step("dog", "classify_image", Status.NOT_APPLICABLE, penalty=Decimal(1)),
            step("bad", "validate", Status.FAILED, error=GONE),
        ],
    )
    store_at(database, run_id, {"cat": Decimal("0.9"), "dog": Decimal(1)})
    return database


def write(store: Database, path: Path, selection: Selection = Selection(), **options: Any) -> int:
    return export(browse(store, STORED, selection), STAGE_NAMES, path, **options)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_line_has_all_that_is_known(store: Database, tmp_path: Path) -> None:
    """Every stage has its status, those that never ran too; text and vector are whole."""
    assert write(store, tmp_path / "items.jsonl") == 4
    lines = {line["id"]: line for line in read(tmp_path / "items.jsonl")}
    assert list(lines) == ["bad", "cat", "dog", "new"]
    cat = lines["cat"]
    assert (cat["name"], cat["state"], cat["quality"]) == ("Кот, „Мурка“\n2", "stored", 0.9)
    assert (cat["document"], cat["image"], cat["attributes"]) == ("It purrs.", "cat.png", {"colour": "grey"})
    assert np.array_equal(np.asarray(cat["vector"], dtype=np.float32), VECTOR)
    assert cat["degraded"] == ["classify_image"]
    assert [lines[id_]["expected_accuracy"] for id_ in ("cat", "bad", "new")] == [0.5, None, None]
    classified = cat["stages"]["classify_image"]
    assert (classified["status"], classified["rung"], classified["value"]["label"]) == ("degraded", "cpu", "tabby")
    assert [attempt["outcome"] for attempt in classified["attempts"]] == ["failed", "served"]
    assert classified["finished_at"] == NIGHT.isoformat()
    assert {id_: line["state"] for id_, line in lines.items()} == {
        "bad": "failed",
        "cat": "stored",
        "dog": "stored",
        "new": "pending",
    }
    for line in lines.values():
        assert list(line["stages"]) == list(STAGE_NAMES)
        assert all(one["status"] in set(Status) for one in line["stages"].values())
    assert {one["status"] for one in lines["new"]["stages"].values()} == {"pending"}
    assert lines["bad"]["stages"]["validate"]["error"] == {"type": "OutOfMemory", "message": "CUDA out of memory"}


def test_a_row_has_all_that_is_known(store: Database, tmp_path: Path) -> None:
    """The same in columns; a status is never null, a time is a time, and a vector is one of 32-bit floats."""
    assert write(store, tmp_path / "items.parquet") == 4
    rows = {row["id"]: row for row in read(tmp_path / "items.parquet")}
    assert all(row[f"{stage}_status"] in set(Status) for row in rows.values() for stage in STAGE_NAMES)
    cat = rows["cat"]
    assert (cat["text"], cat["label"], cat["vector_space"]) == ("It purrs.", "tabby", "model:1")
    assert cat["vector"] == VECTOR.tolist()
    assert (cat["quality"], cat["expected_accuracy"], cat["degraded"]) == (0.9, 0.5, ["classify_image"])
    assert {name.removeprefix("classify_image_"): cat[name] for name in cat if name.startswith("classify_image")} == {
        "status": "degraded",
        "rung": "cpu",
        "rung_version": None,
        "penalty": 0.9,
        "confidence": 0.5,
        "retryable": True,
        "error": "OutOfMemory: CUDA out of memory",
        "value": cat["classify_image_value"],
        "attempts": cat["classify_image_attempts"],
        "run_id": "run",
        "finished_at": NIGHT,
    }
    assert json.loads(cat["classify_image_value"])["label_index"] == 281
    assert len(json.loads(cat["classify_image_attempts"])) == 2
    assert (rows["bad"]["quality"], rows["bad"]["state"], rows["new"]["state"]) == (None, "failed", "pending")


@SUFFIXES
def test_what_people_said_is_exported(store: Database, tmp_path: Path, suffix: str) -> None:
    """By stage, as long as the stage's input is the one that they looked at."""
    for stage, input_hash in (("classify_image", "then"), ("extract_text", "now")):
        with store.write() as connection:
            is_step = step_results.c.item_id == "cat", step_results.c.stage == stage
            connection.execute(sa.update(step_results).where(*is_step).values(input_hash="now"))
        value = {"label": "tabby"} if stage == "classify_image" else {"rungs": ["full"], "right": ["0f"], "wrong": []}
        labels.give(store, GivenLabel(item_id="cat", stage=stage, input_hash=input_hash, value=value, at=NIGHT))
    write(store, tmp_path / f"items{suffix}")
    rows = {row["id"]: row["labels"] for row in read(tmp_path / f"items{suffix}")}
    said = {id_: json.loads(text) if isinstance(text, str) else text or {} for id_, text in rows.items()}
    assert said == {"cat": {"extract_text": "full"}, "dog": {}, "bad": {}, "new": {}}


@SUFFIXES
def test_an_unchanged_store_gives_the_same_bytes(store: Database, tmp_path: Path, suffix: str) -> None:
    """At another time, under another name; a change of the store changes the file."""
    first, second, third = (tmp_path / f"{name}{suffix}" for name in ("first", "second", "third"))
    write(store, first)
    write(store, second)
    assert first.read_bytes() == second.read_bytes()
    results.save(store, [step("new", "fetch", Status.NOT_APPLICABLE)])
    write(store, third)
    assert first.read_bytes() != third.read_bytes()


@pytest.mark.parametrize(
    ("specs", "bounds", "wanted"),
    [
        ([], (0.9, None), ["cat", "dog"]),
        ([], (None, 0.95), ["cat"]),
        (["failed"], (None, None), ["bad"]),
        (["failed", "pending"], (None, None), ["bad", "new"]),
        (["classify_image=degraded"], (None, None), ["cat"]),
        (["classify_image=pending"], (None, None), ["bad", "new"]),
        (["stored", "classify_image=not_applicable"], (None, None), ["dog"]),
        (["stored"], (0.95, 0.99), []),
    ],
)
def test_only_what_is_selected_is_written(
    store: Database, tmp_path: Path, specs: list[str], bounds: tuple[float | None, float | None], wanted: list[str]
) -> None:
    """By quality, by the item's state, by a stage's status, and by several of these at once."""
    selection = Selection.parse(specs, STAGE_NAMES, *bounds)
    for suffix in (".jsonl", ".parquet"):
        path = tmp_path / f"items{suffix}"
        assert write(store, path, selection) == len(wanted)
        assert [row["id"] for row in read(path)] == wanted


@pytest.mark.parametrize("spec", ["great", "fetch", "fetch=great", "nothing=failed", "=failed", ""])
def test_what_cannot_be_selected_is_refused(spec: str) -> None:
    """The message names what there is."""
    with pytest.raises(UsageError, match=r"stored, failed, pending, or STAGE=STATUS with a stage of fetch"):
        Selection.parse([spec], STAGE_NAMES, None, None)


class Held:
    """Passes items on, and counts those that somebody still holds, by their vectors."""

    def __init__(self) -> None:
        self.most = self._now = 0

    def watch(self, found: Iterable[Browsed]) -> Iterator[Browsed]:
        for one in found:
            self._count(1)
            weakref.finalize(one.vector, self._count, -1)
            yield one

    def _count(self, more: int) -> None:
        self._now += more
        self.most = max(self.most, self._now)


def test_the_store_is_read_in_portions(database: Database, registered: Callable[..., str]) -> None:
    """Of many items no more are held than are read at a time."""
    ids = [f"item-{number:05}" for number in range(3 * ITEMS_PER_READ)]
    registered(*ids)
    results.save(database, [step(id_, "embed_text", value=Embedding(space="model:1", vector=VECTOR)) for id_ in ids])
    held = Held()
    assert [one.view.state.item.id for one in held.watch(browse(database, STORED, Selection()))] == ids
    assert held.most <= ITEMS_PER_READ + 1


@SUFFIXES
def test_the_file_is_written_in_portions(tmp_path: Path, suffix: str) -> None:
    """Of many items no more are held than are written at a time, and the next ones."""
    view = ItemView.of(ItemState(item=Item(id="cat"), results={}), Scores(), STORED)
    many = (Browsed(view, "pending", VECTOR.copy()) for _ in range(3 * ROWS_PER_GROUP))
    held = Held()
    assert export(held.watch(many), STAGE_NAMES, tmp_path / f"items{suffix}") == 3 * ROWS_PER_GROUP
    assert held.most <= 2 * ROWS_PER_GROUP


@SUFFIXES
def test_a_file_is_there_whole_or_not_at_all(store: Database, tmp_path: Path, suffix: str) -> None:
    """What ends half-way leaves the folder, and an older file, as they were."""
    path = tmp_path / f"items{suffix}"
    path.write_text("older")

    def broken() -> Iterator[Browsed]:
        yield from browse(store, STORED, Selection())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(broken(), STAGE_NAMES, path, overwrite=True)
    assert [found.name for found in tmp_path.glob(f"*items{suffix}*")] == [path.name]
    assert path.read_text() == "older"
    assert write(store, path, overwrite=True) == 4
    assert len(read(path)) == 4


def test_all_items_are_of_one_moment(database: Database, registered: Callable[..., str]) -> None:
    """What is written while an export reads is not in it, though it has not come to that item yet."""
    ids = [f"item-{number:05}" for number in range(ITEMS_PER_READ + 1)]
    registered(*ids)
    found = browse(database, STORED, Selection())
    next(found)
    results.save(database, [step(ids[-1], "validate", Status.FAILED, error=GONE)])
    assert {one.state for one in found} == {"pending"}
    assert [one.state for one in browse(database, STORED, Selection())][-1] == "failed"


@SUFFIXES
def test_a_place_that_cannot_be_written_is_told(store: Database, tmp_path: Path, suffix: str) -> None:
    """A folder that is not there, a path under a file, a folder in the file's place."""
    (tmp_path / "file").write_text("")
    (tmp_path / f"folder{suffix}").mkdir()
    for place in ("missing/items", "file/items", "folder"):
        with pytest.raises(RepliError, match=r"cannot be written .*; choose another place"):
            write(store, tmp_path / f"{place}{suffix}", overwrite=True)


@pytest.mark.parametrize("name", ["items.csv", "items", "jsonl", "items.jsonl.gz"])
def test_a_file_of_another_kind_is_refused(store: Database, tmp_path: Path, name: str) -> None:
    """The message names the kinds that there are."""
    with pytest.raises(UsageError, match=r"ends in \.jsonl or \.parquet"):
        write(store, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_the_command_line(settings: Settings, tmp_path: Path) -> None:
    """As its user types it: what it writes, what it says, and what it refuses."""
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(json.dumps({"id": f"item-{n}", "name": f"Thing {n}"}) for n in range(3)))
    enrich(settings, manifest)
    path = tmp_path / "items.jsonl"

    def repli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("export", *arguments),
            env=environment(settings.home),
            capture_output=True,
            text=True,
            check=False,
        )

    done = repli(path, "--max-quality", "0.8", "--status", "embed_text=degraded", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"file": str(path), "items": 3}), done.stderr
    assert {row["stages"]["embed_text"]["rung"] for row in read(path)} == {"hashed"}
    again = repli(path)
    assert (again.returncode, again.stderr) == (
        2,
        f"repli: {path} exists already; choose another name, or add --overwrite\n",
    )
    assert "3 items in" in repli(path, "--overwrite").stdout
    nowhere = repli(tmp_path / "missing" / "items.parquet")
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert nowhere.stderr.count("\n") == 1
    assert "cannot be written (No such file or directory); choose another place" in nowhere.stderr
