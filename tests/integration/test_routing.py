"""Where batches are sent: real Dask workers, one of them with the tag, and a real kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect_dask.task_runners import PrefectDaskFuture

from repli.flows.dispatch.dispatcher import full_width
from repli.flows.dispatch.routing import RESOURCE_LOST_AFTER_S, Routing
from repli.flows.dispatch.stage_futures import RESULT_LIMIT_S, result_of
from repli.tasks.fallback.breaker import Cause
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import step_results
from repli.tasks.storage.views import lookup
from tests.support.command_line import command, environment, write_manifest
from tests.support.default_pipeline import PIPELINE, STORED, declared_breakers
from tests.support.locations import Whereabouts, seen
from tests.support.stopwatch import Stopwatch
from tests.support.topology import Topology, topology

pytestmark = pytest.mark.timeout(600)

STAGE = PIPELINE.stage("classify_image")
GPU = "classify_image.gpu"


@pytest.fixture
def small(home: Path, tmp_path: Path, standing_server: dict[str, str]) -> Iterator[Topology]:
    """An empty cluster."""
    with topology(tmp_path, {**environment(home), **standing_server}) as cluster:
        yield cluster


def test_the_tag_is_asked_for_while_it_helps(small: Topology, tmp_path: Path) -> None:
    """A stage is bound to its tag while a live worker carries it and its breaker there lets calls through."""
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.migrate()
    breaker = declared_breakers()[GPU]
    now = [0.0]
    routing = Routing(small.client, database, timer=lambda: now[0])

    def asked_for() -> dict[str, float]:
        now[0] += 2  # past what is believed
        return dict(routing.resources_for(STAGE))

    small.add_worker(place="none")
    assert asked_for() == {}, "nobody carries the tag"
    one = small.add_worker("--resources", "GPU=1", place="1")
    assert asked_for() == {"GPU": 1}
    places = {routing.scope_of(worker) for worker in routing.workers()}
    assert len(places) == 2
    [gpu_1] = [str(place) for place in places if str(place).endswith("/1")]

    breakers.override(database, breaker, Key(GPU, gpu_1), Cause.FORCED_OPEN)
    assert asked_for() == {}, "it is open on the only device"
    small.add_worker("--resources", "GPU=1", place="2")
    assert asked_for() == {"GPU": 1}, "another device still serves"
    breakers.override(database, breaker, Key(GPU), Cause.FORCED_OPEN)
    assert asked_for() == {}, "it is open everywhere"
    breakers.override(database, breaker, Key(GPU), Cause.RESET)
    assert asked_for() == {"GPU": 1}
    one.kill()
    one.wait()
    assert asked_for() == {"GPU": 1}
    assert not routing.is_lost({"GPU": 1})
    assert not routing.is_lost({"TPU": 1})
    now[0] += RESOURCE_LOST_AFTER_S
    assert routing.is_lost({"TPU": 1}), "no worker has carried it for a while"
    database.engine.dispose()


def test_a_rung_that_is_forced_says_where_its_stage_goes(small: Topology, tmp_path: Path) -> None:
    """`gpu` to the workers with the tag, whatever its breaker says; `cpu` to any."""
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.migrate()
    small.add_worker("--resources", "GPU=1", place="1")
    breakers.override(database, declared_breakers()[GPU], Key(GPU), Cause.FORCED_OPEN)
    wanted = {
        rung: dict(Routing(small.client, database, forced={"classify_image": rung}).resources_for(STAGE))
        for rung in ("gpu", "cpu", "skip")
    }
    assert wanted == {"gpu": {"GPU": 1}, "cpu": {}, "skip": {}}
    assert Routing(small.client, database).resources_for(STAGE) == {}
    database.engine.dispose()


@pytest.mark.campaign
def test_what_comes_next_is_sent_anywhere_once_the_breaker_opens(
    small: Topology, home: Path, tmp_path: Path, standing_server: dict[str, str]
) -> None:
    """The first batches were sent to the one worker with the tag; when its device fails, the other one helps."""
    items, batch_size = 144, 12
    manifest = write_manifest(tmp_path / "items", items)
    small.add_worker("--resources", "GPU=1", place="1")
    small.add_worker(place="none")
    assert full_width(2) * batch_size < items
    small.client.register_plugin(Whereabouts())
    arguments = ("run", manifest, "--batch-size", str(batch_size), "--fault", "classify_image.gpu=error", "--json")
    done = subprocess.run(
        command(*arguments, "--dask", small.address),
        env={**environment(home), **standing_server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["quality"] == {"0.9": items}
    on = Counter(tags for stage, tags in seen(small.client) if stage == "classify_image")
    assert on["GPU"] >= 1, "where it was sent to, and failed"
    assert on[""] >= 1, "everything waited for the worker whose breaker was open"


@pytest.mark.campaign
def test_the_only_worker_with_the_tag_dies_and_nothing_waits_for_it(
    small: Topology, home: Path, tmp_path: Path, standing_server: dict[str, str]
) -> None:
    """Batches that wait for the dead worker are sent again without its tag, and every item is stored."""
    items, batch_size = 16, 4
    manifest = write_manifest(tmp_path / "items", items)
    with_tag = small.add_worker("--resources", "GPU=1", place="1")
    small.add_worker(place="none")
    # It is stopped before it is killed, so that it does not do them all.
    small.client.register_plugin(Whereabouts(suspends=[with_tag.pid], after=("classify_image", "GPU")))
    store = Database(f"sqlite:///{home / 'repli.db'}")
    arguments = ("run", manifest, "--batch-size", str(batch_size), "--json", "--dask", small.address)
    with subprocess.Popen(
        command(*arguments),
        env={**environment(home), **standing_server},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            until(process, lambda: ("classify_image", "GPU") in seen(small.client))
            with_tag.kill()
            with_tag.wait()
            before = done(store, "classify_image")
            with Stopwatch() as stopwatch:
                until(process, lambda: done(store, "classify_image") > before)
            out, error = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 0, error.decode()[-2000:]
    assert json.loads(out)["stored"] == items
    assert stopwatch.seconds < 30, "what waited for the tag is sent again without it, and the other worker serves it"
    last = lookup.view(store, f"item-{items - 1}", STORED)
    assert last is not None
    assert last.stages["classify_image"].status.is_done


@pytest.mark.campaign
def test_a_report_that_dies_with_its_worker_is_made_again(small: Topology) -> None:
    """A task is over, and while its report is on the way the worker dies: nothing waits for a worker like it."""
    worker = small.add_worker("--resources", "GPU=1", place="1")
    sent = small.client.submit(str, 7, resources={"GPU": 1})
    sent.exception()  # it is over
    os.kill(worker.pid, signal.SIGSTOP)
    pool = ThreadPoolExecutor(1)
    report = pool.submit(result_of, PrefectDaskFuture(uuid.uuid4(), sent))
    time.sleep(1)  # by now it has asked for it
    worker.kill()
    assert report.result(timeout=RESULT_LIMIT_S + 10) is None
    small.add_worker("--resources", "GPU=1", place="2")
    assert result_of(PrefectDaskFuture(uuid.uuid4(), sent)) == "7"
    pool.shutdown()


def done(store: Database, stage: str) -> int:
    """How many items have a result of the stage."""
    if not store.is_migrated():
        return 0
    with store.read() as connection:
        query = sa.select(sa.func.count()).where(step_results.c.stage == stage)
        return int(connection.execute(query).scalar_one())


def until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait for the condition, while the process lives."""
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)
