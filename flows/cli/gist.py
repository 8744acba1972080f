"""What people look an item up for: its label, its text, the places of its files, and its quality."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import shorten
from typing import Any

from rich.table import Table
from rich.text import Text

from repli.tasks.fallback import StepResult
from repli.tasks.items import STORE
from repli.tasks.reporting.run_report import colour
from repli.tasks.storage.views.lookup import ItemView

TEXT_LINES = 3
TEXT_CHARACTERS = 400


def gist(view: ItemView) -> Table:
    """Return a line for each label with its confidence, for the first lines of each text, the files, and the scores.

    Values of other stages of a pipeline follow as JSON.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for role, show in (("label", _label), ("text", _text)):
        stages = [stage for stage in view.pipeline.stages_of(role) if stage in view.stages]
        for stage in stages:
            table.add_row(role if len(stages) == 1 else stage, show(view.stages[stage]))
    for asset in ("image", "document"):
        if place := _place(view, asset):
            table.add_row(asset, place)
    for stage, value in _others(view):
        table.add_row(stage, _plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    table.add_row("quality", _scores(view))
    return table


def _scores(view: ItemView) -> Text:
    """Return the quality in its colour, and the expected accuracy."""
    if view.quality is None:
        return Text("none: not stored")
    accuracy = "" if view.expected_accuracy is None else f" · expected accuracy {view.expected_accuracy:.2f}"
    return Text.assemble((f"{view.quality:g}", colour(view.quality)), accuracy)


def _label(result: StepResult) -> Text:
    label = (result.value or {}).get("label")
    if not label:
        return _nothing(result)
    confidence = "" if result.confidence is None else f" ({result.confidence:.2f})"
    return Text.assemble((_printable(label), "bold"), confidence)


def _text(result: StepResult) -> Text:
    text = (result.value or {}).get("text")
    if not text:
        return _nothing(result)
    lines = [line for line in map(_printable, text.splitlines()) if line]
    begin = "\n".join(lines[:TEXT_LINES])
    is_cut = len(lines) > TEXT_LINES or len(begin) > TEXT_CHARACTERS
    return Text(begin[:TEXT_CHARACTERS].rstrip() + (" …" if is_cut else ""))


def _nothing(result: StepResult) -> Text:
    """Return why a stage has no value."""
    why = f": {_printable(result.error.message)}" if result.error else ""
    if not why and result.value and (guesses := result.value.get("top")):
        why = f": not sure, best guess {_printable(guesses[0]['label'])} at {guesses[0]['confidence']:.2f}"
    return Text(shorten(f"none, {result.status.value.replace('_', ' ')}{why}", 300, placeholder=" …"), "dim")


def _place(view: ItemView, asset: str) -> Text | None:
    """Return where an asset was read from; what the manifest declares where it was not; None where it declares none."""
    fetched = view.produced("assets").get(asset)
    declared = getattr(view.state.item, asset)
    if fetched:
        uri = "in the manifest itself" if fetched["source"] == "inline" else _plain(fetched["uri"], 200).plain
        return Text(f"{uri} ({fetched['media_type']}, {fetched['size']:,} bytes)")
    if declared is None:
        return None
    return Text(f"{_plain(str(declared), 200).plain} (not fetched)", "dim")


def _others(view: ItemView) -> Iterator[tuple[str, Any]]:
    """Yield the values that have no role, by stage."""
    for stage, result in view.stages.items():
        is_empty = isinstance(result.value, dict) and all(part in (None, "", [], {}) for part in result.value.values())
        if stage != STORE and view.pipeline.produces.get(stage) is None and result.value is not None and not is_empty:
            yield stage, result.value


def _plain(text: str, longest: int = 300) -> Text:
    line = _printable(text)
    begin = shorten(line, longest, placeholder=" …")
    return Text(begin if begin != "…" else f"{line[:longest]} …")  # of a text without blanks, shorten leaves nothing


def _printable(text: str) -> str:
    """Return a text in one line, without control characters: a terminal would act on them."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
