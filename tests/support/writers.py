"""Jobs of a fleet whose processes write results of the same items at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.execution.stage_runner import RunOptions, run_stage
from repli.tasks.fallback import (
    SKIP,
    AnyChain,
    AnyRung,
    Chain,
    Failed,
    ItemError,
    Outcome,
    Rule,
    Rules,
    Rung,
    Served,
    Skip,
    StepResult,
)
from repli.tasks.items import ItemState
from repli.tasks.pipeline import Pipeline, Stage, store
from repli.tasks.settings import Settings
from repli.tasks.storage import results
from tests.support import stores
from tests.support.fakes import runtime
from tests.support.fleet import Job
from tests.support.stages import stage_of

PENALTIES = {
    "look": {"best": "1", "fair": "0.97", "poor": "0.89", SKIP: "0.83"},
    "read": {"best": "1", "fair": "0.79", "poor": "0.73", SKIP: "0.71"},
    "tell": {"best": "1", "fair": "0.67", "poor": "0.61", SKIP: "0.59"},
}
"""Three stages. The penalties are prime in hundredths, so a quality says which rungs it is of."""

ON_WHAT_IS_POOR = (
    Rule("look", {"poor", SKIP}, forbids="tell.best", because="a guess tells nothing"),
    Rule("read", {SKIP}, forbids="tell.fair", because="there is nothing to tell"),
)
"""Rules that better earlier results only ever make void, as the project's own are."""

ON_WHAT_IS_BETTER = (*ON_WHAT_IS_POOR, Rule("read", {"fair"}, forbids="tell.best", because="it was read otherwise"))
"""With these two writers may bring together what must not meet: `fair` takes the place of `skip`, beside `best`."""

Call = Callable[[str, Sequence[Any]], Sequence[Outcome[str]]]


def stages(call: Call) -> list[Stage]:
    """The stages, each rung of which does what `call` does under its name. `tell` is told what `look` has seen."""

    def rung(name: str, penalty: str) -> AnyRung:
        return Rung(name, lambda inputs, context: call(name, inputs), penalty=penalty, time_limit_s=60)

    def chain(stage: str, penalties: dict[str, str]) -> AnyChain:
        rungs = [rung(name, penalty) for name, penalty in penalties.items() if name != SKIP]
        return Chain(stage, *rungs, Skip(penalty=penalties[SKIP]))

    def what_is_told(state: ItemState) -> list[str]:
        return [state.item.id, state.value("look")]

    chains = [chain(stage, penalties) for stage, penalties in PENALTIES.items()]
    return [stage_of(one, what_is_told if one.stage == "tell" else lambda state: state.item.id) for one in chains]


def rules(table: Sequence[Rule]) -> Rules:
    """The rules over the stages."""
    return Pipeline([*stages(lambda name, inputs: []), store.STAGE], table).rules


@dataclass(frozen=True)
class Order:
    """Save these results, and then mark these items stored."""

    save: Sequence[StepResult] = ()
    mark: Sequence[str] = ()


def write(registry: BreakerRegistry, orders: Sequence[Order], table: Sequence[Rule]) -> Job:
    """Do as ordered; what each mark answered for each item, a quality or why it was refused."""
    merge = partial(store.merge, rules(table))

    def job() -> list[tuple[str, Decimal | str]]:
        answers: list[tuple[str, Decimal | str]] = []
        for order in orders:
            results.save(registry.database, order.save)
            merged = stores.mark_stored(registry.database, "run", order.mark, merge=merge, retry_below=0.5)
            answers += [(id_, one if isinstance(one, Decimal) else str(one)) for id_, one in merged.items()]
        return answers

    return job


def enrich(
    registry: BreakerRegistry,
    ids: Sequence[str],
    home: str,
    seed: int,
    rounds: int,
    failing: float,
    table: Sequence[Rule],
) -> Job:
    """Take the items through all stages, again and again, on rungs that fail so often."""
    draw = random.Random(seed)

    def call(name: str, inputs: Sequence[Any]) -> Sequence[Outcome[str]]:
        sorry = Failed.because(ItemError(f"{name} has no answer"))
        return [sorry if draw.random() < failing else Served(name) for _ in inputs]

    def job() -> None:
        pipeline = Pipeline([*stages(call), store.STAGE], table)
        settings = Settings(home=Path(home), database_url=registry.database.url.render_as_string(hide_password=False))
        within = replace(runtime(), now=lambda: datetime.now(UTC))
        for number in range(rounds):
            mine = draw.sample(ids, len(ids))
            options = RunOptions(run_id=f"{seed}-{number}", refresh=number > 0)
            for name in pipeline.names:
                run_stage(pipeline, name, mine, options, settings, within)

    return job
