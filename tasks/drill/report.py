"""The report of a drill, compared with the one before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repli.tasks.drill.proposals import describe
from repli.tasks.drill.relative_accuracy import Basis
from repli.tasks.drill.verdict import readable
from repli.tasks.reporting.markdown import cell
from repli.tasks.storage.drills import Drill


def rows(report: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """Return a table row for each rung, with the columns of `HEADERS`.

    Verdict and accuracy include the value of the report `before` if it differs. The accuracy says what it rests on; the
    mere agreement stands where nothing else is known. The last column is the reason of the verdict, or the note on a
    rung that passed.
    """
    earlier = {(rung["stage"], rung["rung"]): rung for rung in (before or {}).get("rungs", [])}
    return [_row(rung, earlier.get((rung["stage"], rung["rung"]))) for rung in report["rungs"]]


HEADERS = ("rung", "verdict", "items", "relative accuracy (95 %)", "s per item", "penalty → justified", "why")


def _row(rung: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[str, ...]:
    measured = relative_accuracy(rung) or _agreement(rung)
    was = (relative_accuracy(before) or _agreement(before)).partition(" ")[0] if before else ""
    if was and was != measured.partition(" ")[0]:
        measured += f", was {was}"
    verdict = readable(rung["verdict"])
    if before and before["verdict"] != rung["verdict"]:
        verdict += f", was {readable(before['verdict'])}"
    seconds = "" if rung["seconds_per_item"] is None else f"{rung['seconds_per_item']:.3f}"
    justified = "" if rung["penalty_justified"] is None else f" → {rung['penalty_justified']:g}"
    name, why = f"{rung['stage']}.{rung['rung']}", rung["reason"] or rung["note"]
    return name, verdict, str(rung["items"]), measured, seconds, f"{rung['penalty']:g}{justified}", why


def relative_accuracy(rung: Mapping[str, Any]) -> str:
    """Return a rung's relative accuracy with its interval and what it rests on; "" without one.

    An agreement is shown as such elsewhere, and is no accuracy.
    """
    if rung["relative_accuracy"] is None or rung["basis"] == Basis.AGREEMENT:
        return ""
    return f"{_measured(rung['relative_accuracy'], rung['relative_interval'])}, {rung['basis']}"


def _agreement(rung: Mapping[str, Any]) -> str:
    return "" if rung["agreement"] is None else f"{_measured(rung['agreement'], rung['interval'])}, agreement"


def _measured(value: float, ends: Sequence[float] | None) -> str:
    return f"{value:.2f}" + (f" ({ends[0]:.2f}–{ends[1]:.2f})" if ends else "")


def explain_penalties(report: Mapping[str, Any]) -> list[str]:
    """Return what the column "penalty → justified" says, and what to do where it lies below a declared penalty.

    Nothing where no rung of the report is measured below its penalty.
    """
    lower: dict[str, list[str]] = {}
    for rung in report["rungs"]:
        if rung["penalty_justified"] is not None and rung["penalty_justified"] < rung["penalty"]:
            lower.setdefault(rung["basis"], []).append(f"{rung['stage']}.{rung['rung']}")
    if not lower:
        return []
    said = [f"{WHAT_TO_DO[Basis(basis)]} ({', '.join(rungs)})" for basis, rungs in lower.items()]
    return [WHAT_IS_JUSTIFIED, *said]


WHAT_IS_JUSTIFIED = (
    "penalty → justified: the declared penalty, and the accuracy relative to the primary's that this drill measured. "
    "Nothing changes by itself: the quality of an item is the product of the declared ones"
)
WHAT_TO_DO = {
    Basis.ANSWERS: "below its penalty by people's answers: a second drill that says so too proposes a number",
    Basis.CONFIDENCES: "below its penalty by the confidences of the models, which may be off: answer "
    "`repli drill --questions`",
    Basis.AGREEMENT: "below its penalty by the mere agreement with the primary, which is no accuracy: a fallback that "
    "finds other words or neighbours is not wrong for that. Keep the penalty; answer `repli drill --questions` where "
    "there are some, and trust `expected_accuracy`, which goes by measured rates",
}
"""By what a measurement below the declared penalty rests on, what it means and what to do."""


def questions_line(report: Mapping[str, Any]) -> str:
    """Return how many disagreements wait for an answer, and how to see them."""
    return f"{len(report['questions'])} disagreements to decide: see `repli drill --questions`, or the dashboard"


def markdown(headline: str, drills: Sequence[Drill]) -> str:
    """Return the last drill, compared with the one before it, as Markdown for the Prefect UI.

    Args:
        headline: The first line.
        drills: The latest drills, last one first; one or more.
    """
    last, before = drills[0].report, drills[1].report if len(drills) > 1 else None
    lines = [f"| {' | '.join(HEADERS)} |", f"| {' | '.join('---' for _ in HEADERS)} |"]
    lines += [f"| {' | '.join(cell(text) for text in row)} |" for row in rows(last, before)]
    sections = [f"# {cell(headline)}", "\n".join(lines)]
    if explained := explain_penalties(last):
        sections.append("\n".join(f"- {cell(line)}" for line in explained))
    if last["rules"]:
        rules = "\n".join(f"- {rule['verdict']}: {cell(rule['rule'])} {cell(rule['reason'])}" for rule in last["rules"])
        sections.append(f"## Forbidden pairs, which must be refused\n\n{rules}")
    if last["proposals"]:
        proposals = "\n".join(f"- {cell(describe(proposal))}" for proposal in last["proposals"])
        sections.append(f"## Proposed penalties\n\n{proposals}")
    if last["questions"]:
        sections.append(f"## Questions\n\n{cell(questions_line(last))}")
    if last["problems"]:
        sections.append("## Problems\n\n" + "\n".join(f"- {cell(problem)}" for problem in last["problems"]))
    return "\n\n".join(sections) + "\n"
