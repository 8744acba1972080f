"""Faults on purpose: how they are written, whom they strike, and what they do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from repli.tasks.fallback import (
    AttemptOutcome,
    Directives,
    Fault,
    FaultKind,
    Outcome,
    Status,
    StepResult,
    UsageError,
    check_rung_exists,
    parse_faults,
    run_chain,
)
from tests.support import ROOT
from tests.support.fakes import RUN_ID, STAGE, Does, ScriptedRung, chain_of, runtime, works

CHAINS = [
    chain_of(ScriptedRung("origin"), stage="fetch"),
    chain_of(ScriptedRung("gpu"), ScriptedRung("cpu"), stage="classify_image"),
]


def run(
    *rungs: ScriptedRung, faults: Sequence[str], count: int = 1, seed: int = 0, per_item: Sequence[str] = ()
) -> list[StepResult]:
    """The results of the rungs over `count` items while the faults of these specs are injected."""
    return run_chain(
        chain_of(*rungs, per_item=per_item),
        works(count),
        None,
        run_id=RUN_ID,
        runtime=runtime(),
        directives=Directives(faults=tuple(Fault.parse(spec, seed=seed) for spec in faults)),
    )


def struck(spec: str, count: int = 1000, seed: int = 0) -> list[str]:
    """Which of `count` items the fault strikes."""
    fault = Fault.parse(spec, seed=seed)
    return [work.item_id for work in works(count) if fault.hits(work.item_id)]


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_can_be_written(kind: FaultKind) -> None:
    """A spec names stage, rung and kind; without a rate it strikes every item."""
    assert Fault.parse(f"fetch.origin={kind}", seed=3) == Fault(stage="fetch", rung="origin", kind=kind, rate=1, seed=3)


@pytest.mark.parametrize(("text", "rate"), [("0", 0), ("0.1", 0.1), (".5", 0.5), ("1", 1), ("1e-3", 0.001), ("1.0", 1)])
def test_rate_is_read(text: str, rate: float) -> None:
    """A rate is a number from 0 to 1."""
    assert Fault.parse(f"fetch.origin=oom@{text}").rate == rate


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "oom",
        "fetch=oom",
        "fetch.origin",
        "fetch.origin=",
        "fetch.origin=oom@",
        "a.b=oom@x",
        "a.b=oom\n",
        " a.b=oom",
    ],
)
def test_spec_of_another_form_is_refused(spec: str) -> None:
    """The message names the spec and the form, with an example."""
    with pytest.raises(UsageError) as raised:
        Fault.parse(spec)
    assert repr(spec) in str(raised.value)
    assert "STAGE.RUNG=KIND[@RATE], such as translate.service=oom@0.1" in str(raised.value)


def test_unknown_kind_is_refused() -> None:
    """The message names the spec, the kind and every kind that there is."""
    with pytest.raises(UsageError) as raised:
        Fault.parse("fetch.origin=fire@0.5")
    assert str(raised.value) == (
        "fault 'fetch.origin=fire@0.5': there is no kind 'fire'; "
        "choose from oom, error, timeout, unavailable, garbage, kill"
    )


@pytest.mark.parametrize("rate", ["1.1", "-0.1", "1e3", "--1", "1.2.3", "e"])
def test_rate_out_of_range_is_refused(rate: str) -> None:
    """The message names the spec and the range."""
    with pytest.raises(UsageError) as raised:
        Fault.parse(f"fetch.origin=oom@{rate}")
    assert str(raised.value) == f"fault 'fetch.origin=oom@{rate}': the rate must be a number from 0 to 1"


def test_specs_are_checked_against_the_chains() -> None:
    """Stages and rungs that exist are accepted, in order, all with the run's seed."""
    faults = parse_faults(["classify_image.gpu=oom@0.1", "fetch.origin=kill"], CHAINS, seed=7)
    assert [(fault.stage, fault.rung, fault.kind, fault.seed) for fault in faults] == [
        ("classify_image", "gpu", FaultKind.OOM, 7),
        ("fetch", "origin", FaultKind.KILL, 7),
    ]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("dance.gpu=oom", "there is no stage 'dance'; choose from fetch, classify_image"),
        ("classify_image.tpu=oom", "classify_image has no rung 'tpu'; choose from gpu, cpu, skip"),
        ("classify_image.skip=oom", "skip calls nothing and cannot fail; name another rung"),
    ],
)
def test_fault_where_there_is_nothing_is_refused(spec: str, problem: str) -> None:
    """The message names the spec, what is wrong with it, and the choices."""
    with pytest.raises(UsageError) as raised:
        parse_faults([spec], CHAINS)
    assert str(raised.value) == f"fault '{spec}': {problem}"


def test_option_is_named_where_a_rung_does_not_exist() -> None:
    """Other options that name rungs are checked by the same words."""
    check_rung_exists("classify_image", "skip", CHAINS, "--force")
    with pytest.raises(UsageError, match=r"^--force: classify_image has no rung 'tpu'"):
        check_rung_exists("classify_image", "tpu", CHAINS, "--force")


def test_rate_is_met_about() -> None:
    """One in ten is one in ten, give or take three standard deviations of 1,000 draws."""
    assert 72 <= len(struck("fetch.origin=oom@0.1")) <= 128
    assert struck("fetch.origin=oom@0") == []
    assert len(struck("fetch.origin=oom")) == 1000


def test_same_seed_strikes_the_same_items() -> None:
    """Who is struck depends on seed, stage, rung and kind, and on nothing else."""
    spec = "fetch.origin=oom@0.3"
    assert struck(spec) == struck(spec)
    others = [struck(spec, seed=1), struck("fetch.cached=oom@0.3"), struck("fetch.origin=error@0.3")]
    assert all(other != struck(spec) for other in others)


def test_lower_rate_strikes_some_of_the_same_items() -> None:
    """A fault that strikes more items strikes those of the lower rate too, so that runs can be compared."""
    assert set(struck("fetch.origin=oom@0.1")) < set(struck("fetch.origin=oom@0.3"))


def test_any_id_can_be_drawn() -> None:
    """An id that is no proper text does not end the run."""
    assert isinstance(Fault.parse("fetch.origin=oom@0.5").hits("\ud800"), bool)


@pytest.mark.parametrize(
    ("kind", "error", "outcome", "calls"),
    [
        ("oom", "OutOfMemory", AttemptOutcome.FAILED, 0),
        ("error", "InjectedFault", AttemptOutcome.FAILED, 0),
        ("timeout", "TimedOut", AttemptOutcome.FAILED, 0),
        ("unavailable", "Unavailable", AttemptOutcome.UNAVAILABLE, 0),
        ("garbage", "BadAnswer", AttemptOutcome.FAILED, 1),
    ],
)
def test_fault_on_every_item_fails_the_rung(kind: str, error: str, outcome: AttemptOutcome, calls: int) -> None:
    """Each kind fails the primary as the real thing would, and the real fallback serves."""
    primary = ScriptedRung("gpu")
    results = run(primary, ScriptedRung("cpu"), faults=[f"{STAGE}.gpu={kind}"], count=20)
    assert {result.rung for result in results} == {"cpu"}
    assert {result.error.type for result in results if result.error} == {error}
    assert {result.attempts[0].outcome for result in results} == {outcome}
    assert len(primary.calls) == calls


@pytest.mark.parametrize("per_item", [(), ("gpu",)], ids=["batch", "one by one"])
@pytest.mark.parametrize("kind", ["oom", "error", "timeout", "unavailable", "garbage"])
def test_fault_on_some_items_leaves_their_neighbours(kind: str, per_item: Sequence[str]) -> None:
    """A fault with a rate strikes its items and nobody else, in a batch of 64 as in calls of one."""
    spec = f"{STAGE}.gpu={kind}@0.3"
    results = run(ScriptedRung("gpu"), ScriptedRung("cpu"), faults=[spec], count=64, per_item=per_item)
    assert [result.item_id for result in results if result.rung == "cpu"] == struck(spec, 64)
    assert {result.value for result in results if result.rung == "gpu"} == {
        f"{result.item_id} by gpu" for result in results if result.rung == "gpu"
    }


def test_fault_on_no_item_is_not_there() -> None:
    """A rate of 0 injects nothing."""
    rung = ScriptedRung("gpu")
    assert run(rung, faults=[f"{STAGE}.gpu=error@0"], count=8) == run(ScriptedRung("gpu"), faults=[], count=8)
    assert rung.sizes == [8]


def test_fault_strikes_its_own_stage_and_rung_only() -> None:
    """Faults of other stages, and of other rungs, are not ours."""
    (result,) = run(ScriptedRung("gpu"), ScriptedRung("cpu"), faults=["fetch.gpu=error", f"{STAGE}.cpu=error"])
    assert result.status is Status.SUCCEEDED


def test_faults_on_every_rung_end_in_skip() -> None:
    """Where every rung is made to fail, every item is skipped, for the first rung's reason."""
    faults = [f"{STAGE}.gpu=oom", f"{STAGE}.cpu=timeout"]
    results = run(ScriptedRung("gpu"), ScriptedRung("cpu"), faults=faults, count=5)
    assert {result.status for result in results} == {Status.SKIPPED}
    assert {result.error.type for result in results if result.error} == {"OutOfMemory"}


def test_first_fault_is_outermost() -> None:
    """Of two faults on one rung the first decides."""
    (result,) = run(ScriptedRung("gpu"), faults=[f"{STAGE}.gpu=timeout", f"{STAGE}.gpu=oom"])
    assert result.error is not None
    assert result.error.type == "TimedOut"


@pytest.mark.parametrize("kind", ["error", "garbage"])
@pytest.mark.parametrize("answers", ["too few", "too many"])
def test_fault_does_not_hide_a_wrong_number_of_answers(kind: str, answers: str) -> None:
    """Answers are counted inside the fault: nobody is served what was meant for another."""

    class Miscounting(ScriptedRung):
        def __call__(self, inputs: Sequence[str], context: object = None) -> Sequence[Outcome[str]]:
            right = ScriptedRung.__call__(self, inputs)
            return right[1:] if answers == "too few" else [right[0], *right]

    results = run(Miscounting("gpu"), faults=[f"{STAGE}.gpu={kind}@0.3"], count=20)
    assert {result.status for result in results} == {Status.SKIPPED}


def test_injected_faults_meet_real_ones() -> None:
    """A fault on some items and a poison item among the others: each has its own reason."""
    spec = f"{STAGE}.gpu=error@0.3"
    hit = struck(spec, 64)
    poison = next(work.item_id for work in works(64) if work.item_id not in hit)
    results = run(ScriptedRung("gpu", {poison: Does.BREAK}), ScriptedRung("cpu"), faults=[spec], count=64)
    assert {result.item_id: result.error.type for result in results if result.error} == {
        **dict.fromkeys(hit, "InjectedFault"),
        poison: "RuntimeError",
    }


KILLED = """
from repli.tasks.fallback import Directives, Fault, run_chain
from tests.support.fakes import ScriptedRung, chain_of, runtime, works

faults = (Fault.parse("stage.gpu=kill@0.5"),)
spared = [work for work in works(20) if not faults[0].hits(work.item_id)]
chain = chain_of(ScriptedRung("gpu"), ScriptedRung("cpu"))
results = run_chain(chain, spared, None, run_id="1", runtime=runtime(), directives=Directives(faults=faults))
print(len(results), "spared", flush=True)
try:
    run_chain(chain, works(20), None, run_id="1", runtime=runtime(), directives=Directives(faults=faults))
finally:
    print("still alive", flush=True)
"""


def test_kill_ends_the_process() -> None:
    """`kill` is a real SIGKILL: no handler, no clean-up, and only where a struck item is in the call."""
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    fault = Fault.parse(f"{STAGE}.gpu=kill@0.5")
    assert done.stdout == f"{sum(not fault.hits(work.item_id) for work in works(20))} spared\n"
    assert not done.stderr
