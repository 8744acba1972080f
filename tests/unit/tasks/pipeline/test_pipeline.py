"""Declare a pipeline of stages, change it, and make the input of a stage."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import repli
from repli.tasks.fallback import Status, UsageError
from repli.tasks.fallback.policy import NO_OVERRIDES, BreakerPolicy, Policy
from repli.tasks.items import Item, ItemState
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.pipeline.store import STAGE as STORE_STAGE
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database
from tests.support.default_pipeline import PIPELINE, STAGE_NAMES
from tests.support.own_pipeline import refusal, run, saved, stage_by, states

WRONG_PIPELINES = {
    "a stage in place of a list": (
        """
        translate.rung(time_limit_s=30)(max)
        repli.Pipeline(translate)  # refused
        """,
        "a pipeline takes a list of stages, not a Stage",
    ),
    "the name of a stage": (
        """
        repli.Pipeline(["translate"])  # refused
        """,
        "a pipeline is made of stages, not of a str",
    ),
    "no stage": (
        """
        repli.Pipeline([])  # refused
        """,
        "a pipeline has at least one stage beside store",
    ),
    "a stage without a rung": (
        """
        repli.Pipeline([translate])  # refused
        """,
        "stage translate has no rung; add one with @translate.rung(time_limit_s=...)",
    ),
    "one stage twice": (
        """
        translate.rung(time_limit_s=30)(max)
        repli.Pipeline([translate, translate])  # refused
        """,
        "two stages are named translate; rename one",
    ),
    "a stage named store": (
        """
        store = repli.Stage("store", input=len)
        store.rung(time_limit_s=30)(max)
        translate.rung(time_limit_s=30)(max)
        repli.Pipeline([translate, store])  # refused
        """,
        "store is the name of the last stage, which is added by itself; rename yours",
    ),
    "two embeddings": (
        """
        stages = [repli.Stage(name, input=len, produces=repli.Embedding) for name in ("words", "picture")]
        for stage in stages:
            stage.rung(time_limit_s=30)(max)
        repli.Pipeline(stages)  # refused
        """,
        (
            "words and picture both produce embeddings, and search has one vector for each item; leave `produces` out "
            "of one"
        ),
    ),
    "fetch as the second stage": (
        """
        translate.rung(time_limit_s=30)(max)
        repli.Pipeline([translate, repli.default_pipeline.stage("fetch")])  # refused
        """,
        "fetch must be the first stage: ",
    ),
    "one rule in place of a list": (
        """
        translate.rung(time_limit_s=30)(max)
        rule = repli.Rule("translate", {"max"}, forbids="store.database", because="it is wrong")
        repli.Pipeline([translate], rule)  # refused
        """,
        "a pipeline takes a list of rules; write [Rule(...)]",
    ),
    "a rule of an unknown stage": (
        """
        translate.rung(time_limit_s=30)(max)
        rule = repli.Rule("translation", {"max"}, forbids="store.database", because="it is wrong")
        repli.Pipeline([translate], [rule])  # refused
        """,
        (
            "rule store.database does not go with translation by max: it is wrong: there is no stage 'translation'; "
            "choose from translate, store"
        ),
    ),
    "rules that leave nothing": (
        """
        translate.rung(time_limit_s=30)(max)
        rule = repli.Rule("translate", {"max"}, forbids="store.database", because="it is wrong")
        repli.Pipeline([translate], [rule])  # refused
        """,
        (
            "the rules leave store without a rung after translate by max; change one of these rules: store.database "
            "does not go with translate by max: it is wrong"
        ),
    ),
}
WRONG_CHANGES = {
    "insert before fetch": ('insert(translate, before="fetch")', "fetch must be the first stage: "),
    "insert after store": (
        'insert(translate, after="store")',
        (
            "store must be the last stage: it merges the results of all others and makes the item searchable; insert "
            "before it"
        ),
    ),
    "insert with both": (
        'insert(translate, before="store", after="fetch")',
        "insert translate: give the name of one stage, as after=... or before=...",
    ),
    "insert with neither": (
        "insert(translate)",
        "insert translate: give the name of one stage, as after=... or before=...",
    ),
    "insert after an unknown stage": (
        'insert(translate, after="extract")',
        (
            "insert translate: there is no stage 'extract'; choose from fetch, validate, extract_text, classify_image, "
            "embed_text, store"
        ),
    ),
    "insert after nothing": (
        'insert(translate, after="")',
        (
            "insert translate: there is no stage ''; choose from fetch, validate, extract_text, classify_image, "
            "embed_text, store"
        ),
    ),
    "insert a name": (
        'insert("translate", after="fetch")',
        "a pipeline is made of stages, not of a str",
    ),
    "replace an unknown stage": (
        'replace("extract", translate)',
        (
            "replace extract: there is no stage 'extract'; choose from fetch, validate, extract_text, classify_image, "
            "embed_text, store"
        ),
    ),
    "replace store": (
        'replace("store", translate)',
        "store cannot be replaced: it makes the item searchable, with its quality",
    ),
    "replace by a name": ('replace("fetch", "translate")', "a pipeline is made of stages, not of a str"),
    "remove an unknown stage": (
        'remove("fetch", "extract")',
        (
            "remove extract: there is no stage 'extract'; choose from fetch, validate, extract_text, classify_image, "
            "embed_text, store"
        ),
    ),
    "remove store": ('remove("store")', "store cannot be removed: it makes the item searchable, with its quality"),
    "remove all": (f"remove(*{STAGE_NAMES[:-1]})", "a pipeline has at least one stage beside store"),
}


@pytest.mark.parametrize("name", WRONG_PIPELINES)
def test_a_wrong_pipeline_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    """The message has the file and the line, and says what to write."""
    source, reason = WRONG_PIPELINES[name]
    given = refusal(tmp_path, source)
    assert given.startswith(reason) if reason.endswith(": ") else given == reason


@pytest.mark.parametrize("name", WRONG_CHANGES)
def test_a_wrong_change_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    """The message has the file and the line, and says what to write."""
    change, reason = WRONG_CHANGES[name]
    given = refusal(tmp_path, f"translate.rung(time_limit_s=30)(max)\nrepli.default_pipeline.{change}  # refused\n")
    assert given.startswith(reason) if reason.endswith(": ") else given == reason


class TestStages:
    """Which stages a pipeline has, and in which order."""

    def test_store_is_added(self) -> None:
        """At the end, unless it is named there; the stages may come from a generator."""
        first, second = stage_by("first"), stage_by("second")
        for pipeline in (
            Pipeline([first, second]),
            Pipeline((first, second, STORE_STAGE)),
            Pipeline(stage for stage in (first, second)),  # type: ignore[arg-type]
        ):
            assert pipeline.names == ("first", "second", "store")
            assert [chain.stage for chain in pipeline.chains] == ["first", "second", "store"]
            assert pipeline.stage("second") is second
            assert (pipeline.before("first"), pipeline.before("store")) == ((), ("first", "second"))
        assert repr(pipeline) == "Pipeline(first → second → store)"

    def test_a_stage_is_inserted(self) -> None:
        """Before or after another; the pipeline that it is inserted into stays as it is."""
        pipeline = Pipeline([stage_by("first"), stage_by("second")])
        assert pipeline.insert(stage_by("new"), after="first").names == ("first", "new", "second", "store")
        assert pipeline.insert(stage_by("new"), before="first").names == ("new", "first", "second", "store")
        assert pipeline.insert(stage_by("new"), before="store").names == ("first", "second", "new", "store")
        assert pipeline.names == ("first", "second", "store")

    def test_a_stage_is_in_several_pipelines(self) -> None:
        """One object, in different places."""
        stage = stage_by("own")
        default = PIPELINE.insert(stage, after="extract_text")
        alone = Pipeline([stage])
        assert default.stage("own") is alone.stage("own")
        assert default.names == ("fetch", "validate", "extract_text", "own", "classify_image", "embed_text", "store")

    def test_a_stage_is_replaced_or_removed(self) -> None:
        """Several are removed at once."""
        pipeline = Pipeline([stage_by("first"), stage_by("second")])
        other = stage_by("first")
        assert pipeline.replace("first", other).stages == (other, pipeline.stage("second"), STORE_STAGE)
        assert pipeline.replace("second", stage_by("new")).names == ("first", "new", "store")
        assert PIPELINE.remove("fetch", "classify_image").names == ("validate", "extract_text", "embed_text", "store")

    def test_a_rung_may_be_a_method_of_a_dict(self) -> None:
        """A function of C is of no module, and has no source file that could change."""
        stage = Stage("words", input=len)
        stage.rung(time_limit_s=5, per_item=True)({"cat": "chat"}.get)
        assert [result.value for result in Pipeline([stage]).stage("words").try_on(["cat", "dog"])] == ["chat", None]

    def test_a_refused_pipeline_leaves_its_stages_open(self) -> None:
        """In a notebook, the stage can be completed after the rule was corrected."""
        stage = stage_by("own", skip=None)
        with pytest.raises(ValueError, match="there is no stage 'x'"):
            Pipeline([stage], [repli.Rule("x", {"y"}, forbids="own.only", because="it is wrong")])
        stage.skip(penalty="0.5")
        assert Pipeline([stage]).stage("own").chain.rung_names == ("only", "skip")

    def test_the_store_keeps_its_roles(self) -> None:
        """The chosen name, the chains, and what each stage produces that has a role."""
        pipeline = Pipeline([stage_by("a", produces=repli.Text), stage_by("b"), stage_by("c", produces=repli.Label)])
        described = pipeline.described("own:pipeline")
        assert str(described) == "own:pipeline (a: text → b → c: label → store)"
        assert described.produces == {"a": "text", "c": "label"}
        assert described.chains == pipeline.chains


class TestRules:
    """Rules stay with the stages and rungs that they name."""

    RULE = repli.Rule("first", {"only", "skip"}, forbids="second.only", because="a guess of a guess")

    @pytest.fixture
    def pipeline(self) -> Pipeline:
        return Pipeline([stage_by("first"), stage_by("second")], [self.RULE])

    def test_insert_keeps_them_and_adds_more(self, pipeline: Pipeline) -> None:
        """In their order."""
        more = repli.Rule("new", {"skip"}, forbids="second.only", because="it needs both")
        assert pipeline.insert(stage_by("new"), after="first", rules=[more]).rules.table == (self.RULE, more)

    def test_remove_drops_those_of_the_stage(self, pipeline: Pipeline) -> None:
        """On both of its sides."""
        assert pipeline.remove("first").rules.table == ()
        assert pipeline.remove("second").rules.table == ()
        assert PIPELINE.remove("validate").rules.table == PIPELINE.rules.table

    def test_replace_keeps_the_rungs_that_there_are(self, pipeline: Pipeline) -> None:
        """A rule is reduced to them, and is dropped where none is left."""
        [kept] = pipeline.replace("first", stage_by("first", skip=None)).rules.table
        assert (kept.stage, set(kept.rungs), kept.forbids) == ("first", {"only"}, "second.only")
        assert pipeline.replace("first", stage_by("new")).rules.table == ()
        other = Stage("second", input=len)
        other.rung(time_limit_s=5)(max)
        assert pipeline.replace("second", other).rules.table == ()

    def test_a_policy_drops_no_rule(self, pipeline: Pipeline) -> None:
        """Results of earlier runs may be by a rung that the policy removes."""
        policy = Policy(chains={"second": (("only", "1"), ("skip", "0.5"))})
        assert pipeline.with_policy(policy).rules.table == (self.RULE,)


class TestPolicy:
    """A pipeline under the policy of a run."""

    def test_it_changes_the_chains(self) -> None:
        """Penalties and breakers are the policy's; the declared pipeline stays, and equal policies give one object."""
        stage = Stage("own", input=len)
        stage.rung(time_limit_s=5, breaker=repli.Breaker(scope="fleet"))(max)
        stage.rung(time_limit_s=5, penalty="0.9")(min)
        stage.skip(penalty="0.8")
        pipeline = Pipeline([stage])
        policy = Policy(
            chains={"own": (("max", "1"), ("skip", "0.5"))}, breakers={"own.max": BreakerPolicy(failures=2)}
        )
        changed = pipeline.with_policy(policy)
        assert changed.stage("own").chain.rung_names == ("max", "skip")
        assert changed.breakers["own.max"].failures == 2
        assert changed.chains[0].skip
        assert changed.chains[0].skip.factor == Decimal("0.5")
        assert pipeline.stage("own").chain.rung_names == ("max", "min", "skip")
        assert pipeline.breakers["own.max"].failures == 5
        assert pipeline.with_policy(Policy(chains=dict(policy.chains), breakers=dict(policy.breakers))) is changed
        assert pipeline.with_policy(NO_OVERRIDES) is pipeline

    @pytest.mark.parametrize(
        ("policy", "reason"),
        [
            (Policy(chains={"other": (("only", "1"),)}), "there is no stage 'other'; choose from own, store"),
            (Policy(chains={"own": (("gpu", "1"), ("skip", "0.5"))}), "own has no rung 'gpu'"),
            (Policy(chains={"own": (("only", "1"),)}), "own is optional, so skip must be its last rung"),
            (Policy(breakers={"own.only": BreakerPolicy(failures=1)}), "there is no breaker 'own.only'"),
        ],
    )
    def test_one_that_does_not_fit(self, policy: Policy, reason: str) -> None:
        """The message names the stage and the rung of this pipeline."""
        with pytest.raises(UsageError, match=reason):
            Pipeline([stage_by("own")]).with_policy(policy)

    def test_one_that_the_rules_forbid(self) -> None:
        """A policy may not leave an item without a rung."""
        rule = repli.Rule("first", {"only"}, forbids="second.only", because="a guess of a guess")
        second = stage_by("second", skip=None)
        second.rung(time_limit_s=5, penalty="0.9")(max)
        pipeline = Pipeline([stage_by("first"), second], [rule])
        with pytest.raises(UsageError, match=r"^policy: the rules leave second without a rung after first by only"):
            pipeline.with_policy(Policy(chains={"second": (("only", "1"),)}))


class TestInput:
    """What the rungs of a stage get for an item."""

    @staticmethod
    def of(item: Item, make: Any) -> Any:
        """Make the input of a stage for an item."""
        return Pipeline([stage_by("own", input=make)]).input("own", ItemState(item=item, results={}))

    def test_it_is_made_of_the_item(self) -> None:
        """None where the stage is not applicable."""
        assert self.of(Item(id="1", name="Cat"), lambda item: item.name) == "Cat"
        assert self.of(Item(id="1"), lambda item: item.name) is None

    def test_a_stage_knows_the_stages_before_it(self) -> None:
        """The last stage before it that produces a text is not a later one."""
        first, last = stage_by("first", produces=repli.Text), stage_by("last", produces=repli.Text)
        seen: list[Any] = []
        own = stage_by("own", input=lambda item: seen.append((item.value("first"), list(item.produces))))
        state = ItemState(item=Item(id="1"), results={})
        Pipeline([first, own, last]).input("own", state)
        assert seen == [(None, ["first"])]

    def test_an_unreadable_record_has_none(self) -> None:
        """No function of the user sees a line that could not be read."""
        item = Item(id="line 3", problem="the line is not JSON")
        assert self.of(item, lambda item: pytest.fail("the input was made")) is None

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (KeyError("price"), "the input of own cannot be made (KeyError: 'price'); correct the stage's `input`"),
            (repli.ItemError("it has no price"), "it has no price"),
            (repli.InvalidItem("its price is below 0"), "its price is below 0"),
        ],
    )
    def test_an_error_is_the_items(self, error: Exception, reason: str) -> None:
        """Whatever the function raises; an error of the item stays what it is."""

        def make(item: repli.EnrichedItem) -> Any:
            raise error

        with pytest.raises(repli.ItemError) as raised:
            self.of(Item(id="1", name="Cat"), make)
        assert str(raised.value) == reason
        assert isinstance(raised.value, type(error)) or raised.value.__cause__ is error

    @pytest.mark.parametrize(("skip", "status", "state"), [("0.5", "skipped", "stored"), (None, "failed", "failed")])
    def test_an_error_for_one_item_of_ten(self, settings: Settings, skip: str | None, status: str, state: str) -> None:
        """That item alone is skipped, or failed where the stage is required, with the reason; no rung sees it."""
        database = Database(settings.database_url)
        database.migrate()
        seen: list[str] = []

        def make(item: repli.EnrichedItem) -> str:
            return str(item.attributes["language"])

        def answer(language: str) -> str:
            seen.append(language)
            return language

        records = [Item(id=f"{number}", name="Cat", attributes={"language": "fr"}) for number in range(9)]
        pipeline = Pipeline([stage_by("own", answer, skip=skip, input=make)])
        reports = run(pipeline, database, [*records[:4], Item(id="bad", name="Cat"), *records[4:]])
        assert reports["own"].statuses == {"succeeded": 9, status: 1}
        assert seen == ["fr"] * 9
        result = saved(database, "bad")["own"]
        assert result.error
        assert (result.status, result.value, result.retryable) == (Status(status), None, True)
        assert result.error.line == (
            "ItemError: the input of own cannot be made (KeyError: 'language'); correct the stage's `input`"
        )
        assert states(database) == {**{record.id: "stored" for record in records}, "bad": state}
