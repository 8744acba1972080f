"""Real worker processes before one breaker store: what they run, and how a test has them run it.

A process is light (neither torch nor Prefect), is forked from one that has all modules, and is kept for one job after
the other. It is told a job, answers `READY` once it has all it needs, and waits for `GO`, so that all of a fleet begin
together.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from repli.tasks.execution.shared_breakers import BreakerRegistry, current_device_scope
from repli.tasks.fallback import (
    AttemptOutcome,
    Breaker,
    Chain,
    ChainInput,
    Outcome,
    OutOfMemory,
    Rung,
    Served,
    StepResult,
    run_chain,
)
from repli.tasks.fallback.breaker import CallEnded, Verdict
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from tests.support.fakes import RUN_ID, STAGE, runtime, works

PRIMARY = f"{STAGE}.primary"
READY, GO = "ready", "go"
ANSWERS_WITHIN_S = 200.0
FAR_TOO_OFTEN = 500
Job = Callable[[], Any]


def note(log: str, line: str) -> None:
    """Add a line to a file that other processes write too: one write of few bytes at the end is not torn."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def lines(log: Path) -> list[str]:
    """What was noted so far."""
    return log.read_text().splitlines() if log.exists() else []


def chain_behind(breaker: Breaker, primary: Callable[[Sequence[str]], Sequence[Outcome[str]]]) -> Chain[str, str, None]:
    """A chain whose primary has the breaker, and whose fallback always serves."""
    return Chain(
        STAGE,
        Rung("primary", lambda inputs, context: primary(inputs), breaker=breaker, time_limit_s=60),
        Rung("fallback", lambda inputs, context: [Served(one) for one in inputs], penalty="0.9", time_limit_s=60),
    )


def run(chain: Chain[str, str, None], batch: Sequence[ChainInput[str]], registry: BreakerRegistry) -> list[StepResult]:
    """The chain over the batch, behind its breaker."""
    return run_chain(chain, batch, None, run_id=RUN_ID, runtime=replace(runtime(), breaker_of=registry.of))


def is_refused(results: Iterable[StepResult]) -> bool:
    """Whether the primary was kept from any of them."""
    return any(result.attempts[0].outcome is AttemptOutcome.REFUSED for result in results)


def modules(url: str, *wanted: str) -> list[str]:
    """Which of the `wanted` modules a process has loaded that has asked a breaker."""
    BreakerRegistry(Database(url), device_scope=current_device_scope()).of(PRIMARY, Breaker(scope="fleet")).acquire()
    return [name for name in wanted if name in sys.modules]


# The jobs. Each gives what is to be done on `go`.


def until_refused(
    registry: BreakerRegistry, breaker: Breaker, log: str, items: int, failing: float, seed: int, dies_after: int = 0
) -> Job:
    """One batch after the other, until the breaker of a primary that fails so often refuses; how many batches.

    It is well for the first `dies_after` calls of each process, which all come before any that fails.
    """
    draw = random.Random(seed)
    calls = itertools.count()

    def primary(inputs: Sequence[str]) -> Sequence[Outcome[str]]:
        if next(calls) < dies_after or draw.random() >= failing:
            note(log, "served")
            return [Served(one) for one in inputs]
        note(log, "failed")
        raise RuntimeError("the service is down")

    chain = chain_behind(breaker, primary)
    for _ in range(dies_after):
        run(chain, works(items), registry)

    def job() -> int:
        for batches in range(FAR_TOO_OFTEN):
            if is_refused(run(chain, works(items), registry)):
                return batches + 1
        raise AssertionError("it was never refused")

    return job


def serve(registry: BreakerRegistry, breaker: Breaker, batches: int, out_of_memory_on: str) -> Job:
    """So many batches on this process's device; the place, the primary's calls, and how often each status came."""
    calls: list[int] = []

    def primary(inputs: Sequence[str]) -> Sequence[Outcome[str]]:
        calls.append(len(inputs))
        if os.environ["CUDA_VISIBLE_DEVICES"] == out_of_memory_on:
            raise OutOfMemory("CUDA out of memory")
        return [Served(one) for one in inputs]

    def job() -> dict[str, Any]:
        chain = chain_behind(breaker, primary)
        results = [result for _ in range(batches) for result in run(chain, works(4), registry)]
        statuses = Counter(result.status.value for result in results)
        return {"place": registry.device_scope, "calls": len(calls), "statuses": dict(statuses)}

    return job


def take_a_probe(registry: BreakerRegistry, breaker: Breaker) -> Job:
    """Ask until there is a probe to be had, and keep it."""
    breaker_client = registry.of(PRIMARY, breaker)

    def job() -> None:
        while not breaker_client.acquire().is_probe:
            time.sleep(0.01)

    return job


def fail(registry: BreakerRegistry, breaker: Breaker, times: int, seed: int) -> Job:
    """So many failed calls, straight to the store; how often one of them moved the breaker."""

    def job() -> int:
        ends = [CallEnded(f"{seed}-{number}", Verdict.FAILED, "down") for number in range(times)]
        changes = [breakers.apply(registry.database, breaker, Key(PRIMARY), end) for end in ends]
        return sum(change.move is not None for change in changes)

    return job


def work(orders: Connection, environment: Mapping[str, str]) -> None:
    """What a process does: one job after the other, until it is killed."""
    os.environ.update(environment)
    while True:
        job, url, options = orders.recv()
        database = Database(url)
        do = job(BreakerRegistry(database, device_scope=current_device_scope()), **options)
        database.is_migrated()  # connects
        orders.send(READY)
        assert orders.recv() == GO
        answer = do()
        database.engine.dispose()
        orders.send(answer)


class Worker:
    """One process of a fleet, in this environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.support.fleet", "psycopg"])
        self.orders, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, environment), daemon=True)
        self._process.start()
        theirs.close()

    def answer(self) -> Any:
        """What it has to say; an error where it has died."""
        assert self.orders.poll(ANSWERS_WITHIN_S), "a worker does not answer"
        return self.orders.recv()

    def kill(self) -> None:
        """Kill -9, as the kernel does when memory is short. A second time it does nothing."""
        self._process.kill()
        self._process.join()
        self.orders.close()


class Fleet:
    """Worker processes, one for each of the `environments`."""

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        with ExitStack() as started:
            self.workers: list[Worker] = []
            for environment in environments:
                self.workers.append(Worker(environment))
                started.callback(self.workers[-1].kill)
            self._started = started.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    def start(self, database: Database, job: Callable[..., Job], each: Sequence[Mapping[str, Any]]) -> list[Worker]:
        """Have as many workers as there are options begin a job, all at once."""
        workers = self.workers[: len(each)]
        for worker, options in zip(workers, each, strict=True):
            worker.orders.send((job, database.url.render_as_string(hide_password=False), options))
        for worker in workers:
            assert worker.answer() == READY
        for worker in workers:
            worker.orders.send(GO)
        return workers

    def do(self, database: Database, job: Callable[..., Job], each: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What they have to say after it."""
        return [worker.answer() for worker in self.start(database, job, each)]


def first(workers: Iterable[Worker]) -> tuple[Worker, Any]:
    """The first of the workers that has something to say, and what."""
    waiting = {worker.orders: worker for worker in workers}
    ready = wait(list(waiting), ANSWERS_WITHIN_S)
    assert ready, "no worker answers"
    worker = waiting[ready[0]]  # type: ignore[index]
    return worker, worker.answer()
