"""The context that a rung may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from repli.tasks.fallback import Rules
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
