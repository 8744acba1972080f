"""Whether it is worth while to send more items to a stage, told from what became of those that were sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from repli.flows.dispatch.retry_planner import (
    MAX_ITEMS_WITHOUT_IMPROVEMENT,
    PROBE_ITEMS,
    RetryDecision,
    StageProgress,
    retry_targets,
)
from repli.tasks.execution.stage_runner import StageReport
from repli.tasks.fallback import Rules
from repli.tasks.stages.rules import RULES
from repli.tasks.storage.retry.claims import RetryTarget
from repli.tasks.storage.retry.needs import Need
from tests.support.default_pipeline import CHAINS, PIPELINE


def sent(items: int, *, upgraded: int = 0, failed_by_rung: int = 0, **rungs: int) -> StageReport:
    """What a stage says of a batch: so many gained, so many were let down, so many a rung served without a gain, and
    the others are to blame themselves."""
    ids = [str(number) for number in range(items)]
    return StageReport(
        stage="embed_text",
        items=items,
        rungs=rungs,
        upgraded=frozenset(ids[:upgraded]),
        failed_by_rung=frozenset(ids[upgraded : upgraded + failed_by_rung]),
    )


GAIN = sent(4, upgraded=1)
IN_VAIN = sent(4)
GONE = sent(4, failed_by_rung=4)
ONE_BROKEN = sent(1, failed_by_rung=1)


@pytest.mark.parametrize(
    ("reports", "decision"),
    [
        ([], RetryDecision.PROBING),
        ([sent(0)], RetryDecision.PROBING),
        ([GAIN], RetryDecision.CONTINUE),
        ([IN_VAIN], RetryDecision.PROBING),
        ([IN_VAIN] * 20, RetryDecision.PROBING),
        ([IN_VAIN] * 20 + [GAIN], RetryDecision.CONTINUE),
        ([GONE], RetryDecision.STOP),
        ([sent(128, failed_by_rung=PROBE_ITEMS)], RetryDecision.STOP),
        ([sent(128, upgraded=1, failed_by_rung=127)], RetryDecision.CONTINUE),
        ([GAIN, GONE], RetryDecision.STOP),
        ([GAIN, ONE_BROKEN], RetryDecision.CONTINUE),
        ([ONE_BROKEN] * (PROBE_ITEMS - 1), RetryDecision.PROBING),
        ([ONE_BROKEN] * PROBE_ITEMS, RetryDecision.STOP),
        ([ONE_BROKEN] * (PROBE_ITEMS - 1) + [GAIN] + [ONE_BROKEN] * (PROBE_ITEMS - 1), RetryDecision.CONTINUE),
        ([GAIN, sent(MAX_ITEMS_WITHOUT_IMPROVEMENT - 1)], RetryDecision.CONTINUE),
        ([GAIN, sent(MAX_ITEMS_WITHOUT_IMPROVEMENT)], RetryDecision.STOP),
        ([sent(MAX_ITEMS_WITHOUT_IMPROVEMENT)], RetryDecision.STOP),
        ([sent(MAX_ITEMS_WITHOUT_IMPROVEMENT), GAIN], RetryDecision.CONTINUE),
        (
            [GAIN, sent(MAX_ITEMS_WITHOUT_IMPROVEMENT, text_and_label=MAX_ITEMS_WITHOUT_IMPROVEMENT)],
            RetryDecision.CONTINUE,
        ),
        ([GAIN, sent(MAX_ITEMS_WITHOUT_IMPROVEMENT, skip=MAX_ITEMS_WITHOUT_IMPROVEMENT)], RetryDecision.STOP),
    ],
)
def test_a_stage_is_judged_by_its_rungs_not_by_bad_items(
    reports: Sequence[StageReport], decision: RetryDecision
) -> None:
    """Items that are to blame themselves say nothing, up to a point; rungs that let a whole probe down say all."""
    progress = StageProgress()
    for report in reports:
        progress = progress.after(report)
    assert progress.decision is decision


def test_items_that_are_refused_for_their_key_decide_nothing() -> None:
    """However many: a dead origin must not keep the items of others from being tried."""
    refused = frozenset(str(number) for number in range(MAX_ITEMS_WITHOUT_IMPROVEMENT))
    report = StageReport(stage="fetch", items=len(refused), refused_by_key=refused)
    assert StageProgress().after(report) == StageProgress()


BESIDE_A_GUESS = (("classify_image", frozenset({"rules", "skip"})),)
BESIDE_A_NAME = (("extract_text", frozenset({"name_only", "skip"})),)


@pytest.mark.parametrize(
    ("stage", "callable_now", "expected"),
    [
        ("classify_image", {"gpu", "cpu", "rules"}, [(None, "cpu", "rules", "skip")]),
        ("classify_image", {"cpu", "rules"}, [(None, "rules", "skip")]),
        ("classify_image", set(), []),
        ("validate", {"basic"}, [(None,)]),
        (
            "embed_text",
            {"text_and_label", "text_only", "hashed"},
            [((None, "text_only", "hashed", "skip"), BESIDE_A_GUESS), (None, "hashed", "skip")],
        ),
        ("embed_text", {"hashed"}, [((None, "skip"), BESIDE_A_NAME)]),
    ],
)
def test_targets_are_what_can_be_improved_on_now(stage: str, callable_now: set[str], expected: Sequence[Any]) -> None:
    """What is worse than the best rung that can be called; where a rule bars some items from that, than the next."""
    chain = PIPELINE.stage(stage).chain
    wanted = [one if one and isinstance(one[0], tuple) else (one, ()) for one in expected]
    found = retry_targets(chain, chain.rung_names, callable_now, Rules(CHAINS, *RULES))
    is_primary_there = chain.primary.name in callable_now
    assert found == [
        RetryTarget(
            stage=stage,
            rungs=served,
            excluded_by=excluded_by,
            include_stale=is_primary_there and place == 0,
            outdated=chain.rung_names[-len(served) :],
        )
        for place, (served, excluded_by) in enumerate(wanted)
    ]


@pytest.mark.parametrize(
    ("callable_now", "made_anew"),
    [({"gpu", "cpu", "rules"}, ["gpu", "cpu", "rules"]), ({"cpu", "rules"}, ["cpu", "rules"]), (set(), [])],
)
def test_an_outdated_result_is_made_anew_where_its_rung_or_a_better_one_can_be_called(
    callable_now: set[str], made_anew: list[str]
) -> None:
    """A fallback would not take the place of a better rung's older result, so that waits."""
    chain = PIPELINE.stage("classify_image").chain
    targets = retry_targets(chain, chain.rung_names, callable_now, Rules(CHAINS, *RULES))
    outdated = {
        rung: {"classify_image": Need(rung=rung, is_failed=False, is_retryable=False, is_stale=False, is_outdated=True)}
        for rung in ("gpu", "cpu", "rules")
    }
    found = [rung for rung, needs in outdated.items() if any(target.matches(needs) for target in targets)]
    assert found == made_anew


def test_what_the_policy_leaves_out_can_be_improved_on() -> None:
    """Results of an earlier policy are there still; a rung that is left out and better than what can be called is not
    improved on."""
    chain = PIPELINE.stage("classify_image").chain
    declared = ("gpu", "small", *chain.rung_names[1:], "guess")
    [target] = retry_targets(chain, declared, {"cpu"}, Rules(CHAINS, *RULES))
    assert target.rungs == (None, "rules", "skip", "guess")
