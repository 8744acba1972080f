"""Policies: what a run may make of the chains that the code declares, and what is refused, with the reason."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal
from pathlib import Path

import pytest

from repli.flows.config.run_request import RetryRequest, RunRequest, parse_directives
from repli.tasks.fallback import Chain, Rule, Rung, UsageError
from repli.tasks.fallback.policy import NO_OVERRIDES, BreakerPolicy, Choice, Policy
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.settings import Settings
from tests.support.default_pipeline import PIPELINE
from tests.support.in_process import enrich
from tests.support.stages import stage_of

GPU = "classify_image.gpu"
HALVED: Choice = (("gpu", "1"), ("cpu", "0.5"), ("rules", "0.45"), ("skip", "0.4"))
NO_CPU: Choice = (("gpu", "1"), ("rules", "0.8"), ("skip", "0.7"))


def classify(*choice: tuple[str, str]) -> Policy:
    return Policy(chains={"classify_image": choice})


def penalties(pipeline: Pipeline, stage: str = "classify_image") -> list[tuple[str, Decimal]]:
    """The rungs of a stage with their factors, `skip` included."""
    chain = pipeline.stage(stage).chain
    skip = [chain.skip.factor] if chain.skip else []
    return list(zip(chain.rung_names, [*(rung.factor for rung in chain.rungs), *skip], strict=True))


def test_without_a_policy_the_chains_are_the_declared_ones() -> None:
    """Nothing is rebuilt."""
    assert PIPELINE.with_policy(NO_OVERRIDES) is PIPELINE
    assert PIPELINE.with_policy(Policy()) is PIPELINE


def test_a_policy_weighs_the_rungs_anew() -> None:
    """The penalties are the policy's, exactly; all else of the rungs, and every other chain, is as declared."""
    under = PIPELINE.with_policy(classify(*HALVED))
    assert penalties(under) == [(rung, Decimal(penalty)) for rung, penalty in HALVED]
    declared, weighed = PIPELINE.stage("classify_image").chain, under.stage("classify_image").chain
    assert [rung.run for rung in weighed.rungs] == [rung.run for rung in declared.rungs]
    assert [rung.breaker for rung in weighed.rungs] == [rung.breaker for rung in declared.rungs]
    assert (weighed.primary.resources, weighed.check) == (declared.primary.resources, declared.check)
    assert penalties(under, "fetch") == penalties(PIPELINE, "fetch")
    assert (under.names, under.before("embed_text")) == (PIPELINE.names, PIPELINE.before("embed_text"))


def test_a_policy_selects_and_orders_the_rungs() -> None:
    """What it does not name is not called, and the first that it names is the primary."""
    under = PIPELINE.with_policy(classify(("rules", "1"), ("cpu", "0.9"), ("skip", "0.7")))
    assert under.stage("classify_image").chain.rung_names == ("rules", "cpu", "skip")
    assert under.stage("classify_image").chain.primary.name == "rules"
    assert not under.stage("classify_image").chain.primary.resources


def test_a_policy_sets_breakers() -> None:
    """Those settings that it names, of those breakers that it names; the others stay, also where rungs are chosen."""
    settings = BreakerPolicy(failures=2, open_for_s=5)
    under = PIPELINE.with_policy(Policy(chains={"classify_image": HALVED}, breakers={GPU: settings}))
    gpu, cpu, _ = under.stage("classify_image").chain.rungs
    assert gpu.breaker and cpu.breaker
    assert (gpu.breaker.failures, gpu.breaker.open_for_s, gpu.breaker.within_s) == (2, 5, 600)
    assert gpu.breaker.scope == "host"
    assert cpu.breaker.failures == 5


def test_equal_policies_give_one_pipeline() -> None:
    """A worker builds it once, however often it is sent the policy."""
    policy = Policy(chains={"classify_image": HALVED}, breakers={GPU: BreakerPolicy(failures=2)})
    assert PIPELINE.with_policy(pickle.loads(pickle.dumps(policy))) is PIPELINE.with_policy(policy)
    assert PIPELINE.with_policy(classify(*NO_CPU)) is not PIPELINE.with_policy(policy)


def test_it_is_a_value() -> None:
    """Nobody changes it, and it says on one line where it differs."""
    policy = Policy(chains={"classify_image": NO_CPU}, breakers={GPU: BreakerPolicy(failures=2, open_for_s=5)})
    with pytest.raises(FrozenInstanceError):
        policy.chains = {}  # type: ignore[misc]
    assert (
        str(policy)
        == "classify_image: gpu 1 · rules 0.8 · skip 0.7; breaker classify_image.gpu: failures 2, open_for_s 5"
    )
    assert str(NO_OVERRIDES) == ""


def test_a_policy_says_what_a_drill_has_to_cover() -> None:
    """Nothing unless it says so; the rungs that it names, also those that it leaves out of a chain; or all."""
    assert not NO_OVERRIDES.expects(GPU)
    named = Policy(chains={"classify_image": NO_CPU}, expect=(GPU, "classify_image.cpu"))
    assert [named.expects(rung) for rung in (GPU, "classify_image.rules")] == [True, False]
    assert Policy(expect=("all",)).expects("classify_image.skip")
    assert PIPELINE.with_policy(named).stage("classify_image").chain.rung_names == ("gpu", "rules", "skip")
    assert str(Policy(expect=(GPU, "fetch.skip"))) == "drill expects classify_image.gpu, fetch.skip"


def test_expecting_a_rung_that_there_is_not_is_refused() -> None:
    """The message names it, and what there is."""
    for name in ("classify_image.tpu", "gpu", "ALL", ""):
        with pytest.raises(UsageError) as told:
            PIPELINE.with_policy(Policy(expect=(GPU, name)))
        assert f"policy: expect: there is no rung {name!r}; choose all, or from fetch.origin, " in str(told.value)


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        ({"bake": (("oven", "1"),)}, "policy: there is no stage 'bake'; choose from fetch, validate"),
        (
            {"classify_image": (("tpu", "1"), ("skip", "0.7"))},
            "policy: classify_image has no rung 'tpu'; choose from gpu, cpu, rules, skip",
        ),
        (
            {"classify_image": (("gpu", "1"), ("cpu", "1.5"), ("skip", "0.7"))},
            "policy: classify_image: rung cpu: the penalty 1.5 is not in (0, 1]; correct it",
        ),
        (
            {"classify_image": (("gpu", "1"), ("cpu", "0"), ("skip", "0.7"))},
            "policy: classify_image: rung cpu: the penalty 0 is not in (0, 1]",
        ),
        (
            {"classify_image": (("gpu", "1"), ("skip", "-0.1"))},
            "policy: classify_image: skip: the penalty -0.1 is not in (0, 1]",
        ),
        (
            {"classify_image": (("gpu", "1"), ("cpu", "much"), ("skip", "0.7"))},
            "policy: classify_image: rung cpu: the penalty 'much' is not a number; write it as '0.9'",
        ),
        (
            {"classify_image": (("gpu", "1"), ("cpu", "0.5"), ("rules", "0.8"), ("skip", "0.4"))},
            "rules (0.8) comes after cpu (0.5) and is worth more; penalties go from the best down, so raise cpu",
        ),
        (
            {"classify_image": (("gpu", "1"), ("cpu", "0.5"), ("skip", "0.7"))},
            "policy: classify_image: skip (0.7) comes after cpu (0.5) and is worth more",
        ),
        (
            {"classify_image": (("cpu", "0.9"), ("skip", "0.7"))},
            "policy: classify_image: cpu comes first, so its penalty must be 1, not 0.9",
        ),
        (
            {"classify_image": (("gpu", "1"), ("cpu", "0.9"))},
            "policy: classify_image is optional, so skip must be its last rung; add it, with its penalty",
        ),
        (
            {"classify_image": (("gpu", "1"), ("skip", "0.9"), ("cpu", "0.9"))},
            "policy: classify_image is optional, so skip must be its last rung",
        ),
        (
            {"validate": (("expectations", "1"), ("skip", "0.5"))},
            "policy: validate is required, which only the code can change; remove skip from the policy",
        ),
        (
            {"classify_image": (("skip", "1"),)},
            "policy: classify_image has no rung to call; name one of gpu, cpu, rules",
        ),
        ({"store": ()}, "policy: store has no rung to call; name one of database"),
        (
            {"classify_image": (("gpu", "1"), ("gpu", "1"), ("skip", "0.7"))},
            "policy: classify_image names gpu twice; name it once",
        ),
    ],
)
def test_a_chain_that_cannot_work_is_refused(chains: Mapping[str, Choice], message: str) -> None:
    """The message names the stage and the rung, and says what to do."""
    with pytest.raises(UsageError) as told:
        PIPELINE.with_policy(Policy(chains=chains))
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "classify_image.tpu",
            BreakerPolicy(),
            "policy: there is no breaker 'classify_image.tpu'; choose from fetch.o",
        ),
        ("classify_image.rules", BreakerPolicy(), "there is no breaker 'classify_image.rules'"),
        (GPU, BreakerPolicy(at_once=2), f"policy: the breaker of {GPU}: key, at_once and per_second go with"),
        (
            GPU,
            BreakerPolicy(failures=0),
            f"policy: the breaker of {GPU}: a breaker must open after at least 1 failure, not 0",
        ),
        (
            GPU,
            BreakerPolicy(within_s=0),
            f"policy: the breaker of {GPU}: a breaker's window, cool-downs and lease must",
        ),
        (
            GPU,
            BreakerPolicy(open_for_s=3600),
            f"policy: the breaker of {GPU}: a breaker's longest cool-down must not be shorter than its first",
        ),
    ],
)
def test_a_breaker_that_cannot_work_is_refused(name: str, settings: BreakerPolicy, message: str) -> None:
    """The message names the breaker."""
    with pytest.raises(UsageError) as told:
        PIPELINE.with_policy(Policy(breakers={name: settings}))
    assert message in str(told.value)


def required(stage: str, *rungs: str) -> Stage:
    return stage_of(
        Chain(stage, *(Rung(name, lambda inputs, context: [], time_limit_s=1) for name in rungs)), lambda item: ""
    )


class TestRules:
    """Rules of compatibility over the rungs that a policy leaves."""

    pipeline = Pipeline(
        [required("read", "well", "badly"), required("judge", "strictly", "mildly")],
        [Rule("read", {"badly"}, forbids="judge.strictly", because="it is unfair")],
    )

    def test_a_rule_on_a_rung_that_is_left_out_does_not_apply(self) -> None:
        """What it is about cannot happen, so what it would have needed may be left out too."""
        policy = Policy(chains={"read": (("well", "1"),), "judge": (("strictly", "1"),)})
        assert self.pipeline.with_policy(policy).stage("judge").chain.rung_names == ("strictly",)

    def test_rules_that_leave_no_rung_refuse_the_policy(self) -> None:
        """The message names the stage, and what comes before it."""
        with pytest.raises(UsageError, match=r"policy: the rules leave judge without a rung after read by badly"):
            self.pipeline.with_policy(Policy(chains={"judge": (("strictly", "1"),)}))

    def test_what_an_earlier_run_kept_is_still_under_the_rules(self) -> None:
        """A result by a rung that is left out now bars what it barred."""
        under = self.pipeline.with_policy(Policy(chains={"read": (("well", "1"),)}))
        assert list(under.rules.forbidden_rungs("judge", {"read": "badly"})) == ["strictly"]
        assert under.rules.violated({"read": "badly", "judge": "strictly"})

    def test_the_rules_of_the_six_hold_under_a_policy(self) -> None:
        """A rule in two rungs, of which one is left out, holds for the other."""
        under = PIPELINE.with_policy(classify(("gpu", "1"), ("skip", "0.7")))
        assert list(under.rules.forbidden_rungs("embed_text", {"classify_image": "skip"})) == ["text_and_label"]


class TestRequests:
    """What a person asks of a run is checked against the chains that it has."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "items.jsonl"
        path.write_text('{"id": "a", "name": "A lamp"}\n')
        return path

    def test_a_rung_that_is_left_out_cannot_be_forced_or_made_to_fail(self, source: Path) -> None:
        """It is told as one that there is not."""
        without_cpu = PIPELINE.with_policy(classify(*NO_CPU))
        fault = parse_directives(PIPELINE.chains, faults=["classify_image.cpu=oom"])
        for directives in (parse_directives(PIPELINE.chains, force=["classify_image=cpu"]), fault):
            RunRequest(pipeline=PIPELINE, source=source, batch_size=1, directives=directives)
            with pytest.raises(UsageError, match=r"classify_image has no rung 'cpu'; choose from gpu, rules, skip"):
                RunRequest(pipeline=without_cpu, source=source, batch_size=1, directives=directives)
        with pytest.raises(UsageError, match=r"classify_image has no rung 'cpu'; choose from gpu, rules, skip"):
            RetryRequest(pipeline=without_cpu, batch_size=1, directives=fault)

    def test_the_store_notes_the_policy(self, source: Path, settings: Settings) -> None:
        """It explains the results later; where there is none, there is nothing to note."""
        policy = classify(*NO_CPU)
        enrich_request = RunRequest(pipeline=PIPELINE, source=source, batch_size=1)
        for request in (enrich_request, RetryRequest(pipeline=PIPELINE, batch_size=1)):
            assert request.options(replace(settings, policy=policy))["policy"] == str(policy)
            assert "policy" not in request.options(settings)


def test_an_item_has_the_quality_that_the_policy_gives_it(settings: Settings, tmp_path: Path) -> None:
    """A text embedded by its hash costs what the policy says, exactly."""
    (tmp_path / "items.jsonl").write_text('{"id": "a", "name": "A lamp"}\n')
    policy = Policy(chains={"embed_text": (("text_and_label", "1"), ("hashed", "0.35"), ("skip", "0.3"))})
    views = enrich(settings, tmp_path / "items.jsonl", stages=PIPELINE.with_policy(policy).stages)
    assert views["a"].quality == 0.35
