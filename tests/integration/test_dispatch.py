"""What holds up a run, or kills its workers, and what does not: pipelines of one's own on real Dask workers."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from types import MappingProxyType
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from repli.tasks.storage import breakers
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import breaker_failures, step_results
from tests.support.command_line import command, environment
from tests.support.terminal import alive_after
from tests.support.topology import topology

pytestmark = pytest.mark.timeout(600)


class OwnRun:
    """A run of a pipeline of one's own over items `0`, `1`, …, in a process of its own.

    Args:
        module: the source of `own.py`, with the pipeline `pipeline`.
        records: fields of single items, by number.
    """

    def __init__(
        self,
        folder: Path,
        env: dict[str, str],
        module: str,
        items: int,
        *options: str,
        records: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        (folder / "own.py").write_text(dedent(module), encoding="utf-8")
        lines = [{"id": str(number), "name": f"thing {number}", **records.get(number, {})} for number in range(items)]
        (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self._process = subprocess.Popen(
            command("run", "items.jsonl", "--pipeline", "own:pipeline", "--json", *options),
            env={**environment(folder / "home"), **env, "CALLS": str(folder / "calls")},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.store = Database(f"sqlite:///{folder / 'home' / 'repli.db'}")

    def done(self, within_s: float = 400) -> dict[str, Any]:
        """Wait for its end, and return its report."""
        out, error = self._process.communicate(timeout=within_s)
        assert self._process.returncode == 0, error[-3000:]
        report: dict[str, Any] = json.loads(out)
        return report

    def until(self, condition: Callable[[], Any], within_s: float = 200) -> Any:
        """Wait for the condition while it runs, and return its value."""
        deadline = time.monotonic() + within_s
        while not (found := condition()):
            assert self._process.poll() is None, self._process.communicate()[1][-3000:]
            assert time.monotonic() < deadline, "it does not come"
            time.sleep(0.05)
        return found

    def end(self) -> None:
        """End it as Ctrl-C does, with all of its processes, unless it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=60)

    def results(self, stage: str) -> dict[str, sa.Row[Any]]:
        """Return the results of a stage, by item."""
        if not self.store.is_migrated():
            return {}
        with self.store.read() as connection:
            rows = connection.execute(sa.select(step_results).where(step_results.c.stage == stage))
            return {row.item_id: row for row in rows}

    def calls(self) -> Counter[str]:
        """Return how many times each item was worked on, as `note` of the module has noted."""
        path = self.folder / "calls"
        return Counter(path.read_text(encoding="utf-8").split()) if path.exists() else Counter()


NOTE = """
import os, signal, time
import repli

def note(text):
    with open(os.environ["CALLS"], "a", encoding="utf-8") as file:
        file.write(f"{text}\\n")
"""


@contextmanager
def own_run(*arguments: Any, **options: Any) -> Iterator[OwnRun]:
    run = OwnRun(*arguments, **options)
    try:
        yield run
    finally:
        run.end()


@pytest.mark.campaign
def test_an_item_that_hangs_holds_up_no_other(tmp_path: Path, standing_server: dict[str, str]) -> None:
    """Neither those of other batches nor those of its own, before and behind it; and none is worked on twice."""
    items, hangs = 60, "25"
    module = (
        NOTE
        + f"""
work = repli.Stage("work", input=lambda item: item.id)

@work.rung(time_limit_s=200, per_item=True)
def only(id):
    note(id)
    if id == {hangs!r}:
        time.sleep(600)
    return id

work.skip(penalty="0.5")
pipeline = repli.Pipeline([work])
"""
    )
    with own_run(tmp_path, standing_server, module, items, "--batch-size", "20") as run:
        run.until(lambda: len(run.results("store")) == items - 1)
        assert hangs not in run.results("work"), "it hangs still"
        assert run.calls() == Counter(map(str, range(items)))


@pytest.mark.campaign
def test_an_item_that_hangs_is_skipped_at_its_limit(tmp_path: Path, standing_server: dict[str, str]) -> None:
    """It alone, with the reason, and the run ends."""
    module = (
        NOTE
        + """
work = repli.Stage("work", input=lambda item: item.id)

@work.rung(time_limit_s=8, per_item=True)
def only(id):
    time.sleep(600 if id == "3" else 0)
    return id

work.skip(penalty="0.5")
pipeline = repli.Pipeline([work])
"""
    )
    with own_run(tmp_path, standing_server, module, 8) as run:
        assert run.done()["quality"] == {"1.0": 7, "0.5": 1}
        assert run.results("work")["3"].error["type"] == "TimedOut"


def test_a_server_that_hangs_holds_up_no_other_item(tmp_path: Path, standing_server: dict[str, str]) -> None:
    """A document on a server that accepts and never answers, among files of the same batch."""
    items, hangs = 40, 5
    module = """
import repli
pipeline = repli.default_pipeline.remove("validate", "extract_text", "classify_image", "embed_text")
"""
    for number in range(items):
        (tmp_path / f"{number}.txt").write_text(f"There is something to say of {number}.", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/page"
        records = {number: {"document": url if number == hangs else f"{number}.txt"} for number in range(items)}
        env = {**standing_server, "REPLI_ALLOW_PRIVATE_ADDRESSES": "1", "REPLI_FETCH_TIME_LIMIT_S": "200"}
        with own_run(tmp_path, env, module, items, records=records) as run:
            run.until(lambda: len(run.results("store")) == items - 1)
            assert str(hangs) not in run.results("fetch"), "it hangs still"


POISONED = (
    NOTE
    + """
def is_poisoned():  # for ever, in the first process that asks
    flag = os.environ["CALLS"] + ".poisoned"
    try:
        with open(flag, "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        pass
    with open(flag) as file:
        return file.read() == str(os.getpid())

work = repli.Stage("work", input=lambda item: item.id)

@work.rung(time_limit_s=40, breaker=repli.Breaker(scope="host"), resources={"GPU": 1})
def device(ids):
    if is_poisoned():
        note("poisoned")
        raise RuntimeError("CUDA error: device-side assert triggered\\nCUDA kernel errors might be reported later")
    return ids

@work.rung(penalty="0.9", time_limit_s=40)
def other(ids):
    return ids

pipeline = repli.Pipeline([work])
"""
)


@pytest.mark.parametrize("cluster", ["local", pytest.param("standing", marks=pytest.mark.campaign)])
def test_a_poisoned_process_is_replaced(tmp_path: Path, standing_server: dict[str, str], cluster: str) -> None:
    """It is called once, its breaker counts it once, and every item is served at full quality by a clean process."""
    if cluster == "local":
        with own_run(tmp_path, standing_server, POISONED, 40, "--batch-size", "5") as run:
            report = run.done()
    else:
        env = {**environment(tmp_path / "home"), **standing_server, "CALLS": str(tmp_path / "calls")}
        with topology(tmp_path, env) as standing:
            standing.add_worker("--resources", "GPU=1", place="1", nanny=True)
            options = ("--batch-size", "5", "--dask", standing.address)
            with own_run(tmp_path, standing_server, POISONED, 40, *options) as run:
                report = run.done()
    assert report["quality"] == {"1.0": 40}
    assert run.calls()["poisoned"] == 1
    with run.store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(breaker_failures)) == 1
    poisoned = int((tmp_path / "calls.poisoned").read_text())
    with suppress(psutil.NoSuchProcess):
        assert alive_after([psutil.Process(poisoned)], seconds=10) == [], "the process is gone"


@pytest.mark.campaign
def test_only_what_a_worker_had_begun_is_suspect(tmp_path: Path, standing_server: dict[str, str]) -> None:
    """An item kills its worker each time: the others of its batch run again in pieces, those of other batches never,
    though some waited for that worker; and batches end while the suspects are tried."""
    items, batch, kills = 64, 8, 3
    module = (
        NOTE
        + f"""
work = repli.Stage("work", input=lambda item: item.id)

@work.rung(time_limit_s=60)
def only(ids):
    for id in ids:
        note(id)
    time.sleep(0.3)
    if {str(kills)!r} in ids:
        os.kill(os.getpid(), signal.SIGKILL)
    return ids

work.skip(penalty="0.5")
pipeline = repli.Pipeline([work])
"""
    )
    with own_run(tmp_path, standing_server, module, items, "--batch-size", str(batch)) as run:
        report = run.done()
        calls = run.calls()
        failed = run.results("work")[str(kills)]
    assert (report["stored"], report["failed"]) == (items - 1, 1)
    assert failed.error["type"] == "WorkerDied"
    assert {id_ for id_, count in calls.items() if count > 1} <= set(map(str, range(batch))), "only its own batch"
    assert max(count for id_, count in calls.items() if id_ != str(kills)) == 2, "a piece that works is done"


NO_DEVICE = """
import os
import repli

work = repli.Stage("work", input=lambda item: item.id)

@work.rung(time_limit_s=40, breaker=repli.Breaker(scope="host", failures=2), resources={"GPU": 1})
def device(ids):
    if os.environ["CUDA_VISIBLE_DEVICES"] != "1":
        raise repli.NAME("there is no device here")
    raise repli.OutOfMemory("the card is full")

@work.rung(penalty="0.9", time_limit_s=40)
def other(ids):
    return ids

pipeline = repli.Pipeline([work])
"""


@pytest.mark.campaign
@pytest.mark.parametrize("error", ["NotHere", "Unavailable"])
def test_a_worker_without_the_device_does_not_speak_for_it(
    tmp_path: Path, standing_server: dict[str, str], error: str
) -> None:
    """The card of one worker is full: only that place has a breaker, and each item says that the card is full."""
    items = 60
    with topology(tmp_path, {**environment(tmp_path / "home"), **standing_server}) as standing:
        standing.add_worker("--resources", "GPU=1", place="1")
        standing.add_worker(place="")
        options = ("--batch-size", "3", "--dask", standing.address)
        with own_run(tmp_path, standing_server, NO_DEVICE.replace("NAME", error), items, *options) as run:
            assert run.done()["quality"] == {"0.9": items}
            reasons = {row.error["message"] for row in run.results("work").values()}
            moves = breakers.last_moves(run.store, 100)
    assert all("the card is full" in reason for reason in reasons), reasons
    assert {move.key.place.rpartition("/")[2] for move in moves} == {"1"}
