"""What the requests of a run to models behind an API have used: texts, tokens, and their cost where a price is set."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import runs, usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiUsage:
    """The requests of a run to one model.

    Args:
        model: the API's address and the model's name there.
        requests: requests that were answered.
        texts: texts that have a vector.
        tokens: tokens, as far as the API counted them.
        uncounted: requests whose answer did not say how many tokens they took.
        cost: the price of the tokens; None where none was set.

    Example:
        >>> print(ApiUsage(model="https://host/v1#small", requests=3, texts=90, tokens=4100, uncounted=0, cost=0.082))
        https://host/v1#small: 90 texts, 4,100 tokens, cost 0.082
    """

    model: str
    requests: int
    texts: int
    tokens: int
    uncounted: int
    cost: float | None

    def __str__(self) -> str:
        """Return the usage in one line."""
        parts = [f"{self.texts:,} texts", f"{self.tokens:,} tokens"]
        if self.uncounted:
            parts.append(f"{self.uncounted} of {self.requests} requests did not say their tokens")
        if self.cost is not None:
            parts.append(f"cost {self.cost:.6g}")
        return f"{self.model}: {', '.join(parts)}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


_COUNTS = ("requests", "texts", "tokens", "uncounted")


def add(database: Database, run_id: str, used: ApiUsage) -> None:
    """Add to what a run has used; nothing where there is no such run, as in a search."""
    if used.requests:
        _insert(database, {"id": str(uuid.uuid4()), "run_id": run_id, **asdict(used)})


@retried
def _insert(database: Database, row: Mapping[str, Any]) -> None:
    insert = database.insert(usage).values(**row)
    with database.write() as connection:
        if connection.scalar(sa.select(runs.c.id).where(runs.c.id == row["run_id"])) is None:
            return
        connection.execute(
            insert.on_conflict_do_nothing(index_elements=[usage.c.id])
        )  # an earlier try may have been committed


@retried
def of_run(database: Database, run_id: str) -> Sequence[ApiUsage]:
    """Return what a run has used, by model."""
    sums = [sa.func.sum(usage.c[name]).label(name) for name in (*_COUNTS, "cost")]
    query = sa.select(usage.c.model, *sums).where(usage.c.run_id == run_id).group_by(usage.c.model)
    with database.read() as connection:
        rows = connection.execute(query.order_by(usage.c.model)).mappings().all()
    return [ApiUsage(**{**row, **{name: int(row[name]) for name in _COUNTS}}) for row in rows]
