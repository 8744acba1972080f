"""What the results of a queued item need, in one short text, so that items with the same needs are claimed together.

A store has few different texts: one per combination of rungs that served. A claim decides in Python which of them it
wants, and reads only their rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from repli.tasks.fallback import Status
from repli.tasks.items import STORE

FAILED, RETRYABLE, STALE, OUTDATED = "!", "?", "~", "^"
KEYS = "@"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One result of an item: the rung that served, and the ways in which it may be improved.

    `waits_for`: the digests of the breakers of the keys that kept better rungs from serving; see `digest`.
    """

    rung: str | None
    is_failed: bool
    is_retryable: bool
    is_stale: bool
    is_outdated: bool = False
    waits_for: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Return the need as it is stored."""
        marks = (
            (self.is_failed, FAILED),
            (self.is_retryable, RETRYABLE),
            (self.is_stale, STALE),
            (self.is_outdated, OUTDATED),
        )
        waits = KEYS + ",".join(sorted(self.waits_for)) if self.waits_for else ""
        return (self.rung or "") + "".join(mark for is_set, mark in marks if is_set) + waits


Needs = Mapping[str, Need]
"""The needs of an item, by stage."""

UNFINISHED = Need(rung=None, is_failed=True, is_retryable=True, is_stale=False)


def digest(breaker: str) -> str:
    """Return a short name of the breaker of one key, `STAGE.RUNG@KEY`, for an index.

    Example:
        >>> digest("fetch.origin@https://shop.example")
        'b1f3d52cc82fb838'
    """
    return sha256(breaker.encode("utf-8", "surrogatepass")).hexdigest()[:16]


Result = tuple[str, str, str | None, bool, bool, bool, str | None]
"""What a need is made of: stage, status, rung, `retryable`, `is_stale`, `is_outdated` and `waits_for` of a result."""


def needs_of(results: Iterable[Result], *, is_pending: bool) -> Needs:
    """Return the needs of an item from its results.

    Args:
        results: the item's results, see `Result`.
        is_pending: whether the item is unfinished: then all that it needs is to be taken to its end.
    """
    if is_pending:
        return {STORE: UNFINISHED}
    return {
        stage: Need(
            rung=rung,
            is_failed=status == Status.FAILED,
            is_retryable=retryable,
            is_stale=is_stale,
            is_outdated=is_outdated,
            waits_for=frozenset(map(digest, (waits_for or "").splitlines() if retryable else ())),
        )
        for stage, status, rung, retryable, is_stale, is_outdated, waits_for in results
        if status != Status.NOT_APPLICABLE
    }


def needs_store(needs: Needs) -> bool:
    """Return whether the item is to be stored again: its results have changed since. It cannot stay parked."""
    return STORE in needs and (needs[STORE].is_stale or needs[STORE] == UNFINISHED)


def encode(needs: Needs) -> str:
    """Return the needs as one text, the same for equal needs."""
    return ";".join(f"{stage}={need}" for stage, need in sorted(needs.items()))


def decode(text: str) -> Needs:
    """Return the needs of a text that `encode` made."""
    needs: dict[str, Need] = {}
    for part in filter(None, text.split(";")):
        stage, _, need = part.rpartition("=")
        marked, _, waits = need.partition(KEYS)
        rung = marked.rstrip(FAILED + RETRYABLE + STALE + OUTDATED)
        marks = marked[len(rung) :]
        needs[stage] = Need(
            rung=rung or None,
            is_failed=FAILED in marks,
            is_retryable=RETRYABLE in marks,
            is_stale=STALE in marks,
            is_outdated=OUTDATED in marks,
            waits_for=frozenset(filter(None, waits.split(","))),
        )
    return needs


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTarget:
    """Results of one stage that a better rung may improve now.

    Args:
        rungs: the rungs whose results to improve; None among them includes failed results.
        excluded_by: pairs of an earlier stage and its rungs. An item that one of these rungs served is excluded: the
            better rung is incompatible with it.
        include_stale: whether the best rung may be called, so that stale results are included too.
        outdated: the rungs whose outdated results are included too: those that the better rung replaces, and itself.
        declared: the rungs that the stage has. A result of any other, such as one that was renamed, may be improved.
        refused: the digests of the better rung's breakers that refuse their keys. A result that waits for one of them
            is not improved.
    """

    stage: str
    rungs: Collection[str | None]
    excluded_by: Sequence[tuple[str, Collection[str]]] = ()
    include_stale: bool = False
    outdated: Collection[str] = ()
    declared: Collection[str] = field(default=(), compare=False)
    refused: frozenset[str] = field(default=frozenset(), compare=False)

    def matches(self, needs: Needs) -> bool:
        """Return whether an item with these needs has a result that the target improves."""
        need = needs.get(self.stage)
        if need is None or any(stage in needs and needs[stage].rung in rungs for stage, rungs in self.excluded_by):
            return False
        is_listed = (None if need.is_failed else need.rung) in self.rungs
        is_listed |= bool(self.declared and need.rung) and need.rung not in self.declared
        is_refused = bool(need.waits_for & self.refused)
        is_to_renew = need.is_outdated and need.rung in self.outdated and not is_refused
        is_to_improve = need.is_retryable and is_listed and not is_refused
        return is_to_improve or is_to_renew or (need.is_stale and self.include_stale)
