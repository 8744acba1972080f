"""What the parts of the benchmark of a card share: where they read and write, the device, and how they tell it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items as items_table
from repli.tasks.storage.schema import step_results

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where the parts read and write, and the device.

    Args:
        folder: Homes of runs, thrown away at the end.
        out: Results, kept.
        is_emulated: There is no card; a processor stands for it, and nothing of it is a measurement.
    """

    manifest: Path
    items: int
    folder: Path
    out: Path
    is_emulated: bool
    began: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        return "cpu" if self.is_emulated else "cuda"

    @property
    def batches(self) -> tuple[str, ...]:
        """Options of `repli run`: a rehearsal has so few items that only small batches give it a midst."""
        return ("--batch-size", "8") if self.is_emulated else ()

    def tell(self, line: str) -> None:
        """Print a line at once, with the seconds since the benchmark began, and write it to `card.txt` too."""
        told = f"[{time.monotonic() - self.began:5.0f} s] {line}"
        print(told, flush=True)
        with (self.out / "card.txt").open("a", encoding="utf-8") as file:
            file.write(f"{told}\n")

    def keep(self, name: str, result: Mapping[str, Any]) -> None:
        """Write the result of a part to a file of its own."""
        (self.out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def counted(store: Database) -> dict[float | None, int]:
    """Return the number of stored items by quality; None counts items that are not stored."""
    if not store.is_migrated():
        return {}
    quality = sa.case((items_table.c.state == "stored", items_table.c.quality))
    with store.read() as connection:
        return {row[0]: row[1] for row in connection.execute(sa.select(quality, sa.func.count()).group_by(quality))}


def improvable(store: Database, stage: str) -> int:
    """Return the number of items whose result of this stage a later try may improve: not where no model is sure."""
    with store.read() as connection:
        found = sa.select(sa.func.count()).where(step_results.c.stage == stage, step_results.c.retryable)
        return int(connection.execute(found).scalar_one())


def results(store: Database, stage: str) -> int:
    """Return the number of items that have a result of this stage."""
    if not store.is_migrated():
        return 0
    with store.read() as connection:
        query = sa.select(sa.func.count()).select_from(step_results).where(step_results.c.stage == stage)
        return int(connection.scalar(query) or 0)


def failures(store: Database, kind: str) -> Iterator[str]:
    """Yield the message of each attempt that ended with an error of this type, in any trail."""
    with store.read() as connection:
        for trail in connection.scalars(sa.select(step_results.c.attempts)):
            for attempt in trail:
                if attempt.get("error") and attempt["error"]["type"] == kind:
                    yield attempt["error"]["message"]
