"""The report of a run of `enrich`: one line, JSON, and Markdown with a chart for the Prefect UI."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from repli.tasks.fallback import AnyChain, Status
from repli.tasks.reporting.key_outages import Outages, key_outages
from repli.tasks.reporting.markdown import cell, moves_table, table, usage_section
from repli.tasks.storage import breakers, counts, usage
from repli.tasks.storage.breakers import Move
from repli.tasks.storage.counts import NOT_REACHED, Tally
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.retry_queue import PARKED, QueueTally
from repli.tasks.storage.runs import Run
from repli.tasks.storage.usage import ApiUsage
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.lookup import FlaggedItem

MAX_LISTED_ITEMS = 10
"""The most items that a report lists of each kind: the lowest in quality, and the failed."""
COLOURS = ((1.0, "#2f9e44"), (0.9, "#94c11f"), (0.8, "#f0b429"), (0.0, "#d9480f"))
"""Lower bounds of quality, highest first, each with its colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The report of a run.

    `incompatibility_counts` has the number of items for which each rule forbade a rung; `outages` the keys, such as
    origins, that items wait for.
    """

    run: Run
    tally: Tally
    incompatibility_counts: Counter[str]
    lowest: Sequence[FlaggedItem]
    failed: Sequence[FlaggedItem]
    moves: Sequence[Move]
    outages: Outages
    queue: QueueTally
    usage: Sequence[ApiUsage] = ()

    @property
    def seconds(self) -> float:
        """Return the duration of the run, in seconds."""
        return ((self.run.finished_at or self.run.started_at) - self.run.started_at).total_seconds()

    @property
    def is_emulated(self) -> bool:
        """Return whether the accelerated rung ran on a CPU."""
        return bool(self.run.options.get("emulated"))

    def __str__(self) -> str:
        """Return the report in one line."""
        tally = self.tally
        parts = [
            f"{tally.stored} of {tally.items} items stored",
            means(tally),
            f"{tally.degraded} degraded",
            f"{tally.failed} failed",
        ]
        if declined := sum(tally.declined.values()):
            parts.append(f"{declined} declined by a rung")
        if tally.pending:
            parts.append(f"{tally.pending} pending")
        if self.queue.waiting:
            parts.append(f"{self.queue.waiting} queued for retry")
        if parked := self.queue.states.get(PARKED):
            parts.append(f"{parked} parked")
        if self.run.duplicates:
            parts.append(f"{self.run.duplicates} lines superseded by a later one with the same id")
        if self.is_emulated:
            parts.append("accelerator emulated")
        return "; ".join([", ".join(parts), *map(str, self.usage)])

    def as_json(self) -> dict[str, Any]:
        """Return the document of `run --json`."""
        return {
            "run_id": self.run.id,
            **self.tally.as_json(),
            "queued": self.queue.waiting,
            "seconds": round(self.seconds, 3),
            "duplicates": self.run.duplicates,
            "emulated": self.is_emulated,
            "outages": [outage.as_json() for outage in self.outages.listed],
            "other_outages": self.outages.others,
            "usage": [used.as_json() for used in self.usage],
            "notes": list(self.run.notes or ()),
        }


def build_report(database: Database, run: Run, stages: Sequence[str]) -> Report:
    """Build the report of a run from the current state of its items."""
    return Report(
        run=run,
        tally=counts.tally(database, stages, run.id),
        incompatibility_counts=counts.incompatibility_counts(database, run.id),
        lowest=lookup.lowest(database, run.id, MAX_LISTED_ITEMS),
        failed=lookup.failed(database, run.id, MAX_LISTED_ITEMS),
        moves=breakers.moves_since(database, run.started_at, run.finished_at),
        outages=key_outages(database, run.id),
        queue=retry_queue.tally(database, counts.of_run(run.id)),
        usage=usage.of_run(database, run.id),
    )


def means(tally: Tally) -> str:
    """Return the mean quality and the mean expected accuracy, for people."""
    quality = "no mean quality" if tally.mean_quality is None else f"mean quality {tally.mean_quality:.3f}"
    accuracy = tally.mean_expected_accuracy
    return quality if accuracy is None else f"{quality}, expected accuracy {accuracy:.3f}"


def colour(quality: float) -> str:
    """Return the colour of a quality, for charts and the terminal."""
    return next(name for start, name in COLOURS if quality >= start)


def markdown(report: Report, chains: Iterable[AnyChain]) -> str:
    """Return the whole report as Markdown, with its chart as a PNG data URI, which the Prefect UI shows."""
    tally = report.tally
    options = [_option(name, value) for name, value in report.run.options.items() if value]
    chart = base64.b64encode(quality_chart(tally.quality, tally.failed)).decode()
    sections = [
        f"# {report}",
        f"Source {cell(report.run.source)} · {report.seconds:.1f} s" + (f" · {', '.join(options)}" if options else ""),
        f"![Items by quality](data:image/png;base64,{chart})",
        "## Stages by status\n\n" + table("stage", _statuses(tally), tally.shown_stages),
        "## Stages by rung\n\n" + _rungs(tally.rungs, chains),
    ]
    if tally.declined:
        by_stage = {stage: {"items": count} for stage, count in tally.declined.items()}
        sections.append("## Declined, because a rung was not sure\n\n" + table("stage", ["items"], by_stage))
    if report.incompatibility_counts:
        by_rule = {cell(rule): {"items": count} for rule, count in report.incompatibility_counts.most_common()}
        sections.append("## Incompatible rungs\n\n" + table("rule", ["items"], by_rule))
    if report.usage:
        sections.append(usage_section(report.usage))
    if report.run.notes:
        sections.append("## Notes\n\n" + "\n".join(f"- {cell(note)}" for note in report.run.notes))
    if report.outages.listed:
        outages = "\n".join(f"- {cell(line)}" for line in report.outages.lines)
        sections.append(f"## Out of reach\n\n{outages}\n\nTimes are UTC.")
    if report.moves:
        sections.append("## Breakers that moved\n\n" + moves_table(report.moves))
    if report.lowest:
        sections.append("## Lowest quality\n\n" + _findings(report.lowest))
    if report.failed:
        sections.append("## Failed\n\n" + _findings(report.failed))
    return "\n\n".join(sections) + "\n"


def _statuses(tally: Tally) -> list[str]:
    return [*(status.value for status in Status), *([NOT_REACHED] if tally.not_reached else [])]


def quality_chart(quality: Mapping[float, int], failed: int) -> bytes:
    """Return a bar chart of items by quality, and of failed items, as a PNG."""
    from matplotlib.figure import Figure

    bars = [(f"{value:g}", count, colour(value)) for value, count in sorted(quality.items(), reverse=True)]
    if failed:
        bars.append(("failed", failed, "#868e96"))
    figure = Figure(figsize=(7, 0.9 + 0.38 * max(1, len(bars))), layout="constrained")
    axes = figure.subplots()
    names, counts, colours = ([bar[i] for bar in bars] for i in range(3))
    drawn = axes.barh(names, counts, color=colours)
    axes.bar_label(drawn, padding=4)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel("items")
    axes.set_ylabel("quality")
    axes.spines[["top", "right"]].set_visible(False)
    image = BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def _option(name: str, value: Any) -> str:
    """Return an option for display: `refresh`, `limit 100`, `faults classify_image.gpu=oom`."""
    if value is True:
        return f"`{name}`"
    return f"`{name} {' '.join(value) if isinstance(value, list) else value}`"


def _rungs(rungs: Mapping[str, Mapping[str, int]], chains: Iterable[AnyChain]) -> str:
    lines = ["| stage | rungs, best first: items served |", "| --- | --- |"]
    for chain in chains:
        counts = rungs.get(chain.stage, {})
        served = " · ".join(f"{name} **{counts[name]}**" if counts.get(name) else name for name in chain.rung_names)
        lines.append(f"| {chain.stage} | {served} |")
    return "\n".join(lines)


def _findings(findings: Iterable[FlaggedItem]) -> str:
    lines = ["| item | name | quality | why |", "| --- | --- | ---: | --- |"]
    for item in findings:
        quality = "" if item.quality is None else f"{item.quality:g}"
        cells = (
            cell(item.id),
            cell(item.name or ""),
            quality,
            "<br>".join(cell(why) for why in item.reasons),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
