"""Call every rung of one stage on a sample, in shadow: walked to and forced.

The chain, its checks and its time limits are the real ones; breakers are neither consulted nor updated. A rung is
*walked to* by injecting a fault into every better rung, on the first `WALKED_ITEMS` items. It is *forced* on the whole
sample. All its calls and errors are logged, because the chain recovers from errors: a rung whose first call fails would
fail the first batch of a run. `repli.tasks.drill.judge` turns the results and the logs into verdicts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from repli.tasks.execution.batch_size import choose_batch_size
from repli.tasks.execution.stage_runner import input_hash_of
from repli.tasks.fallback import (
    AnyChain,
    AnyRung,
    Chain,
    ChainInput,
    Directives,
    Failed,
    Fault,
    FaultKind,
    ItemError,
    Runtime,
    StepError,
    StepResult,
    Unavailable,
    run_chain,
)
from repli.tasks.fallback.breaker_client import without_breakers
from repli.tasks.items import ItemState
from repli.tasks.pipeline import Pipeline, StageContext
from repli.tasks.settings import Settings
from repli.tasks.storage import results
from repli.tasks.storage.database import Database

WALKED_ITEMS = 16
"""Items on which a rung is walked to: enough for coverage, which needs no statistics."""
RUN_ID = "drill"


@dataclass(slots=True)
class CallLog:
    """The calls of one rung, including those whose errors the chain recovered from.

    `unavailable` has the message of each call that ended with `Unavailable`, raised or returned for every item.
    """

    calls: int = 0
    errors: list[Exception] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungResults:
    """The step results of one rung: walked to on the first items of the sample, then forced on all of them."""

    walked: Sequence[StepResult]
    forced: Sequence[StepResult]


class StageExercise:
    """One stage whose rungs have all been called on the sample, in a shadow store.

    The rungs are called last one first, so that no rung uses what a better one stored in the shadow: `cached` must find
    what was fetched before the drill. Each is walked to before it is forced and timed: by then its model is loaded.

    Args:
        pipeline: The pipeline of the stage.
        name: The name of the stage.
        item_ids: The sample. Items whose earlier stages are not done, or with an empty input, are excluded.
        settings: The settings of the shadow store.
        runtime: The process's runtime; its breakers are not used.
    """

    def __init__(
        self, pipeline: Pipeline, name: str, item_ids: Sequence[str], settings: Settings, runtime: Runtime
    ) -> None:
        self.stage = pipeline.stage(name)
        self.logs: defaultdict[str, CallLog] = defaultdict(CallLog)
        self.chain = _with_call_logs(self.stage.chain, self.logs)
        database = Database(settings.database_url)
        self.context = StageContext(
            settings=settings, database=database, run_id=RUN_ID, now=runtime.now(), rules=pipeline.rules
        )
        self.inputs: list[ChainInput[Any]] = []
        self.stored: dict[str, StepResult] = {}
        self.states: dict[str, ItemState] = {}
        self._runtime = replace(runtime, breaker_of=without_breakers)
        for state in results.load(database, item_ids):
            earlier = [state.results.get(other) for other in pipeline.before(name)]
            if all(result and result.status.is_done for result in earlier):
                value = _input_of(pipeline, name, state)
                if value is not None and not self.stage.comparison.is_empty(value):
                    self.inputs.append(ChainInput(state.item.id, value))
                    self.states[state.item.id] = state
                if stored := state.results.get(name):
                    self.stored[state.item.id] = stored
        self.hashes = {id_: input_hash_of(pipeline, name, state) for id_, state in self.states.items()}
        self.results = {rung: self._call(rung) for rung in reversed(self.chain.rung_names)}

    def rung(self, name: str) -> AnyRung:
        """Return the rung of this name, which is not `skip`."""
        return next(rung for rung in self.chain.rungs if rung.name == name)

    def force(self, rung: str, inputs: Sequence[ChainInput[Any]]) -> list[StepResult]:
        """Run the chain on these inputs with this rung forced."""
        return self._run(inputs, Directives(forced={self.stage.name: rung}))

    def _call(self, rung: str) -> RungResults:
        walked = self._run(self.inputs[:WALKED_ITEMS], Directives(faults=self._faults_before(rung)))
        return RungResults(walked=walked, forced=self.force(rung, self.inputs))

    def _run(self, inputs: Sequence[ChainInput[Any]], directives: Directives) -> list[StepResult]:
        """Run the chain in batches of the usual size, for which the time limits of the rungs are meant."""
        size = choose_batch_size(self.context.settings.batch_size, items=len(inputs), threads=1)
        return [
            result
            for start in range(0, len(inputs), size)
            for result in run_chain(
                self.chain,
                inputs[start : start + size],
                self.context,
                run_id=RUN_ID,
                runtime=self._runtime,
                directives=directives,
            )
        ]

    def _faults_before(self, rung: str) -> tuple[Fault, ...]:
        names = self.chain.rung_names
        better = names[: names.index(rung)]
        return tuple(Fault(stage=self.stage.name, rung=name, kind=FaultKind.ERROR) for name in better)


def _input_of(pipeline: Pipeline, name: str, state: ItemState) -> Any:
    """Return the input of the stage for an item; None where it has none, for any reason."""
    try:
        return pipeline.input(name, state)
    except ItemError:
        return None


def _with_call_logs(chain: AnyChain, logs: Mapping[str, CallLog]) -> AnyChain:
    """Return the chain with rungs that log their calls and errors. Injected faults are raised outside of the log."""

    def logged(rung: AnyRung, inputs: Sequence[Any], context: StageContext) -> Any:
        log = logs[rung.name]
        log.calls += 1
        try:
            outcomes = rung.call(inputs, context)
        except Exception as error:
            log.errors.append(error)
            if isinstance(error, Unavailable):
                log.unavailable.append(StepError.of(error).message)
            raise
        missing = [outcome for outcome in outcomes if isinstance(outcome, Failed) and outcome.is_unavailable]
        if missing and len(missing) == len(outcomes):
            log.unavailable.append(missing[0].error.message)
        return outcomes

    rungs = [replace(rung, run=partial(logged, rung)) for rung in chain.rungs]
    return Chain(chain.stage, *rungs, *([chain.skip] if chain.skip else []), check=chain.check)
