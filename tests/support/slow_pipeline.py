"""A pipeline of one stage that takes a fifth of a second for each item, so that tests can do something amid a run."""

from __future__ import annotations

import time

import repli

spell = repli.Stage("spell", input=lambda item: item.name)


@spell.rung(time_limit_s=30, per_item=True)
def slowly(name: str) -> str:
    time.sleep(0.2)
    return name.upper()


pipeline = repli.Pipeline([spell])
