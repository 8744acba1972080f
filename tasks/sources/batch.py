"""Locate and read the assets of a batch of items, several at a time, each within its time limit."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import ItemError, StepError, TimedOut, Unavailable
from repli.tasks.fallback.errors import BreakerOpen, with_keys
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.items import Asset
from repli.tasks.runtime.limited_pool import LimitedPool
from repli.tasks.settings import FetchLimits
from repli.tasks.sources import locate
from repli.tasks.sources.locate import Content, Place

if TYPE_CHECKING:  # the import takes 0.3 s, which a manifest of files does not need
    from repli.tasks.sources.web import Web

PARALLEL_READS = 8
"""Assets of one batch that are located or read at the same time."""
MOST_PARALLEL_READS = 64
"""The same, where a batch reads from many origins: each gets threads of its own."""
STORE_LIMIT_S = 60.0
"""Seconds in which what was read must be kept: a disk that is full for a while is waited out."""

Located = Place | Content | StepError
"""A declared asset: its place, its bytes, or the error where it has neither."""

FetchResult = Asset | StepError
"""A fetched asset, or the error."""

Store = Callable[[Content, Place], FetchResult]
"""Keeps what was read of a place."""


class Lookup:
    """The lookup of one item's declared assets. It hangs where a path leads to a disk that does not answer.

    Args:
        declared: the declared values, by column.
        folder: the folder that relative paths are resolved against.
        may_be_text: the columns whose value may be the text itself.
    """

    def __init__(self, declared: Mapping[str, Any], folder: str, limits: FetchLimits, may_be_text: str) -> None:
        self._declared = declared
        self._folder = folder
        self._limits = limits
        self._may_be_text = may_be_text
        self._located: dict[str, Located] = {}

    def run(self) -> None:
        """Locate the assets that are not located yet, one after another."""
        for column in self._missing():
            may_be_text = column == self._may_be_text
            try:
                self._located[column] = locate.locate(
                    self._declared[column], self._folder, self._limits, may_be_text=may_be_text
                )
            except ItemError as error:
                self._located[column] = StepError.of(error)

    def record_timeout(self) -> bool:
        """Set the error of the asset whose lookup was cut off. Return whether there are others to locate."""
        if missing := self._missing():
            shown = locate.shorten(locate.hide_password(str(self._declared[missing[0]])))
            self._located[missing[0]] = StepError.of(locate.timeout_error(shown, self._limits))
        return bool(self._missing())

    def located(self) -> dict[str, Located]:
        """Return the located assets by column, with an error for those that were not located."""
        located = dict(self._located)
        return {column: located.get(column, StepError.of(_not_reached("it"))) for column in self._declared}

    def _missing(self) -> list[str]:
        return [column for column in self._declared if column not in self._located]


class Batch:
    """The lookups and reads of one batch. A place is read once, as soon as an item that declares it has been located.

    Args:
        lookups: one for each item.
        store: keeps what is read; None to locate only.
        call: goes around each request of the web, with its origin as the key.
    """

    def __init__(
        self, lookups: Sequence[Lookup], limits: FetchLimits, store: Store | None, call: KeyedCalls = KeyedCalls()
    ) -> None:
        self.located: dict[int, Mapping[str, Located]] = {}
        """The assets of the items that have been located, by the item's position."""
        self.read: dict[Place, FetchResult] = {}
        """The results of the places that have been read."""
        self._lookups = lookups
        self._limits = limits
        self._store = store
        self._call = call
        self._waiting: dict[str, deque[Place]] = {}
        self._running: Counter[str] = Counter()
        self._web: Web | None = None
        self._pool: LimitedPool[int | Place] = LimitedPool(PARALLEL_READS)
        self._unread: dict[int, set[Place]] = {}
        self._declared_by: dict[Place, list[int]] = {}

    def finished_items(self, within_s: float) -> Iterator[int]:
        """Yield the position of each item once it is located and its places are read.

        After `within_s` seconds the others are yielded, with errors for what is missing, and what runs is cut off.
        """
        deadline = time.monotonic() + within_s
        unfinished = dict.fromkeys(range(len(self._lookups)))
        try:
            for position in range(len(self._lookups)):
                self._submit_lookup(position)
            while unfinished and (ended := self._pool.next_ended(wait_s=deadline - time.monotonic())):
                for position in self._take(*ended):
                    del unfinished[position]
                    yield position
            for position in unfinished:
                self._give_up(position)
                yield position
        finally:
            self._pool.close()
            if self._web:
                self._web.close()

    def _take(self, what: int | Place, outcome: Future[Any]) -> list[int]:
        """Take a lookup or a read that ended, and return the positions of the items that this finishes."""
        has_timed_out = isinstance(outcome.exception(), TimedOut)
        if isinstance(what, int):
            if not has_timed_out:
                outcome.result()  # raises a bug of the lookup
            elif self._lookups[what].record_timeout():
                self._submit_lookup(what)
                return []
            self.located[what] = self._lookups[what].located()
            return self._read_places(what)
        self._end_read(what)
        self.read[what] = self._timed_out(what) if has_timed_out else outcome.result()
        positions = self._declared_by[what]
        for position in positions:
            self._unread[position].discard(what)
        return [position for position in positions if not self._unread[position]]

    def _timed_out(self, place: Place) -> StepError:
        error = locate.timeout_error(place.declared, self._limits)
        return StepError.of(with_keys(error, [self._web.origin_of(place)] if self._web and place.is_web else []))

    def _submit_lookup(self, position: int) -> None:
        self._pool.submit(position, self._lookups[position].run, limit_s=self._limits.time_limit_s)

    def _read_places(self, position: int) -> list[int]:
        """Read the places of an item that has been located, and return its position if there is nothing to wait for."""
        if self._store is None:
            return [position]
        places = {one for one in self.located[position].values() if isinstance(one, Place)}
        self._unread[position] = places - self.read.keys()
        for place in self._unread[position]:
            if place not in self._declared_by:
                self._submit_read(place)
            self._declared_by.setdefault(place, []).append(position)
        return [] if self._unread[position] else [position]

    def _submit_read(self, place: Place) -> None:
        """Read a place once its origin has fewer than `at_once` reads, so that no origin takes up all threads."""
        origin = place.origin
        if origin and origin not in self._waiting:
            self._waiting[origin] = deque()
            if len(self._waiting) > 1:
                self._pool.widen(self._at_once, at_most=MOST_PARALLEL_READS)
        if origin and self._running[origin] >= self._at_once:
            self._waiting[origin].append(place)
            return
        self._running[origin] += 1
        self._pool.submit(
            place,
            partial(self._read, place, self._web_for(place)),
            limit_s=self._limits.time_limit_s,  # `Web` counts anew once it has a slot of the origin
            then=partial(_store, self._store, place),
            then_limit_s=STORE_LIMIT_S,
        )

    def _end_read(self, place: Place) -> None:
        origin = place.origin
        self._running[origin] -= 1
        if waiting := self._waiting.get(origin):
            self._submit_read(waiting.popleft())

    @property
    def _at_once(self) -> int:
        return self._call.breaker.at_once if self._call.breaker else PARALLEL_READS

    def _read(self, place: Place, web: Web | None) -> Content | StepError:
        try:
            return web.read(place) if web else locate.read(place, self._limits)
        except (ItemError, Unavailable, BreakerOpen) as error:
            return StepError.of(error)

    def _web_for(self, place: Place) -> Web | None:
        if not place.is_web:
            return None
        from repli.tasks.sources.web import Web

        self._web = self._web or Web(self._limits, call=self._call)
        return self._web

    def _give_up(self, position: int) -> None:
        """Set errors for what is missing of an item at the deadline of its batch."""
        if position not in self.located:
            self.located[position] = self._lookups[position].located()
        for place in self.located[position].values():
            if isinstance(place, Place) and place not in self.read:
                self.read[place] = StepError.of(_not_reached(place.declared))


def _store(store: Store | None, place: Place, content: Content | StepError) -> FetchResult:
    if store is None:
        raise ValueError(f"{place.declared} was only to be located")
    return content if isinstance(content, StepError) else store(content, place)


def _not_reached(shown: str) -> ItemError:
    return ItemError(f"{shown} was not read within its batch's time limit; use smaller batches")
