"""A pipeline of one stage that takes a while for each item, so that tests can do something amid a run."""

from __future__ import annotations

import os
import time

import repli

SECONDS_EACH = "SLOW_PIPELINE_S"
"""The variable with the seconds that an item takes."""

spell = repli.Stage("spell", input=lambda item: item.name)


@spell.rung(time_limit_s=30, per_item=True)
def slowly(name: str) -> str:
    time.sleep(float(os.environ.get(SECONDS_EACH, "0.2")))
    return name.upper()


pipeline = repli.Pipeline([spell])
