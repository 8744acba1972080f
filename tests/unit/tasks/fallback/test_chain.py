"""Chains: what may be declared, and that the rest is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from repli.tasks.fallback import Breaker, Chain, Outcome, Rung, Skip


def run(inputs: Sequence[str], context: object) -> Sequence[Outcome[str]]:
    return []


def rung(name: str, penalty: str = "1", time_limit_s: float = 60) -> Rung[str, str, Any]:
    return Rung(name, run, penalty=penalty, time_limit_s=time_limit_s)


def test_chain_knows_its_rungs_best_first() -> None:
    """A chain tells its primary, its rungs by name with skip as the last, and what it is called."""
    chain = Chain("classify_image", rung("gpu"), rung("cpu", "0.9"), Skip(penalty="0.7"))
    assert chain.primary.name == "gpu"
    assert chain.rung_names == ("gpu", "cpu", "skip")
    assert repr(chain) == "Chain('classify_image': gpu · cpu · skip)"


def test_stage_without_skip_is_required() -> None:
    """Whether a stage may be given up is what the end of its chain says."""
    assert Chain("store", rung("database")).is_required
    assert not Chain("fetch", rung("origin"), Skip(penalty="0.7")).is_required


def test_penalty_is_exact() -> None:
    """A penalty written as '0.95' is that number."""
    assert rung("plain", "0.95").factor == Decimal("0.95")
    assert Skip(penalty="0.7").factor == Decimal("0.7")


def test_equal_penalties_are_in_order() -> None:
    """Two rungs may cost the same."""
    assert Chain("s", rung("a"), rung("b", "0.9"), rung("c", "0.90"), Skip(penalty="0.9")).rung_names[-1] == "skip"


@pytest.mark.parametrize("penalty", ["0", "-0.1", "1.01", "nan", "snan", "inf", "-inf"])
def test_penalty_outside_0_to_1_is_refused(penalty: str) -> None:
    """A penalty is a factor in (0, 1], of rungs and of skip; the message names its owner."""
    with pytest.raises(ValueError, match=rf"rung cpu: the penalty {penalty} is not in \(0, 1\]"):
        rung("cpu", penalty)
    with pytest.raises(ValueError, match=r"skip: the penalty"):
        Skip(penalty=penalty)


@pytest.mark.parametrize("penalty", ["", "high", "0,9"])
def test_penalty_that_is_no_number_is_refused(penalty: str) -> None:
    """The message says how a penalty is written."""
    with pytest.raises(ValueError, match=r"rung cpu: the penalty '.*' is not a number; write it as '0.9'"):
        rung("cpu", penalty)


@pytest.mark.parametrize("limit", [0, -1])
def test_rung_needs_time(limit: float) -> None:
    """A time limit of nothing is refused."""
    with pytest.raises(ValueError, match="time limit must be above 0 s"):
        rung("cpu", time_limit_s=limit)


@pytest.mark.parametrize(
    ("lease_s", "time_limit_s", "probe_limit_s"), [(60, 300, 48), (60, 48, 48), (60, 30, 30), (1000, 300, 300)]
)
def test_probe_is_over_before_its_lease(lease_s: float, time_limit_s: float, probe_limit_s: float) -> None:
    """A probe has the rung's time limit or four fifths of the breaker's lease, whichever is shorter."""
    breaker = Breaker(scope="host", lease_s=lease_s)
    assert Rung("gpu", run, time_limit_s=time_limit_s, breaker=breaker).probe_limit_s == probe_limit_s


def test_rung_has_no_breaker_unless_declared() -> None:
    """Without one there is no probe, and its limit is the rung's."""
    assert rung("cpu").breaker is None
    assert rung("cpu").probe_limit_s == 60


def test_rung_takes_resources_with_their_amounts() -> None:
    """A list of names would fail only where a batch is sent to a worker."""
    with pytest.raises(ValueError, match=r'rung gpu: resources is a list; write resources=\{"GPU": 1\}'):
        Rung("gpu", run, time_limit_s=60, resources=["GPU"])  # type: ignore[arg-type]


def test_rung_cannot_be_called_skip() -> None:
    """There is one skip, and it calls nothing."""
    with pytest.raises(ValueError, match=r"end the chain with Skip"):
        rung("skip")


@pytest.mark.parametrize(
    ("rungs", "problem"),
    [
        ([], "declare at least one rung"),
        ([Skip(penalty="0.7")], "declare at least one rung"),
        ([rung("a"), Skip(penalty="0.7"), rung("b", "0.7")], "Skip can only be the last rung"),
        ([rung("a"), Skip(penalty="0.7"), Skip(penalty="0.7")], "Skip can only be the last rung"),
        ([rung("a", "0.9")], "the primary a must have penalty 1"),
        ([rung("a"), rung("a", "0.9")], "two rungs share a name"),
        ([rung("a"), rung("b", "0.8"), rung("c", "0.9")], "penalties must not rise"),
        ([rung("a"), rung("b", "0.8"), Skip(penalty="0.9")], "penalties must not rise"),
    ],
    ids=["empty", "only skip", "skip inside", "two skips", "primary with penalty", "one name", "rising", "rising skip"],
)
def test_chain_that_cannot_work_is_refused(rungs: list[Rung[str, str, Any] | Skip], problem: str) -> None:
    """A chain is refused when it is declared, by a message that names its stage."""
    with pytest.raises(ValueError, match=rf"chain fetch: .*{problem}"):
        Chain("fetch", *rungs)
