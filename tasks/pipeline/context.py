"""The context that a rung may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from repli.tasks.fallback import Rules
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """The second argument of a rung that takes one.

    Args:
        settings: the run's settings.
        database: the store.
        run_id: the run that results are saved under.
        now: the time at which the stage began on this batch, with its time zone.
        rules: the pipeline's rules.
        call: ``with context.call(KEY):`` goes around each call of a rung whose breaker has the scope `key` and no
            function of the input: it asks the key's breaker, waits for one of its slots, and records how the call
            ended. It raises `BreakerOpen` where the key is refused.

    Example:
        >>> @stage.rung(time_limit_s=30)
        ... def by_date(texts: list[str], context: StageContext) -> list[str]:
        ...     return [f"{text} ({context.now:%Y})" for text in texts]
    """

    settings: Settings
    database: Database
    run_id: str
    now: datetime
    rules: Rules = field(default_factory=Rules)
    call: KeyedCalls = field(default_factory=KeyedCalls)
