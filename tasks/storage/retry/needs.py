"""What the results of a queued item need, in one short text, so that items with the same needs are claimed together.

A store has few different texts: one per combination of rungs that served. A claim decides in Python which of them it
wants, and reads only their rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from repli.tasks.fallback import Status
from repli.tasks.items import STORE

FAILED, RETRYABLE, STALE = "!", "?", "~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One result of an item: the rung that served, and the ways in which it may be improved."""

    rung: str | None
    is_failed: bool
    is_retryable: bool
    is_stale: bool

    def __str__(self) -> str:
        """Return the need as it is stored."""
        marks = (self.is_failed, FAILED), (self.is_retryable, RETRYABLE), (self.is_stale, STALE)
        return (self.rung or "") + "".join(mark for is_set, mark in marks if is_set)


Needs = Mapping[str, Need]
"""The needs of an item, by stage."""

UNFINISHED = Need(rung=None, is_failed=True, is_retryable=True, is_stale=False)


def needs_of(results: Iterable[tuple[str, str, str | None, bool, bool]], *, is_pending: bool) -> Needs:
    """Return the needs of an item from its results.

    Args:
        results: stage, status, rung, `retryable` and `is_stale` of each result.
        is_pending: whether the item is unfinished: then all that it needs is to be taken to its end.
    """
    if is_pending:
        return {STORE: UNFINISHED}
    return {
        stage: Need(rung=rung, is_failed=status == Status.FAILED, is_retryable=retryable, is_stale=is_stale)
        for stage, status, rung, retryable, is_stale in results
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
        stage, _, marked = part.rpartition("=")
        rung = marked.rstrip(FAILED + RETRYABLE + STALE)
        marks = marked[len(rung) :]
        needs[stage] = Need(
            rung=rung or None, is_failed=FAILED in marks, is_retryable=RETRYABLE in marks, is_stale=STALE in marks
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
        declared: the rungs that the stage has. A result of any other, such as one that was renamed, may be improved.
    """

    stage: str
    rungs: Collection[str | None]
    excluded_by: Sequence[tuple[str, Collection[str]]] = ()
    include_stale: bool = False
    declared: Collection[str] = field(default=(), compare=False)

    def matches(self, needs: Needs) -> bool:
        """Return whether an item with these needs has a result that the target improves."""
        need = needs.get(self.stage)
        if need is None or any(stage in needs and needs[stage].rung in rungs for stage, rungs in self.excluded_by):
            return False
        is_listed = (None if need.is_failed else need.rung) in self.rungs
        is_listed |= bool(self.declared and need.rung) and need.rung not in self.declared
        return (need.is_retryable and is_listed) or (need.is_stale and self.include_stale)
