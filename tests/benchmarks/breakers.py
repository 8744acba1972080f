"""How often a dead primary is called before every process is refused: Repli's breaker, interlock-cb and pybreaker.

``python -m tests.benchmarks.breakers --contenders FOLDER``, where FOLDER was filled by ``pip install --target FOLDER
interlock-cb==2.8.2 pybreaker==1.4.1 redis``: they are no dependencies of the project. What is not there is skipped, and
said. One harness for all, with real processes, in under three minutes:

1. the primary always fails: 1, 8 and 32 processes call it until each one is refused;
2. it fails half the time;
3. a process is killed while it holds the probe: who else gets to probe, and when;
4. what the breaker costs a primary that is well.

The processes begin in the same moment, which is the worst case for everybody, having made a healthy call at some time
in the second before, as in a fleet that was at work. ``--spread-s 3`` is the first part alone, with processes that
begin at some time in those 3 s, which is kinder to who hears late of another's failures. Calls are counted in one file
that all processes append to, and nobody leaves before everybody is refused.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repli.tasks.storage.database import Database
from tests.benchmarks.breaker_contenders import (
    FAILURES,
    READS,
    WITHIN_S,
    WRITES,
    Contender,
    Guard,
    Refused,
    Setting,
    all_contenders,
    postgres,
    redis_server,
)

FLEETS = (1, 8, 32)
COOL_DOWN_S = 120.0
"""Longer than any measurement, so that nobody probes in one."""
GIVE_UP_S = 12.0
SEEDS_OF_ONE = 3
"""One process alone that fails by chance is the median of so many seeds."""
HEALTHY_CALLS = 10_000
CALLS_AFTER_FAILURE = 200
PASSES = 3
QUICK_US = 100.0
"""Below this a pass is short enough to be repeated, and noisy enough to need it."""
DEATH = {"cool_down_s": 1.0, "dead_after_s": 5.0}
OTHERS = 3
BESIDE_S = 1.0
ASK_EVERY_S = 0.05
WAIT_S = 15.0
LIFE_S = 60.0
"""No process of the third part outlives this, whatever happens to who started it."""

fork = multiprocessing.get_context("fork")


class Dead(Exception):
    """What the primary raises."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """How the primary is called: the share of calls that fail, how long one takes, and when a process begins."""

    share: float = 1.0
    call_s: float
    spread_s: float


@dataclass(frozen=True)
class Start:
    """What processes of one storm wait for: that all are there, when it begins, and that it is over for all."""

    ready: Any
    go: Any
    at: Any
    over: Any


@dataclass(frozen=True)
class Storm:
    """What 1 or 2 came to."""

    calls: int
    failed: int
    seconds: float
    refused: int
    processes: int

    def __str__(self) -> str:
        seconds = f"{self.seconds:.2f} s"
        if self.refused < self.processes:
            seconds = f"{self.processes - self.refused} still calling after {GIVE_UP_S:.0f} s"
        calls = f"{self.calls}" if self.calls == self.failed else f"{self.calls} ({self.failed} failed)"
        return f"{calls}, {seconds}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contenders", type=Path, help="where pip --target put interlock-cb, pybreaker and redis")
    parser.add_argument("--call-ms", type=float, default=20.0, help="how long the primary takes to fail")
    parser.add_argument("--spread-s", type=float, default=0.0, help="part 1 alone, begun within so many seconds")
    arguments = parser.parse_args()
    if arguments.contenders:
        sys.path.append(str(arguments.contenders))
    started = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="repli-breakers-")))
        postgres_url = stack.enter_context(postgres())
        port = stack.enter_context(redis_server(folder))
        for url in (f"sqlite:///{folder / 'store.db'}", postgres_url):
            if url:
                _finish(_spawn(_migrate, url))  # in a process of its own: the forks are to inherit no connection
        contenders, skipped = all_contenders(folder, postgres_url, port)
        load = Load(call_s=arguments.call_ms / 1000, spread_s=arguments.spread_s)
        storms = _storms(contenders, folder, load)
        deaths = [] if load.spread_s else _deaths(contenders, folder)
        costs = [] if load.spread_s else _costs(contenders, folder)
    begin = f"within {load.spread_s:.1f} s" if load.spread_s else "at once"
    print(f"Opens after {FAILURES} failures in {WITHIN_S} s, or the nearest that each has; {os.cpu_count()} cores;")
    print(f"the primary takes {arguments.call_ms:.0f} ms; all processes begin {begin}.\n")
    _print(["breaker", "primary", *(f"{n} process{'es' if n > 1 else ''}" for n in FLEETS)], storms)
    print("\nEach cell: calls of the primary before every process was refused, and when the last one was.\n")
    if deaths:
        beside = f"let through while the probe was out ({OTHERS} others, {BESIDE_S:.0f} s)"
        _print(["a worker dies holding the probe", beside, "next probe after its death"], deaths)
        print(f"\nCool-down {DEATH['cool_down_s']:.0f} s; lease (Repli) and state_ttl (interlock-cb)", end=" ")
        print(f"{DEATH['dead_after_s']:.0f} s; the others ask every {ASK_EVERY_S * 1000:.0f} ms.")
        print("In process, each has a breaker and a probe of its own.\n")
        writes = f"writes in {HEALTHY_CALLS:,}"
        _print(["healthy calls, 1 process", "µs a call", writes, "reads", "µs after a failure"], costs)
        print("\nRepli (at most once a second) and interlock-cb read by the clock, not by the call.")
    for reason in skipped:
        print(f"\nSkipped: {reason}.")
    print(f"\n{time.monotonic() - started:.0f} s in all.")


def _print(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")


def _migrate(url: str) -> None:
    Database(url).migrate()


# 1 and 2: the storm


def _storms(contenders: Sequence[Contender], folder: Path, load: Load) -> list[list[str]]:
    rows = []
    for told, share in [("always fails", 1.0)] + ([] if load.spread_s else [("fails half the time", 0.5)]):
        load = replace(load, share=share)
        for contender in contenders:
            cells = [str(_typical_storm(contender, processes, load, folder)) for processes in FLEETS]
            rows.append([contender.title, told, *cells])
    return rows


def _typical_storm(contender: Contender, processes: int, load: Load, folder: Path) -> Storm:
    seeds = range(SEEDS_OF_ONE if processes == 1 and load.share < 1 else 1)
    storms = [_storm(contender, processes, load, folder, seed) for seed in seeds]
    return sorted(storms, key=lambda storm: storm.calls)[len(storms) // 2]


def _storm(contender: Contender, processes: int, load: Load, folder: Path, first_seed: int) -> Storm:
    path = folder / uuid.uuid4().hex
    setting = Setting(name=path.name, cool_down_s=COOL_DOWN_S)
    start = Start(fork.Barrier(processes + 1), fork.Event(), fork.Value("d", 0.0), fork.Barrier(processes))
    seeds = range(first_seed, first_seed + processes)
    with _killed_in_the_end(
        _spawn(_caller, random.Random(seed), contender, setting, load, path, start) for seed in seeds
    ) as callers:
        start.ready.wait(60)
        start.at.value = time.monotonic() + 1.1
        start.go.set()
        for caller in callers:
            _finish(caller)
    lines = [line.split() for line in path.read_text().splitlines()]
    told = [line[0] for line in lines]
    if "trouble" in told:
        raise SystemExit(f"{contender.title} lost its store; the figures mean nothing: {path.read_text()}")
    times = [float(line[1]) for line in lines if line[0] == "refused"]
    failed = told.count("failed")
    return Storm(failed + told.count("served"), failed, max(times, default=0.0), len(times), processes)


def _caller(rng: random.Random, contender: Contender, setting: Setting, load: Load, path: Path, start: Start) -> None:
    """Call the primary until refused."""
    say = _teller(path)

    def primary() -> None:
        fails = rng.random() < load.share
        say("failed" if fails else "served")
        time.sleep(load.call_s)
        if fails:
            raise Dead("dead")

    guard = contender.build(setting)
    guard.warm()
    start.ready.wait(60)
    start.go.wait(60)
    _sleep_until(start.at.value - rng.random())
    guard.warm()  # before anybody fails: a success would clear pybreaker's count
    begin_at = start.at.value + load.spread_s * rng.random()
    _sleep_until(begin_at)
    while time.monotonic() < begin_at + GIVE_UP_S:
        if _is_refused(guard, primary):
            say(f"refused {time.monotonic() - start.at.value}")
            break
    start.over.wait(60)  # interlock-cb tells the others from a thread, which would be lost with the process
    for trouble in guard.troubles():
        say(f"trouble {trouble}")


# 3: a worker dies holding the probe


def _deaths(contenders: Sequence[Contender], folder: Path) -> list[list[str]]:
    """All at once: they mostly wait."""
    answers = [folder / uuid.uuid4().hex for _ in contenders]
    pairs = zip(contenders, answers, strict=True)
    with _killed_in_the_end(_spawn(_death, contender, folder, answer) for contender, answer in pairs) as drivers:
        for driver in drivers:
            _finish(driver)
    pairs = zip(contenders, answers, strict=True)
    return [[contender.title, *answer.read_text().splitlines()] for contender, answer in pairs]


def _death(contender: Contender, folder: Path, answer: Path) -> None:
    path = folder / uuid.uuid4().hex
    path.touch()
    setting = Setting(name=path.name, **DEATH)
    tripped, go = fork.Barrier(OTHERS + 2), fork.Event()
    each = (contender, setting, path, tripped)
    with (
        _killed_in_the_end([_spawn(_holder, *each)]) as [holder],
        _killed_in_the_end(_spawn(_other, *each, go) for _ in range(OTHERS)),
    ):
        tripped.wait(60)
        while "holds" not in path.read_text():
            time.sleep(0.01)
            if not holder.is_alive():
                raise SystemExit(f"{contender.title}: nobody got to probe")
        go.set()
        time.sleep(BESIDE_S)
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        died_at = time.monotonic()
        while not (after := [at for at in _probes(path) if at >= died_at]) and time.monotonic() < died_at + WAIT_S:
            time.sleep(0.01)
        beside = sum(at < died_at for at in _probes(path))
    wait = f"{min(after) - died_at:.1f} s" if after else f"never within {WAIT_S:.0f} s"
    answer.write_text(f"{beside}\n{wait}\n")


def _probes(path: Path) -> list[float]:
    return [float(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("probed ")]


def _holder(contender: Contender, setting: Setting, path: Path, tripped: Any) -> None:
    """Get the probe, and keep it."""
    say = _teller(path)

    def hang() -> None:
        say("holds")
        time.sleep(LIFE_S)

    guard = _tripped(contender, setting)
    tripped.wait(60)
    for _ in range(int(LIFE_S / ASK_EVERY_S)):
        _is_refused(guard, hang)
        time.sleep(ASK_EVERY_S)


def _other(contender: Contender, setting: Setting, path: Path, tripped: Any, go: Any) -> None:
    """Ask for the probe, which fails."""
    say = _teller(path)

    def primary() -> None:
        say(f"probed {time.monotonic()}")
        raise Dead("dead")

    guard = _tripped(contender, setting)
    tripped.wait(60)
    go.wait(60)
    for _ in range(int(LIFE_S / ASK_EVERY_S)):
        _is_refused(guard, primary)
        time.sleep(ASK_EVERY_S)


def _tripped(contender: Contender, setting: Setting) -> Guard:
    guard = contender.build(setting)
    while not _is_refused(guard, _fail):
        pass
    return guard


def _fail() -> None:
    raise Dead("dead")


# 4: what it costs


def _costs(contenders: Sequence[Contender], folder: Path) -> list[list[str]]:
    rows = []
    for contender in contenders:
        answer = folder / uuid.uuid4().hex
        _finish(_spawn(_cost, contender, answer))
        rows.append([contender.title, *answer.read_text().splitlines()])
    return rows


def _cost(contender: Contender, answer: Path) -> None:
    guard = contender.build(Setting(name=answer.name, cool_down_s=COOL_DOWN_S))
    guard.warm()
    before = contender.commands() if contender.commands else None
    rates = [_us_a_call(guard, HEALTHY_CALLS)]
    writes = reads = "–"
    if contender.commands and before is not None:
        asked = contender.commands() - before
        writes, reads = (f"{sum(asked[word] for word in words):,}" for words in (WRITES, READS))
    if rates[0] < QUICK_US:
        rates += [_us_a_call(guard, HEALTHY_CALLS) for _ in range(PASSES - 1)]
    _is_refused(guard, _fail)
    later = statistics.median(_us_a_call(guard, CALLS_AFTER_FAILURE) for _ in range(PASSES))
    answer.write_text(f"{statistics.median(rates):.0f}\n{writes}\n{reads}\n{later:.0f}\n")


def _us_a_call(guard: Guard, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        guard.call(_serve)
    return (time.perf_counter() - started) / calls * 1e6


def _serve() -> None:
    pass


# Processes


def _is_refused(guard: Guard, primary: Callable[[], None]) -> bool:
    try:
        guard.call(primary)
    except Refused:
        return True
    except Dead:
        pass
    return False


def _teller(path: Path) -> Callable[[str], None]:
    """Appends lines to a file that others append to too; a line is one write, so that none is lost or torn."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return lambda line: (os.write(file, f"{line}\n".encode()), None)[1]


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _spawn(function: Callable[..., None], *arguments: Any) -> Any:
    process = fork.Process(target=function, args=arguments)
    process.start()
    return process


def _finish(process: Any) -> None:
    process.join(120)
    if process.exitcode != 0:
        raise SystemExit(f"a process of the benchmark failed ({process.exitcode}); see its error above")


@contextmanager
def _killed_in_the_end(processes: Any) -> Iterator[list[Any]]:
    started: list[Any] = []
    try:
        for process in processes:
            started.append(process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


if __name__ == "__main__":
    main()
