"""A pipeline of one stage that takes a while for each item, so that tests can do something amid a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import repli

SECONDS_EACH = "SLOW_PIPELINE_S"
"""The variable with the seconds that an item takes."""
HELD = "SLOW_PIPELINE_HELD"
"""The variable with a file that names an item: while the file is there, the item is not done."""

spell = repli.Stage("spell", input=lambda item: item.name)


@spell.rung(time_limit_s=600, per_item=True)
def slowly(name: str) -> str:
    time.sleep(float(os.environ.get(SECONDS_EACH, "0.2")))
    while is_held(name):
        time.sleep(0.05)
    return name.upper()


def is_held(name: str) -> bool:
    """Whether the file of `HELD` names this item."""
    try:
        return name == Path(os.environ.get(HELD, "")).read_text(encoding="utf-8")
    except OSError:
        return False


pipeline = repli.Pipeline([spell])
