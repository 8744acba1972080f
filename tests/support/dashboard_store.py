"""A store that a dashboard has something to show of: a catalogue after a bad night."""

from __future__ import annotations

import html
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from repli.flows.cli.demo.catalogue import build
from repli.tasks.fallback.breaker import Cause
from repli.tasks.settings import Settings
from repli.tasks.storage import breakers, drills, runs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from tests.support.default_pipeline import CHAINS, declared_breakers
from tests.support.in_process import enrich

ITEMS = 60
OUTAGE = {"classify_image": "rules", "embed_text": "hashed"}
PHOTO = "strawberry"
"""An item of the outage with a picture, and a name in which `rules` find its class."""
GPU = "classify_image.gpu"
HOSTILE_ID = "hostile <b>id</b>"
HOSTILE_NAME = "<script>document.title = 'taken'</script> ![x](https://example.invalid/x.png) :red[**shout**] $x^2$"
HOSTILE_TEXT = "<img src=x onerror=\"document.title='taken'\"> <b>bold</b> and [a link](javascript:alert(1))"


def make(home: Path, folder: Path) -> Database:
    """Three runs: in a full outage, in health, and of an item that means harm; then a queue, moves and drills."""
    settings = Settings.from_environment({"REPLI_HOME": str(home), "REPLI_GPU_DEVICE": "cpu"})
    database = Database(settings.database_url)
    lines = build(folder, items=ITEMS, min_words=0).read_text(encoding="utf-8").splitlines(keepends=True)
    lines.sort(key=lambda line: f'"{PHOTO}"' not in line)
    portions = {"outage": (lines[: ITEMS // 3], OUTAGE), "healthy": (lines, {}), "hostile": ([hostile_line()], OUTAGE)}
    for name, (some, forced) in portions.items():
        manifest = folder / f"{name}.jsonl"
        manifest.write_text("".join(some), encoding="utf-8")
        enrich(settings, manifest, forced=forced)
        run = runs.latest(database, source=str(manifest))
        assert run
        runs.finish(database, run.id, datetime.now(UTC))
    some_breakers(database)
    with database.read() as connection:
        queued = connection.scalars(sa.select(sa.text("item_id")).select_from(retry_queue.retry_queue)).all()
    retry_queue.enqueue_by_operator(database, sorted(queued)[:2])
    now = datetime.now(UTC)
    drills.keep(database, None, now - timedelta(days=7), now - timedelta(days=7), drill_report(failing=True))
    drills.keep(database, None, now, now, drill_report(failing=False))
    return database


def hostile_line() -> str:
    text = f"<p>{html.escape(HOSTILE_TEXT)}</p>"  # without its tags it is what it was
    record = {"id": HOSTILE_ID, "name": HOSTILE_NAME, "text": text, "image": "<b>gone</b>.png"}
    return json.dumps(record) + "\n"


def some_breakers(database: Database) -> None:
    """One opened by a person, after it was opened and closed again."""
    breaker = declared_breakers()[GPU]
    for cause in (Cause.FORCED_OPEN, Cause.RESET, Cause.FORCED_OPEN):
        breakers.override(database, breaker, Key(GPU), cause)


def drill_report(*, failing: bool) -> dict[str, Any]:
    """Return the report of a drill. The failing one is an older Repli's, which has no `not_covered`."""
    rungs = [
        {
            "stage": chain.stage,
            "rung": rung.name,
            "verdict": "passed",
            "reason": "",
            "agreement": None if place == 0 else 0.97 - 0.08 * place,
            "interval": None if place == 0 else [0.92 - 0.08 * place, 0.99 - 0.08 * place],
            "seconds_per_item": 0.031,
            "penalty": float(rung.factor),
            "penalty_justified": None if place == 0 else 0.95 - 0.1 * place,
            "items": 200,
            "reached": True,
        }
        for chain in CHAINS
        for place, rung in enumerate(chain.rungs)
    ]
    if failing:
        rungs[-1].update(verdict="failed", reason="it was never reached", reached=False)
    else:
        device = next(rung for rung in rungs if f"{rung['stage']}.{rung['rung']}" == GPU)
        why = "there is no CUDA device here"
        device.update(verdict="not_covered", reason=why, reached=False, seconds_per_item=None)
    reached = sum(bool(rung["reached"]) for rung in rungs)
    whole = {"sample": 200, "rungs_declared": len(rungs), "rungs_reached": reached, "rules": [], "problems": []}
    if not failing:
        whole["not_covered"] = [GPU]
    return {"verdict": "failed" if failing else "passed", "rungs": rungs, **whole}
