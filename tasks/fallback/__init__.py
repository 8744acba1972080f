"""The engine: chains of rungs, per-item outcomes, split and retry, exact quality. Standard library only.

Read `status` for the words, `chain` for how a chain is declared, `runner` for how one runs over a batch,
`splitting` for what happens when a call fails, `faults` for failing on purpose. There is no input or output
here, no clock and no thread: a `Runtime` hands them in.
"""

from tasks.fallback.chain import SKIP, AnyChain, Chain, Rung, Skip
from tasks.fallback.errors import (
    BadAnswer,
    IllegalMove,
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
from tasks.fallback.faults import Fault, FaultKind, Work, check_rung_exists, parse_faults
from tasks.fallback.outcome import Failed, Outcome, Served, each
from tasks.fallback.quality import mean_quality, quality
from tasks.fallback.result import Attempt, AttemptOutcome, StepError, StepResult
from tasks.fallback.runner import AroundFallback, CallWithin, Directives, Runtime, run_chain
from tasks.fallback.splitting import Replies, WorkingSizes
from tasks.fallback.status import MOVES, Status, can_move, check_move

__all__ = [
    "MOVES",
    "SKIP",
    "AnyChain",
    "AroundFallback",
    "Attempt",
    "AttemptOutcome",
    "BadAnswer",
    "CallWithin",
    "Chain",
    "Directives",
    "Failed",
    "Fault",
    "FaultKind",
    "IllegalMove",
    "InvalidItem",
    "ItemError",
    "OutOfMemory",
    "Outcome",
    "RepliError",
    "Replies",
    "Rung",
    "RungError",
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
    "Work",
    "WorkingSizes",
    "can_move",
    "check_move",
    "check_rung_exists",
    "each",
    "mean_quality",
    "parse_faults",
    "quality",
    "run_chain",
]
