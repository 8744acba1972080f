"""A chain of fallbacks in somebody's own Prefect flow: declared by a decorator, run on a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import cloudpickle
import prefect.settings
import pytest
from prefect import Task, flow, task
from prefect.client.schemas.objects import State

import repli
from repli.tasks.execution.prefect_fallback import NO_FLOW
from repli.tasks.fallback import Position, RungError, Status, StepResult
from repli.tasks.storage import breakers
from repli.tasks.storage.database import Database
from tests.support import ROOT
from tests.support.own_pipeline import refusal

WORDS = {"cat": "chat", "dog": "chien"}
DOWN = "the service is down"

WRONG = {
    "an async task": (
        """
        @repli.fallback({}, time_limit_s=5)  # refused
        async def service(name): ...
        """,
        "service.service is async; write a plain function, and call asyncio.run in it",
    ),
    "an async fallback": (
        """
        async def dictionary(name): ...
        @repli.fallback({dictionary: "0.8"}, time_limit_s=5)  # refused
        def service(name): ...
        """,
        "service.dictionary is async; write a plain function, and call asyncio.run in it",
    ),
    "an async task as fallback": (
        """
        import prefect
        @prefect.task
        async def dictionary(name): ...
        @repli.fallback({dictionary: "0.8"}, time_limit_s=5)  # refused
        def service(name): ...
        """,
        "service.dictionary is async; write a plain function, and call asyncio.run in it",
    ),
    "a generator": (
        """
        def dictionary(name):
            yield name
        @repli.fallback({dictionary: "0.8"}, time_limit_s=5)  # refused
        def service(name): ...
        """,
        "service.dictionary is a generator; return a list, so that an error in it is seen in the rung",
    ),
    "a list of fallbacks": (
        """
        @repli.fallback([max], time_limit_s=5)  # refused
        def service(name): ...
        """,
        "fallback takes a dict of functions and penalties, not a list",
    ),
    "a fallback that does not take what the task takes": (
        """
        def dictionary(name): ...
        @repli.fallback({dictionary: "0.8"}, time_limit_s=5)  # refused
        def service(name, language="fr"): ...
        """,
        "service.dictionary takes (name), and the task takes (name, language='fr'); give it the same",
    ),
    "a fallback without a keyword of the task": (
        """
        def dictionary(name, **options): ...
        def table(name, *, country): ...
        @repli.fallback({dictionary: "0.8", table: "0.7"}, time_limit_s=5)  # refused
        def service(name, *, language): ...
        """,
        "service.table takes (name, *, country), and the task takes (name, *, language); give it the same",
    ),
    "a penalty above 1": (
        """
        @repli.fallback({max: "1.5"}, time_limit_s=5)  # refused
        def service(name): ...
        """,
        "rung max: the penalty 1.5 is not in (0, 1]",
    ),
    "a skip that is worth more": (
        """
        @repli.fallback({max: "0.5"}, skip="0.7", time_limit_s=5)  # refused
        def service(name): ...
        """,
        "chain service: penalties must not rise from rung to rung; order them best first",
    ),
    "the task as its own fallback": (
        """
        def service(name): ...
        repli.fallback({service: "0.8"}, time_limit_s=5)(service)  # refused
        """,
        "chain service: two rungs share a name; rename one",
    ),
    "a fallback without a name": (
        """
        @repli.fallback({(lambda name: name): "0.8"}, time_limit_s=5)  # refused
        def service(name): ...
        """,
        "rung of service '<lambda>': a name begins with a letter and has letters, digits and underscores",
    ),
    "no time": (
        """
        @repli.fallback({}, time_limit_s=0)  # refused
        def service(name): ...
        """,
        "rung service: the time limit must be above 0 s and at most 30 days, not 0; set time_limit_s",
    ),
    "the scope in place of a breaker": (
        """
        @repli.fallback({}, time_limit_s=5, breaker="fleet")  # refused
        def service(name): ...
        """,
        "rung service: breaker is a str; write breaker=Breaker(scope=...)",
    ),
    "a breaker of keys without a key": (
        """
        @repli.fallback({}, time_limit_s=5, breaker=repli.Breaker(scope="key"))  # refused
        def service(name): ...
        """,
        "a task's breaker of scope 'key' needs key=..., a function of what the task takes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    """The message has the file and the line of the decorator, and says what to write."""
    source, reason = WRONG[name]
    assert refusal(tmp_path, source) == reason


def test_it_is_a_task_with_the_options_of_the_task() -> None:
    """A plain function becomes a task; the task that was decorated stays as it was."""

    def dictionary(name: str) -> str:
        return WORDS[name]

    @task(name="Translate", retries=3, tags={"nightly"})
    def service(name: str) -> str:
        """Ask the service."""
        return name

    decorated = repli.fallback({dictionary: "0.8"}, time_limit_s=5)(service)
    assert isinstance(decorated, Task)
    assert (decorated.name, decorated.retries, decorated.tags) == ("Translate", 3, {"nightly"})
    assert (decorated.fn.__name__, decorated.fn.__doc__) == ("service", "Ask the service.")
    assert service.fn("cat") == "cat"
    plain = repli.fallback({}, time_limit_s=5)(dictionary)
    assert isinstance(plain, Task)
    assert plain.name == "dictionary"


def dictionary(name: str, *, language: str) -> str:
    """A fallback for some names."""
    if name not in WORDS:
        raise repli.Declined(f"no translation of {name!r}")
    return f"{WORDS[name]} ({language})"


@repli.fallback({dictionary: "0.8"}, skip="0.7", time_limit_s=30)
@task
def translate(name: str, *, language: str = "fr") -> Any:
    """A service that has one word, and a dictionary."""
    if name != "boat":
        raise repli.Unavailable(DOWN)
    return repli.Served(f"bateau ({language})", confidence=0.9)


def outline(result: StepResult) -> tuple[str, Any, str | None, Decimal | None]:
    return result.status.value, result.value, result.rung, result.penalty


def is_of_names(results: list[StepResult]) -> None:
    """Assert that these are the results of a boat, a cat and an axolotl."""
    assert [outline(result) for result in results] == [
        ("succeeded", "bateau (fr)", "translate", Decimal(1)),
        ("degraded", "chat (fr)", "dictionary", Decimal("0.8")),
        ("skipped", None, "skip", Decimal("0.7")),
    ]


NAMES = ["boat", "cat", "axolotl"]


@pytest.mark.usefixtures("server")
class TestInAFlow:
    """The task, called in each way that Prefect has."""

    def test_called(self) -> None:
        """A plain flow gets results, with confidence, reason and trail, under the ids of its runs."""

        @flow
        def nightly() -> list[StepResult]:
            results = [translate(name) for name in NAMES]
            assert {result.run_id for result in results} == {str(prefect.runtime.flow_run.get_id())}
            return results

        results = nightly()
        is_of_names(results)
        served, degraded, skipped = results
        assert (served.confidence, degraded.confidence, skipped.confidence) == (0.9, 1.0, 0.0)
        assert degraded.error
        assert degraded.error.line == f"Unavailable: {DOWN}"
        assert [(attempt.rung, attempt.outcome.value) for attempt in skipped.attempts] == [
            ("translate", "unavailable"),
            ("dictionary", "declined"),
            ("skip", "served"),
        ]
        assert len({result.item_id for result in results}) == 3

    def test_its_states(self) -> None:
        """The name of a state says what came of it, and its message why."""

        @flow
        def nightly() -> list[State]:
            return [translate(name, return_state=True) for name in NAMES]

        states = nightly(return_state=True).result()
        assert [(state.name, state.is_completed(), state.message) for state in states] == [
            ("Completed", True, "translate.translate served"),
            ("Degraded", True, f"translate.dictionary served: Unavailable: {DOWN}"),
            ("Skipped", True, f"translate: no rung served: Unavailable: {DOWN}"),
        ]

    def test_mapped(self) -> None:
        """Each element has its own result and state."""

        @flow
        def nightly() -> tuple[list[StepResult], list[str]]:
            futures = translate.map(NAMES)
            return futures.result(), [future.state.name for future in futures]

        results, names = nightly()
        is_of_names(results)
        assert names == ["Completed", "Degraded", "Skipped"]

    def test_submitted(self) -> None:
        """A future has the result; keywords, defaults and other options of the task go with it."""

        @flow
        def nightly() -> list[StepResult]:
            renamed = translate.with_options(name="other")
            assert renamed.name == "other"
            futures = [translate.submit("cat"), translate.submit(name="dog", language="en"), renamed.submit("cat")]
            return [*(future.result() for future in futures), renamed("dog", language="en")]

        assert [result.value for result in nightly()] == ["chat (fr)", "chien (en)", "chat (fr)", "chien (en)"]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_in_an_async_flow(self) -> None:
        """The task is a plain function there too, and returns a result."""

        @flow
        async def nightly() -> list[StepResult]:
            return [translate(name) for name in NAMES]

        is_of_names(asyncio.run(nightly()))
        gc.collect()  # here, where its warning is ignored: Prefect leaves a connection of async flows open

    def test_outside_of_a_flow(self) -> None:
        """A task may be called by itself."""
        result = translate("cat")
        assert (outline(result)[1], result.run_id) == ("chat (fr)", NO_FLOW)

    def test_on_a_dask_worker(self) -> None:
        """It is pickled to get there, with its chain."""
        sent = cloudpickle.loads(cloudpickle.dumps(translate))
        assert sent("cat").value == "chat (fr)"

    def test_a_fallback_that_is_a_task(self) -> None:
        """It is run as one, with its own retries."""
        calls: list[str] = []

        @task(retries=1)
        def slow(name: str) -> str:
            calls.append(name)
            if len(calls) == 1:
                raise OSError("not yet")
            return "chat"

        def service(name: str) -> str:
            raise repli.Unavailable(DOWN)

        result = repli.fallback({slow: "0.8"}, time_limit_s=30)(service)("cat")
        assert (outline(result), calls) == (("degraded", "chat", "slow", Decimal("0.8")), ["cat", "cat"])


def store_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'breakers.db'}"


@pytest.mark.usefixtures("server")
class TestAnswers:
    """What the functions return or raise."""

    @staticmethod
    def result(service: Any, **options: Any) -> StepResult:
        """Call a task once; its fallback answers `fallback`."""

        def other(name: str) -> str:
            return "fallback"

        chosen = {"skip": "0.5", "time_limit_s": 30, **options}
        result: StepResult = repli.fallback({other: 0.8}, **chosen)(service)("cat")  # type: ignore[dict-item]
        return result

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (repli.Declined("not sure"), "Declined: not sure"),
            (
                repli.Served("chat", confidence=2),
                "BadAnswer: service.service returned a confidence of 2, not in [0, 1]",
            ),
        ],
    )
    def test_no_answer_goes_to_the_fallback(self, answer: Any, reason: str) -> None:
        """An exception that is returned, and a confidence that is none; penalties that are numbers are exact."""

        def service(name: str) -> Any:
            return answer

        result = self.result(service)
        assert outline(result) == ("degraded", "fallback", "other", Decimal("0.8"))
        assert result.error
        assert result.error.line == reason

    def test_a_task_may_return_nothing(self) -> None:
        """It has done its work: no fallback does it again."""

        def service(name: str) -> None:
            """Do its work."""

        result = self.result(service)
        assert (result.status, result.rung, result.value) == (Status.SUCCEEDED, "service", None)

    def test_a_hang_goes_to_the_fallback(self) -> None:
        """At the time limit."""

        def service(name: str) -> str:
            while True:
                pass

        result = self.result(service, time_limit_s=0.05)
        assert result.value == "fallback"
        assert result.error
        assert result.error.line == "TimedOut: service.service was cut off at its time limit of 0.05 s"

    def test_any_python_value_is_an_answer(self) -> None:
        """It goes to the flow and into no store, so it needs no JSON form; a list is one answer."""
        given = [[1, 2], {1, 2}, object(), float("inf"), ""]
        answers = iter(given)

        def service(name: str) -> Any:
            return next(answers)

        assert [self.result(service).value for _ in given] == given

    def test_the_runtime_context_is_that_of_the_task(self) -> None:
        """A rung may ask Prefect for its run, though it runs in a thread of its own."""

        def service(name: str) -> str:
            return str(prefect.runtime.task_run.get_id())

        result = self.result(service)
        assert result.value == result.item_id


@pytest.mark.usefixtures("server")
class TestRequired:
    """A task without a skip."""

    def test_it_fails_where_no_rung_serves(self) -> None:
        """The flow fails with the reason, and a mapped task fails alone."""

        def broken(name: str) -> str:
            raise ValueError(f"{name} is broken")

        @repli.fallback({broken: "0.8"}, time_limit_s=30)
        def service(name: str) -> str:
            if name == "cat":
                return "chat"
            raise repli.Unavailable(DOWN)

        reason = "service: no rung served: ValueError: dog is broken"

        @flow
        def nightly() -> list[str]:
            with pytest.raises(RungError, match=f"^{reason}$"):
                service("dog")
            states = [future.wait() or future.state for future in service.map(["cat", "dog"])]
            assert [(state.name, state.message) for state in states] == [
                ("Completed", "service.service served"),
                ("Failed", "ValueError: dog is broken"),
            ]
            return [service("cat").value, service("dog").value]

        state = nightly(return_state=True)
        assert state.is_failed()
        with pytest.raises(RungError, match=f"^{reason}$"):
            state.result()

    def test_prefect_retries_the_whole_chain(self) -> None:
        """Until a rung serves; a fallback that serves is not retried, and neither is a skip."""
        calls: list[str] = []

        @task(retries=2)
        def service(name: str) -> str:
            calls.append(name)
            if calls.count(name) < 3:
                raise OSError("not yet")
            return "chat"

        required = repli.fallback({}, time_limit_s=30)(service)
        assert (required("cat").value, calls) == ("chat", ["cat"] * 3)
        calls.clear()
        optional = repli.fallback({}, skip="0.5", time_limit_s=30)(service)
        assert (optional("dog").status, calls) == (Status.SKIPPED, ["dog"])
        calls.clear()
        with_fallback = repli.fallback({max: "0.8"}, time_limit_s=30)(service)
        assert (with_fallback("dog").status, calls) == (Status.DEGRADED, ["dog"])


ELSEWHERE = """
import json, sys
import repli

calls = []

def dictionary(name):
    return "chat"

breaker = repli.Breaker(scope="fleet", failures=2)

@repli.fallback({dictionary: "0.8"}, time_limit_s=30, breaker=breaker, store=sys.argv[1])
def service(name):
    calls.append(name)
    return "from the service"

result = service("cat")
print(json.dumps([result.value, len(calls), result.attempts[0].outcome, result.attempts[0].error.line]))
"""


@contextmanager
def warnings_of_tasks() -> Iterator[list[str]]:
    """Collect what is logged in task runs as warnings."""
    logger = logging.getLogger("prefect.task_runs")
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


class TestBreaker:
    """A rung that keeps failing is not called."""

    BREAKER = repli.Breaker(scope="fleet", failures=2)

    def service(self, calls: list[str], store: str | None) -> Any:
        """A task whose service is down."""

        def dictionary(name: str) -> str:
            return "chat"

        @repli.fallback({dictionary: "0.8"}, time_limit_s=30, breaker=self.BREAKER, store=store)
        def service(name: str) -> str:
            calls.append(name)
            raise repli.Unavailable(DOWN)

        return service

    def test_a_key_is_told_by_what_the_task_takes(self, server: dict[str, str], tmp_path: Path) -> None:
        """One account that is down is no longer called, and the others are."""
        calls: list[str] = []

        def dictionary(name: str, *, account: str) -> str:
            return "chat"

        by_account = repli.Breaker(scope="key", key=lambda name, *, account: account, failures=1)

        @repli.fallback(
            {dictionary: "0.8"}, time_limit_s=30, breaker=by_account, store=f"sqlite:///{tmp_path / 'breakers.db'}"
        )
        def service(name: str, *, account: str) -> str:
            calls.append(account)
            if account == "down":
                raise repli.Unavailable(DOWN)
            return "le chat"

        rungs = [service("cat", account=account).rung for account in ("down", "down", "up", "down", "up")]
        assert rungs == ["dictionary", "dictionary", "service", "dictionary", "service"]
        assert calls == ["down", "up", "up"]

    def test_its_calls_at_once_are_bounded(self, server: dict[str, str], tmp_path: Path) -> None:
        """In all tasks of the process together, as in a pipeline."""
        running, most = [], []

        @repli.fallback(
            {}, time_limit_s=30, breaker=repli.Breaker(scope="key", key=str.upper, at_once=2), store=store_in(tmp_path)
        )
        def service(name: str) -> str:
            running.append(name)
            most.append(len(running))
            time.sleep(0.2)
            running.remove(name)
            return "le chat"

        @flow
        def nightly() -> list[StepResult]:
            return service.map(["cat"] * 6).result()

        assert {result.rung for result in nightly()} == {"service"}
        assert max(most) == 2

    def test_a_fallback_needs_no_key(self, server: dict[str, str], tmp_path: Path) -> None:
        """That the key of a call cannot be told is an error of the primary alone."""

        def dictionary(name: str) -> str:
            return "chat"

        by_prefix = repli.Breaker(scope="key", key=lambda name: name.split(":")[1])

        @repli.fallback({dictionary: "0.8"}, skip="0.7", time_limit_s=30, breaker=by_prefix, store=store_in(tmp_path))
        def service(name: str) -> str:
            return "le chat"

        assert [service(name).rung for name in ("a:cat", "cat")] == ["service", "dictionary"]

    def test_it_is_shared_through_the_store(self, server: dict[str, str], tmp_path: Path) -> None:
        """Another process, of another flow, does not call what failed here; the move of the breaker is logged."""
        url = f"sqlite:///{tmp_path / 'breakers.db'}"
        calls: list[str] = []
        service = self.service(calls, url)
        with warnings_of_tasks() as said:
            assert [service(name).value for name in ("a", "b", "c")] == ["chat"] * 3
        assert calls == ["a", "b"]
        assert any("breaker service.service" in line for line in said)
        environment = {**os.environ, **server, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, url],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        value, called, outcome, reason = json.loads(done.stdout)
        assert (value, called, outcome) == ("chat", 0, "refused")
        assert reason.startswith(
            f"BreakerOpen: service.service was not called: its breaker is open (Unavailable: {DOWN})"
        )

    def test_by_default_it_is_in_the_store_of_the_environment(
        self, server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The store is made where there is none."""
        monkeypatch.setenv("REPLI_DATABASE_URL", url := f"sqlite:///{tmp_path / 'own.db'}")
        service = self.service([], None)
        assert {service(name).value for name in ("a", "b")} == {"chat"}
        [view] = breakers.views(Database(url), {"service.service": self.BREAKER})
        found = view.key.name, view.state.position, view.state.why
        assert found == ("service.service", Position.OPEN, f"Unavailable: {DOWN}")

    def test_without_a_breaker_there_is_no_store(
        self, server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The home of the environment is not touched."""
        monkeypatch.setenv("REPLI_HOME", str(tmp_path / "home"))
        assert translate("cat").value == "chat (fr)"
        assert not (tmp_path / "home").exists()

    def test_a_store_that_is_out_of_reach_stops_nothing(self, server: dict[str, str], tmp_path: Path) -> None:
        """This process counts failures by itself, and says so once."""
        (tmp_path / "file").write_text("no folder")
        calls: list[str] = []
        service = self.service(calls, f"sqlite:///{tmp_path / 'file' / 'breakers.db'}")
        with warnings_of_tasks() as said:
            assert [service(name).value for name in ("a", "b", "c")] == ["chat"] * 3
        assert calls == ["a", "b"]
        [note] = [line for line in said if line.startswith("breakers: ")]
        assert note.endswith("; this worker counts failures locally until the store is back")
