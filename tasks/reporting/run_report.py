"""The report of a run: Markdown with a chart, for the Prefect UI and for people."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from repli.tasks.fallback import AnyChain, Status
from repli.tasks.reporting.markdown import cell, moves_table, table
from repli.tasks.storage import breakers, runs
from repli.tasks.storage.breakers import Move
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.retry_queue import PARKED, QueueTally
from repli.tasks.storage.runs import Run, Tally
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.lookup import Finding

LISTED = 10
"""Items that a report names: the lowest in quality, and the failed."""
COLOURS = ((1.0, "#2f9e44"), (0.9, "#94c11f"), (0.8, "#f0b429"), (0.0, "#d9480f"))
"""The colour of a quality: that of the first row it reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report is made from. `incompatibility_counts` counts, by rule, the items that it kept a rung from."""

    run: Run
    tally: Tally
    incompatibility_counts: Counter[str]
    lowest: Sequence[Finding]
    failed: Sequence[Finding]
    moves: Sequence[Move]
    queue: QueueTally

    @property
    def seconds(self) -> float:
        """How long the run took."""
        return ((self.run.finished_at or self.run.started_at) - self.run.started_at).total_seconds()

    @property
    def is_emulated(self) -> bool:
        """Whether the accelerated rung ran on a plain processor."""
        return bool(self.run.options.get("emulated"))

    def __str__(self) -> str:
        """One line."""
        tally = self.tally
        mean = "no mean quality" if tally.mean_quality is None else f"mean quality {tally.mean_quality:.3f}"
        parts = [
            f"{tally.stored} of {tally.items} items stored",
            mean,
            f"{tally.degraded} degraded",
            f"{tally.failed} failed",
        ]
        if tally.pending:
            parts.append(f"{tally.pending} pending")
        if self.queue.waiting:
            parts.append(f"{self.queue.waiting} queued to be done again")
        if parked := self.queue.states.get(PARKED):
            parts.append(f"{parked} parked")
        if self.run.duplicates:
            parts.append(f"{self.run.duplicates} lines superseded by a later one with the same id")
        if self.is_emulated:
            parts.append("accelerator emulated")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """The outside form: `run --json` of section 11 of the design."""
        return {
            "run_id": self.run.id,
            **self.tally.as_json(),
            "queued": self.queue.waiting,
            "seconds": round(self.seconds, 3),
            "duplicates": self.run.duplicates,
            "emulated": self.is_emulated,
        }


def build_report(database: Database, run: Run, stages: Sequence[str]) -> Report:
    """The report of a run, as its items stand now."""
    return Report(
        run=run,
        tally=runs.tally(database, stages, run.id),
        incompatibility_counts=runs.incompatibility_counts(database, run.id),
        lowest=lookup.lowest(database, run.id, LISTED),
        failed=lookup.failed(database, run.id, LISTED),
        moves=breakers.moves_since(database, run.started_at, run.finished_at),
        queue=retry_queue.tally(database, runs.of_run(run.id)),
    )


def colour(quality: float) -> str:
    """The colour that stands for a quality, in charts and in the terminal."""
    return next(name for start, name in COLOURS if quality >= start)


def markdown(report: Report, chains: Iterable[AnyChain]) -> str:
    """The whole report, its chart inline as a PNG data URI, which the Prefect UI shows."""
    tally = report.tally
    options = [_option(name, value) for name, value in report.run.options.items() if value]
    chart = base64.b64encode(quality_chart(tally.quality, tally.failed)).decode()
    sections = [
        f"# {report}",
        f"Source {cell(report.run.source)} · {report.seconds:.1f} s" + (f" · {', '.join(options)}" if options else ""),
        f"![Items by quality](data:image/png;base64,{chart})",
        "## Stages by status\n\n" + table("stage", [str(status) for status in Status], tally.stages),
        "## Stages by rung\n\n" + _rungs(tally.rungs, chains),
    ]
    if report.incompatibility_counts:
        by_rule = {cell(rule): {"items": count} for rule, count in report.incompatibility_counts.most_common()}
        sections.append("## Rungs passed over as incompatible\n\n" + table("rule", ["items"], by_rule))
    if report.run.notes:
        sections.append("## Notes\n\n" + "\n".join(f"- {cell(note)}" for note in report.run.notes))
    if report.moves:
        sections.append("## Breakers that moved\n\n" + moves_table(report.moves))
    if report.lowest:
        sections.append("## Lowest quality\n\n" + _findings(report.lowest))
    if report.failed:
        sections.append("## Failed\n\n" + _findings(report.failed))
    return "\n\n".join(sections) + "\n"


def quality_chart(quality: Mapping[float, int], failed: int) -> bytes:
    """Items by quality, the failed ones apart, as a PNG."""
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
    """An option as it was asked for: `refresh`, `limit 100`, `faults classify_image.gpu=oom`."""
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


def _findings(findings: Iterable[Finding]) -> str:
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
