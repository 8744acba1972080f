"""The policy block of a pipeline of one's own: its form has the stages and rungs of that pipeline, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

import repli
import repli.blocks
from repli.blocks.enrichment_policy import PolicyBlock, policy_block
from repli.flows.server.rung_choices import CALLED, CHOICES, RUNGS, with_choices
from repli.tasks.fallback.policy import NO_OVERRIDES, BreakerPolicy, RetryPolicy
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.settings import Settings
from repli.tasks.storage import pipelines
from repli.tasks.storage.database import Database
from tests.support.default_pipeline import PIPELINE
from tests.support.own_pipeline import modules_of, stage_by

MODULE = """
import repli

translate = repli.Stage("translate", input=lambda item: item.name)


@translate.rung(time_limit_s=5)
def {rung}(names):
    return names


translate.skip(penalty="0.7")
pipeline = repli.Pipeline([translate])
"""


def translate() -> Stage:
    """A stage of two rungs and a skip, the first behind a breaker."""
    stage = Stage("translate", input=len)

    @stage.rung(time_limit_s=30, breaker=repli.Breaker(scope="fleet", failures=3))
    def service(names: list[str]) -> list[str]:
        """Ask the translation service.

        It needs a key.
        """
        return names

    @stage.rung(time_limit_s=5, penalty="0.8")
    def dictionary(names: list[str]) -> list[str]:
        return names

    stage.skip(penalty="0.7")
    return stage


@pytest.fixture(scope="module")
def own() -> type[PolicyBlock]:
    """The block of a pipeline with one stage that leaves a choice, and one that does not."""
    return policy_block(Pipeline([translate(), stage_by("price", skip=None)]))


def field(block: type[PolicyBlock], *path: str) -> dict[str, Any]:
    """Return a field of the block's form."""
    schema = block.model_json_schema()
    found: dict[str, Any] = schema
    for name in path:
        found = found["properties"][name]
        if "$ref" in found:
            found = schema["definitions"][found["$ref"].rpartition("/")[2]]
    return found


def reason(refused: Callable[[], object]) -> str:
    """Return why values are refused: one error, with its place."""
    with pytest.raises(ValidationError) as raised:
        refused()
    [one] = raised.value.errors()
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"


class TestForm:
    """What a person sees in the Prefect UI."""

    def test_it_has_the_rungs(self, own: type[PolicyBlock]) -> None:
        """Of stages that leave something to choose, at their penalties, each with the start of its docstring."""
        assert list(field(own, "chains")["properties"]) == ["translate"]
        rungs = field(own, "chains", "translate")["properties"]
        assert {name: rung["default"] for name, rung in rungs.items()} == {"service": 1, "dictionary": 0.8, "skip": 0.7}
        assert rungs["service"]["description"] == "Ask the translation service."
        schema = own.model_json_schema()
        for penalties, is_right in (({"dictionary": 0.5}, True), ({"dictionary": 1.5}, False), ({"skip": 0}, False)):
            assert (not validate({"chains": {"translate": penalties}}, schema)) == is_right

    def test_it_has_the_breakers(self, own: type[PolicyBlock]) -> None:
        """Of rungs that have one, with the settings that the code declares."""
        assert list(field(own, "breakers")["properties"]) == ["translate"]
        assert list(field(own, "breakers", "translate")["properties"]) == ["service"]
        assert field(own, "breakers", "translate", "service", "failures")["default"] == 3

    def test_a_drill_may_expect_each_rung(self, own: type[PolicyBlock]) -> None:
        """Those of the stages without a choice, too."""
        assert field(own, "expect")["items"]["enum"] == [
            "all",
            "translate.service",
            "translate.dictionary",
            "translate.skip",
            "price.only",
            "store.database",
        ]

    def test_a_pipeline_without_any_choice_has_an_empty_form(self) -> None:
        """One rung, no skip and no breaker: the retry queue is all there is to set."""
        block = policy_block(Pipeline([stage_by("price", skip=None)]))
        for group in ("chains", "breakers"):
            assert not field(block, group).get("properties")
        assert block().policy() == NO_OVERRIDES
        assert block(retry_queue={"below": 0.5}).retry_policy() == RetryPolicy(below=0.5)

    @pytest.mark.parametrize("name", ["copy", "json", "values", "schema", "model_dump", "class_"])
    def test_a_rung_may_be_named_like_a_method(self, name: str) -> None:
        """Forms are models of pydantic, which have methods of such names."""
        stage = Stage(name, input=len)

        def rung(names: list[str]) -> list[str]:
            return names

        rung.__name__ = name
        stage.rung(time_limit_s=5, breaker=repli.Breaker(scope="fleet"))(rung)
        stage.skip(penalty="0.5")
        block = policy_block(Pipeline([stage]))
        assert block(chains={name: {"skip": 0.25}}).policy().chains == {name: ((name, "1"), ("skip", "0.25"))}
        policy = block(breakers={name: {name: {"failures": 2}}}).policy()
        assert policy.breakers[f"{name}.{name}"].failures == 2

    def test_one_block_per_pipeline(self) -> None:
        """The same pipeline has the same block, which keeps the slug of the default one: runs read it by that."""
        pipeline = Pipeline([translate()])
        assert policy_block(pipeline) is policy_block(pipeline)
        assert policy_block(pipeline) is not policy_block(PIPELINE)
        assert policy_block(pipeline).get_block_type_slug() == policy_block(PIPELINE).get_block_type_slug()


class TestPolicy:
    """What it turns into."""

    def test_it_changes_the_pipeline(self, own: type[PolicyBlock]) -> None:
        """Only what differs from the code is in the policy."""
        assert own().policy() == NO_OVERRIDES
        block = own(
            chains={"translate": {"service": 0, "dictionary": 1, "skip": 0.5}},
            breakers={"translate": {"service": {"failures": 9}}},
            expect="translate.service price.only",
        )
        policy = block.policy()
        assert policy.chains == {"translate": (("dictionary", "1"), ("skip", "0.5"))}
        assert policy.breakers == {
            "translate.service": BreakerPolicy(failures=9, within_s=600, open_for_s=60, open_for_at_most_s=900)
        }
        assert policy.expect == ("translate.service", "price.only")

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (
                {"chains": {"classify_image": {"cpu": 0.5}}},
                "chains: Value error, there is no 'classify_image' here; choose from translate",
            ),
            (
                {"chains": {"translate": {"gpu": 0.5}}},
                "chains.translate: Value error, there is no 'gpu' here; choose from service, dictionary, skip",
            ),
            (
                {"chains": {"price": {"only": 1}}},
                "chains: Value error, there is no 'price' here; choose from translate",
            ),
            (
                {"breakers": {"translate": {"dictionary": {"failures": 2}}}},
                "breakers.translate: Value error, there is no 'dictionary' here; choose from service",
            ),
            (
                {"chains": {"translate": {"service": 0.9}}},
                ": Value error, policy: translate: service comes first, so its penalty must be 1, not 0.9",
            ),
            (
                {"expect": ["fetch.origin"]},
                (
                    ": Value error, policy: expect: there is no rung 'fetch.origin'; choose all, or from "
                    "translate.service, translate.dictionary, translate.skip, price.only, store.database"
                ),
            ),
        ],
    )
    def test_what_does_not_fit(self, own: type[PolicyBlock], values: dict[str, Any], expected: str) -> None:
        """Stages and rungs of another pipeline, too: the message lists those of this one."""
        assert reason(lambda: own(**values)) == expected


class TestOfTheEnvironment:
    """`repli.blocks.EnrichmentPolicy`, which is made when it is asked for."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A folder with two pipelines, in which `prefect block register -m repli.blocks` is started."""
        monkeypatch.setenv("REPLI_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        for name, rung in (("named", "service"), ("of_store", "table")):
            (tmp_path / f"{name}.py").write_text(MODULE.format(rung=rung), encoding="utf-8")
        with modules_of(tmp_path):
            yield tmp_path

    @staticmethod
    def rungs() -> list[str]:
        """Return the rungs of the form's stage."""
        return list(field(repli.blocks.EnrichmentPolicy, "chains", "translate")["properties"])

    def test_it_is_that_of_the_variable(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each time it is asked for, so that a process may have the blocks of two pipelines."""
        monkeypatch.setenv("REPLI_PIPELINE", "named:pipeline")
        assert self.rungs() == ["service", "skip"]
        monkeypatch.setenv("REPLI_PIPELINE", "of_store:pipeline")
        assert self.rungs() == ["table", "skip"]

    def test_else_it_is_that_of_the_store(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else the default one."""
        monkeypatch.delenv("REPLI_PIPELINE", raising=False)
        assert "classify_image" in field(repli.blocks.EnrichmentPolicy, "chains")["properties"]
        settings = Settings.from_environment()
        database = Database(settings.database_url)
        database.migrate()
        pipelines.declare(database, Pipeline([stage_by("translate")]).described("of_store:pipeline"))
        assert self.rungs() == ["table", "skip"]

    def test_prefect_finds_it(self) -> None:
        """By the names of the package."""
        assert {"Cluster", "EnrichmentPolicy", "ItemStore"} <= set(dir(repli.blocks))
        with pytest.raises(AttributeError, match=re.escape("repli.blocks has no 'Policy'")):
            repli.blocks.Policy  # noqa: B018


def test_the_forms_of_deployments_list_its_rungs() -> None:
    """A field that forces a rung lists `skip` too; one that injects a failure lists those that call something."""
    chains = Pipeline([translate()]).chains
    schema = {"properties": {"force": {CHOICES: RUNGS, "title": "Force"}, "faults": [{CHOICES: CALLED}], "limit": 3}}
    called = ["translate.service", "translate.dictionary"]
    assert with_choices(schema, chains) == {
        "properties": {
            "force": {CHOICES: RUNGS, "title": "Force", "enum": [*called, "translate.skip", "store.database"]},
            "faults": [{CHOICES: CALLED, "enum": [*called, "store.database"]}],
            "limit": 3,
        }
    }
    assert "enum" not in schema["properties"]["force"]
