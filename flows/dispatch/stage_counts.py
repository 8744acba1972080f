"""Count how many items of a run are through each stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class StageCounts:
    """The items that are through each stage, each counted once, however often its batch runs again.

    It remembers the items in flight only: its size does not grow with the catalogue.

    Example:
        >>> counts = StageCounts(["fetch", "store"])
        >>> counts.stage_done(["a", "b"], "fetch")
        >>> counts.items_done(["a"])
        >>> counts.as_mapping()
        {'fetch': 2, 'store': 1}
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = tuple(stages)
        self._counts = dict.fromkeys(self._stages, 0)
        self._passed: dict[str, int] = {}

    def stage_done(self, item_ids: Iterable[str], stage: str) -> None:
        """Count the items at the stage and at those before it."""
        self._pass(item_ids, self._stages.index(stage) + 1)

    def items_done(self, item_ids: Sequence[str]) -> None:
        """Count the items at all stages, and forget them. Call it once for each item, after its last stage."""
        self._pass(item_ids, len(self._stages))
        for item_id in item_ids:
            self._passed.pop(item_id, None)

    def as_mapping(self) -> Mapping[str, int]:
        """Return the counts by stage, in the order of the stages."""
        return dict(self._counts)

    def _pass(self, item_ids: Iterable[str], stages: int) -> None:
        for item_id in item_ids:
            for stage in self._stages[self._passed.get(item_id, 0) : stages]:
                self._counts[stage] += 1
            self._passed[item_id] = max(stages, self._passed.get(item_id, 0))
