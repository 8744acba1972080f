"""The engine: chains of rungs, per-item outcomes, split and retry, exact quality. Standard library only.

Read in this order: `status` (the statuses), `chain` (the declaration of a chain), `runner` (one chain over one batch),
`splitting` (one rung over one batch), `conclusion` (from the attempts to the result), `breaker` (the circuit breaker),
`breaker_client` (its interface to a chain, and the verdict of a batch), `keyed_calls` (calls that name what they depend
on), `devices` (where a call ran), `faults` (injected failures), `compatibility` (rungs that must not serve the same
item), `policy` (overrides of a run). The engine has no I/O, clock or thread of its own: a `Runtime` provides them.

The exports are for stages, flows and reports. Import the state machine of the breakers from `breaker` and its interface
from `breaker_client`.
"""

from repli.tasks.fallback.accuracy import Rate, expected_accuracy
from repli.tasks.fallback.breaker import Breaker, Position
from repli.tasks.fallback.chain import AnyChain, AnyRung, Chain, Rung, Skip
from repli.tasks.fallback.compatibility import Rule, Rules
from repli.tasks.fallback.devices import note_device
from repli.tasks.fallback.errors import (
    Declined,
    Incompatible,
    InvalidItem,
    ItemError,
    NoInput,
    NotHere,
    OutOfMemory,
    ProcessPoisoned,
    RepliError,
    RungError,
    StoreError,
    TimedOut,
    Unavailable,
    UsageError,
)
from repli.tasks.fallback.faults import Fault, FaultKind, check_fault, check_rung_exists, parse_faults
from repli.tasks.fallback.outcome import ChainInput, Failed, Outcome, Served, each
from repli.tasks.fallback.quality import mean_quality, quality
from repli.tasks.fallback.result import SKIP, Attempt, AttemptOutcome, StepError, StepResult
from repli.tasks.fallback.runner import Directives, Runtime, run_chain
from repli.tasks.fallback.splitting import WorkingSizes
from repli.tasks.fallback.status import Status

__all__ = [
    "SKIP",
    "AnyChain",
    "AnyRung",
    "Attempt",
    "AttemptOutcome",
    "Breaker",
    "Chain",
    "ChainInput",
    "Declined",
    "Directives",
    "Failed",
    "Fault",
    "FaultKind",
    "Incompatible",
    "InvalidItem",
    "ItemError",
    "NoInput",
    "NotHere",
    "OutOfMemory",
    "Outcome",
    "Position",
    "ProcessPoisoned",
    "Rate",
    "RepliError",
    "Rule",
    "Rules",
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
    "WorkingSizes",
    "check_fault",
    "check_rung_exists",
    "each",
    "expected_accuracy",
    "mean_quality",
    "note_device",
    "parse_faults",
    "quality",
    "run_chain",
]
