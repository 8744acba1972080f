"""Whether it is worth while to send more items to a stage, told from what became of those that were sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from repli.flows.dispatch.retry_planner import IN_VAIN_AT_MOST, PROBE_ITEMS, Prospect, Verdict, gaps
from repli.tasks.execution.stage_runner import StageReport
from repli.tasks.fallback import Rules
from repli.tasks.stages.default import CHAINS, PIPELINE
from repli.tasks.stages.rules import RULES
from repli.tasks.storage.retry.claims import Gap


def sent(items: int, *, lifted: int = 0, let_down: int = 0, **rungs: int) -> StageReport:
    """What a stage says of a batch: so many gained, so many were let down, so many a rung served without a gain, and
    the others are to blame themselves."""
    ids = [str(number) for number in range(items)]
    return StageReport(
        stage="embed_text",
        items=items,
        rungs=rungs,
        lifted=frozenset(ids[:lifted]),
        let_down=frozenset(ids[lifted : lifted + let_down]),
    )


GAIN = sent(4, lifted=1)
IN_VAIN = sent(4)
GONE = sent(4, let_down=4)
ONE_BROKEN = sent(1, let_down=1)


@pytest.mark.parametrize(
    ("reports", "verdict"),
    [
        ([], Verdict.OPEN),
        ([sent(0)], Verdict.OPEN),
        ([GAIN], Verdict.WORTHWHILE),
        ([IN_VAIN], Verdict.OPEN),
        ([IN_VAIN] * 20, Verdict.OPEN),
        ([IN_VAIN] * 20 + [GAIN], Verdict.WORTHWHILE),
        ([GONE], Verdict.HOPELESS),
        ([sent(128, let_down=PROBE_ITEMS)], Verdict.HOPELESS),
        ([sent(128, lifted=1, let_down=127)], Verdict.WORTHWHILE),
        ([GAIN, GONE], Verdict.HOPELESS),
        ([GAIN, ONE_BROKEN], Verdict.WORTHWHILE),
        ([ONE_BROKEN] * (PROBE_ITEMS - 1), Verdict.OPEN),
        ([ONE_BROKEN] * PROBE_ITEMS, Verdict.HOPELESS),
        ([ONE_BROKEN] * (PROBE_ITEMS - 1) + [GAIN] + [ONE_BROKEN] * (PROBE_ITEMS - 1), Verdict.WORTHWHILE),
        ([GAIN, sent(IN_VAIN_AT_MOST - 1)], Verdict.WORTHWHILE),
        ([GAIN, sent(IN_VAIN_AT_MOST)], Verdict.HOPELESS),
        ([sent(IN_VAIN_AT_MOST)], Verdict.HOPELESS),
        ([sent(IN_VAIN_AT_MOST), GAIN], Verdict.WORTHWHILE),
        ([GAIN, sent(IN_VAIN_AT_MOST, text_and_label=IN_VAIN_AT_MOST)], Verdict.WORTHWHILE),
        ([GAIN, sent(IN_VAIN_AT_MOST, skip=IN_VAIN_AT_MOST)], Verdict.HOPELESS),
    ],
)
def test_a_stage_is_judged_by_its_rungs_not_by_bad_items(reports: Sequence[StageReport], verdict: Verdict) -> None:
    """Items that are to blame themselves say nothing, up to a point; rungs that let a whole probe down say all."""
    prospect = Prospect()
    for report in reports:
        prospect = prospect.after(report)
    assert prospect.verdict is verdict


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
def test_gaps_are_what_can_be_improved_on_now(stage: str, callable_now: set[str], expected: Sequence[Any]) -> None:
    """What is worse than the best rung that can be called; where a rule bars some items from that, than the next."""
    chain = PIPELINE.stage(stage).chain
    wanted = [one if one and isinstance(one[0], tuple) else (one, ()) for one in expected]
    found = gaps(chain, chain.rung_names, callable_now, Rules(CHAINS, *RULES))
    is_primary_there = chain.primary.name in callable_now
    assert found == [
        Gap(stage=stage, served=served, unless=unless, whole_too=is_primary_there and place == 0)
        for place, (served, unless) in enumerate(wanted)
    ]


def test_what_the_policy_leaves_out_can_be_improved_on() -> None:
    """Results of an earlier policy are there still; a rung that is left out and better than what can be called is not
    improved on."""
    chain = PIPELINE.stage("classify_image").chain
    declared = ("gpu", "small", *chain.rung_names[1:], "guess")
    [gap] = gaps(chain, declared, {"cpu"}, Rules(CHAINS, *RULES))
    assert gap.served == (None, "rules", "skip", "guess")
