"""The report of a run of `reprocess`: what was lifted, what was called for it, and what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repli.tasks.reporting.markdown import cell, moves_table, table
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import Move
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retries, retry_queue
from repli.tasks.storage.retry.retries import UPGRADED, RetryTally
from repli.tasks.storage.retry.retry_queue import PARKED, Priority, QueueTally
from repli.tasks.storage.runs import Run

LISTED = 20
"""Parked items that a report names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReport:
    """What a report is made from. `queue` and `parked` are as the whole queue stands now."""

    run: Run
    tally: RetryTally
    queue: QueueTally
    parked: Sequence[str]
    moves: Sequence[Move]

    @property
    def calls(self) -> Mapping[str, int]:
        """The items for which a rung was called, by stage."""
        calls: Mapping[str, int] = (self.run.summary or {}).get("calls", {})
        return calls

    @property
    def ending(self) -> str:
        """Why it ended before the queue did; empty where it did not."""
        return str((self.run.summary or {}).get("ending", ""))

    @property
    def is_whole(self) -> bool:
        """Whether every item that was claimed is better than before."""
        return self.tally.outcomes.get(UPGRADED, 0) == self.tally.claimed

    def __str__(self) -> str:
        """One line."""
        parts = [str(self.tally) if self.tally.claimed else "nothing was claimed", self.ending]
        if self.queue.waiting:
            parts.append(f"{self.queue.waiting} still queued")
        return "; ".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        """The outside form: `reprocess --json` of section 11 of the design."""
        return {
            **self.tally.as_json(),
            "calls": dict(self.calls),
            "run_id": self.run.id,
            "ending": self.ending,
            "queue": self.queue.as_json(),
        }


def build_retry_report(database: Database, run: Run) -> RetryReport:
    """The report of a run of `reprocess`."""
    return RetryReport(
        run=run,
        tally=retries.tally(database, run.id),
        queue=retry_queue.tally(database),
        parked=retries.parked(database, LISTED),
        moves=breakers.moves_since(database, run.started_at, run.finished_at),
    )


def markdown(report: RetryReport) -> str:
    """The whole report, for the Prefect UI."""
    tally = report.tally
    qualities = sorted({*tally.before, *tally.after}, reverse=True)
    by_quality = {
        f"{quality:g}": {"before": tally.before.get(quality, 0), "after": tally.after.get(quality, 0)}
        for quality in qualities
    }
    waiting = {priority.name: {"items": report.queue.priorities.get(priority, 0)} for priority in Priority}
    waiting[PARKED] = {"items": report.queue.states.get(PARKED, 0)}
    sections = [f"# {report}"]
    if tally.claimed:
        sections += [
            "## Items by quality\n\n" + table("quality", ["before", "after"], by_quality),
            "## Done again\n\n"
            + table("stage", ["items"], {stage: {"items": count} for stage, count in report.calls.items()}),
        ]
    sections.append("## In the queue\n\n" + table("priority", ["items"], waiting))
    if report.parked:
        named = "\n".join(f"- {cell(id_)}" for id_ in report.parked)
        sections.append(f"## Parked\n\n{named}\n\n`repli queue retry ID` brings one back.")
    if report.run.notes:
        sections.append("## Notes\n\n" + "\n".join(f"- {cell(note)}" for note in report.run.notes))
    if report.moves:
        sections.append("## Breakers that moved\n\n" + moves_table(report.moves))
    return "\n\n".join(sections) + "\n"
