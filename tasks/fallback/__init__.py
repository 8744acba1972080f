"""The engine: chains of rungs, per-item outcomes, split and retry, exact quality. Standard library only.

Read `status` for the words, `chain` for how a chain is declared, `runner` for how one runs over a batch,
`splitting` for what happens when a call fails, `breaker` for what happens when they keep failing, `faults` for failing
on purpose, `compatibility` for rungs that do not go together. There is no input or output
here, no clock and no thread: a `Runtime` hands them in.
"""

from repli.tasks.fallback.breaker import (
    Asked,
    Breaker,
    BreakerState,
    Cause,
    Decision,
    Ended,
    Event,
    Excused,
    Failure,
    Lease,
    Order,
    Ordered,
    Position,
    Verdict,
    step,
)
from repli.tasks.fallback.chain import AnyChain, AnyRung, Chain, Rung, Skip
from repli.tasks.fallback.compatibility import Rule, Rules
from repli.tasks.fallback.errors import (
    BadAnswer,
    BreakerOpen,
    IllegalMove,
    Incompatible,
    InvalidItem,
    ItemError,
    OutOfMemory,
    RepliError,
    RungError,
    StoreError,
    TimedOut,
    Unavailable,
    UsageError,
)
from repli.tasks.fallback.faults import Fault, FaultKind, check_rung_exists, parse_faults
from repli.tasks.fallback.gate import BreakerClient, BreakerOf, NoBreaker, Permit, without_breakers
from repli.tasks.fallback.outcome import Failed, Outcome, Served, each
from repli.tasks.fallback.quality import mean_quality, quality
from repli.tasks.fallback.result import SKIP, Attempt, AttemptOutcome, StepError, StepResult
from repli.tasks.fallback.runner import AroundFallback, CallWithin, Directives, Runtime, run_chain
from repli.tasks.fallback.splitting import RungResult, WorkingSizes
from repli.tasks.fallback.status import MOVES, Status, can_move, check_move
from repli.tasks.fallback.work import ChainInput

__all__ = [
    "MOVES",
    "SKIP",
    "AnyChain",
    "AnyRung",
    "AroundFallback",
    "Asked",
    "Attempt",
    "AttemptOutcome",
    "BadAnswer",
    "Breaker",
    "BreakerClient",
    "BreakerOf",
    "BreakerOpen",
    "BreakerState",
    "CallWithin",
    "Cause",
    "Chain",
    "ChainInput",
    "Decision",
    "Directives",
    "Ended",
    "Event",
    "Excused",
    "Failed",
    "Failure",
    "Fault",
    "FaultKind",
    "IllegalMove",
    "Incompatible",
    "InvalidItem",
    "ItemError",
    "Lease",
    "NoBreaker",
    "Order",
    "Ordered",
    "OutOfMemory",
    "Outcome",
    "Permit",
    "Position",
    "RepliError",
    "Rule",
    "Rules",
    "Rung",
    "RungError",
    "RungResult",
    "Runtime",
    "Served",
    "Skip",
    "Status",
    "StepError",
    "StepResult",
    "StoreError",
    "TimedOut",
    "Unavailable",
    "UsageError",
    "Verdict",
    "WorkingSizes",
    "can_move",
    "check_move",
    "check_rung_exists",
    "each",
    "mean_quality",
    "parse_faults",
    "quality",
    "run_chain",
    "step",
    "without_breakers",
]
