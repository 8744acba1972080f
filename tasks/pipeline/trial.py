"""Try a stage's chain on a few inputs, and show the results as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from repli.tasks.fallback import AnyChain, ChainInput, StepResult, UsageError, run_chain
from repli.tasks.items import Label, Text
from repli.tasks.json_values import as_json
from repli.tasks.pipeline.context import StageContext
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

RUN_ID = "try_on"
MAX_WIDTH = 60
"""Characters of a value in the table."""


class Trial(tuple[StepResult, ...]):
    """The results of `Stage.try_on`, in the order of the inputs. It prints as a table, in a notebook too.

    Example:
        >>> print(translate.try_on(["cat", "axolotl"]))
        status    rung        value   confidence  penalty  reason
        degraded  dictionary  'chat'  1           0.8      Unavailable: the translation service is not configured
        skipped   skip                0           0.7      Unavailable: the translation service is not configured
    """

    __slots__ = ()

    _COLUMNS = ("status", "rung", "value", "confidence", "penalty", "reason")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                result.status.value,
                result.rung or "",
                "" if result.value is None else _short(_shown(result.value)),
                "" if result.confidence is None else f"{result.confidence:g}",
                "" if result.penalty is None else str(result.penalty),
                result.error.line if result.error else "",
            )
            for result in self
        ]

    def __str__(self) -> str:
        rows = [self._COLUMNS, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self._COLUMNS))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        head = "".join(f"<th>{name}</th>" for name in self._COLUMNS)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def try_on(chain: AnyChain, inputs: Sequence[Any]) -> Trial:
    """Return the result of each input; see `Stage.try_on`. Ids are the positions of the inputs, from 1."""
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
        raise UsageError("try_on takes a list of inputs, one for each item; write try_on([...])")
    given = {str(number): value for number, value in enumerate(inputs, 1)}
    to_run = [ChainInput(id_, value) for id_, value in given.items() if value is not None]
    with _context(chain) as context:
        results = run_chain(chain, to_run, context, run_id=RUN_ID, runtime=process_runtime(may_exit=False))
    by_id = {result.item_id: result for result in results}
    nothing_to_do = partial(StepResult.not_applicable, stage=chain.stage, run_id=RUN_ID, finished_at=datetime.now(UTC))
    return Trial(by_id.get(id_) or nothing_to_do(id_) for id_ in given)


@contextmanager
def _context(chain: AnyChain) -> Iterator[StageContext | None]:
    """Yield a context on an empty store in a temporary folder; None where no rung takes a context."""
    if not any(getattr(rung.run, "takes_context", False) for rung in chain.rungs):
        yield None
        return
    with TemporaryDirectory(prefix="repli-") as folder:
        home = Path(folder)
        settings = replace(Settings.from_environment(), home=home, database_url=f"sqlite:///{home / 'repli.db'}")
        database = Database(settings.database_url)
        database.migrate()
        yield StageContext(settings=settings, database=database, run_id=RUN_ID, now=datetime.now(UTC))


def _shown(value: Any) -> str:
    """Return a value for the table: the text or the label alone, where it is one."""
    match value:
        case Text():
            return repr(value.text)
        case Label(label=str(label)):
            return repr(label)
        case _:
            return repr(as_json(value))


def _short(text: str) -> str:
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"
