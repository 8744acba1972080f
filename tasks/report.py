"""The report of a run: Markdown with a chart, for the Prefect UI and for people."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from tasks.fallback import AnyChain, Status
from tasks.storage import breakers, lookup, runs
from tasks.storage.breakers import Move
from tasks.storage.database import Database
from tasks.storage.lookup import Finding
from tasks.storage.runs import Run, Tally

LISTED = 10
"""Items that a report names: the lowest in quality, and the failed."""
LISTED_MOVES = 50
"""Moves of breakers that a report names: the last ones."""
COLOURS = ((1.0, "#2f9e44"), (0.9, "#94c11f"), (0.8, "#f0b429"), (0.0, "#d9480f"))
"""The colour of a quality: that of the first row it reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report is made from."""

    run: Run
    tally: Tally
    lowest: Sequence[Finding]
    failed: Sequence[Finding]
    moves: Sequence[Move]

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
            "queued": 0,
            "seconds": round(self.seconds, 3),
            "duplicates": self.run.duplicates,
            "emulated": self.is_emulated,
        }


def report_on(database: Database, run: Run, stages: Sequence[str]) -> Report:
    """The report of a run, as its items stand now."""
    return Report(
        run=run,
        tally=runs.tally(database, stages, run.id),
        lowest=lookup.lowest(database, run.id, LISTED),
        failed=lookup.failed(database, run.id, LISTED),
        moves=breakers.moves_since(database, run.started_at, run.finished_at),
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
        f"Source {_cell(report.run.source)} · {report.seconds:.1f} s" + (f" · {', '.join(options)}" if options else ""),
        f"![Items by quality](data:image/png;base64,{chart})",
        "## Stages by status\n\n" + _table("stage", [str(status) for status in Status], tally.stages),
        "## Stages by rung\n\n" + _rungs(tally.rungs, chains),
    ]
    if report.run.notes:
        sections.append("## Notes\n\n" + "\n".join(f"- {_cell(note)}" for note in report.run.notes))
    if report.moves:
        sections.append("## Breakers that moved\n\n" + _moves(report.moves))
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


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, int]]) -> str:
    lines = [[corner, *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(str(counts.get(column, "")) for column in columns)] for name, counts in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _rungs(rungs: Mapping[str, Mapping[str, int]], chains: Iterable[AnyChain]) -> str:
    lines = ["| stage | rungs, best first: items served |", "| --- | --- |"]
    for chain in chains:
        counts = rungs.get(chain.stage, {})
        served = " · ".join(f"{name} **{counts[name]}**" if counts.get(name) else name for name in chain.rung_names)
        lines.append(f"| {chain.stage} | {served} |")
    return "\n".join(lines)


def _moves(moves: Sequence[Move]) -> str:
    lines = ["| at (UTC) | breaker | from | to | cause | why |", "| --- | --- | --- | --- | --- | --- |"]
    if len(moves) > LISTED_MOVES:
        lines.append(f"| | the first {len(moves) - LISTED_MOVES} are in the store | | | | |")
    for move in moves[-LISTED_MOVES:]:
        cells = (str(move.key), move.old, move.new, move.cause, move.why)
        lines.append(f"| {move.at:%H:%M:%S} | {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def _findings(findings: Iterable[Finding]) -> str:
    lines = ["| item | name | quality | why |", "| --- | --- | ---: | --- |"]
    for item in findings:
        quality = "" if item.quality is None else f"{item.quality:g}"
        cells = (
            _cell(item.id),
            _cell(item.name or ""),
            quality,
            "<br>".join(_cell(why) for why in item.reasons),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str, longest: int = 240) -> str:
    """`text` as it may stand in a table: on one line, with nothing that Markdown or HTML would act on."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return " ".join(short.split()).translate(_ENTITIES)


_ENTITIES = {ord(character): f"&#{ord(character)};" for character in "&<>|`*_~[]\\"}
