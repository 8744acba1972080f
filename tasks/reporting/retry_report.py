"""The report of a run of `reprocess`: upgraded items, called stages, and the remaining queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repli.tasks.reporting.markdown import cell, moves_table, table, usage_section
from repli.tasks.storage import breakers, usage
from repli.tasks.storage.breakers import Move
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retries, retry_queue
from repli.tasks.storage.retry.retries import UPGRADED, RetryTally
from repli.tasks.storage.retry.retry_queue import PARKED, Priority, QueueTally
from repli.tasks.storage.runs import Run
from repli.tasks.storage.usage import ApiUsage

MAX_LISTED_ITEMS = 20
"""The most parked items that a report lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReport:
    """The report of a run of `reprocess`. `queue` and `parked` describe the whole queue, at the time of the report."""

    run: Run
    tally: RetryTally
    queue: QueueTally
    parked: Sequence[str]
    moves: Sequence[Move]
    usage: Sequence[ApiUsage] = ()

    @property
    def calls(self) -> Mapping[str, int]:
        """Return the number of items for which a rung was called, by stage."""
        calls: Mapping[str, int] = (self.run.summary or {}).get("calls", {})
        return calls

    @property
    def ending(self) -> str:
        """Return why the run ended before the queue was empty, or ''."""
        return str((self.run.summary or {}).get("ending", ""))

    @property
    def all_upgraded(self) -> bool:
        """Return whether every claimed item was upgraded."""
        return self.tally.outcomes.get(UPGRADED, 0) == self.tally.claimed

    def __str__(self) -> str:
        """Return the report in one line."""
        parts = [str(self.tally) if self.tally.claimed else "nothing was claimed", self.ending]
        if self.queue.waiting:
            parts.append(f"{self.queue.waiting} still queued")
        parts += map(str, self.usage)
        return "; ".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        """Return the document of `reprocess --json`."""
        return {
            **self.tally.as_json(),
            "calls": dict(self.calls),
            "run_id": self.run.id,
            "ending": self.ending,
            "queue": self.queue.as_json(),
            "usage": [used.as_json() for used in self.usage],
        }


def build_retry_report(database: Database, run: Run) -> RetryReport:
    """Build the report of a run of `reprocess` from the store."""
    return RetryReport(
        run=run,
        tally=retries.tally(database, run.id),
        queue=retry_queue.tally(database),
        parked=retries.parked(database, MAX_LISTED_ITEMS),
        moves=breakers.moves_since(database, run.started_at, run.finished_at),
        usage=usage.of_run(database, run.id),
    )


def markdown(report: RetryReport) -> str:
    """Return the whole report as Markdown, for the Prefect UI."""
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
            "## Reprocessed\n\n"
            + table("stage", ["items"], {stage: {"items": count} for stage, count in report.calls.items()}),
        ]
    sections.append("## In the queue\n\n" + table("priority", ["items"], waiting))
    if report.parked:
        named = "\n".join(f"- {cell(id_)}" for id_ in report.parked)
        sections.append(f"## Parked\n\n{named}\n\n`repli queue retry ID` queues one again.")
    if report.usage:
        sections.append(usage_section(report.usage))
    if report.run.notes:
        sections.append("## Notes\n\n" + "\n".join(f"- {cell(note)}" for note in report.run.notes))
    if report.moves:
        sections.append("## Breakers that moved\n\n" + moves_table(report.moves))
    return "\n\n".join(sections) + "\n"
