"""Jobs of a fleet that read pages of the web: each process a batch of addresses, behind the breakers of one store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.fallback import Breaker
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.items import Asset
from repli.tasks.runtime.call_slots import CallSlots
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.batch import Batch, Lookup
from repli.tasks.sources.locate import Content, Place
from tests.support.fleet import Job

NAME = "fetch.origin"
BREAKER = Breaker(scope="key")


def read_pages(registry: BreakerRegistry, pages: Sequence[str], time_limit_s: float) -> Job:
    """Read the pages; how many of each origin were read, and when the last one of each origin was ready."""
    limits = FetchLimits(time_limit_s=time_limit_s, allow_private_addresses=True)
    call = KeyedCalls(name=NAME, breaker=BREAKER, breaker_of=registry.of, slot_of=CallSlots().of)

    def job() -> dict[str, Any]:
        lookups = [Lookup({"document": page}, "", limits, may_be_text="document") for page in pages]
        batch = Batch(lookups, limits, store=_asset, call=call)
        read: Counter[str] = Counter()
        ready: dict[str, float] = {}
        started = time.monotonic()
        for position in batch.finished_items(60):
            origin = pages[position].rpartition("/")[0]
            [place] = batch.located[position].values()
            assert isinstance(place, Place)
            read[origin] += isinstance(batch.read[place], Asset)
            ready[origin] = time.monotonic() - started
        return {"read": dict(read), "ready": ready}

    return job


def _asset(content: Content, place: Place) -> Asset:
    return Asset(uri=place.uri, sha256="0" * 64, size=len(content.data), media_type="text/html", source="origin")
