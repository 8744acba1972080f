"""The command line, as its user types it, and something to type it about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.photos import clear_photo

Repli = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path) -> dict[str, str]:
    """An environment of one's own, the accelerator emulated. The pipeline that is chosen from outside stays so."""
    dropped = [name for name in os.environ if name.startswith(("REPLI_", "PREFECT_")) and name != "REPLI_PIPELINE"]
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "REPLI_HOME": str(home), "REPLI_GPU_DEVICE": "cpu"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "repli.flows.cli.app", *map(str, arguments)]


def write_manifest(
    folder: Path, items: int, *, with_image: Callable[[int], bool] = lambda number: True, name: str = "Thing"
) -> Path:
    """A manifest of small items with a text each, and where asked a picture that each model is sure of, all unlike.

    The pictures show a folding chair, which `rules` find only in a name that says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(items):
        record: dict[str, Any] = {
            "id": f"item-{number}",
            "name": f"{name} number {number}",
            "document": f"This is what there is to say of thing {number}. It is round, and it is made of wood.",
        }
        if with_image(number):
            record["image"] = f"{number}.png"
            clear_photo(number).save(folder / record["image"])
        lines.append(json.dumps(record))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
