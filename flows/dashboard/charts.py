"""Altair charts of the dashboard. They show counts, stages and rungs, and no text of a catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from repli.tasks.drill.relative_accuracy import Basis
from repli.tasks.fallback import AnyChain, Status
from repli.tasks.reporting.run_report import COLOURS, colour
from repli.tasks.storage.counts import BANDS as BANDS_OF_ACCURACY
from repli.tasks.storage.counts import NOT_REACHED, Tally
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.views.dashboard_stats import AGES, OLDEST, RunQuality, Waiting

HEIGHT = 280
GREY, BLUE = "#868e96", "#4dabf7"
STATUS_COLOURS = {
    Status.SUCCEEDED: "#2f9e44",
    Status.NOT_APPLICABLE: "#ced4da",
    Status.DEGRADED: "#f0b429",
    Status.SKIPPED: "#e8590c",
    Status.FAILED: "#c92a2a",
    Status.PENDING: BLUE,
}
PRIORITY_COLOURS = {"HIGH": "#c92a2a", "NORMAL": "#e8590c", "LOW": "#f0b429", "parked": GREY}
BANDS = ("1", "0.9 to 1", "0.8 to 0.9", "below 0.8")


def _band(quality: float) -> str:
    """Return the band that a quality is in."""
    starts = [start for start, _ in COLOURS]
    return BANDS[next(index for index, start in enumerate(starts) if quality >= start)]


def quality_now(tally: Tally) -> Any:
    """Return a bar chart of items by quality, the best first; failed and pending items come last."""
    bars = [(f"{quality:.4g}", items, colour(quality)) for quality, items in tally.quality.items()]
    bars += [("failed", tally.failed, STATUS_COLOURS[Status.FAILED])] if tally.failed else []
    bars += [("pending", tally.pending, BLUE)] if tally.pending else []
    frame = pd.DataFrame(bars, columns=["quality", "items", "colour"])
    base = alt.Chart(frame, height=HEIGHT).encode(
        x=alt.X("quality:N", sort=None, title="quality of the item", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("items:Q", title="items", axis=alt.Axis(tickMinStep=1, format=",d")),
        tooltip=["quality:N", alt.Tooltip("items:Q", format=",d")],
    )
    bars_chart = base.mark_bar().encode(color=alt.Color("colour:N", scale=None))
    labels = base.mark_text(dy=-7, fontSize=12).encode(text=alt.Text("items:Q", format=",d"))
    return _chart(bars_chart + labels)


def accuracy_now(tally: Tally) -> Any:
    """Return a bar chart of stored items by bands of their expected accuracy, the best first."""
    bars = [(_tenth(start), tally.expected_accuracy.get(start, 0)) for start in BANDS_OF_ACCURACY]
    frame = pd.DataFrame(bars, columns=["expected accuracy", "items"])
    base = alt.Chart(frame, height=HEIGHT).encode(
        x=alt.X("expected accuracy:N", sort=None, title="expected accuracy of the item", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("items:Q", title="items", axis=alt.Axis(tickMinStep=1, format=",d")),
        tooltip=["expected accuracy:N", alt.Tooltip("items:Q", format=",d")],
    )
    labels = base.transform_filter("datum.items > 0").mark_text(dy=-7, fontSize=12)
    return _chart(base.mark_bar(color=BLUE) + labels.encode(text=alt.Text("items:Q", format=",d")))


def _tenth(start: float) -> str:
    return f"{start:.1f}–{start + 0.1:.1f}"


def quality_over_time(ended: Sequence[RunQuality]) -> Any:
    """Return a bar chart of stored items by quality band, at the end of each run."""
    rows: dict[tuple[str, str, str], int] = {}
    times: Counter[str] = Counter()
    for run in ended:
        when = f"{run.finished_at:%d %b %H:%M:%S}"
        times[when] += 1
        when += f" ({times[when]})" if times[when] > 1 else ""
        for quality, items in run.quality.items():
            key = when, run.kind, _band(quality)
            rows[key] = rows.get(key, 0) + items
    frame = pd.DataFrame(
        [(*key, BANDS.index(key[2]), items) for key, items in rows.items()],
        columns=["end of run (UTC)", "flow", "quality", "order", "items"],
    )
    colours = alt.Scale(domain=list(BANDS), range=[shade for _, shade in COLOURS])
    return _chart(
        alt.Chart(frame, height=HEIGHT)
        .mark_bar(size=26)
        .encode(
            x=alt.X("end of run (UTC):N", sort=None, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("items:Q", title="stored items", axis=alt.Axis(tickMinStep=1, format=",d")),
            color=alt.Color("quality:N", scale=colours, legend=alt.Legend(orient="top", title=None)),
            order="order:Q",
            tooltip=["end of run (UTC):N", "flow:N", "quality:N", alt.Tooltip("items:Q", format=",d")],
        )
    )


def status_by_stage(stages: Mapping[str, Mapping[str, int]]) -> Any:
    """Return the share of each status, one bar per stage."""
    colours = {**{status.value: shade for status, shade in STATUS_COLOURS.items()}, NOT_REACHED: GREY}
    order = list(colours)
    rows = [
        (stage, status.replace("_", " "), order.index(status), items)
        for stage, counts in stages.items()
        for status, items in counts.items()
    ]
    scale = alt.Scale(domain=[status.replace("_", " ") for status in order], range=list(colours.values()))
    return _shares(rows, "status", scale, alt.Legend(orient="bottom", columns=2, title=None))


def rung_by_stage(rungs: Mapping[str, Mapping[str, int]], chains: Sequence[AnyChain]) -> Any:
    """Return the share of each rung, one bar per stage, in the colour of the rung's penalty."""
    rows, names, shades = [], [], []
    for chain in chains:
        for position, rung in enumerate(chain.rung_names):
            if items := rungs.get(chain.stage, {}).get(rung):
                rows.append((chain.stage, f"{chain.stage}.{rung}", position, items))
                names.append(f"{chain.stage}.{rung}")
                shades.append(colour(_penalty(chain, rung)))
    return _shares(rows, "rung", alt.Scale(domain=names, range=shades), None)


def _penalty(chain: AnyChain, rung: str) -> float:
    """Return the declared penalty of a rung, or of `skip`."""
    factors = {declared.name: declared.factor for declared in chain.rungs}
    return float(factors[rung] if rung in factors or chain.skip is None else chain.skip.factor)


def _shares(rows: Sequence[tuple[str, str, int, int]], of: str, scale: alt.Scale, legend: alt.Legend | None) -> Any:
    """Return one bar per stage, split by the share of the items. `of` names what the colours show."""
    frame = pd.DataFrame(rows, columns=["stage", of, "order", "items"])
    return _chart(
        alt.Chart(frame, height=HEIGHT + (110 if legend else 0))
        .mark_bar(size=20, stroke="white", strokeWidth=1)
        .encode(
            y=alt.Y("stage:N", sort=None, title=None, axis=alt.Axis(labelLimit=200)),
            x=alt.X("items:Q", stack="normalize", title="share of the items", axis=alt.Axis(format="%")),
            color=alt.Color(f"{of}:N", scale=scale, legend=legend),
            order="order:Q",
            tooltip=["stage:N", f"{of}:N", alt.Tooltip("items:Q", format=",d")],
        )
    )


def queue(waiting: Sequence[Waiting]) -> Any:
    """Return queued items by age, in the colour of their priority."""
    names = list(PRIORITY_COLOURS)
    priorities = [group.priority.name if group.priority else "parked" for group in waiting]
    rows = [(p, names.index(p), group.age, group.items) for p, group in zip(priorities, waiting, strict=True)]
    frame = pd.DataFrame(rows, columns=["priority", "order", "age", "items"])
    scale = alt.Scale(domain=names, range=list(PRIORITY_COLOURS.values()))
    return _chart(
        alt.Chart(frame, height=HEIGHT)
        .mark_bar(size=30)
        .encode(
            x=alt.X("age:N", scale=alt.Scale(domain=[*AGES, OLDEST]), title="in the queue for", axis=_LEVEL),
            y=alt.Y("items:Q", title="items", axis=alt.Axis(tickMinStep=1, format=",d")),
            color=alt.Color("priority:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
            order="order:Q",
            tooltip=["priority:N", "age:N", alt.Tooltip("items:Q", format=",d")],
        )
    )


MAX_RELATIVE = 1.2
"""Where the axis of relative accuracies ends."""
_LEVEL = alt.Axis(labelAngle=0, labelOverlap=False)


def drill(last: Drill) -> Any:
    """Return the relative accuracy of each rung, its 95 % interval, and the declared penalty.

    Grey where it is the mere agreement with the primary. Beyond `MAX_RELATIVE` it is cut off.
    """
    rows = [
        {
            "rung": f"{one['stage']}.{one['rung']}",
            "relative": one["relative_accuracy"] if one["basis"] else one["agreement"],
            "ends": one["relative_interval"] if one["basis"] else one["interval"],
            "basis": one["basis"] or Basis.AGREEMENT.value,
            "penalty": one["penalty"],
        }
        for one in last.report["rungs"]
        if one["agreement"] is not None
    ]
    for row in rows:
        low, high = row.pop("ends") or [row["relative"]] * 2
        row |= {"low": min(low, MAX_RELATIVE), "high": min(high, MAX_RELATIVE)}
        row["relative"] = min(row["relative"], MAX_RELATIVE)
    frame = pd.DataFrame(rows, columns=["rung", "relative", "basis", "low", "high", "penalty"])
    bases = alt.Scale(domain=[basis.value for basis in Basis], range=[BLUE, BLUE, "#adb5bd"])
    base = alt.Chart(frame, height=max(HEIGHT, 24 * len(rows))).encode(
        y=alt.Y("rung:N", sort=None, title=None, axis=alt.Axis(labelLimit=240)),
        tooltip=["rung:N", "relative:Q", "low:Q", "high:Q", "basis:N", "penalty:Q"],
    )
    unit = alt.Scale(domain=[0, MAX_RELATIVE], nice=False)
    colour = alt.Color("basis:N", scale=bases, legend=None)
    title = "● accuracy relative to the primary (95 %)   ◆ declared penalty"
    span = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=unit, title=title), x2="high:Q", color=colour)
    point = base.mark_point(filled=True, size=80, opacity=1).encode(x=alt.X("relative:Q", scale=unit), color=colour)
    declared = base.mark_point(filled=True, size=80, shape="diamond", color="#e8590c", opacity=1).encode(
        x=alt.X("penalty:Q", scale=unit)
    )
    return _chart(span + point + declared)


def _chart(chart: Any) -> Any:
    """Return a chart without a border."""
    return chart.configure_view(strokeWidth=0)
